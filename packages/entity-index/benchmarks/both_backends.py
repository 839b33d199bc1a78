"""The same corpus in both backends, in one run: build rate, size, latencies; every answer is compared.

Run: uv run python packages/entity-index/benchmarks/both_backends.py [--chunks 100000] [--heap 4g]

100,000 chunks of 200 words with 38 mentions each, entities by Zipf's law. Elasticsearch runs on the same
machine, started by tools/elasticsearch.py, with LMEnt's mapping, settings and bulk requests (4 threads x 250,
one index). Where LMEnt's own query is faster than the one of this package, it is the one compared with.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from elasticsearch import Elasticsearch, helpers

from chunk_provenance import write_store
from entity_index import Entity, EntityIndex, Phrase, Query, build_index, open_index
from entity_index.elastic.bulk_documents import documents_of
from entity_index.elastic.index import ElasticIndex
from entity_index.elastic.mapping import mapping_of, settings_of
from entity_index.elastic.queries import CANDIDATE, both, carrying, passing
from entity_index.query import DEFAULT_THRESHOLDS
from entity_index.source import store_source

WORDS_A_CHUNK, MENTIONS_A_CHUNK = 200, 38
NUM_ENTITIES, NUM_WORDS = 1_000_000, 20_000
AIMS = (98_000, 20_000, 1_250, 65, 2)
"""Chunks of the entities asked for, of 100,000."""
TOOL = Path(__file__).parents[3] / "tools" / "elasticsearch.py"
NAME = "enwiki"
T = TypeVar("T")


def write_corpus(path: Path, num_chunks: int, seed: int = 0) -> int:
    """A chunk store of random words; returns the number of mentions."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"word{i}" for i in range(NUM_WORDS)])
    drawn = rng.zipf(1.2, (num_chunks, WORDS_A_CHUNK)) % NUM_WORDS
    texts = [" ".join(vocabulary[row]) for row in drawn]
    ids, zeros, ones = (
        [f"d{i}" for i in range(num_chunks)],
        np.zeros(num_chunks, int),
        np.ones(num_chunks, int),
    )
    mentions = random_mentions(rng, num_chunks)
    nulls = pa.nulls(num_chunks, pa.string())
    chunks = {
        "chunk_id": np.arange(num_chunks),
        "token_start": np.arange(num_chunks),
        "length": ones,
        "bucket": ones,
    }
    segments = {
        "chunk_id": np.arange(num_chunks), "doc_id": ids, "chunk_token_start": zeros, "chunk_token_end": ones,
        "doc_token_start": zeros, "char_start": zeros, "char_end": [len(text) for text in texts],
    }  # fmt: skip
    write_store(
        path,
        tokens=np.zeros(num_chunks, dtype=np.uint32),
        chunks=pa.table(chunks),
        segments=pa.table(segments),
        documents=pa.table({"doc_id": ids, "title": ids, "source": nulls, "url": nulls, "text": texts}),
        mentions=mentions,
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 1, "eos_id": 2, "vocab_size": 3}},
    )
    return len(mentions)


def random_mentions(rng: np.random.Generator, num_chunks: int) -> pa.Table:
    """A Poisson number of mentions a chunk; scores of two decimals, as LMEnt publishes them."""
    chunk = np.repeat(np.arange(num_chunks), rng.poisson(MENTIONS_A_CHUNK, num_chunks))
    count = len(chunk)
    entity, start = rng.zipf(1.25, count) % NUM_ENTITIES, rng.integers(700, size=count)
    order = np.lexsort((start, chunk))
    entity, start = entity[order], start[order]
    shares = {"hyperlink": 0.29, "entity_linking": 0.51, "coref": 0.38, "coref_cluster": 0.78}
    scores = {
        source: np.where(rng.random(count) < share, np.sqrt(rng.random(count)).round(2), 0.0)
        for source, share in shares.items()
    }
    scores["hyperlink"] = (scores["hyperlink"] > 0).astype(float)
    weighted = sum(scores[source] * weight for source, weight in zip(shares, (4, 3, 2, 1), strict=True))
    scores["score"] = (weighted / 10).round(2)
    known, place = np.unique(entity, return_inverse=True)
    names = pa.array([f"Name {number}" for number in known]).take(pa.array(place))
    zeros = np.zeros(count, dtype=np.int32)
    return pa.table(
        {
            "chunk_id": chunk, "token_start": zeros, "token_end": zeros + 1,
            "char_start": start, "char_end": start + 5,
            "doc_id": pa.array([f"d{i}" for i in range(num_chunks)]).take(pa.array(chunk)),
            "doc_char_start": start, "doc_char_end": start + 5, "surface": names,
            "entity": pa.array([f"Q{number}" for number in known]).take(pa.array(place)), "name": names,
            **{source: values.astype(np.float32) for source, values in scores.items()},
            "cluster_id": pa.nulls(count, pa.int32()),
        }
    )  # fmt: skip


