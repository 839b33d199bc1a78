"""`entity-index build --elasticsearch`: what it says, and its exit codes."""

import json
import re
import sys
import uuid
from dataclasses import replace

import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index import cli
from entity_index.elastic.bulk import build_on_server
from entity_index.elastic.bulk_command import write_rejected
from entity_index.elastic.bulk_estimate import check_disk, estimate, size_of
from entity_index.elastic.bulk_send import Rejection
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import Security, connect
from entity_index.source import ChunkSource, store_source


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command; exit code, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["entity-index", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nowhere to write to"),
        (["out", "--elasticsearch", "http://localhost:1", "--index", "name"], "and no folder"),
        (["--elasticsearch", "http://localhost:1"], "give --index NAME"),
        (["--elasticsearch", "http://localhost:1", "--index", "no,name"], "'no,name' is no name"),
        (["--elasticsearch", "http://localhost:1", "--index", "name"], "cannot be reached"),
        (["--elasticsearch", "http://10.0.0.1", "--index", "name"], "is not encrypted"),
        (["--elasticsearch", "localhost", "--index", "name"], "is no address of a server"),
        (["--elasticsearch", "http://localhost:1", "--index", "n", "--replicas", "-1"], "--replicas -1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, make_store, words, message):
    code, out, err = run("build", make_store(["a"]).path, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_plain_http_is_allowed_by_a_flag(run, make_store, monkeypatch):
    monkeypatch.delenv("ELASTICSEARCH_ALLOW_HTTP", raising=False)
    monkeypatch.setenv("ELASTICSEARCH_USER", "ada")  # without a password: refused before anything is sent
    words = ["build", make_store(["a"]).path, "--elasticsearch", "http://10.0.0.1", "--index", "name"]
    assert "go together" in run("--allow-http", *words)[2]


def test_refused_chunks_are_listed_by_index_and_chunk(tmp_path):
    found = [
        Rejection("b", 1, 400, "kind", "é"),
        Rejection("a", 10, 400, "kind", "x"),
        Rejection("a", 9, 413, "k", ""),
    ]
    write_rejected(tmp_path / "list.jsonl", found)
    lines = (tmp_path / "list.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["index"], json.loads(line)["chunk_id"]) for line in lines] == [
        ("a", 9),
        ("a", 10),
        ("b", 1),
    ]
    assert json.loads(lines[2]) == {"index": "b", "chunk_id": 1, "status": 400, "kind": "kind", "reason": "é"}


def test_an_estimate_is_of_the_size_that_was_measured():
    source = ChunkSource("lment", "0" * 64, 10_491_928, lambda: iter([]), 400_000_000, 16_000_000_000)
    plan = Plan(source, "name")
    published = estimate(plan, free=120 * 10**9)
    assert 127e9 * 0.9 < published.disk < 127e9 * 1.2  # the published snapshot of both indices
    assert not published.fits
    with pytest.raises(
        ValueError, match="the server has 120 GB of disk free, both indices will take about 1"
    ):
        check_disk(published)
    assert estimate(plan, free=160 * 10**9).fits
    assert estimate(plan, free=None).fits


def test_the_size_of_a_source_that_does_not_say_is_that_of_its_first_chunks(make_store, row):
    store = make_store(["abcä"] * 9000, [row(i, 0, 1, "Q1") for i in range(0, 9000, 3)])
    source = store_source(store.path)
    assert size_of(source)[0] == 3000
    found = size_of(replace(source, num_mentions=None))
    assert found == (round(667 * 9000 / 2000), 45_000)  # two batches of a thousand are read


@pytest.mark.slow
def test_a_dry_run_prints_disk_memory_and_time_and_builds_nothing(run, make_store, row, elasticsearch_url):
    store = make_store(["Ada"] * 3, [row(0, 0, 3, "Q1", hyperlink=1.0)])
    words = ["build", store.path, "--elasticsearch", elasticsearch_url, "--index", "dry", "--dry-run"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "3 chunks, about 1 mentions"
    assert re.fullmatch(r"disk on the server: about 0\.1 GB \([\d.]+ GB are free\)", lines[1])
    assert lines[2:] == [
        "memory: 0.5 GB here; the server has its own",
        "time: about 1 min on two cores, server and client together",
    ]
    assert run("query", f"{elasticsearch_url}/dry", "Q1")[0] == 2


@pytest.mark.slow
def test_too_little_disk_is_refused_before_anything_is_made(elasticsearch_url, make_store):
    source = replace(store_source(make_store(["a"]).path), num_mentions=10**12, text_bytes=1)
    with connect(elasticsearch_url, Security()) as client:
        with pytest.raises(
            ValueError, match="of disk free, both indices will take about 220000 GB: make room"
        ):
            build_on_server(client, Plan(source, "toolarge"))
        assert not client.indices.get(index="toolarge*", expand_wildcards="all")


@pytest.mark.slow
def test_a_build_says_what_it_did_and_a_refused_chunk_is_exit_code_1(
    run, make_store, row, elasticsearch_url, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = f"test-{uuid.uuid4().hex[:12]}"
    good = make_store(["Ada", "Bob"], [row(0, 0, 3, "Q1", hyperlink=1.0), row(1, 0, 3, None)])
    code, out, err = run("build", good.path, "--elasticsearch", elasticsearch_url, "--index", name)
    assert (code, out) == (0, "")
    assert err.endswith("1 mentions in 2 chunks (1 without entity left out)\n")
    code, out, err = run("build", good.path, "--elasticsearch", elasticsearch_url, "--index", name)
    assert (code, err) == (0, f"{name} on {elasticsearch_url} is up to date: 2 chunks\n")
    bad = make_store(["a", "b"], [row(1, 0, 1, "Q1", surface="x" * 40_000)])
    code, _, err = run("build", bad.path, "--elasticsearch", elasticsearch_url, "--index", name)
    assert code == 2
    assert "was built from another source" in err
    words = ["build", bad.path, "--elasticsearch", elasticsearch_url, "--index", name, "--overwrite"]
    code, _, err = run(*words)
    assert code == 1
    assert f"chunks refused: 1, listed with their reasons in {name}.rejected.jsonl; nothing is" in err
    assert len((tmp_path / f"{name}.rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert run("query", f"{elasticsearch_url}/{name}", "Q1", "--limit", 0)[1] == "1 chunk with Q1\n"
    assert run(*words, "--allow-rejected", "--rejected", "list.jsonl")[0] == 0
    assert (tmp_path / "list.jsonl").exists()
    assert run("query", f"{elasticsearch_url}/{name}", "Q1")[0] == 1
