import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import DataOrder, open_store, save_order, write_store
from chunk_provenance.order_questions import epochs_of, lment_readme_rows, seen_at

ORDER = DataOrder(
    np.array([0, 2, 3, 5, 6]),
    np.array([0, 1, 2, 1, 0, 2]),
    np.array([0, 2]),
    masked=pa.table({"update": [3], "chunk_id": [1]}),
)


@pytest.fixture
def order(tmp_path):
    """Updates [0, 1], [2] | [1 (held out), 0], [2]."""
    save_order(ORDER, tmp_path / "order")
    return tmp_path / "order"


def test_steps_of_chunks_leave_out_where_they_are_held_out(order, run_cli, tmp_path):
    assert run_cli("steps-of", order, 0, 1, 7) == (
        0,
        "chunk 0: 1, 3\nchunk 1: 1, held out of 3\nchunk 7: never\n",
        "",
    )
    (tmp_path / "chunks.txt").write_text("2\n0\n2\n", encoding="utf-8")
    code, printed, _ = run_cli("steps-of", order, "--from", tmp_path / "chunks.txt", "--json")
    assert (code, json.loads(printed)) == (
        0,
        [{"chunk_id": 0, "steps": [1, 3]}, {"chunk_id": 2, "steps": [2, 4]}],
    )
    code, _, errors = run_cli("steps-of", order)
    assert (code, "name the chunks" in errors) == (2, True)


def test_the_rows_that_the_lment_readme_prints_count_from_zero_in_every_epoch(order, run_cli):
    epochs, rows = lment_readme_rows(ORDER, np.array([1, 2, 3, 4]))
    assert (epochs.tolist(), rows.tolist()) == ([1, 1, 2, 2], [0, 1, 0, 1])
    assert run_cli("steps-of", order, 2, "--lment-readme-rows")[1] == (
        "chunk 2: row 1 of epoch 1, row 1 of epoch 2\n"
    )
    with pytest.raises(ValueError, match="updates 1 to 4"):
        lment_readme_rows(ORDER, np.array([0]))


def test_published_orders_are_asked_like_own_ones(run_cli, tmp_path):
    """Pythia's pre-shuffled rows: update `s` holds the rows (s - 1) * 1024 to s * 1024."""
    assert run_cli("steps-of", "pythia:4", 1023, 1024)[1] == "chunk 1023: 1\nchunk 1024: 2\n"
    ids = tmp_path / "ids.txt"
    ids.write_text("1024\n", encoding="utf-8")
    assert run_cli("hold-out", "pythia:4", ids, tmp_path / "out")[0] == 0
    assert run_cli("diff", "pythia:4", tmp_path / "out", "--json")[0] == 1
    assert run_cli("steps-of", tmp_path / "out", 1024)[1] == "chunk 1024: never, held out of 2\n"


def test_the_published_example_is_update_16619():
    """LMEnt's README says 16618 for chunk 2955255; its epochs have 109,672 updates (spec 2.3)."""
    ids = np.arange(2 * 109_672)
    order = DataOrder(np.arange(len(ids) + 1), ids, np.array([0, 109_672]))
    assert [int(value[0]) for value in lment_readme_rows(order, np.array([16_619]))] == [1, 16_618]
    assert [epoch.last_update for epoch in epochs_of(order)] == [109_672, 219_344]


def test_the_reverse_index_of_all_chunks_is_a_table(order, run_cli, tmp_path):
    out = tmp_path / "steps.parquet"
    assert run_cli("steps-of", order, "--out", out)[:2] == (0, f"5 steps of 3 chunks, {out}\n")
    rows = {"chunk_id": [0, 0, 1, 2, 2], "step": [1, 3, 1, 2, 4]}
    assert pq.read_table(out).to_pydict() == rows
    code, _, errors = run_cli("steps-of", order, 1, "--out", out)
    assert (code, "exists" in errors) == (2, True)
    assert run_cli("steps-of", order, 1, "--out", out, "--overwrite")[0] == 0
    assert pq.read_table(out).to_pydict() == {"chunk_id": [1], "step": [1]}


def test_chunks_at_steps_and_ranges(order, run_cli):
    assert run_cli("chunks-at", order, "3-4", 1)[1] == (
        "step 3, epoch 2: 1 0, held out: 1\nstep 4, epoch 2: 2\nstep 1, epoch 1: 0 1\n"
    )
    found = json.loads(run_cli("chunks-at", order, 3, "--json")[1])
    assert found == [{"step": 3, "epoch": 2, "chunk_ids": [1, 0], "held_out": [1]}]
    for wrong in ("0", "5", "3-2", "x", "2-9"):
        code, _, errors = run_cli("chunks-at", order, wrong)
        assert (code, errors.count("\n"), errors.startswith("error: ")) == (2, 1, True)


