"""Both indices of a name on a real server: complete, or not there under the name."""

import json
import uuid
from dataclasses import replace

import pyarrow.compute as pc
import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index import Entity, Phrase, Query, build_index, open_index
from entity_index.backend import open_backend
from entity_index.elastic.bulk import build_on_server
from entity_index.elastic.bulk_documents import documents_of
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import Security, connect
from entity_index.source import store_source

pytestmark = pytest.mark.slow
INTEGER, FLOAT, TEXT, KEYWORD = ({"type": name} for name in ("integer", "float", "text", "keyword"))
RAW = {"type": "text", "fields": {"raw": KEYWORD}}
SCORES = dict.fromkeys(("hyperlinks", "entity_linking", "coref", "coref_cluster"), FLOAT)
LMENT_PROPERTIES = {
    "chunk_id": INTEGER,
    "article_id": INTEGER,
    "start": INTEGER,
    "end": INTEGER,
    "title": TEXT,
    "metadata_source": TEXT,
    "text": RAW,
    "entities": {
        "type": "nested",
        "properties": {
            "char_start": INTEGER,
            "char_end": INTEGER,
            "text_mention": RAW,
            "candidates": {
                "type": "nested",
                "properties": {
                    "qid": KEYWORD,
                    "name": RAW,
                    "aggregated_score": FLOAT,
                    "scores_by_source": {"properties": SCORES},
                },
            },
        },
    },
}


@pytest.fixture
def client(elasticsearch_url):
    with connect(elasticsearch_url, Security()) as client:
        yield client


@pytest.fixture
def name(client):
    """A name of no index yet; what it stood for goes at the end."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    found = client.indices.get(index=f"{name}*", expand_wildcards="all")
    for index in found:
        client.indices.delete(index=index)


@pytest.fixture
def store(make_store, row):
    texts = [f"Chunk {i} is by Ada's friend" for i in range(25)]
    mentions = [row(i, 0, 5, f"Q{i % 7}", name="Chunk", entity_linking=0.75) for i in range(25)]
    return make_store(texts, [*mentions, row(3, 6, 7, None)], [f"Title {i}" for i in range(25)])


def stored(client, index):
    """All documents of an index, by chunk id."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, size=10_000)["hits"]["hits"]
    assert all(hit["_id"] == str(hit["_source"]["chunk_id"]) for hit in hits)
    return sorted((hit["_source"] for hit in hits), key=lambda document: document["chunk_id"])


def expected(source):
    return [json.loads(line) for batch in source.stream() for line in documents_of(batch).lines]


def settings_of(client, index):
    (found,) = client.indices.get_settings(index=index).body.values()
    return found["settings"]["index"]


def test_both_indices_have_lments_mapping_and_every_chunk(client, name, store):
    source = store_source(store.path)
    told = []
    progress = []
    outcome = build_on_server(
        client, Plan(source, name), progress=lambda *step: progress.append(step), tell=told.append
    )
    assert (outcome.built, outcome.num_chunks, outcome.num_mentions, outcome.num_dropped) == (True, 25, 25, 1)
    assert outcome.rejected == told == []
    assert progress[-1] == ("indexing chunks", 25, 25)
    for index, cased in ((name, False), (f"{name}_case_sensitive", True)):
        assert stored(client, index) == expected(source)
        (described,) = client.indices.get(index=index).body.values()
        mapping = described["mappings"]
        meta = mapping.pop("_meta")
        wanted = LMENT_PROPERTIES | ({"text": TEXT} if cased else {})
        scores = mapping["properties"]["entities"]["properties"]["candidates"]["properties"][
            "scores_by_source"
        ]
        scores.pop("type", None)  # "object", where the server says so
        assert mapping == {"dynamic": "false", "properties": wanted}
        assert meta == {
            "format": "entity-index",
            "version": 1,
            "state": "complete",
            "name": index,
            "store_sha256": store.sha256,
            "num_chunks": 25,
            "num_mentions": 25,
            "num_dropped": 1,
            "num_rejected": 0,
        }
        settings = described["settings"]["index"]
        assert (settings["number_of_shards"], settings["number_of_replicas"]) == ("1", "0")
        assert settings["mapping"]["nested_objects"]["limit"] == "100000000"
        assert settings["similarity"] == {"default": {"type": "BM25"}}
        assert "refresh_interval" not in settings
        assert settings["hidden"] == "false"
        words = client.indices.analyze(index=index, field="text", text="The Ada's")["tokens"]
        assert [word["token"] for word in words] == (["The", "Ada's"] if cased else ["the", "ada's"])
    assert sorted(client.indices.get_alias(index=f"{name}*", expand_wildcards="all").body) == [
        f"{name}-{store.sha256[:12]}",
        f"{name}_case_sensitive-{store.sha256[:12]}",
    ]


