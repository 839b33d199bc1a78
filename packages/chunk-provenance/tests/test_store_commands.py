import json

import pytest

from chunk_provenance import batch_digest, load_order, open_store
from chunk_provenance.documents import Document

DOCUMENTS = [Document(str(n), f"Bob ran home {n} times. " * (n % 5 + 1), f"Run {n}") for n in range(40)]


@pytest.fixture
def inputs(tmp_path, tokenizer_json, make_mentions):
    """A folder with documents, a tokenizer and mentions."""
    lines = [json.dumps({"id": d.doc_id, "text": d.text, "title": d.title}) for d in DOCUMENTS]
    (tmp_path / "docs.jsonl").write_text("\n".join([*lines, "{", lines[3]]) + "\n", encoding="utf-8")
    (tmp_path / "t.json").write_text(tokenizer_json, encoding="utf-8")
    make_mentions(DOCUMENTS, {"Bob": "Q2"})
    return tmp_path


@pytest.fixture
def store(inputs, run_cli):
    """A store made by the command."""
    code, _, err = run_build(run_cli, inputs)
    assert (code, err) == (0, "")
    return inputs / "store"


def run_build(run_cli, inputs, *options):
    words = ["--tokenizer", inputs / "t.json", "--mentions", inputs / "mentions.parquet"]
    return run_cli("build", inputs / "docs.jsonl", inputs / "store", *words, "--max-length", 64, *options)


def test_build_prints_what_became_of_the_text(inputs, run_cli):
    code, out, err = run_build(run_cli, inputs, "--batch-tokens", 64, "--section", inputs / "section.json")
    assert (code, err) == (0, "")
    for words in ("updates per epoch", "dropped: bad JSON", "dropped: duplicate id", "kept", "120"):
        assert words in out
    section = json.loads((inputs / "section.json").read_text(encoding="utf-8"))
    assert (section["format"], section["version"], section["title"]) == ("report-section", 1, "Chunks")
    assert section["command"].startswith("chunk-provenance build ")
    assert [table["title"] for table in section["tables"]] == [
        "Chunks by length",
        "What became of the text",
        "Mentions",
    ]


def test_build_prints_json_for_programs(inputs, run_cli):
    code, out, _ = run_build(run_cli, inputs, "--json")
    counts = json.loads(out)
    assert code == 0
    assert counts["documents"] == {"stored": 40, "without_any_chunk": 0}
    assert [row["documents"] for row in counts["dropped"]] == [1, 1]


def test_a_store_of_the_same_inputs_is_kept_and_of_others_refused(inputs, store, run_cli):
    before = open_store(store).sha256
    code, out, err = run_build(run_cli, inputs)
    assert (code, err) == (0, f"{store} is up to date\n")
    assert "Chunks by length" in out
    code, _, err = run_build(run_cli, inputs, "--min-length", 32)
    assert code == 2
    assert "was built from other inputs (packing.min_length is 16, not 32): give --overwrite" in err
    assert open_store(store).sha256 == before
    assert run_build(run_cli, inputs, "--min-length", 32, "--overwrite")[0] == 0
    assert open_store(store).bucket.min() == 32


