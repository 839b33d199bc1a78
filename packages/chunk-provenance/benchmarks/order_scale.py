"""Time data orders at the size of LMEnt: 10.5 M chunks, 109,672 updates an epoch, six epochs.

    OMP_NUM_THREADS=1 uv run python packages/chunk-provenance/benchmarks/order_scale.py [--epochs 6]

Beside it a plain port (ours) of the published look-up: one walk over an epoch's batches that fills a
dictionary from chunk to steps, in Python. It also says what the look-ups must answer.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from chunk_provenance import DataOrder, compute_order
from chunk_provenance.chunk_lists import ChunkList
from chunk_provenance.interventions import apply_plan, plan_mask
from chunk_provenance.mixture_order import compute_mixture_order
from chunk_provenance.order_checks import check_order
from chunk_provenance.order_diff import diff_orders
from chunk_provenance.order_questions import epochs_of, seen_at
from chunk_provenance.schedules import plan_schedule

BATCH_TOKENS = 32_768
UPDATES = {64: 6_790, 128: 7_810, 256: 16_400, 512: 25_000, 1024: 29_000, 2048: 24_672}  # 109,672 an epoch
LOOK_UPS = 1_000_000


def main() -> None:
    """Time each part once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    rng = np.random.default_rng(0)
    counts = [updates * (BATCH_TOKENS // size) for size, updates in UPDATES.items()]
    buckets = rng.permutation(np.repeat(np.array(list(UPDATES), dtype=np.int32), counts))
    print(f"{len(buckets):,} chunks, {sum(UPDATES.values()):,} updates an epoch, {epochs} epochs")
    order = timed(
        "order computed", epochs, compute_order, buckets, batch_tokens=BATCH_TOKENS, seed=0, epochs=epochs
    )
    timed("all chunks inverted", epochs, lambda: order.inverse)
    asked = rng.integers(0, len(buckets), LOOK_UPS)
    timed(f"{LOOK_UPS:,} look-ups at once", 1, order.steps_of_many, asked)
    timed(
        f"{LOOK_UPS:,} chunks seen by a checkpoint, and when last",
        1,
        seen_at,
        order,
        asked,
        order.num_updates // 2,
    )
    timed(
        "10,000 look-ups one by one", 1, lambda: [order.steps_of(chunk) for chunk in asked[:10_000].tolist()]
    )
    timed("epoch boundaries", epochs, epochs_of, order)
    timed("every id and update checked", epochs, check_order, order)
    chunks = rng.choice(len(buckets), 30_000, replace=False)
    masked = timed("30,000 chunks held out", 1, lambda: apply_plan(order, plan_mask(order, np.sort(chunks))))
    timed("diff of the two orders", epochs, diff_orders, order, masked)
    groups = ChunkList(chunks[:5_000], np.arange(5_000) // 50, [f"Q{i}" for i in range(100)])
    window = (1, order.num_updates + 1)
    timed(
        "5,000 chunks of 100 entities in bursts", 1, plan_schedule, order, groups, interval=50, window=window
    )
    compare(order, asked[:1000], epochs)
    first = np.array([0, 3 * len(buckets) // 4, len(buckets)])
    timed(
        "mixture of two stores, 1x and 2.5x, one epoch", 1, compute_mixture_order, buckets, first, [1.0, 2.5],
        batch_tokens=BATCH_TOKENS, seed=0, epochs=1,
    )  # fmt: skip


def compare(order: DataOrder, asked: np.ndarray[Any, np.dtype[np.int64]], epochs: int) -> None:
    """Time the published way on the first epoch, and compare its answers."""
    end = int(order.epoch_starts[1]) if epochs > 1 else order.num_updates
    batches = [order.batch(update) for update in range(1, end + 1)]
    steps = timed("the published loop, first epoch", 1, walk, batches)
    for chunk in asked.tolist():
        found = order.steps_of(chunk)
        assert found[found <= end].tolist() == steps.get(chunk, [])


def walk(batches: list[np.ndarray[Any, np.dtype[np.int64]]]) -> dict[int, list[int]]:
    """Chunk to steps by a dictionary."""
    steps: dict[int, list[int]] = {}
    for number, batch in enumerate(batches, start=1):
        for chunk in batch:
            steps.setdefault(int(chunk), []).append(number)
    return steps


def timed(name: str, per: int, function: Callable[..., Any], /, *values: Any, **options: Any) -> Any:
    """Call, and print the seconds (also per epoch) and the peak memory of the process so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*values, **options)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    each = f", {cpu / per:.2f} an epoch" if per > 1 else ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<52} {seconds:6.2f} s, {cpu:6.2f} s CPU{each}; peak {peak:.1f} GiB", flush=True)
    return result


if __name__ == "__main__":
    main()