def test_what_was_built_answers_as_the_embedded_index(client, elasticsearch_url, name, store, tmp_path):
    build_on_server(client, Plan(store_source(store.path), name))
    build_index(store.path, tmp_path / "index")
    embedded, elastic = open_index(tmp_path / "index"), open_backend(f"{elasticsearch_url}/{name}")
    for where in (Entity("Q3"), Entity("Q3") & Phrase("chunk 3"), Entity("Q0") | Entity("Q1")):
        assert elastic.search(Query(where)) == embedded.search(Query(where))
    assert elastic.count(Phrase("chunk 3", case_sensitive=True)) == 0
    assert elastic.count(Phrase("Chunk 3", case_sensitive=True)) == 1
    assert [elastic.chunk(i) for i in range(25)] == [embedded.chunk(i) for i in range(25)]
    assert elastic.store_sha256 == embedded.store_sha256


def test_a_second_run_finds_everything_there(client, name, store):
    plan = Plan(store_source(store.path), name)
    assert build_on_server(client, plan).built
    assert not build_on_server(client, plan).built


def test_an_empty_store_gives_empty_indices(client, name, make_store):
    outcome = build_on_server(client, Plan(store_source(make_store([]).path), name))
    assert (outcome.built, outcome.num_chunks) == (True, 0)
    assert stored(client, name) == stored(client, f"{name}_case_sensitive") == []


class StoppedError(Exception):
    pass


def stopped_after(source, chunks):
    """The source, which breaks off after some chunks."""

    def stream():
        for batch in source.stream():
            assert len(batch.texts) > chunks
            cut = {
                key: getattr(batch, key)[:chunks]
                for key in ("chunk_ids", "texts", "doc_ids", "titles", "doc_sources", "doc_token_start")
            }
            mentions = batch.mentions.filter(pc.less(batch.mentions["chunk_id"], chunks))
            yield replace(batch, **cut, doc_token_end=batch.doc_token_end[:chunks], mentions=mentions)
            raise StoppedError

    return replace(source, stream=stream)


def test_a_build_that_breaks_off_leaves_nothing_under_the_name_and_is_continued(client, name, store):
    source = store_source(store.path)
    with pytest.raises(StoppedError):
        build_on_server(client, Plan(stopped_after(source, 10), name))
    assert not client.indices.exists(index=[name])
    assert not client.indices.exists(index=[f"{name}_case_sensitive"])
    for target in (f"{name}-{source.sha256[:12]}", f"{name}_case_sensitive-{source.sha256[:12]}"):
        settings = settings_of(client, target)
        assert "refresh_interval" not in settings
        assert settings["hidden"] == "true"
    assert len(stored(client, target)) == 10
    versions = {hit["_id"]: hit["_seq_no"] for hit in all_hits(client, target)}
    assert build_on_server(client, Plan(source, name)).num_chunks == 25
    assert stored(client, name) == stored(client, f"{name}_case_sensitive") == expected(source)
    again = {hit["_id"]: hit["_seq_no"] for hit in all_hits(client, target)}
    assert {key: again[key] for key in versions} == versions  # what was there was not sent again


def all_hits(client, index):
    return client.search(index=index, size=10_000, seq_no_primary_term=True)["hits"]["hits"]


def test_single_chunks_that_are_missing_are_sent_again(client, name, store):
    source = store_source(store.path)
    with pytest.raises(StoppedError):
        build_on_server(client, Plan(stopped_after(source, 20), name))
    target = f"{name}-{source.sha256[:12]}"
    for chunk in (0, 7, 19):
        client.delete(index=target, id=str(chunk))
    build_on_server(client, Plan(source, name), bytes_a_request=2000)
    assert stored(client, name) == stored(client, f"{name}_case_sensitive") == expected(source)


