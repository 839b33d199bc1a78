"""`entity-index build --elasticsearch`: what it says, and its exit codes."""

import json
import sys
import uuid

import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index import cli
from entity_index.elastic.bulk_command import write_rejected
from entity_index.elastic.bulk_send import Rejection


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
    assert f"1 chunks were refused, listed with their reasons in {name}.rejected.jsonl; nothing is" in err
    assert len((tmp_path / f"{name}.rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert run("query", f"{elasticsearch_url}/{name}", "Q1", "--limit", 0)[1] == "1 chunk with Q1\n"
    assert run(*words, "--allow-rejected", "--rejected", "list.jsonl")[0] == 0
    assert (tmp_path / "list.jsonl").exists()
    assert run("query", f"{elasticsearch_url}/{name}", "Q1")[0] == 1
