"""`build --packing lment`, `--eos`, and `order --curriculum`, on stores."""

import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import load_order, open_store, write_store
from chunk_provenance.build import Packing, build_store
from chunk_provenance.documents import Document
from chunk_provenance.encoding import encode_documents
from chunk_provenance.lment import Curriculum, chunk_documents
from chunk_provenance.lment.from_store import order_store
from chunk_provenance.mentions import MentionFile
from chunk_provenance.packing import merge_spans
from chunk_provenance.retention import count_retention
from chunk_provenance.tokenizing import TextEncoder

FOLDER = Path(__file__).parent / "golden" / "lment_data" / "vsl"
README = Path(__file__).parents[1] / "README.md"
NAMES = {"Ada": "Q1", "Bob": "Q2", "東京": "Q3", "again, and": "Q4"}
DOCUMENTS = [
    Document("d1", "Ada met Bob in Bath. " * 3 + "東京 龍龍龍"),
    Document("d2", "Bob."),
    Document("d3", "She met Ada again, and " * 9 + "Bob ran home."),
]


@pytest.fixture
def build(tmp_path, tokenizer_json, make_mentions):
    """Builds a store of DOCUMENTS and opens it."""
    mentions = make_mentions(DOCUMENTS, NAMES)
    numbers = iter(range(100))

    def run(packing, *, batch_chars=1 << 20):
        path = tmp_path / f"store{next(numbers)}"
        encoder = TextEncoder(tokenizer_json)
        batches = encode_documents(DOCUMENTS, encoder, batch_chars=batch_chars)
        build_store(path, batches, encoder=encoder, packing=packing, mentions=MentionFile(mentions))
        return open_store(path)

    return run


def read_back(store):
    """Token ids of every document by their place in it, None where dropped; and the chunks' spans."""
    tokens, spans = defaultdict(dict), []
    for row in store.segment_table.to_pylist():
        ids = store.chunk_tokens(row["chunk_id"])[row["chunk_token_start"] : row["chunk_token_end"]].tolist()
        tokens[row["doc_id"]].update(enumerate(ids, start=row["doc_token_start"]))
        spans.append((row["doc_id"], row["doc_token_start"], row["doc_token_start"] + len(ids)))
    for row in store.dropped_table.to_pylist():
        assert row["num_tokens"] == row["doc_token_end"] - row["doc_token_start"]
        for place in range(row["doc_token_start"], row["doc_token_end"]):
            assert place not in tokens[row["doc_id"]]
            tokens[row["doc_id"]][place] = None
    return tokens, spans


def test_a_store_has_the_chunks_of_the_published_rule(build, tokenizer_json):
    store = build(Packing("lment", 4, 16))
    encoded = TextEncoder(tokenizer_json).encode([document.text for document in DOCUMENTS])
    of_mentions = store.mention_table.to_pylist()
    starts = dict(zip(["d1", "d2", "d3"], encoded.doc_bounds.tolist(), strict=False))
    places = {
        (s["chunk_id"]): starts[s["doc_id"]] + s["doc_token_start"] for s in store.segment_table.to_pylist()
    }
    spans = [
        (places[m["chunk_id"]] + m["token_start"], places[m["chunk_id"]] + m["token_end"])
        for m in of_mentions
    ]
    expected = chunk_documents(
        encoded.doc_bounds[:-1],
        encoded.doc_bounds[1:],
        mentions=merge_spans(*np.array(spans).T),
        min_length=4,
        max_length=16,
    )
    assert list(places.values()) == expected.start.tolist()
    assert store.length.tolist() == (expected.end - expected.start).tolist()
    assert store.bucket.tolist() == [max(4, 1 << (n - 1).bit_length()) for n in store.length.tolist()]
    assert store.meta["mentions"]["cut_by_a_border"] == 0


