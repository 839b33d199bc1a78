"""What goes wrong in the middle of a build on real servers: afterwards every chunk is there, once.

The source itself strikes, at a batch of its stream, so that requests are under way whenever it happens.
"""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index.elastic.bulk import build_on_server
from entity_index.elastic.bulk_documents import documents_of
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import Security, connect
from entity_index.source import ChunkSource, stream_chunks

pytestmark = pytest.mark.slow
NUM_CHUNKS, STRIKE_AT = 3000, 12
PAIR = ("corpus", "corpus_case_sensitive")


@pytest.fixture(scope="module")
def one_node(make_cluster):
    cluster = make_cluster()
    return cluster, cluster.start()[0]


@pytest.fixture(scope="module")
def three_nodes(make_cluster):
    cluster = make_cluster()
    return cluster, ",".join(cluster.start("--nodes", "3"))


@contextmanager
def connected(cluster, url):
    """A client of a cluster that is whole and empty."""
    cluster.start()
    with connect(url, Security()).options(request_timeout=320, max_retries=3) as client:
        for index in client.indices.get(index="*", expand_wildcards="all"):
            client.indices.delete(index=index)
        yield client


@pytest.fixture
def store(make_store, row):
    texts = [f"Chunk {i} tells of Ada " + "and of much else " * (i % 40) for i in range(NUM_CHUNKS)]
    mentions = [row(i, 0, 5, f"Q{i % 97}", entity_linking=0.75) for i in range(NUM_CHUNKS) for _ in range(3)]
    return make_store(texts, mentions)


