"""Time exposures and dynamics at the size of a large run.

    uv run python packages/chunk-provenance/benchmarks/exposures_at_scale.py

100,000 facts at 100 checkpoints, 10 M chunks seen once; a fact's number of shared chunks follows a power law.
"""

import resource
import time

import numpy as np
import pyarrow as pa

from chunk_provenance import DataOrder
from chunk_provenance.dynamics import accuracy_table, earliness, facts_table, interval_table, read_knowledge
from chunk_provenance.exposures import find_exposures

FACTS, CHUNKS, BATCH, CHECKPOINTS = 100_000, 10_000_000, 100, 100


def main() -> None:
    """Time each part once."""
    rng = np.random.default_rng(0)
    order = DataOrder(np.arange(0, CHUNKS + 1, BATCH), rng.permutation(CHUNKS), np.zeros(1, dtype=np.int64))
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
    print(f"{table.num_rows:,} (fact, chunk) pairs")
    exposures = timed("exposures", find_exposures, order, table, fact_ids)
    counts = timed("counts at all checkpoints", exposures.counts, steps)
    timed("last exposure at all checkpoints", exposures.last, steps)
    knowledge = timed("ranks by fact and step", read_knowledge, answers)
    known = knowledge.known()
    facts = timed("facts table", facts_table, knowledge, exposures)
    timed("intervals", interval_table, known, counts, steps)
    timed("accuracy", accuracy_table, known, counts, steps)
    timed("rho with 1,000 resamples", earliness, facts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


def timed(name, function, *arguments):  # type: ignore[no-untyped-def]
    """Call, print how long it took, return the result."""
    begin, busy = time.perf_counter(), time.process_time()
    result = function(*arguments)
    print(f"{name:35} {time.perf_counter() - begin:6.2f} s, {time.process_time() - busy:6.2f} s of processor")
    return result


if __name__ == "__main__":
    main()