# Both builds


def build_embedded(store: Path, path: Path) -> tuple[float, float]:
    """Seconds for all but the texts, and with them."""
    ended: dict[str, float] = {}
    started = time.perf_counter()
    build_index(store, path, progress=lambda what, done, total: ended.update({what: time.perf_counter()}))
    return ended["writing names"] - started, time.perf_counter() - started


def build_elastic(client: Elasticsearch, store: Path) -> float:
    """Seconds for one index, as LMEnt makes it: refreshed every second, 4 threads of 250 documents."""
    settings = {**settings_of(case_sensitive=False), "number_of_replicas": 0}
    client.indices.create(index=NAME, settings=settings, mappings=mapping_of(case_sensitive=False))

    def actions() -> Iterator[dict[str, Any]]:
        for batch in store_source(store).stream():
            documents = documents_of(batch)
            for chunk_id, line in zip(documents.chunk_ids, documents.lines, strict=True):
                yield {"_index": NAME, "_id": str(chunk_id), "_source": line}

    started = time.perf_counter()
    sender = client.options(request_timeout=600)
    for _ in helpers.parallel_bulk(
        sender,
        actions(),
        thread_count=4,
        chunk_size=250,
        max_chunk_bytes=1 << 29,
        expand_action_callback=as_line,
    ):
        pass
    client.indices.refresh(index=NAME)
    return time.perf_counter() - started


