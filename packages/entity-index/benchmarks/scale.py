"""The embedded index at LMEnt's size: build rate, memory, bytes a mention, latencies. No text index.

Run: uv run python packages/entity-index/benchmarks/scale.py [--mentions 100000000] [--folder DIR]

Writes synthetic mentions as a chunk store has them (38 a chunk of 1,200 characters, entities by Zipf's law,
scores with two decimals as LMEnt publishes them), about 15 bytes a mention, and builds in the same folder.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entity_index import Entity, EntityIndex, Query, Thresholds
from entity_index.build import begin, describe, join_all, parse_size, write_pieces
from entity_index.inputs import Input, Separate
from entity_index.reading import Part, count_mentions, stream_mentions

BATCH = 1_000_000
MENTIONS_A_CHUNK = 38
NUM_ENTITIES = 1_000_000
PRONOUNS = ["he", "she", "it", "they", "his", "her"]


def mention_batches(num_mentions: int, seed: int = 0) -> Iterator[pa.Table]:
    """Mentions in the order of their chunks, a million at a time."""
    entities = pa.array([f"Q{number}" for number in range(NUM_ENTITIES)])
    names = pa.array([f"Name {number}" for number in range(NUM_ENTITIES)] + PRONOUNS)
    first_chunk = 0
    for number, done in enumerate(range(0, num_mentions, BATCH)):
        rng = np.random.default_rng([seed, number])
        count = min(BATCH, num_mentions - done)
        num_chunks = max(1, count // MENTIONS_A_CHUNK)
        chunk, start, length = (
            rng.integers(*bounds, size=count) for bounds in ((num_chunks,), (1180,), (3, 20))
        )
        place = np.sort((chunk * 1200 + start) * 20 + length)
        entity = rng.zipf(1.25, count) % NUM_ENTITIES
        scores = random_scores(rng, count)
        clear = (scores["hyperlink"] > 0) | (scores["entity_linking"] > 0)
        surface = np.where(clear, entity, NUM_ENTITIES + rng.integers(len(PRONOUNS), size=count))
        yield pa.table(
            {
                "chunk_id": first_chunk + place // 24_000,
                "char_start": place // 20 % 1200,
                "char_end": place // 20 % 1200 + place % 20,
                "surface": names.take(pa.array(surface)),
                "entity": entities.take(pa.array(entity)),
                "name": names.take(pa.array(entity)),
                **scores,
            }
        )
        first_chunk += num_chunks


def random_scores(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Two decimals; the shares of the four sources are LMEnt's."""
    shares = {"hyperlink": 0.29, "entity_linking": 0.51, "coref": 0.38, "coref_cluster": 0.78}
    sources = {
        source: np.where(rng.random(count) < share, np.sqrt(rng.random(count)).round(2), 0.0)
        for source, share in shares.items()
    }
    sources["hyperlink"] = (sources["hyperlink"] > 0).astype(float)
    total = sum(sources[source] * weight for source, weight in zip(shares, (4, 3, 2, 1), strict=True))
    scores = {"score": (total / 10).round(2), **sources}
    return {name: values.astype(np.float32) for name, values in scores.items()}


def write_mentions(path: Path, num_mentions: int) -> int:
    """Write `mentions.parquet`; returns the number of chunks."""
    num_chunks = 0
    with pq.ParquetWriter(path, next(mention_batches(10)).schema, compression="zstd") as writer:
        for batch in mention_batches(num_mentions):
            writer.write_table(batch)
            num_chunks = int(batch["chunk_id"][-1].as_py()) + 1
    return num_chunks