def source_of(store, strike=lambda: None):
    """The chunks in 30 batches; `strike` is called once, before one of them."""
    struck = []

    def stream():
        for number, batch in enumerate(stream_chunks(store, chunks_a_batch=NUM_CHUNKS // 30)):
            if number == STRIKE_AT and not struck:
                struck.append(number)
                strike()
            yield batch

    size = {
        "num_mentions": 3 * NUM_CHUNKS,
        "text_bytes": 400 * NUM_CHUNKS,
    }  # else a sample is read to tell it
    return ChunkSource(str(store.path), store.sha256, NUM_CHUNKS, stream, **size)


def build(client, source, **options):
    return build_on_server(client, Plan(source, "corpus"), bytes_a_request=20_000, **options)


def assert_every_chunk_once(client, store):
    """Both indices hold the source's documents, no more and no less, and are as other indices are."""
    wanted = [json.loads(line) for batch in source_of(store).stream() for line in documents_of(batch).lines]
    for index in PAIR:
        client.indices.refresh(index=index)
        assert client.count(index=index)["count"] == NUM_CHUNKS
        hits = client.search(index=index, size=10_000, sort="chunk_id")["hits"]["hits"]
        assert [hit["_source"] for hit in hits] == wanted
        assert [hit["_id"] for hit in hits] == [str(i) for i in range(NUM_CHUNKS)]
        (described,) = client.indices.get_settings(index=index).body.values()
        assert "refresh_interval" not in described["settings"]["index"]
        assert "translog" not in described["settings"]["index"]


def nothing_under_the_name(client):
    return not any(client.indices.exists(index=[index]) for index in PAIR)


KILLED_CLIENT = """
import os, signal, sys
from dataclasses import replace
from entity_index.elastic.bulk import build_on_server
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import Security, connect
from entity_index.source import store_source, stream_chunks
from chunk_provenance import open_store

def stream():
    for number, batch in enumerate(stream_chunks(open_store(sys.argv[2]), chunks_a_batch=100)):
        if number == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

source = replace(store_source(sys.argv[2]), stream=stream)
build_on_server(connect(sys.argv[1], Security()), Plan(source, "corpus"), bytes_a_request=20_000)
"""


def test_a_killed_client_goes_on_when_it_is_started_again(one_node, store):
    cluster, url = one_node
    with connected(cluster, url):
        pass
    killed = subprocess.run([sys.executable, "-c", KILLED_CLIENT, url, str(store.path)])
    assert killed.returncode == -signal.SIGKILL
    with connect(url, Security()) as client:
        assert nothing_under_the_name(client)
        target = f"corpus-{store.sha256[:12]}"
        client.indices.refresh(index=target)
        there = client.count(index=target)["count"]
        assert 0 < there < NUM_CHUNKS
        (described,) = client.indices.get_settings(index=target).body.values()
        assert described["settings"]["index"]["refresh_interval"] == "-1"  # as the killed one left it
        assert build(client, source_of(store)).built
        assert_every_chunk_once(client, store)


def test_a_killed_server_that_comes_back_loses_nothing(one_node, store):
    cluster, url = one_node
    told = []

    def strike():
        cluster.kill()
        cluster.start()

    with connected(cluster, url) as client:
        build(client, source_of(store, strike), tell=told.append)
        assert_every_chunk_once(client, store)
    assert all(sentence.startswith("waiting for the server, up to 600 s: ") for sentence in told)


def test_a_server_that_stays_away_is_given_up_and_the_next_run_goes_on(one_node, store):
    cluster, url = one_node
    with connected(cluster, url) as client:
        with pytest.raises(
            ValueError, match="given up after 3 s, all that was sent is kept, the same command"
        ):
            build(client, source_of(store, cluster.kill), patience=3)
        cluster.start()
        assert nothing_under_the_name(client)
        build(client, source_of(store))
        assert_every_chunk_once(client, store)


WATERMARKS = [
    f"cluster.routing.allocation.disk.watermark.{level}" for level in ("low", "high", "flood_stage")
]


def say_the_disk_is_full(client, *, full):
    """Have the server believe that its disk is too full, or no longer; it looks every 10 seconds."""
    settings = dict.fromkeys(WATERMARKS, "1000000gb" if full else None)
    client.cluster.put_settings(persistent={**settings, "cluster.info.update.interval": "10s"})


def test_a_full_disk_is_waited_for(one_node, store):
    cluster, url = one_node
    told = []
    with connected(cluster, url) as client:
        target = f"corpus-{store.sha256[:12]}"

        def strike():
            say_the_disk_is_full(client, full=True)
            while "blocks" not in client.indices.get_settings(index=target)[target]["settings"]["index"]:
                pass

        def tell(sentence):
            told.append(sentence)
            say_the_disk_is_full(client, full=False)

        build(client, source_of(store, strike), tell=tell)
        assert told
        assert all("disk usage exceeded flood-stage watermark" in sentence for sentence in told)
        assert_every_chunk_once(client, store)


def test_a_disk_that_stays_full_is_given_up_and_the_next_run_goes_on(one_node, store):
    cluster, url = one_node
    with connected(cluster, url) as client:
        target = f"corpus-{store.sha256[:12]}"

        def strike():
            say_the_disk_is_full(client, full=True)
            while "blocks" not in client.indices.get_settings(index=target)[target]["settings"]["index"]:
                pass

        with pytest.raises(ValueError, match=r"given up after 3 s.*disk usage exceeded flood-stage"):
            build(client, source_of(store, strike), patience=3)
        assert nothing_under_the_name(client)
        say_the_disk_is_full(client, full=False)
        build(client, source_of(store))
        assert_every_chunk_once(client, store)


def test_the_loss_of_a_node_with_a_replica_elsewhere_loses_nothing(three_nodes, store):
    cluster, url = three_nodes
    with connected(cluster, url) as client:
        killed = []

        def strike():
            """Kill the node with the primary, once there is a replica; it does not come back."""
            target = f"corpus-{store.sha256[:12]}"
            client.cluster.health(index=target, wait_for_status="green", timeout="300s")
            shards = client.cat.shards(index=target, format="json")
            (holder,) = {shard["node"] for shard in shards if shard["prirep"] == "p"}
            killed.append(int(holder.removeprefix("node-")))
            cluster.kill(killed[0])

        plan = Plan(source_of(store, strike), "corpus", replicas=1, keep_replicas=True)
        build_on_server(client, plan, bytes_a_request=20_000)
        client.indices.put_settings(index="corpus*", settings={"unassigned.node_left.delayed_timeout": "0"})
        client.cluster.health(wait_for_status="green", timeout="300s")  # a new copy on the node left over
        assert client.cluster.health()["number_of_nodes"] == 2
        assert_every_chunk_once(client, store)
        for index in PAIR:  # each copy by itself
            shards = client.cat.shards(index=index, format="json")
            assert [shard["docs"] for shard in shards] == [shards[0]["docs"]] * 2


def test_a_node_without_replica_is_waited_for(three_nodes, store):
    cluster, url = three_nodes
    with connected(cluster, url) as client:

        def strike():
            (shard,) = client.cat.shards(index=f"corpus-{store.sha256[:12]}", format="json")
            cluster.kill(int(shard["node"].removeprefix("node-")))
            cluster.start()

        plan = Plan(source_of(store, strike), "corpus", replicas=1)
        build_on_server(client, plan, bytes_a_request=20_000)
        client.cluster.health(wait_for_status="green", timeout="300s")
        assert_every_chunk_once(client, store)
        (described,) = client.indices.get_settings(index="corpus").body.values()
        assert described["settings"]["index"]["number_of_replicas"] == "1"