@pytest.mark.parametrize("kind", ["buckets", "lment"])
@pytest.mark.parametrize("eos", ["end", "last"])
@pytest.mark.parametrize("limits", [(4, 16), (8, 32), (16, 16)])
def test_every_token_is_kept_or_dropped_with_a_reason(build, tokenizer_json, kind, eos, limits):
    store = build(Packing(kind, *limits, "drop", eos))
    encoded = TextEncoder(tokenizer_json).encode([document.text for document in DOCUMENTS])
    tokens, _ = read_back(store)
    for number, document in enumerate(DOCUMENTS):
        ids = encoded.ids[slice(*encoded.doc_bounds[number : number + 2])].tolist()
        assert sorted(tokens[document.doc_id]) == list(range(len(ids)))
        assert all(token in (ids[i], None) for i, token in tokens[document.doc_id].items())
    assert {row["reason"] for row in store.dropped_table.to_pylist()} <= {
        "shorter than the smallest bucket",
        "whole document shorter than the smallest bucket",
        "a mention too long for a chunk, and all behind it",
    }


@pytest.mark.parametrize(("kind", "without"), [("buckets", 1), ("lment", 2)])  # padding keeps the end of d3
def test_with_eos_last_every_document_in_chunks_ends_in_its_end_token(build, kind, without):
    plain = build(Packing(kind, 8, 32, "drop"))
    closed = build(Packing(kind, 8, 32, "drop", "last"))
    assert count_retention(plain)["without_end_token"] == without
    assert count_retention(closed)["without_end_token"] == 0
    assert plain.length.tolist() == closed.length.tolist()
    assert len(plain.dropped_table) == len(closed.dropped_table)
    for doc_id in ("d1", "d3"):
        chunks = closed.chunks_of_document(doc_id).tolist()
        assert chunks == plain.chunks_of_document(doc_id).tolist()
        ends = [int(closed.chunk_tokens(chunk)[-1]) == closed.eos_id for chunk in chunks]
        assert ends == [False] * (len(chunks) - 1) + [True]
        assert plain.chunk_tokens(chunks[-1])[:-1].tolist() == closed.chunk_tokens(chunks[-1])[:-1].tolist()
        assert plain.chunk_text(chunks[-1]).startswith(closed.chunk_text(chunks[-1]))
    _, documents = closed.rows(np.array([chunks[-1]]))
    assert set(documents[0].tolist()) <= {0, -1}  # the end token belongs to the document before it


def test_the_result_does_not_depend_on_the_batches(build):
    for packing in (
        Packing("lment", 4, 16),
        Packing("lment", 4, 16, eos="last"),
        Packing("buckets", 8, 32, "drop", "last"),
    ):
        assert build(packing, batch_chars=1).meta == build(packing).meta


def test_end_tokens_of_fixed_chunks_have_no_other_place(build):
    with pytest.raises(ValueError, match="--eos last has no meaning with --packing fixed"):
        build(Packing("fixed", max_length=16, eos="last"))


@pytest.fixture
def golden_store(tmp_path):
    """The golden chunks as a store."""
    golden = np.load(FOLDER / "kas_vsl.npz")
    parts = [golden[f"tokens_part{part}"] for part in (0, 1)]
    chunks = golden["chunks"]
    lengths = chunks[:, 2] - chunks[:, 1]
    numbers = np.arange(len(chunks))
    write_store(
        tmp_path / "store",
        tokens=np.concatenate([parts[part][start:end] for part, start, end, _ in chunks]),
        chunks=pa.table(
            {
                "chunk_id": numbers,
                "token_start": np.cumsum(lengths) - lengths,
                "length": lengths,
                "bucket": [max(8, 1 << (int(n) - 1).bit_length()) for n in lengths],
            }
        ),
        segments=pa.table(
            {
                "chunk_id": numbers,
                "doc_id": [str(document) for document in chunks[:, 3]],
                "chunk_token_start": np.zeros_like(numbers),
                "chunk_token_end": lengths,
                "doc_token_start": chunks[:, 1] - golden["docs"][chunks[:, 3], 2],
                "char_start": np.zeros_like(numbers),
                "char_end": np.zeros_like(numbers),
            }
        ),
        documents=pa.table(
            {name: pa.array([], pa.string()) for name in ("doc_id", "title", "source", "url")}
        ),
        tokenizer_json="{}",
        meta={
            "tokenizer": {"pad_id": 0, "eos_id": 1, "vocab_size": 1000},
            "inputs": {"packing": {"kind": "lment", "min_length": 8, "max_length": 64}},
        },
    )
    return open_store(tmp_path / "store")


