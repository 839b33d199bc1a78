"""Time the measures of a run at the size of Chang et al.: 1,950 probes evaluated after each of 2,500 updates.

    OMP_NUM_THREADS=1 uv run python packages/chunk-provenance/benchmarks/injection_metrics.py

Curves are invented: a jump at each of ten injections that decays with the logarithm of time, and noise.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from chunk_provenance.formats import write_table
from chunk_provenance.injection.acquisition import measure
from chunk_provenance.injection.metrics_section import metrics_section
from chunk_provenance.injection.trajectories import read_injected, read_trajectories

FACTS, PROBES, DEPTHS = 130, 5, ("mem", "gen", "hard_gen")
UPDATES = range(1, 1000, 100)


def main() -> None:
    """Write answers and a plan, then time reading, measuring and the curves of the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=2500)
    evaluations = parser.parse_args().evaluations
    with tempfile.TemporaryDirectory() as folder:
        answers, plan = Path(folder, "answers.parquet"), Path(folder, "plan.parquet")
        write_table(make_answers(evaluations), answers, "answers")
        items = [
            (update, f"{fact}/{k}")
            for k, update in enumerate(UPDATES)
            for fact in range(120 if not k else 80)
        ]
        update, item_id = zip(*items, strict=True)
        write_table(pa.table({"update": list(update), "item_id": list(item_id)}), plan, "injection-plan")
        start = time.process_time()
        trajectories, injected = read_trajectories([answers]), read_injected(plan)
        read = time.process_time()
        measured = measure(trajectories, injected)
        done = time.process_time()
        metrics_section(measured, trajectories, injected, command="benchmark")
        drawn = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{evaluations:,} evaluations of {len(trajectories.probe_ids):,} probes, CPU seconds:")
    print(f"read {read - start:.1f}, measured {done - read:.1f}, section {drawn - done:.1f}; {peak:.1f} GiB")


def make_answers(evaluations: int) -> pa.Table:
    """One row a step and probe."""
    rng = np.random.default_rng(0)
    steps = np.arange(evaluations)
    since = steps[:, None] - np.array(UPDATES) + 1  # (evaluations, injections)
    gains = np.where(since > 0, 0.4 - 0.1 * np.log10(np.maximum(since, 1)), 0).sum(1)
    names = [(f"{f}", f"{f}-{depth}-{n}") for f in range(FACTS) for depth in DEPTHS for n in range(PROBES)]
    values = -4 + gains[:, None] + 0.05 * rng.normal(size=(evaluations, len(names)))
    return pa.table(
        {
            "step": np.repeat(steps, len(names)),
            "fact_id": pa.array([fact for fact, _ in names]).take(
                np.tile(np.arange(len(names)), evaluations)
            ),
            "probe_id": pa.array([probe for _, probe in names]).take(
                np.tile(np.arange(len(names)), evaluations)
            ),
            "logprob_mean": values.reshape(-1),
        }
    )


if __name__ == "__main__":
    main()
