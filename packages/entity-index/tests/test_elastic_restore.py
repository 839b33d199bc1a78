"""A snapshot written with raw requests in the published layout, restored by our command, and queried."""

import json
import shutil
import subprocess

import pytest

from entity_index import Entity, Phrase, Query
from entity_index.backend import open_backend
from entity_index.elastic.restore import restore_snapshot

pytestmark = pytest.mark.slow

TEXTS = ["Ada Lovelace met Babbage.", "She wrote.", "ada lovelace, a ship"]


@pytest.fixture(scope="module")
def documents(row, mention_rows, lment_documents):
    """As LMEnt has them: no `doc_id`, no row of a store."""
    rows = [
        row(0, 0, 12, "Q7259", name="Ada Lovelace", hyperlink=1.0, score=0.4),
        row(0, 17, 24, "Q46633", name="Charles Babbage", entity_linking=0.7, score=0.21),
        row(1, 0, 3, "Q7259", name="", coref_cluster=0.9, score=0.09),
    ]
    found = lment_documents(TEXTS, mention_rows(rows, TEXTS), ["Meeting", "Letters", "Ships"])
    for document in found:
        del document["doc_id"]
        for mention in document["entities"]:
            for candidate in mention["candidates"]:
                del candidate["row"]
    return found


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster()


@pytest.fixture(scope="module")
def url(cluster):
    (address,) = cluster.start()
    return address


@pytest.fixture(scope="module")
def published(cluster, url, documents, raw_requests):
    """A repository in which `enwiki` and its twin lie; the server has them no more."""
    raw_requests.write_lment(url, "enwiki", documents)
    folder = cluster.folder / "snapshots" / "lment"
    ask = raw_requests.ask
    ask(f"{url}/_snapshot/mine", "PUT", {"type": "fs", "settings": {"location": str(folder)}})
    made = ask(f"{url}/_snapshot/mine/enwiki_2025?wait_for_completion=true", "PUT", {"indices": "enwiki*"})
    assert made["snapshot"]["state"] == "SUCCESS"
    ask(f"{url}/_snapshot/mine", "DELETE")
    for index in ("enwiki", "enwiki_case_sensitive"):
        ask(f"{url}/{index}", "DELETE")
    return folder


def indices(raw_requests, url):
    return sorted(raw_requests.ask(f"{url}/_all"))


def remove(raw_requests, url, name):
    for index in (name, name + "_case_sensitive"):
        raw_requests.ask(f"{url}/{index}", "DELETE")


@pytest.mark.parametrize("name", ["enwiki", "wikipedia.april-2025"])
def test_a_restored_snapshot_is_queried_as_it_is(run, url, published, raw_requests, name):
    option = [] if name == "enwiki" else ["--as", name]
    code, out, words = run("restore", url, published, *option)
    assert (code, out) == (0, f"{url}/{name}\n")
    assert words.splitlines()[-1] == f"{name} and {name}_case_sensitive restored from enwiki_2025: 3 chunks"
    assert f"restoring {name} (" in words
    try:
        index = open_backend(f"{url}/{name}")
        found = index.search(Query(Entity("Q7259")))
        assert [(hit.chunk_id, round(hit.score, 6), len(hit.mentions)) for hit in found.hits] == [
            (0, 0.4, 1),
            (1, 0.09, 1),
        ]
        assert index.chunk_ids(Phrase("ada lovelace")).tolist() == [0, 2]
        assert index.chunk_ids(Phrase("ada lovelace", case_sensitive=True)).tolist() == [2]
        chunk = index.chunk(1)
        assert (chunk.text, chunk.doc_id, chunk.title) == ("She wrote.", "1", "Letters")
        assert [(match.entity, match.name, match.chunks) for match in index.names("ADA LOVELACE")] == [
            ("Q7259", "Ada Lovelace", 1)
        ]
        assert index.store_sha256 is None
        code, out, _ = run("query", f"{url}/{name}", "name:charles babbage", "Q7259", "--json")
        assert [hit["chunk_id"] for hit in json.loads(out)["hits"]] == [0]
        assert run("query", f"{url}/{name}", "Q0")[:2] == (1, "0 chunks with Q0\n")
    finally:
        remove(raw_requests, url, name)
    assert raw_requests.ask(f"{url}/_snapshot/_all") == {}


def test_what_is_there_is_not_replaced(run, url, published, raw_requests):
    assert run("restore", url, published)[0] == 0
    before = raw_requests.ask(f"{url}/enwiki/_settings")
    code, _, words = run("restore", url, published)
    there = "the server has enwiki and enwiki_case_sensitive already"
    assert (code, words) == (2, f"error: {there}: choose another name with --as, or delete them\n")
    assert raw_requests.ask(f"{url}/enwiki/_settings") == before
    remove(raw_requests, url, "enwiki")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["FOLDER", "--snapshot", "enwiki_2026"],
            "there is no snapshot 'enwiki_2026' in 'FOLDER': it has enwiki_2025",
        ),
        (
            ["FOLDER/nothing"],
            "there is no snapshot in 'FOLDER/nothing', as the server sees it: is it the repository?",
        ),
        (
            ["/elsewhere/lment"],
            "the server may not read '/elsewhere/lment': add the line  path.repo: [\"/elsewhere\"]  to its ",
        ),
        (["FOLDER", "--as", "Wikipedia"], "'Wikipedia' is no name of an index"),
        (["FOLDER", "--as", "a,b"], "'a,b' is no name of an index"),
        (["FOLDER", "--as", "_all"], "'_all' is no name of an index"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, url, published, raw_requests, arguments, message):
    code, out, words = run("restore", url, *(text.replace("FOLDER", str(published)) for text in arguments))
    assert (code, out) == (2, "")
    assert words.startswith("error: " + message.replace("FOLDER", str(published)))
    assert words.count("\n") == 1
    assert indices(raw_requests, url) == []
    assert raw_requests.ask(f"{url}/_snapshot/_all") == {}