def test_the_order_command_gives_the_golden_batches(golden_store, tmp_path, run_cli):
    words = ["--curriculum", "grow_p2", "--batch-tokens", 128, "--epochs", 2]
    code, out, err = run_cli("order", golden_store.path, tmp_path / "order", *words)
    assert (code, err) == (0, "warning: 7 chunks have no bucket and are never trained, as in LMEnt\n")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows[-2:] == [["64", "834", "2", "416", "832", "2"], ["no bucket", "7", "0", "0", "0", "7"]]
    assert "1,072 updates in 2 epochs" in out
    order = load_order(tmp_path / "order")
    expected = json.loads((FOLDER / "kas_vsl.json").read_text(encoding="utf-8"))["batch_indices"]
    assert [order.batch(s + 1).tolist() for s in range(1072)] == expected["1"] + expected["2"]
    assert order.info["without_bucket"] == 7
    assert order.info["curriculum"] == {"name": "grow_p2", "num_cycles": 8, "balanced": False}
    code, _, err = run_cli("order", golden_store.path, tmp_path / "order", *words)
    assert code == 0
    assert err.endswith(f"{tmp_path / 'order'} is up to date\n")


def test_a_bucket_that_vanishes_is_told_in_lment_mode_and_refused_elsewhere(golden_store, tmp_path, run_cli):
    words = ["--curriculum", "grow_p2", "--batch-tokens", 512, "--epochs", 1]
    code, _, err = run_cli("order", golden_store.path, tmp_path / "order", *words)
    assert code == 0
    assert "none of the 339 chunks of length 8 is ever trained, as in LMEnt" in err
    meta = golden_store.path / "meta.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"lment"', '"buckets"'), encoding="utf-8")
    code, _, err = run_cli("order", golden_store.path, tmp_path / "other", *words)
    assert code == 2
    assert err.startswith("error: with --batch-tokens 512 some chunks would never be trained")
    assert "length 8: 346 chunks, an update takes 64" in err  # here, the seven are padded to the smallest


def test_the_natural_curriculum_trains_all_it_can(golden_store):
    order = order_store(golden_store, Curriculum("natural"), batch_tokens=128, seed=0, epochs=1)
    assert [row["left_out"] for row in order.info["retained"]] == [339 % 16, 335 % 8, 267 % 4, 834 % 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cycles", 4], "error: --cycles and --balanced belong to a --curriculum"),
        (["--balanced"], "error: --cycles and --balanced belong to a --curriculum"),
        (
            ["--curriculum", "natural", "--balanced"],
            "error: --balanced has no meaning with --curriculum natural",
        ),
        (["--curriculum", "grow_p2", "--cycles", 999], "error: no bucket has enough chunks"),
    ],
)
def test_options_without_meaning_are_refused_in_one_line(golden_store, tmp_path, run_cli, words, message):
    asked = ["--batch-tokens", 128, "--epochs", 1, *words]
    code, _, err = run_cli("order", golden_store.path, tmp_path / "order", *asked)
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_chunks_of_one_length_have_no_curriculum(build):
    store = build(Packing("fixed", max_length=16))
    with pytest.raises(ValueError, match="orders chunks by their lengths, and these all have one"):
        order_store(store, Curriculum(), batch_tokens=64, seed=0, epochs=1)


@pytest.mark.skipif(not README.is_file(), reason="needs README.md: the tests were copied away from it")
def test_the_readme_s_section_prints_what_it_says(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("## As LMEnt did it")[1]
    block = re.search(r"```console\n(.*?)```", section, flags=re.DOTALL).group(1)
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, output = part.split("\n", 1)
        if command.startswith("python"):
            words = [sys.executable, *shlex.split(command)[1:-2]]
            Path("many.jsonl").write_bytes(subprocess.run(words, capture_output=True, check=True).stdout)
            continue
        code, printed, err = run_cli(*shlex.split(command)[1:])
        warnings = [line for line in err.splitlines() if line.startswith("warning")]
        shown = [line for line in output.splitlines() if line not in warnings]
        assert (code, [line.rstrip() for line in printed.splitlines()]) == (0, shown)
        assert len(shown) + len(warnings) == len(output.splitlines())