def test_a_checkpoint_has_seen_updates_up_to_its_own_and_says_how_long_ago(order, run_cli, tmp_path):
    seen = seen_at(ORDER, np.array([0, 1, 2, 9]), 3)
    assert (seen.exposures.tolist(), seen.last_update.tolist()) == ([2, 1, 1, 0], [3, 1, 2, 0])
    assert seen.steps_since.tolist() == [0, 2, 1, -1]
    assert seen_at(ORDER, np.array([0]), 0).exposures.tolist() == [0]
    assert run_cli("seen-by", order, 3)[1] == "step 3 has seen 3 chunks, 4 exposures\n"
    pq.write_table(pa.table({"chunk_id": [9, 1]}), tmp_path / "chunks.parquet")
    code, printed, _ = run_cli("seen-by", order, 3, "--chunks", tmp_path / "chunks.parquet", "--json")
    assert json.loads(printed) == {
        "step": 3,
        "exposures": 4,
        "chunks": 3,
        "of_chunks": [
            {"chunk_id": 1, "exposures": 1, "last_update": 1, "steps_since": 2},
            {"chunk_id": 9, "exposures": 0, "last_update": None, "steps_since": None},
        ],
    }
    code, _, errors = run_cli("seen-by", order, 5)
    assert (code, errors) == (2, "error: no step 5: the order has steps 0 to 4\n")


def test_epochs_say_where_they_begin_and_end(order, run_cli):
    assert json.loads(run_cli("epochs", order, "--json")[1]) == [
        {"epoch": 1, "first_update": 1, "last_update": 2, "updates": 2, "exposures": 3, "chunks": 3},
        {"epoch": 2, "first_update": 3, "last_update": 4, "updates": 2, "exposures": 2, "chunks": 2},
    ]
    assert "last step" in run_cli("epochs", order)[1]


