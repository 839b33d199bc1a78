"""Build rate and query latency on a synthetic corpus, beside brute force over the same Parquet file.

Run: uv run python packages/entity-index/benchmarks/benchmark.py [--mentions 3000000] [--chunks 30000]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance import write_store
from entity_index import Entity, EntityIndex, Phrase, Query, Thresholds, build_index, open_index

WORDS_A_CHUNK = 150


def write_corpus(path: Path, *, num_chunks: int, num_mentions: int, seed: int = 0) -> None:
    """A chunk store of random words, with mentions of entities whose frequencies follow Zipf's law."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"word{i}" for i in range(20_000)])
    texts = [" ".join(vocabulary[rng.zipf(1.2, WORDS_A_CHUNK) % 20_000]) for _ in range(num_chunks)]
    ids = pa.array([f"d{i}" for i in range(num_chunks)])
    zeros, ones = np.zeros(num_chunks, dtype=np.int64), np.ones(num_chunks, dtype=np.int64)
    lengths = pa.array([len(text) for text in texts])
    nulls = pa.nulls(num_chunks, pa.string())
    write_store(
        path,
        tokens=np.zeros(num_chunks, dtype=np.uint32),
        chunks=pa.table(
            {
                "chunk_id": zeros.cumsum() + np.arange(num_chunks),
                "token_start": zeros,
                "length": ones,
                "bucket": ones,
            }
        ),
        segments=pa.table(
            {
                "chunk_id": np.arange(num_chunks),
                "doc_id": ids,
                "chunk_token_start": zeros,
                "chunk_token_end": ones,
                "doc_token_start": zeros,
                "char_start": zeros,
                "char_end": lengths,
            }
        ),
        documents=pa.table(
            {"doc_id": ids, "title": ids, "source": nulls, "url": nulls, "text": pa.array(texts)}
        ),
        mentions=random_mentions(rng, num_chunks, num_mentions),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 1, "eos_id": 2, "vocab_size": 3}},
    )


def random_mentions(rng: np.random.Generator, num_chunks: int, num_mentions: int) -> pa.Table:
    """Mentions in chunk order; each source has a score for a part of them."""
    entity = rng.zipf(1.25, num_mentions) % 1_000_000
    chunk = np.sort(rng.integers(num_chunks, size=num_mentions))
    start = rng.integers(700, size=num_mentions)
    scores = {
        source: np.where(rng.random(num_mentions) < share, rng.random(num_mentions), 0).astype(np.float32)
        for source, share in (("entity_linking", 0.5), ("coref", 0.4), ("coref_cluster", 0.8))
    }
    scores["hyperlink"] = (rng.random(num_mentions) < 0.3).astype(np.float32)
    scores["score"] = np.maximum.reduce(list(scores.values()))
    entities = pa.array(entity).cast(pa.string())
    names = pc.binary_join_element_wise("Name", entities, " ")
    return pa.table(
        {
            "chunk_id": chunk,
            "token_start": np.zeros(num_mentions, dtype=np.int32),
            "token_end": np.ones(num_mentions, dtype=np.int32),
            "char_start": start,
            "char_end": start + 5,
            "doc_id": pc.binary_join_element_wise("d", pa.array(chunk).cast(pa.string()), ""),
            "doc_char_start": start,
            "doc_char_end": start + 5,
            "surface": names,
            "entity": pc.binary_join_element_wise("Q", entities, ""),
            "name": names,
            **scores,
            "cluster_id": pa.nulls(num_mentions, pa.int32()),
        }
    )


def timed(name: str, function, *, times: int = 1):  # type: ignore[no-untyped-def]
    """Print the median time of a call; return its last result."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        result = function()
        took.append(time.perf_counter() - started)
    print(f"{name:58} {np.median(took) * 1e3:12.3f} ms", flush=True)
    return result


def brute_force(mentions: Path, entity: str) -> pa.Table:
    """Chunks of an entity, by a scan of the Parquet file with DuckDB: what one would do without an index."""
    return duckdb.sql(
        f"""SELECT chunk_id, max(score) AS best FROM read_parquet('{mentions}') WHERE entity = '{entity}'
        AND (hyperlink >= 1 OR entity_linking >= 0.6 OR coref >= 0.6 OR coref_cluster >= 0.6)
        GROUP BY chunk_id ORDER BY best DESC, chunk_id"""
    ).to_arrow_table()


def measure_queries(index: EntityIndex, mentions: Path) -> None:
    """Latencies for a frequent, a middling and a rare entity; totals equal to brute force."""
    counts = index.chunk_counts()
    for aim in (counts.max(), 1000, 10):
        number = int(np.argmin(np.abs(counts - aim)))
        entity = index.entities[number]
        print(f"-- entity in {counts[number]:,} chunks")
        measure_entity(index, mentions, entity, counts[number])
    print("-- others")
    timed("pair of the two most frequent entities, 10 hits", lambda: pair(index, counts), times=20)
    timed("phrase of two words, 10 hits", lambda: index.search(Query(Phrase("word7 word12"))), times=20)
    timed("entities in the same chunks as the rare one", lambda: index.co_occurring(entity), times=5)
    timed("names of entities by name", lambda: index.names("name 12"), times=20)
    timed(
        "chunk counts of all entities, other thresholds",
        lambda: index.chunk_counts(Thresholds(coref=None)),
    )


def measure_entity(index: EntityIndex, mentions: Path, entity: str, expected: int) -> None:
    """Latencies for one entity."""
    where = Entity(entity)
    timed("10 hits with their mentions", lambda: index.search(Query(where)), times=100)
    total = timed("count", lambda: index.count(where), times=100)
    timed("all chunk ids", lambda: index.chunk_ids(where), times=20)
    table = timed("brute force: DuckDB over Parquet", lambda: brute_force(mentions, entity), times=3)
    assert total == table.num_rows == expected


def pair(index: EntityIndex, counts: np.ndarray):  # type: ignore[no-untyped-def]
    """Chunks with both of the two most frequent entities."""
    first, second = (index.entities[int(number)] for number in np.argsort(-counts)[:2])
    return index.search(Query(Entity(first) & Entity(second)))


def main() -> None:
    """Make the corpus in a temporary folder, build, measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mentions", type=int, default=3_000_000)
    parser.add_argument("--chunks", type=int, default=30_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, path = Path(folder) / "store", Path(folder) / "index"
        write_corpus(store, num_chunks=asked.chunks, num_mentions=asked.mentions)
        print(f"{asked.mentions:,} mentions in {asked.chunks:,} chunks of {WORDS_A_CHUNK} words")
        done_at: dict[str, float] = {}
        started = time.perf_counter()
        build_index(
            store, path, progress=lambda what, done, total: done_at.update({what: time.perf_counter()})
        )
        whole, mentions = time.perf_counter() - started, done_at["writing names"] - started
        print(f"build: {whole:.1f} s, {asked.mentions / whole / 1e3:,.0f} K mentions/s")
        print(f"  mentions and names {mentions:.1f} s, {asked.mentions / mentions / 1e3:,.0f} K mentions/s")
        print(f"  texts {whole - mentions:.1f} s, {asked.chunks / (whole - mentions):,.0f} chunks/s")
        columns = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        text = sum(file.stat().st_size for file in (path / "text").iterdir())
        print(f"size: {columns / asked.mentions:.1f} bytes a mention, {text / asked.chunks:,.0f} a text")
        print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        num_rows = pq.read_metadata(store / "mentions.parquet").num_rows
        assert num_rows == asked.mentions
        measure_queries(open_index(path), store / "mentions.parquet")


if __name__ == "__main__":
    main()
