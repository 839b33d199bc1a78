import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from chunk_provenance import FormatError
from entity_index import Phrase, build_index, open_index


@pytest.fixture
def store(make_store, row):
    return make_store(
        ["Ada wrote.", "Bob."], [row(0, 0, 3, "Q1", hyperlink=1.0), row(1, 0, 3, "Q2", hyperlink=1.0)]
    )


def test_the_same_store_gives_the_same_bytes(store, tmp_path):
    for name in ("one", "two"):
        build_index(store.path, tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "one").iterdir() if file.is_file())
    assert len(files) == 24
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_index_of_the_same_store_is_kept(store, tmp_path):
    assert build_index(store.path, tmp_path / "index")
    before = (tmp_path / "index" / "meta.json").stat().st_mtime_ns
    assert not build_index(store.path, tmp_path / "index")
    assert (tmp_path / "index" / "meta.json").stat().st_mtime_ns == before
    assert build_index(store.path, tmp_path / "index", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if "index" in path.name) == ["index"]


def test_an_index_of_another_store_is_refused_unless_overwritten(store, make_store, tmp_path):
    build_index(store.path, tmp_path / "index")
    other = make_store(["Bob"])
    with pytest.raises(FileExistsError, match=r"was built from another chunk store .* --overwrite"):
        build_index(other.path, tmp_path / "index")
    build_index(other.path, tmp_path / "index", overwrite=True)
    assert open_index(tmp_path / "index").chunk(0).text == "Bob"


def test_a_folder_that_is_no_index_is_never_replaced(store, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="exists and is no entity index"):
            build_index(store.path, tmp_path / "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter").exists()


@pytest.fixture
def large_store(make_store, row):
    """Enough mentions for several pieces and runs, where these are made small."""
    rng = np.random.default_rng(0)
    texts = ["a text"] * 60
    entities = [f"Q{number}" for number in rng.zipf(1.5, 3000) % 50]
    rows = [
        row(chunk, 0, 1, entity, name=entity.lower(), surface=rng.choice(["it", "Ada"]), hyperlink=1.0)
        for chunk, entity in zip(np.sort(rng.integers(5, 60, 3000)).tolist(), entities, strict=True)
    ]
    return make_store(texts, rows)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("entity_index.build.LARGEST_PIECE", 100)
    monkeypatch.setattr("entity_index.build.SMALLEST_PIECE", 100)
    monkeypatch.setattr("entity_index.build.Plan.run_rows", 70)
    monkeypatch.setattr("entity_index.runs.BLOCK", 90)
    monkeypatch.setattr("entity_index.joining.BUCKET_PAIRS", 200)


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def test_small_pieces_give_the_bytes_of_one(large_store, tmp_path, request):
    build_index(large_store.path, tmp_path / "one")
    request.getfixturevalue("small_pieces")
    build_index(large_store.path, tmp_path / "many")
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("stage", ["sorting mentions", "writing postings", "writing names", "indexing texts"])
def test_a_stopped_build_goes_on_and_gives_the_same_bytes(large_store, tmp_path, small_pieces, stage):
    def stop(what, done, total):
        if what == stage and done > total // 2:
            raise KeyboardInterrupt

    build_index(large_store.path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        build_index(large_store.path, tmp_path / "index", progress=stop)
    assert not (tmp_path / "index").exists()
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "index.tmp" / "pieces").glob("*.json")}
    assert finished
    seen = {}

    def watch(what, done, total):
        seen.setdefault(what, done)
        if what == "writing postings":
            assert {file: file.stat().st_mtime_ns for file in finished} == finished

    build_index(large_store.path, tmp_path / "index", progress=watch)
    assert seen["sorting mentions"] > 1000  # of 3,000; these pieces were there
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
    assert not (tmp_path / "index.tmp").exists()


def test_what_another_build_left_is_not_taken_over(large_store, store, tmp_path):
    def stop(what, done, total):
        if what == "indexing texts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(large_store.path, tmp_path / "index", progress=stop)
    build_index(store.path, tmp_path / "index")
    assert list(open_index(tmp_path / "index").entities) == ["Q1", "Q2"]


def test_progress_names_every_stage(store, tmp_path):
    seen = []
    build_index(store.path, tmp_path / "index", progress=lambda *report: seen.append(report))
    assert seen == [
        ("sorting mentions", 0, 2),
        ("sorting mentions", 2, 2),
        ("writing postings", 2, 2),
        ("writing names", 0, 2),
        ("writing names", 2, 2),
        ("indexing texts", 2, 2),
    ]


def test_memory_may_be_little_but_not_nothing(store, tmp_path):
    build_index(store.path, tmp_path / "index", memory="100MB")
    with pytest.raises(ValueError, match="--memory 1KB is too little"):
        build_index(store.path, tmp_path / "other", memory="1KB")
    with pytest.raises(ValueError, match="--memory 'much' is not a size"):
        build_index(store.path, tmp_path / "other", memory="much")


def test_an_index_that_may_only_be_read_is_searched(store, tmp_path, monkeypatch):
    build_index(store.path, tmp_path / "index")
    modes = {file.stat().st_mode for file in (tmp_path / "index" / "text").iterdir()}
    assert len(modes) == 1
    locks = list((tmp_path / "index" / "text").glob(".*.lock"))
    monkeypatch.setattr("os.access", lambda path, mode: path not in locks)
    for lock in locks:
        lock.chmod(0o444)
    index = open_index(tmp_path / "index")
    assert index.chunk_ids(Phrase("ada wrote")).tolist() == [0]
    assert index.chunk(1).text == "Bob."


def test_what_is_no_index_is_refused(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="no entity index at"):
        open_index(tmp_path)
    build_index(store.path, tmp_path / "index")
    meta = tmp_path / "index" / "meta.json"
    content = json.loads(meta.read_text(encoding="utf-8"))
    for change, message in [
        ({"version": 1}, "version 1, this release reads 2: build the index again"),
        ({"format": "chunk-store"}, "is a 'chunk-store' folder"),
        ({"files": {"lost.npy": ""}}, "is damaged, it lacks lost.npy"),
    ]:
        meta.write_text(json.dumps({**content, **change}), encoding="utf-8")
        with pytest.raises(FormatError, match=message):
            open_index(tmp_path / "index")


KILLED = """
import os, signal, sys
import entity_index.build, entity_index.texts
from entity_index import build_index

entity_index.build.SMALLEST_PIECE = entity_index.build.LARGEST_PIECE = 100
entity_index.texts.CHUNKS_A_COMMIT, entity_index.build.CHUNKS_A_REPORT = 10, 1
store, index, stage = sys.argv[1:]

def kill(what, done, total):
    if what == stage and done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

build_index(store, index, progress=kill)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("stage", ["sorting mentions", "writing postings", "indexing texts"])
def test_a_killed_build_goes_on_and_gives_the_same_bytes(large_store, tmp_path, stage):
    build_index(large_store.path, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(large_store.path), str(tmp_path / "index"), stage]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "index").exists()
    begun = {}
    build_index(
        large_store.path,
        tmp_path / "index",
        progress=lambda what, done, total: begun.setdefault(what, done),
    )
    assert begun["sorting mentions"] > (1000 if stage == "sorting mentions" else 2999)
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
    index = open_index(tmp_path / "index")
    assert index.count(Phrase("a text")) == 60
    assert [index.chunk(number).doc_id for number in range(60)] == [f"d{number}" for number in range(60)]