def test_a_name_that_stands_for_something_else_is_left_alone_unless_told(client, name, store, make_store):
    other = store_source(make_store(["another"]).path)
    client.indices.create(index=name)
    with pytest.raises(FileExistsError, match=r"is there and was not built by us \(this one is"):
        build_on_server(client, Plan(other, name))
    build_on_server(client, Plan(other, name, overwrite=True))
    assert [document["text"] for document in stored(client, name)] == ["another"]
    source = store_source(store.path)
    with pytest.raises(FileExistsError, match=f"was built from another source .{other.sha256[:12]}"):
        build_on_server(client, Plan(source, name))
    for _ in range(3):
        build_on_server(client, Plan(source, name, overwrite=True))
        assert stored(client, name) == expected(source)
        assert len(client.indices.get(index=f"{name}*", expand_wildcards="all").body) == 2


def test_an_alias_for_the_indices_of_others_is_taken_away_from_them_not_with_them(client, name, store):
    client.indices.create(index=f"{name}-theirs", aliases={name: {}})
    source = store_source(store.path)
    build_on_server(client, Plan(source, name, overwrite=True))
    assert stored(client, name) == expected(source)
    assert client.indices.exists(index=f"{name}-theirs")


def test_rejected_chunks_are_listed_and_nothing_is_published_unless_allowed(client, name, make_store, row):
    mentions = [row(1, 0, 1, "Q1", surface="x" * 40_000), row(2, 0, 1, "Q1")]
    source = store_source(make_store(["a", "b", "c"], mentions).path)
    for _ in range(2):  # a second run tries them again
        outcome = build_on_server(client, Plan(source, name))
        assert sorted((r.index, r.chunk_id, r.status) for r in outcome.rejected) == [
            (f"{name}-{source.sha256[:12]}", 1, 400),
            (f"{name}_case_sensitive-{source.sha256[:12]}", 1, 400),
        ]
        assert "immense term" in outcome.rejected[0].reason
        assert not client.indices.exists(index=[name])
    outcome = build_on_server(client, Plan(source, name, allow_rejected=True))
    assert len(outcome.rejected) == 2
    assert [document["chunk_id"] for document in stored(client, name)] == [0, 2]
    (described,) = client.indices.get(index=name).body.values()
    assert described["mappings"]["_meta"]["num_rejected"] == 1


def test_texts_too_long_for_lments_keyword_are_taken(client, name, make_store):
    texts = ["short", "é" * 20_000 + " word", "x " * 30_000]
    build_on_server(client, Plan(store_source(make_store(texts).path), name))
    assert [document["text"] for document in stored(client, name)] == texts
    (described,) = client.indices.get(index=name).body.values()
    raw = described["mappings"]["properties"]["text"]["fields"]["raw"]
    assert raw == {"type": "keyword", "ignore_above": 8191}


def test_replicas_are_put_at_the_end_or_from_the_beginning(client, name, store):
    source = store_source(store.path)
    for keep, during in ((False, "0"), (True, "1")):
        seen = []

        def stream(seen=seen):
            seen += [settings_of(client, f"{name}-{source.sha256[:12]}")]
            yield from source.stream()

        plan = Plan(replace(source, stream=stream), name, replicas=1, keep_replicas=keep, overwrite=True)
        build_on_server(client, plan)
        assert seen[0]["number_of_replicas"] == during
        assert seen[0]["refresh_interval"] == "-1"
        assert settings_of(client, name)["number_of_replicas"] == "1"
        for index in client.indices.get(index=f"{name}*"):
            client.indices.delete(index=index)


def test_the_index_that_is_built_may_not_be_taken_away(client, name, store):
    source = store_source(store.path)

    def stream():
        client.indices.delete(index=f"{name}-{source.sha256[:12]}")
        yield from source.stream()

    with pytest.raises(ValueError, match="the index that is being built is gone"):
        build_on_server(client, Plan(replace(source, stream=stream), name))
    assert not client.indices.exists(index=[f"{name}-{source.sha256[:12]}"])


def test_a_name_or_a_number_that_is_none_is_refused(store):
    source = store_source(store.path)
    for bad in ("Upper", "a*", "", "x" * 180):
        with pytest.raises(ValueError, match="is no name of an index"):
            Plan(source, bad)
    with pytest.raises(ValueError, match="--replicas -1"):
        Plan(source, "good", replicas=-1)
