"""Choose entities that can be treated apart: each in a few chunks, no two of them in the same chunk.

    python choose.py FACT_CHUNKS PROBES OUT --entities 24 --chunks 4-10

OUT/entities.parquet  entity, chunk_id: all chunks that mention an entity; a list for `hold-out`, `reschedule`
OUT/probes.parquet    the probes of those entities, then twice as many of others, that nothing was done to
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance import read_fact_chunks


def choose(
    chunks: dict[str, set[int]], wanted: int, *, fewest: int, most: int, seed: int = 0
) -> dict[str, set[int]]:
    """The first entities, in a random order, of so many chunks and none that another one has.

    >>> choose({"a": {1, 2}, "b": {2}, "c": {3}, "d": {4, 5, 6}}, 2, fewest=1, most=2) in (
    ...     {"a": {1, 2}, "c": {3}}, {"b": {2}, "c": {3}}
    ... )
    True
    """
    chosen: dict[str, set[int]] = {}
    taken: set[int] = set()
    for entity in np.random.default_rng(seed).permutation(sorted(chunks)).tolist():
        if fewest <= len(chunks[entity]) <= most and not chunks[entity] & taken and len(chosen) < wanted:
            chosen[entity] = chunks[entity]
            taken |= chunks[entity]
    if len(chosen) < wanted:
        raise ValueError(
            f"only {len(chosen)} of {wanted} entities have {fewest} to {most} chunks of their own: "
            "take fewer, or a larger encyclopedia"
        )
    return chosen


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fact_chunks", type=Path)
    parser.add_argument("probes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--entities", type=int, required=True)
    parser.add_argument("--chunks", required=True, help="fewest-most")
    arguments = parser.parse_args()
    fewest, most = map(int, arguments.chunks.split("-"))
    probes = pq.read_table(arguments.probes)
    subject = dict(zip(probes["fact_id"].to_pylist(), probes["subject"].to_pylist(), strict=True))
    mentions: dict[str, set[int]] = defaultdict(set)
    for row in read_fact_chunks(arguments.fact_chunks).table.to_pylist():
        if row["kind"] == "subject":
            mentions[subject[row["fact_id"]]].add(row["chunk_id"])
    chosen = choose(mentions, arguments.entities, fewest=fewest, most=most)
    rows = [(entity, chunk) for entity in chosen for chunk in sorted(chosen[entity])]
    write(pa.table(list(map(list, zip(*rows, strict=True))), names=["entity", "chunk_id"]),
          arguments.out / "entities.parquet", {})  # fmt: skip
    treated = pc.is_in(probes["subject"], pa.array(list(chosen), pa.string()))
    asked, others = probes.filter(treated), probes.filter(pc.invert(treated))
    drawn = np.random.default_rng(1).permutation(others.num_rows)[: 2 * asked.num_rows]
    asked = pa.concat_tables([asked, others.take(np.sort(drawn))])
    write(asked, arguments.out / "probes.parquet", {"format": "probes", "version": "1"})
    print(f"{len(chosen)} entities in {len(rows)} chunks, {asked.num_rows} probes")


def write(table: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Write Parquet atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(table.replace_schema_metadata(metadata), unfinished)
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