def as_line(action: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A document that is JSON already."""
    return {"index": {"_index": action["_index"], "_id": action["_id"]}}, action["_source"]


def size_of(client: Elasticsearch) -> int:
    """Bytes on disk."""
    client.indices.flush(index=NAME)
    return int(client.indices.stats(index=NAME, metric="store")["_all"]["total"]["store"]["size_in_bytes"])


# Questions


def median(ask: Callable[[], T], times: int) -> tuple[float, T]:
    """Median of the milliseconds that a question takes when warm, and the answer."""
    answer, took = ask(), []
    for _ in range(times):
        started = time.perf_counter()
        answer = ask()
        took.append(time.perf_counter() - started)
    return float(np.median(took)) * 1e3, answer


def as_lment_asks(client: Elasticsearch, entity: str) -> int:
    """LMEnt's own query for 10 chunks with their mentions, ranked as it comes."""
    candidates = {"path": CANDIDATE, "query": both(carrying(entity), passing(DEFAULT_THRESHOLDS))}
    mentions = {"path": "entities", "query": {"nested": candidates}, "inner_hits": {"size": 100}}
    answer = client.search(index=NAME, query={"nested": mentions}, size=10, track_total_hits=True)
    return int(answer["hits"]["total"]["value"])


def as_lment_scans(client: Elasticsearch, entity: str) -> int:
    """All ids, as LMEnt gets them."""
    candidates = {"path": CANDIDATE, "query": both(carrying(entity), passing(DEFAULT_THRESHOLDS))}
    query = {"nested": {"path": "entities", "query": {"nested": candidates}}}
    found = helpers.scan(client, index=NAME, query={"query": query, "_source": ["chunk_id"]}, size=1000)
    return sum(1 for _ in found)


def compare(embedded: EntityIndex, elastic: ElasticIndex, num_chunks: int) -> None:
    """Print a line a question: both medians, how many times faster, and the aim."""
    client, counts = elastic.client, embedded.chunk_counts()
    print(f"\n{'question':46} {'embedded':>12} {'Elasticsearch':>14} {'LMEnt asks':>12} {'times':>9}  aim")
    for aim in AIMS:
        entity = embedded.entities[int(np.argmin(np.abs(counts - max(1, aim * num_chunks / 100_000))))]
        query = Query(Entity(entity))
        fast, expected = median(lambda query=query: embedded.search(query), 200)
        slow, found = median(lambda query=query: elastic.search(query), 12)
        theirs, total = median(lambda entity=entity: as_lment_asks(client, entity), 12)
        assert found == expected
        assert total == expected.total
        wanted = 100 if expected.total >= 100 else 50
        line(f"10 hits of an entity in {expected.total:,} chunks", fast, slow, theirs, wanted)
    entity = embedded.entities[int(counts.argmax())]
    fast, expected_ids = median(lambda: embedded.chunk_ids(Entity(entity)), 50)
    slow, found_ids = median(lambda: elastic.chunk_ids(Entity(entity)), 1)
    theirs, total = median(lambda: as_lment_scans(client, entity), 1)
    assert found_ids.tolist() == expected_ids.tolist()
    assert total == len(expected_ids)
    line(f"all {len(expected_ids):,} ids of the most frequent entity", fast, slow, theirs, 300)
    first, second = (embedded.entities[int(number)] for number in np.argsort(-counts)[[1, 3]])
    pair = Query(Entity(first) & Entity(second))
    fast, expected = median(lambda: embedded.search(pair), 50)
    slow, found = median(lambda: elastic.search(pair), 12)
    assert found == expected
    line(f"10 hits of a pair in {expected.total:,} chunks", fast, slow, None, None)
    phrase = Phrase("word7 word12")
    fast, number = median(lambda: embedded.count(phrase), 50)
    slow, found_number = median(lambda: elastic.count(phrase), 12)
    assert number == found_number
    line(f"count of a phrase in {number:,} chunks", fast, slow, None, None)


def line(what: str, fast: float, slow: float, theirs: float | None, aim: float | None) -> None:
    """One question; the faster way of asking the server counts."""
    asked = f"{theirs:10.2f}ms" if theirs is not None else ""
    times = min(slow, theirs if theirs is not None else slow) / fast
    wanted = f">= {aim:g}" if aim is not None else ""
    print(f"{what:46} {fast:10.4f}ms {slow:12.2f}ms {asked:>12} {times:8.0f}x  {wanted}", flush=True)


def main() -> None:
    """Make the corpus, build both, ask both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--heap", default="4g", help="of the server")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="both-backends-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)  # the server's user must come in
        measure(Path(folder), asked.chunks, asked.heap)


def measure(folder: Path, num_chunks: int, heap: str) -> None:
    """All figures of one corpus."""
    tool = [sys.executable, str(TOOL)]
    server = ["--folder", str(folder / "server")]
    num_mentions = write_corpus(folder / "store", num_chunks)
    print(f"{num_mentions:,} mentions in {num_chunks:,} chunks of {WORDS_A_CHUNK} words")
    postings, whole = build_embedded(folder / "store", folder / "index")
    sizes = {file: file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file()}
    text = sum(size for file, size in sizes.items() if file.parent.name == "text")
    started = subprocess.run([*tool, "start", *server, "--heap", heap], capture_output=True, encoding="utf-8")
    if started.returncode:
        sys.exit(started.stderr)
    try:
        client = Elasticsearch(started.stdout.split()[0], request_timeout=600)
        seconds = build_elastic(client, folder / "store")
        rate, size = num_mentions / seconds, size_of(client) / num_mentions
        print(f"{'build':22} {'mentions/s':>12} {'bytes a mention':>16} {'times':>14}  aims")
        print(f"{'Elasticsearch':22} {rate:12,.0f} {size:16.1f}")
        for name, took, total, aims in (
            ("embedded", postings, sum(sizes.values()) - text, ">= 50, >= 15"),
            ("embedded, with texts", whole, sum(sizes.values()), ">= 5, >= 3"),
        ):
            faster, smaller = num_mentions / took / rate, size / (total / num_mentions)
            figures = f"{num_mentions / took:12,.0f} {total / num_mentions:16.1f}"
            print(f"{name:22} {figures} {faster:6.1f}, {smaller:5.1f}  {aims}", flush=True)
        reference = f"{started.stdout.split()[0]}/{NAME}"
        compare(open_index(folder / "index"), ElasticIndex(client, reference, NAME), num_chunks)
    finally:
        subprocess.run([*tool, "stop", "--delete", *server], check=True)


if __name__ == "__main__":
    main()