def test_a_server_without_path_repo_gets_its_own_sentence(run, make_cluster, published):
    cluster = make_cluster()
    (url,) = cluster.start("--set", "path.repo=")
    code, _, words = run("restore", url, published)
    line = f'path.repo: ["{published.parent}"]'
    what_to_do = f"add the line  {line}  to its elasticsearch.yml and start it again"
    assert (code, words) == (2, f"error: the server may not read {str(published)!r}: {what_to_do}\n")
    cluster.remove()


def test_a_snapshot_of_other_indices_is_refused(run, cluster, url, raw_requests):
    folder = cluster.folder / "snapshots" / "other"
    ask = raw_requests.ask
    for index in ("logs", "logs_case_sensitive", "alone"):
        ask(f"{url}/{index}/_doc?refresh=true", "POST", {"text": "Ada"})
    ask(f"{url}/_snapshot/mine", "PUT", {"type": "fs", "settings": {"location": str(folder)}})
    ask(f"{url}/_snapshot/mine/alone?wait_for_completion=true", "PUT", {"indices": "alone"})
    ask(f"{url}/_snapshot/mine/logs?wait_for_completion=true", "PUT", {"indices": "logs*"})
    ask(f"{url}/_snapshot/mine", "DELETE")
    ask(f"{url}/alone", "DELETE")
    remove(raw_requests, url, "logs")
    assert run("restore", url, folder)[::2] == (
        2,
        f"error: {str(folder)!r} has several snapshots (alone, logs): say which with --snapshot\n",
    )
    assert run("restore", url, folder, "--snapshot", "alone")[::2] == (
        2,
        "error: snapshot 'alone' has no pair of indices NAME and NAME_case_sensitive, expected one: alone\n",
    )
    code, _, words = run("restore", url, folder, "--snapshot", "logs", "--as", "mine")
    assert code == 2
    assert words.splitlines()[-1] == (
        "error: 'mine' is no entity index: its field 'chunk_id' is missing, expected 'integer'"
    )
    assert indices(raw_requests, url) == []


def test_a_damaged_snapshot_is_given_up_and_leaves_nothing(cluster, url, published, raw_requests):
    folder = cluster.folder / "snapshots" / "damaged"
    shutil.copytree(published, folder)
    largest = max(folder.glob("indices/*/0/__*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(bytes(len(largest.read_bytes())))
    subprocess.run(["chown", "-R", "--reference", published, folder], check=True)
    with pytest.raises(ValueError, match="the server could not restore 'enwiki"):
        restore_snapshot(url, str(folder))
    assert indices(raw_requests, url) == []


def test_a_snapshot_of_a_newer_server_is_refused(make_cluster, cluster, url, documents, raw_requests):
    newer = make_cluster()
    (newer_url,) = newer.start("--version", "9.2.0")
    ask = raw_requests.ask
    raw_requests.write_lment(newer_url, "enwiki", documents)
    ask(f"{newer_url}/_snapshot/new", "PUT", {"type": "fs", "settings": {"location": "new"}})
    ask(f"{newer_url}/_snapshot/new/today?wait_for_completion=true", "PUT", {"indices": "enwiki*"})
    assert open_backend(f"{newer_url}/enwiki").count(Entity("Q7259")) == 2  # version 9 answers, too
    folder = cluster.folder / "snapshots" / "new"
    shutil.copytree(newer.folder / "snapshots" / "new", folder)
    subprocess.run(["chown", "-R", "--reference", folder.parent, folder], check=True)
    newer.remove()
    with pytest.raises(
        ValueError, match="snapshot 'today' was made by a newer Elasticsearch than this server, 8"
    ):
        restore_snapshot(url, str(folder))
    assert indices(raw_requests, url) == []


def test_a_snapshot_of_what_build_made_is_restored_too(
    run, cluster, url, raw_requests, write_store_of, row, tmp_path
):
    mentions = [row(0, 0, 3, "Q1", name="Ada", hyperlink=1.0), row(1, 0, 3, "Q1", coref_cluster=0.75)]
    write_store_of(tmp_path / "store", ["Ada wrote.", "She wrote."], mentions)
    assert run("build", tmp_path / "store", "--elasticsearch", url, "--index", "built")[0] == 0
    folder, ask = cluster.folder / "snapshots" / "built", raw_requests.ask
    ask(f"{url}/_snapshot/mine", "PUT", {"type": "fs", "settings": {"location": str(folder)}})
    ask(f"{url}/_snapshot/mine/built?wait_for_completion=true", "PUT", {"indices": "built*"})
    ask(f"{url}/_snapshot/mine", "DELETE")
    assert run("restore", url, folder, "--as", "copy")[0] == 0
    built, copy = (open_backend(f"{url}/{name}") for name in ("built", "copy"))
    where = Query(Entity("Q1") | Phrase("wrote", case_sensitive=True))
    assert copy.search(where) == built.search(where)
    assert [len(hit.mentions) for hit in copy.search(where).hits] == [1, 1]
    assert copy.store_sha256 == built.store_sha256 is not None
    for index in indices(raw_requests, url):
        ask(f"{url}/{index}", "DELETE")
