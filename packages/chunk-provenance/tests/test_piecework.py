import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import open_store, piecework, sources
from chunk_provenance.documents import Rejected, count_lines, name_place, read_documents, read_piece
from chunk_provenance.encoding import encode_documents, encode_piece, is_encoded, read_part
from chunk_provenance.piecework import Job, begin, encode_missing, pieces_of, read_parts, share_of
from chunk_provenance.sources import Piece, find_pieces, find_sources
from chunk_provenance.tokenizing import TextEncoder

MAIN = "from chunk_provenance.cli import main; main()"
SETTINGS = ["--min-length", "8", "--max-length", "16"]


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of a few documents, so that small inputs have many."""
    monkeypatch.setattr(sources, "PIECE_BYTES", 200)
    monkeypatch.setattr(sources, "PIECE_ROWS", 3)


@pytest.fixture
def inputs(tmp_path, tokenizer_json):
    """Documents in three kinds of files, with every kind of bad line, and a tokenizer."""
    folder = tmp_path / "docs"
    folder.mkdir()
    lines = [
        json.dumps({"id": f"a{i}", "text": f"Ada met Bob {i} times in Bath. " * (1 + i % 3)})
        for i in range(12)
    ]
    lines[3:3] = ["", "{broken", json.dumps({"id": "a1", "text": "again"}), json.dumps({"id": "x"})]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": f"b{i}", "text": f"東京 {i} is large."}) + "\n" for i in range(4))
    rows = {"id": [f"c{i}" for i in range(9)], "text": [f"Bob ran {i} miles." for i in range(8)] + [""]}
    pq.write_table(pa.table(rows), folder / "c.parquet", row_group_size=2)
    (tmp_path / "t.json").write_text(tokenizer_json, encoding="utf-8")
    return tmp_path


def content(folder):
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def build(run_cli, inputs, store="store", *options, code=0):
    arguments = ["build", str(inputs / "docs"), str(inputs / store), "--tokenizer", str(inputs / "t.json")]
    found, out, err = run_cli(*arguments, *SETTINGS, *options)
    assert found == code, err
    return out, err


def test_pieces_hold_every_document_once_in_order(inputs, small_pieces):
    found = find_sources(str(inputs / "docs"))
    pieces = find_pieces(found)
    assert [piece.source.name for piece in pieces].count("a.jsonl") > 3
    assert [piece.source.name for piece in pieces].count("c.parquet") > 1
    in_pieces, lines = [], {}
    for piece in pieces:
        before = lines.get(piece.source.name, 0)
        for number, document in read_piece(piece, {}):
            place = name_place(piece.source, number + before)
            in_pieces.append((place, document))
        lines[piece.source.name] = before + (count_lines(piece) if piece.by_bytes else 0)
    whole = [
        (name_place(source, number), document)
        for source in found
        for number, document in read_piece(Piece(source), {})
    ]
    assert in_pieces == whole
    assert ("a.jsonl line 5", Rejected("", "bad JSON")) in whole


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_any_size_of_pieces_parts_lines_and_never_loses_one(tmp_path, monkeypatch, size):
    lines = [json.dumps({"id": str(i), "text": "é" * i}, ensure_ascii=False) for i in range(1, 9)]
    (tmp_path / "d.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    pieces = find_pieces(find_sources(str(tmp_path / "d.jsonl")))
    documents = [document.doc_id for piece in pieces for _, document in read_piece(piece, {})]
    assert documents == [str(i) for i in range(1, 9)]
    assert sum(map(count_lines, pieces)) == 15


def test_numbered_documents_keep_their_numbers_in_pieces(inputs, small_pieces):
    pieces = find_pieces(find_sources(str(inputs / "docs" / "c.parquet")), numbered=True)
    assert len(pieces) > 1
    ids = [d.doc_id for piece in pieces for _, d in read_piece(piece, {"id": "#"})]
    assert ids == [f"c.parquet:{i}" for i in range(9)]


def test_encoded_documents_come_back_from_their_part_file(inputs, tokenizer_json):
    encoder = TextEncoder(tokenizer_json)
    piece = Piece(find_sources(str(inputs / "docs" / "a.jsonl"))[0])
    where = str(inputs / "part")
    encode_piece(piece, encoder, {}, where, first_of_source=True)
    (batch,) = read_part(piece, where, lines_before=0)
    documents = [d for d in read_documents([piece.source]) if not isinstance(d, Rejected)]
    (expected,) = encode_documents(documents, encoder)
    kept = batch.select(np.array([place != "a.jsonl line 6" for place in batch.places]))
    assert kept.documents == expected.documents
    for field in dataclasses.fields(expected.encoded):
        found, wanted = getattr(kept.encoded, field.name), getattr(expected.encoded, field.name)
        assert found.tolist() == wanted.tolist()
        assert found.dtype == wanted.dtype
    assert batch.rejected == [
        Rejected("a.jsonl line 5", "bad JSON"),
        Rejected("a.jsonl line 7", "missing text", "x"),
    ]


@pytest.mark.parametrize("packing", ["buckets", "fixed"])
def test_every_split_gives_the_same_bytes(inputs, run_cli, small_pieces, packing):
    options = ["--packing", packing, "--validation-fraction", "0.2"]
    build(run_cli, inputs, "store", *options, "--processes", "1")
    reasons = [(r["doc_id"], r["place"]) for r in open_store(inputs / "store").dropped_table.to_pylist()]
    assert ("a1", "a.jsonl line 6") in reasons
    assert ("c8", "c.parquet row 8") in reasons
    for rank in (2, 0, 1):
        share = ["--rank", str(rank), "--ranks", "3", "--processes", "1"]
        out, _ = build(run_cli, inputs, "shared", *options, *share)
        assert "run the same command without --rank" in out or "are still missing" in out
    assert not (inputs / "shared").exists()
    build(run_cli, inputs, "shared", *options, "--processes", "1")
    assert content(inputs / "shared") == content(inputs / "store")
    assert not (inputs / "shared.parts").exists()


def test_processes_give_the_same_bytes(inputs, run_cli, tokenizer_json):
    build(run_cli, inputs, "one", "--processes", "1")
    build(run_cli, inputs, "three", "--processes", "3")  # three files, three pieces
    assert content(inputs / "one") == content(inputs / "three")


def test_a_killed_build_goes_on_with_what_it_has(inputs, run_cli, tokenizer_json, monkeypatch):
    encode = piecework.encode_piece

    def fail_at_second(piece, *arguments, **options):
        if piece.source.name == "b.jsonl.gz":
            raise KeyboardInterrupt
        return encode(piece, *arguments, **options)

    monkeypatch.setattr(piecework, "encode_piece", fail_at_second)
    build(run_cli, inputs, "store", "--processes", "1", code=130)
    first = inputs / "store.parts" / "00000.arrow"
    written = first.stat().st_mtime_ns
    encoded = []
    monkeypatch.setattr(
        piecework, "encode_piece", lambda p, *a, **o: encoded.append(p.source.name) or encode(p, *a, **o)
    )
    begun = sorted(path.name for path in first.parent.iterdir())
    assert begun == ["00000.arrow", "00000.json", "plan.json"]
    assert written
    build(run_cli, inputs, "store", "--processes", "1")
    assert encoded == ["b.jsonl.gz", "c.parquet"]
    build(run_cli, inputs, "fresh", "--processes", "1")
    assert content(inputs / "store") == content(inputs / "fresh")


@pytest.mark.slow
def test_a_build_killed_with_9_goes_on_and_gives_the_same_bytes(inputs, run_cli):
    for number in range(6):
        rows = [{"id": f"{number}:{i}", "text": f"Ada met Bob {i}. " * 40} for i in range(3000)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (inputs / "docs" / f"more{number}.jsonl").write_text(text, encoding="utf-8")
    build(run_cli, inputs, "whole", "--processes", "1")
    command = [sys.executable, "-c", MAIN, "build", str(inputs / "docs"), str(inputs / "store")]
    running = subprocess.Popen(
        [*command, "--tokenizer", str(inputs / "t.json"), *SETTINGS, "--processes", "1"],
        start_new_session=True,
    )
    while not (inputs / "store.parts" / "00003.json").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (inputs / "store").exists()
    build(run_cli, inputs, "store")
    assert content(inputs / "store") == content(inputs / "whole")


def test_parts_of_other_inputs_are_refused(inputs, run_cli, tokenizer_json):
    build(run_cli, inputs, "store", "--rank", "0", "--ranks", "2")
    (inputs / "docs" / "c.parquet").unlink()
    _, err = build(run_cli, inputs, "store", code=2)
    assert err.startswith(f"error: {str(inputs / 'store.parts')!r} holds encoded documents of other inputs")
    assert "documents.c.parquet is" in err
    build(run_cli, inputs, "store", "--overwrite")
    assert open_store(inputs / "store").meta["inputs"]["documents"].keys() == {"a.jsonl", "b.jsonl.gz"}


def test_a_damaged_part_is_named(inputs, run_cli):
    build(run_cli, inputs, "store", "--rank", "0", "--ranks", "1")
    part = inputs / "store.parts" / "00001.arrow"
    part.write_bytes(part.read_bytes()[:-40])
    _, err = build(run_cli, inputs, "store", code=2)
    assert err.startswith(f"error: {inputs}/store.parts/00001.arrow is damaged")
    assert "remove it and build again" in err


def test_a_rank_beyond_the_ranks_is_refused(inputs, run_cli):
    _, err = build(run_cli, inputs, "store", "--rank", "2", "--ranks", "2", code=2)
    assert err == "error: --rank 2 is none of the ranks 0 to 1 that --ranks 2 asks for\n"


def test_the_ranks_share_all_pieces_out():
    shares = [list(share_of(7, rank=rank, ranks=3)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_place_that_is_taken_is_refused_before_the_work(inputs, run_cli):
    (inputs / "store").mkdir()
    (inputs / "store" / "thesis.tex").write_text("mine")
    _, err = build(run_cli, inputs, "store", code=2)
    assert "exists and is no chunk store" in err
    assert not (inputs / "store.parts").exists()


def test_datatrove_runs_the_ranks(inputs, run_cli, small_pieces):
    from datatrove.executor.local import LocalPipelineExecutor

    from chunk_provenance.datatrove_step import EncodeDocuments

    step = EncodeDocuments(str(inputs / "docs"), str(inputs / "store"), str(inputs / "t.json"))
    for rank in range(2):
        executor = LocalPipelineExecutor([step], tasks=2, logging_dir=str(inputs / "logs"))
        executor._run_for_rank(rank, rank)
    job = Job(str(inputs / "docs"), (), (inputs / "t.json").read_text(), None, str(inputs / "store.parts"))
    assert piecework.missing_pieces(job, len(pieces_of(job))) == []
    build(run_cli, inputs, "store")
    build(run_cli, inputs, "plain", "--processes", "1")
    assert content(inputs / "store") == content(inputs / "plain")


def test_documents_tokenizer_and_store_may_be_urls(inputs, run_cli, small_pieces):
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in (inputs / "docs").iterdir():
        memory.put_file(str(file), f"/in/docs/{file.name}")
    memory.put_file(str(inputs / "t.json"), "/in/t.json")
    arguments = [
        "build",
        "memory://in/docs",
        "memory://out/store",
        "--tokenizer",
        "memory://in/t.json",
        *SETTINGS,
        "--processes",  # others would not see this one's memory
        "1",
    ]
    for rank in range(2):
        code, _, err = run_cli(*arguments, "--rank", str(rank), "--ranks", "2")
        assert code == 0, err
    assert memory.isfile("/out/store.parts/plan.json")
    code, out, err = run_cli(*arguments)
    assert code == 0, err
    assert "chunks" in out
    assert not memory.exists("/out/store.parts")
    for name in memory.find("/out/store"):
        copy = inputs / "copy" / name.removeprefix("/out/store/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        memory.get_file(name, str(copy))
    build(run_cli, inputs, "store", "--processes", "1")
    assert content(inputs / "copy") == content(inputs / "store")
    code, _, err = run_cli(*arguments)
    assert (code, err) == (0, "memory://out/store is up to date\n")


def test_a_url_that_nobody_serves_is_named(inputs, run_cli):
    store = str(inputs / "store")
    code, _, err = run_cli("build", "nosuch://a/b", store, "--tokenizer", str(inputs / "t.json"))
    assert code == 2
    assert err.startswith("error: ")
    assert "nosuch" in err


def test_reading_back_a_job_gives_every_batch(inputs, tokenizer_json, small_pieces):
    job = Job(str(inputs / "docs"), (), tokenizer_json, None, str(inputs / "parts"))
    pieces = pieces_of(job)
    begin(job, pieces, overwrite=False)
    told = []
    encode_missing(job, pieces, range(len(pieces)), processes=1, done=lambda n, c: told.append(n))
    assert sorted(told) == list(range(len(pieces)))
    assert all(is_encoded(job.part(number)) for number in told)
    ids = [document.doc_id for batch in read_parts(job, pieces) for document in batch.documents]
    assert ids[:3] + ids[-2:] == ["a0", "a1", "a2", "c6", "c7"]
