"""Time exposures and dynamics at the size of a large run.

    OMP_NUM_THREADS=1 uv run python packages/chunk-provenance/benchmarks/exposures_at_scale.py [--epochs 1]

100,000 facts at 100 checkpoints, 10.5 M chunks seen once an epoch of 109,375 updates; a fact's number of
shared chunks follows a power law. A slow twin checks the counts of five facts.
"""

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

from chunk_provenance import DataOrder
from chunk_provenance.dynamics import accuracy_table, earliness, facts_table, interval_table, read_knowledge
from chunk_provenance.exposures import find_exposures

FACTS, CHUNKS, BATCH, CHECKPOINTS = 100_000, 10_500_000, 96, 100


def main() -> None:
    """Time each part once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.permutation(CHUNKS) for _ in range(epochs)])
    starts = np.arange(epochs, dtype=np.int64) * (CHUNKS // BATCH)
    order = DataOrder(np.arange(0, len(ids) + 1, BATCH), ids, starts)
    sizes = np.minimum((rng.pareto(0.8, FACTS) * 20).astype(int), 20_000)
    fact_ids = [f"fact-{number}" for number in range(FACTS)]
    fact = np.repeat(np.arange(FACTS), sizes)
    table = pa.table(
        {
            "fact_id": pa.array(fact_ids).take(fact),
            "kind": pa.array(["shared"]).take(np.zeros(len(fact), dtype=int)),
            "chunk_id": np.sort(fact * CHUNKS + rng.integers(0, CHUNKS, len(fact))) % CHUNKS,
        }
    )
    steps = np.linspace(0, order.num_updates, CHECKPOINTS).astype(np.int64)
    answers = pa.table(
        {
            "step": np.repeat(steps, FACTS),
            "fact_id": pa.array(fact_ids).take(np.tile(np.arange(FACTS), CHECKPOINTS)),
            "probe_id": pa.array(fact_ids).take(np.tile(np.arange(FACTS), CHECKPOINTS)),
            "rank": rng.integers(1, 5, FACTS * CHECKPOINTS).astype(np.int32),
        }
    )
    print(f"{table.num_rows:,} (fact, chunk) pairs, {order.num_updates:,} updates in {epochs} epochs")
    timed("order turned round, once an order", lambda: order.inverse)
    exposures = timed("exposures", find_exposures, order, table, fact_ids)
    counts = timed("counts at all checkpoints", exposures.counts, steps)
    print(f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    check(order, fact, table["chunk_id"].to_numpy(), counts, steps)
    timed("last exposure at all checkpoints", exposures.last, steps)
    knowledge = timed("ranks by fact and step", read_knowledge, answers)
    known = knowledge.known()
    facts = timed("facts table", facts_table, knowledge, exposures)
    timed("intervals", interval_table, known, counts, steps)
    timed("accuracy", accuracy_table, known, counts, steps)
    timed("rho with 1,000 resamples", earliness, facts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


def check(order, fact, chunk, counts, steps):  # type: ignore[no-untyped-def]
    """The slow, obvious way, for some of the facts: which ids of the order are among the fact's chunks."""
    update = np.repeat(np.arange(1, order.num_updates + 1), np.diff(order.offsets))
    for number in range(0, FACTS, FACTS // 5):
        seen = update[np.isin(order.ids, chunk[fact == number])]
        assert counts[number].tolist() == np.searchsorted(seen, steps, side="right").tolist()


def timed(name, function, *arguments):  # type: ignore[no-untyped-def]
    """Call, print how long it took, return the result."""
    begin, busy = time.perf_counter(), time.process_time()
    result = function(*arguments)
    print(f"{name:35} {time.perf_counter() - begin:6.2f} s, {time.process_time() - busy:6.2f} s of processor")
    return result


if __name__ == "__main__":
    main()