def test_changed_documents_make_a_store_stale(inputs, store, run_cli):
    with (inputs / "docs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "text": "x"}\n')
    code, _, err = run_build(run_cli, inputs)
    assert code == 2
    assert "was built from other inputs (documents.docs.jsonl.bytes is" in err


def test_a_folder_that_is_no_store_is_never_overwritten(inputs, run_cli):
    (inputs / "store").mkdir()
    (inputs / "store" / "mine.txt").write_text("x", encoding="utf-8")
    code, _, err = run_build(run_cli, inputs, "--overwrite")
    assert (code, err) == (
        2,
        f"error: {str(inputs / 'store')!r} exists and is no chunk store: choose another place\n",
    )


def test_buckets_that_can_never_be_trained_are_refused_with_sizes_that_work(inputs, run_cli):
    code, out, err = run_build(run_cli, inputs, "--batch-tokens", 4096)
    assert code == 2
    assert "Chunks by length" in out
    assert "some chunks could never be trained (length" in err
    sizes = err.rsplit("use --batch-tokens ", 1)[1].split()[0]
    assert run_build(run_cli, inputs, "--batch-tokens", sizes)[0] == 0


def test_inputs_that_are_not_there_are_named(inputs, run_cli):
    (inputs / "mentions.parquet").unlink()
    assert (
        run_build(run_cli, inputs)[2] == f"error: no mentions file at {str(inputs / 'mentions.parquet')!r}\n"
    )
    (inputs / "docs.jsonl").unlink()
    assert run_build(run_cli, inputs)[2] == f"error: no documents at {str(inputs / 'docs.jsonl')!r}\n"
    (inputs / "t.json").unlink()
    assert run_build(run_cli, inputs)[2].startswith(f"error: no tokenizer at {str(inputs / 't.json')!r}")


def test_the_tokenizer_command_is_deterministic_and_does_not_overwrite(inputs, run_cli):
    for name in ("a.json", "b.json"):
        code, _, err = run_cli("tokenizer", inputs / "docs.jsonl", inputs / name, "--vocab-size", 300)
        assert code == 0
        assert "trained a tokenizer of" in err
    assert (inputs / "a.json").read_bytes() == (inputs / "b.json").read_bytes()
    code, _, err = run_cli("tokenizer", inputs / "docs.jsonl", inputs / "a.json")
    assert (code, "exists" in err) == (2, True)


def test_order_verify_and_show_agree(inputs, store, run_cli):
    order = inputs / "order"
    code, out, _ = run_cli("order", store, order, "--batch-tokens", 64, "--epochs", 2)
    assert (code, "updates in 2 epochs" in out) == (0, True)
    again = run_cli("order", store, order, "--batch-tokens", 64, "--epochs", 2)
    assert (again[0], again[2]) == (0, f"{order} is up to date\n")
    code, _, err = run_cli("order", store, order, "--batch-tokens", 64, "--epochs", 3)
    assert (code, "is another data order (epochs is 2, not 3)" in err) == (2, True)

    opened = load_order(order)
    log = inputs / "metrics.jsonl"
    steps = range(1, opened.num_updates + 1)
    rows = [{"step": step, "batch_digest": batch_digest(opened.batch(step))} for step in steps]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run_cli("verify", order, log) == (
        0,
        f"all {len(rows)} logged updates trained on the batches of the order\n",
        "",
    )
    rows[4]["batch_digest"] = "0" * 16
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, _ = run_cli("verify", order, log)
    assert (code, out.startswith("step 5 differs: the log says 0000000000000000, the order ")) == (1, True)

    chunk = int(opened.batch(5)[0])
    found = json.loads(run_cli("show", store, "--chunk", chunk, "--order", order, "--json")[1])
    assert 5 in found["steps"]
    assert found["mentions"][0]["surface"] == "Bob"
    document = found["segments"][0]["doc_id"]
    shown = run_cli("show", store, "--document", document, "--order", order)[1]
    assert f"document {document} · Run {document} · docs.jsonl" in shown
    assert f"chunk {chunk}: characters" in shown
    shown = run_cli("show", store, "--step", 5, "--order", order)[1]
    assert f"chunk {chunk:>7}" in shown


def test_show_prints_text_place_and_mentions(store, run_cli):
    code, out, _ = run_cli("show", store, "--chunk", 0)
    assert code == 0
    assert out.splitlines() == [
        f"chunk 0: {open_store(store).length[0]} tokens, trained at length 16",
        "  document 0 · Run 0 · docs.jsonl",
        "  characters 0 to 22",
        "",
        "Bob ran home 0 times. ",
        "",
        "mentions",
        "        0-3  'Bob': Q2 (1.00)",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunk", "9999"], "no chunk 9999 in"),
        (["--document", "nobody"], "no document 'nobody' in"),
        (["--step", "1"], "--step needs --order"),
        ([], "give exactly one of --chunk, --document and --step"),
        (["--chunk", "0", "--order", "absent"], "no data order at 'absent'"),
    ],
)
def test_show_refuses_what_is_not_there_in_one_line(store, run_cli, words, message):
    code, out, err = run_cli("show", store, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")


def test_an_order_of_another_store_is_refused(inputs, store, run_cli):
    run_cli("order", store, inputs / "order", "--batch-tokens", 64, "--updates", 3)
    run_build(run_cli, inputs, "--tails", "drop", "--overwrite")
    code, _, err = run_cli("show", store, "--chunk", 0, "--order", inputs / "order")
    assert (code, "belongs to the chunk store" in err) == (2, True)


@pytest.mark.parametrize("option", ["text", "text=", "body=x"])
def test_a_wrong_column_option_is_refused(inputs, run_cli, option):
    code, _, err = run_build(run_cli, inputs, "--column", option)
    assert (code, f"error: --column {option!r}: expected" in err) == (2, True)


@pytest.mark.parametrize("command", ["tokenizer", "build", "order", "verify", "show"])
def test_every_command_has_help_with_an_example(run_cli, command):
    code, out, _ = run_cli(command, "--help")
    assert code == 0
    assert f"Example: chunk-provenance {command}" in " ".join(out.split())
