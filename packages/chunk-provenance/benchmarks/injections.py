"""What injected items cost: the plan, the new order, a trainer's rows, exposures.

    OMP_NUM_THREADS=1 uv run python packages/chunk-provenance/benchmarks/injections.py [CHUNKS]

Chunks of 1,024 random tokens, updates of 128, four epochs. Ten times 800 items of 300 tokens, in 100 updates.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from chunk_provenance import (
    compute_order,
    inject,
    load_order,
    make_injection_plan,
    order_rows,
    read_injection_plan,
    save_order,
    slot_tokens,
    write_injection_plan,
)
from chunk_provenance.exposures import find_exposures

ROWS, LENGTH = 128, 1024
ITEMS, ITEM_LENGTH, UPDATES = 8000, 300, 100


class Store(SimpleNamespace):
    """What a chunk store gives, without a file: chunk c is a run of tokens that begins at c."""

    def rows(self, chunk_ids):
        """As `ChunkStore.rows`: a slice of a flat array per row."""
        input_ids = np.full((len(chunk_ids), LENGTH), self.pad_id, dtype=np.int64)
        for row, chunk_id in enumerate(chunk_ids.tolist()):
            input_ids[row] = self.tokens[chunk_id : chunk_id + LENGTH]
        return input_ids, np.zeros(input_ids.shape, dtype=np.int32)


def timed(what, function, *arguments, **options):
    """Call, print the seconds, return the result."""
    began = time.process_time()
    result = function(*arguments, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:<58} {time.process_time() - began:8.3f} s {peak:6.2f} GiB so far")
    return result


def all_rows(store, order, updates):
    """Read the rows of some updates."""
    for update in updates:
        order_rows(store, order, update)


def main(num_chunks: int) -> None:
    """Make an order, inject, ask."""
    rng = np.random.default_rng(0)
    width = np.full(num_chunks, LENGTH, dtype=np.int32)
    tokens = rng.integers(0, 50_000, num_chunks + LENGTH, dtype=np.int64).astype(np.uint32)
    store = Store(
        num_chunks=num_chunks,
        sha256="s",
        bucket=width,
        length=width,
        vocab_size=50_000,
        pad_id=1,
        tokens=tokens,
    )
    order = compute_order(width, batch_tokens=ROWS * LENGTH, seed=0, epochs=4)
    print(f"{num_chunks:,} chunks, {len(order.ids):,} exposures, {order.num_updates:,} updates")
    updates = np.linspace(1, order.num_updates, UPDATES).astype(int).tolist()
    texts = rng.integers(0, 50_000, (ITEMS, ITEM_LENGTH)).tolist()
    rows = [
        {
            "update": updates[item % UPDATES],
            "row": item // UPDATES,
            "placement": "prepend",
            "item_id": f"{item % 800}/{item // 800}",
            "tokens": texts[item],
            "entities": [f"Q{item % 800}", f"Q{item % 800 + 1}"],
        }
        for item in range(ITEMS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        plan = timed("make the plan, 8,000 items of 300 tokens", make_injection_plan, rows)
        write_injection_plan(plan, Path(folder) / "plan.parquet")
        plan = timed("read and check it", read_injection_plan, Path(folder) / "plan.parquet")
        injected = timed("inject it", inject, order, plan, store)
        save_order(order, Path(folder) / "order")
        save_order(injected, Path(folder) / "injected")
        plain = timed("open the order without items", load_order, Path(folder) / "order")
        opened = timed("open the order with items", load_order, Path(folder) / "injected")
        timed("rows of 100 updates without items", all_rows, store, plain, updates)
        timed("rows of 100 updates with 80 items in 128 rows", all_rows, store, opened, updates)
        timed("tokens of every slot, with items", slot_tokens, store, opened)
        timed("invert the order without items", lambda: plain.inverse)
        timed("invert the order with items", lambda: opened.inverse)
        facts = [f"{fact}" for fact in range(800)]
        pairs = rng.integers(0, num_chunks, (1_000_000,))
        shared = pa.table(
            {"fact_id": np.repeat(facts, 1250), "kind": ["shared"] * 1_000_000, "chunk_id": pairs}
        )
        named = pa.table(
            {
                "fact_id": facts,
                "subject": [f"Q{f}" for f in facts],
                "answer": [f"Q{int(f) + 1}" for f in facts],
            }
        )
        steps = np.linspace(0, order.num_updates, 50).astype(int)
        bare = timed(
            "exposures of 800 facts, 1 M chunks, without items", count, plain, shared, facts, named, steps
        )
        more = timed("the same with items", count, opened, shared, facts, named, steps)
    assert (more[:, -1] - bare[:, -1]).tolist() == [ITEMS // 800] * 800  # no chunk is displaced whole


def count(order, shared, facts, named, steps):
    """Exposures of the facts by each step."""
    return find_exposures(order, shared, facts, facts=named).counts(steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