@pytest.fixture
def decoding_store(tmp_path, tokenizer_json, request):
    """Two chunks of two documents; with or without texts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    texts = ["Ada met Bob.", " ran home."]
    encoded = [tokenizer.encode(text).ids for text in texts]
    eos = tokenizer.token_to_id("<|endoftext|>")
    tokens = [*encoded[0], *encoded[1], eos]
    lengths = [len(encoded[0]), len(encoded[1]) + 1]
    documents = {
        "doc_id": ["a", "b"],
        **{name: pa.nulls(2, pa.string()) for name in ("title", "source", "url")},
    }
    write_store(
        tmp_path / "decoding",
        tokens=np.array(tokens, dtype=np.uint32),
        chunks=pa.table(
            {"chunk_id": [0, 1], "token_start": [0, lengths[0]], "length": lengths, "bucket": [16, 16]}
        ),
        segments=pa.table(
            {
                "chunk_id": [0, 1],
                "doc_id": ["a", "b"],
                "chunk_token_start": [0, 0],
                "chunk_token_end": lengths,
                "doc_token_start": [0, 0],
                "char_start": [0, 0],
                "char_end": [len(text) for text in texts],
            }
        ),
        documents=pa.table({**documents, **({"text": texts} if request.param else {})}),
        tokenizer_json=tokenizer_json,
        meta={"tokenizer": {"pad_id": eos, "eos_id": eos, "vocab_size": tokenizer.get_vocab_size()}},
    )
    return open_store(tmp_path / "decoding")


@pytest.mark.parametrize("decoding_store", [True, False], indirect=True)
def test_a_step_is_shown_as_the_tokenizer_decodes_its_rows(decoding_store, tmp_path, run_cli):
    order = DataOrder(np.array([0, 2, 3]), np.array([1, 0, 0]), np.array([0]))
    save_order(order, tmp_path / "order")
    where = ["show", decoding_store.path, "--order", tmp_path / "order"]
    assert run_cli(*where, "--step", "1-2", "--decode")[1] == (
        "step 1, epoch 1: 2 chunks of length 16\n"
        "  chunk       1  document b\n ran home.<|endoftext|>\n"
        "  chunk       0  document a\nAda met Bob.\n"
        "step 2, epoch 1: 1 chunk of length 16\n"
        "  chunk       0  document a\nAda met Bob.\n"
    )
    (row,) = json.loads(run_cli(*where, "--step", 2, "--decode", "--json")[1])["chunks"]
    assert (row["decoded"], row["text"], row["held_out"]) == ("Ada met Bob.", "Ada met Bob.", False)


@pytest.mark.parametrize("decoding_store", [True], indirect=True)
def test_an_order_with_a_chunk_that_the_store_lacks_is_refused_when_it_is_shown(
    decoding_store, tmp_path, run_cli
):
    save_order(DataOrder(np.array([0, 2]), np.array([1, 2]), np.array([0])), tmp_path / "order")
    code, _, errors = run_cli("show", decoding_store.path, "--order", tmp_path / "order", "--step", 1)
    assert (code, "no chunk 2 in" in errors) == (2, True)


@pytest.mark.parametrize("decoding_store", [True, False], indirect=True)
def test_an_index_of_the_same_text_agrees_and_a_shifted_one_is_shown(decoding_store, tmp_path, run_cli):
    index = tmp_path / "index.jsonl"

    def write(*rows):
        index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write({"chunk_id": 1, "text": "ran home. \n"}, {"chunk_id": 0, "text": "Ada met Bob."})
    assert run_cli("align", decoding_store.path, index)[:2] == (0, "2 of 2 rows agree\n")
    write(
        {"chunk_id": 0, "text": "Ada met Rob."},
        {"chunk_id": 1, "text": "ran home."},
        {"chunk_id": 2, "text": "x"},
    )
    code, printed, _ = run_cli("align", decoding_store.path, index, "--json")
    assert (code, json.loads(printed)) == (
        1,
        {
            "agree": 1,
            "looked_at": 3,
            "differences": [
                {"chunk_id": 0, "index": "Ada met Rob.", "dataset": "Ada met Bob."},
                {"chunk_id": 2, "index": "x", "dataset": "no chunk beyond 1"},
            ],
        },
    )
    hits = tmp_path / "hits.json"
    hits.write_text(
        '{"total": 9, "hits": [{"chunk_id": 0, "score": 1, "text": "Ada met Bob."}]}', encoding="utf-8"
    )
    assert run_cli("align", decoding_store.path, hits)[:2] == (0, "1 of 1 rows agree\n")
    assert run_cli("align", decoding_store.path, index, "--sample", 1)[1].startswith(("0 of 1", "1 of 1"))


@pytest.mark.parametrize("decoding_store", [True, False], indirect=True)
def test_mentions_of_an_index_must_stand_at_their_characters(decoding_store, tmp_path, run_cli):
    index = tmp_path / "index.csv"
    head = "chunk_id,char_start,char_end,surface\n"
    index.write_text(head + "0,8,11,Bob\n1,1,4,ran\n1,5,10,home. Then\n", encoding="utf-8")
    assert run_cli("align", decoding_store.path, index)[:2] == (0, "3 of 3 rows agree\n")
    index.write_text(head + "0,8,11,Bob\n1,0,3,ran\n0,9,99,Bob\n", encoding="utf-8")
    code, printed, _ = run_cli("align", decoding_store.path, index)
    assert (code, printed.splitlines()) == (
        1,
        [
            "1 of 3 rows agree",
            "chunk 1",
            "  index    'ran'",
            "  dataset  ' ra'",
            "chunk 0",
            "  index    'Bob'",
            "  dataset  'ob.'",
        ],
    )


@pytest.mark.parametrize("decoding_store", [True], indirect=True)
def test_a_file_of_chunk_mentions_is_an_index(decoding_store, tmp_path, run_cli):
    table = pa.table({"chunk_id": [0], "char_start": [0], "char_end": [3], "surface": ["Ada"]})
    tagged = table.replace_schema_metadata({"format": "chunk-mentions", "version": "1"})
    pq.write_table(tagged, tmp_path / "mentions.parquet")
    found = run_cli("align", decoding_store.path, tmp_path / "mentions.parquet")
    assert found[:2] == (0, "1 of 1 rows agree\n")


@pytest.mark.parametrize("decoding_store", [True], indirect=True)
def test_a_table_that_is_no_index_is_refused(decoding_store, tmp_path, run_cli):
    index = tmp_path / "index.csv"
    for content, message in (("chunk_id,text\n", "no row"), ("chunk_id,other\n1,x\n", "must have a text")):
        index.write_text(content, encoding="utf-8")
        code, _, errors = run_cli("align", decoding_store.path, index)
        assert (code, message in errors) == (2, True)