def build(folder: Path, num_chunks: int, memory: str) -> EntityIndex:
    """Build without texts, and say how long each stage took."""
    parts = [Part(folder, 0, "")]
    streams = Separate(
        count_mentions(parts),
        lambda *, piece_rows, first_row: stream_mentions(parts, piece_rows=piece_rows, first_row=first_row),
        lambda first_chunk: iter(()),
    )
    source = Input(
        mentions_name="mentions",
        sha256="",
        num_chunks=num_chunks,
        streams=streams,
    )
    began: dict[str, float] = {}
    started, cpu = time.perf_counter(), time.process_time()
    index = folder / "index"
    plan = begin(index, source, parse_size(memory))

    def note(what: str, done: int, total: int) -> None:
        began.setdefault(what, time.perf_counter())

    write_pieces(index / "pieces", source, streams, plan, note)
    layout = join_all(index, source, plan, note)
    ended = time.perf_counter()
    for (what, start), end in zip(began.items(), [*list(began.values())[1:], ended], strict=True):
        print(f"  {what}: {end - start:.1f} s")
    rate = streams.num_mentions / (ended - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cpu = time.process_time() - cpu
    print(
        f"build: {ended - started:.1f} s ({cpu:.1f} s of CPU), {rate / 1e6:.2f} M mentions/s, {peak:.2f} GiB"
    )
    shutil.rmtree(index / "pieces")
    sizes = {file.name: file.stat().st_size for file in index.iterdir() if file.is_file()}
    print(f"size: {sum(sizes.values()) / streams.num_mentions:.2f} bytes a mention")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:10]:
        print(f"  {name}: {size / streams.num_mentions:.2f}")
    return EntityIndex(index, describe(source, layout))


def times_of(act: Callable[[], object], repeats: int = 1) -> np.ndarray:
    """Microseconds of each call."""
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    return np.array(took) * 1e6


def report(what: str, took: np.ndarray) -> None:
    """Print the median and the 95th percentile."""
    p50, p95 = np.percentile(took, [50, 95])
    print(f"{what:66} p50 {p50:10.0f} us  p95 {p95:10.0f} us", flush=True)


def measure(index: EntityIndex, mentions: Path) -> None:
    """Latencies by how many chunks an entity is in; totals equal to brute force."""
    counts = index.chunk_counts()
    rng = np.random.default_rng(1)
    sampled = []
    for least in (1, 10, 100, 1000, 10_000):
        of_size = np.flatnonzero((counts >= least) & (counts < 10 * least))
        if len(of_size):
            chosen = [index.entities[int(i)] for i in rng.choice(of_size, size=min(200, len(of_size)))]
            took = [times_of(lambda e=entity: index.search(Query(Entity(e))))[0] for entity in chosen]
            report(f"10 hits with mentions, entities in {least:,} to {10 * least:,} chunks", np.array(took))
            sampled += took
    report("10 hits with mentions, all these", np.array(sampled))
    for aim in (400_000, 100_000, 1_000):
        number = int(np.argmin(np.abs(counts - aim)))
        measure_entity(index, mentions, index.entities[number], int(counts[number]))
    everything = times_of(lambda: index.chunk_counts(Thresholds(coref=None)))
    report("chunk counts of all entities, other thresholds", everything)


def measure_entity(index: EntityIndex, mentions: Path, entity: str, chunks: int) -> None:
    """One entity in every way."""
    print(f"-- an entity in {chunks:,} chunks")
    where, others = Entity(entity), Entity(entity, Thresholds(entity_linking=0.8, coref=0.5))
    assert index.search(Query(where)).total == chunks == brute_force(mentions, entity)
    report("all chunk ids", times_of(lambda: index.chunk_ids(where), 10))
    report("10 hits with mentions", times_of(lambda: index.search(Query(where)), 50))
    report("10 hits with mentions, other thresholds", times_of(lambda: index.search(Query(others)), 5))
    pair = where & Entity("Q2")
    report("10 hits of a pair with a frequent entity", times_of(lambda: index.search(Query(pair)), 5))
    report("co-occurring entities", times_of(lambda: index.co_occurring(entity), 3))


def brute_force(mentions: Path, entity: str) -> int:
    """Chunks of an entity, by a scan of the Parquet file."""
    (found,) = duckdb.execute(
        f"""SELECT count(DISTINCT chunk_id) FROM read_parquet('{mentions}') WHERE entity = '{entity}'
        AND (hyperlink >= 1 OR greatest(entity_linking, coref, coref_cluster) >= 0.6::FLOAT)"""
    ).fetchone() or (0,)
    return int(found)


def main() -> None:
    """Write, build, ask."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mentions", type=int, default=100_000_000)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        folder = Path(place)
        started = time.perf_counter()
        num_chunks = write_mentions(folder / "mentions.parquet", asked.mentions)
        took, size = time.perf_counter() - started, (folder / "mentions.parquet").stat().st_size
        print(f"{asked.mentions:,} mentions in {num_chunks:,} chunks: {took:.0f} s, {size / 1e9:.2f} GB")
        measure(build(folder, num_chunks, asked.memory), folder / "mentions.parquet")


if __name__ == "__main__":
    main()
