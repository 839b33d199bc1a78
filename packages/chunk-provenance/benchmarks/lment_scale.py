"""LMEnt's order and chunks at LMEnt's size: `uv run benchmarks/lment_scale.py` (20 seconds, 2 GiB).

10.5 million synthetic chunks, updates of 32,768 tokens, 109,672 of them an epoch, `grow_p2` with 8 cycles;
beside a plain port, written here, of what the published scripts do: one slice an update, and a look-up of a
chunk's steps that goes through the updates one by one. Before that, the chunking rule on random documents of
a Wikipedia's lengths with a mention every nine tokens.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from chunk_provenance.lment import Curriculum, chunk_documents, compute_curriculum_order, order_of_batches
from chunk_provenance.packing import merge_spans

UPDATES = {64: 6384, 128: 10936, 256: 15624, 512: 18752, 1024: 18752, 2048: 39224}
"""Of an epoch, by length: 109,672 in all, with 10.5 million chunks."""
BATCH_TOKENS = 32_768
REPEATS = 3


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=24_000_000, help="Tokens to cut into chunks.")
    arguments = parser.parse_args()
    table = Table("what", "amount", "seconds", "of the CPU", "per CPU second", "peak memory")
    rows = [*measure_chunking(arguments.tokens), *measure_order(arguments.epochs)]
    for what, amount, unit, (seconds, cpu, peak) in rows:
        rate = f"{amount / cpu:,.0f}"
        table.add_row(what, f"{amount:,} {unit}", f"{seconds:.3f}", f"{cpu:.3f}", rate, f"{peak:.2f} GiB")
    Console(width=140).print(table)


Run = tuple[float, float, float]
Row = tuple[str, int, str, Run]


def measure_chunking(num_tokens: int) -> list[Row]:
    """The rule of lment/chunking.py, the sorting of mentions included."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, rng.lognormal(5.8, 1.1, num_tokens // 600).astype(np.int64))
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    total = int(bounds[-1])
    starts = np.sort(rng.integers(0, total - 8, total // 9))
    beyond = bounds[np.searchsorted(bounds, starts, side="right")]
    ends = np.minimum(starts + rng.integers(1, 6, len(starts)), beyond)

    def cut() -> Any:
        mentions = merge_spans(starts, ends)
        return chunk_documents(bounds[:-1], bounds[1:], mentions=mentions, min_length=64, max_length=2048)

    return [("cut into chunks", total, "tokens", best(cut))]


def measure_order(epochs: int) -> list[Row]:
    """Orders of the whole, beside a plain port."""
    members = make_members()
    chunks = sum(map(len, members.values()))
    asked = {"batch_tokens": BATCH_TOKENS, "seed": 0}
    one = [best(lambda: compute_curriculum_order(members, Curriculum(), **asked, epochs=1))]
    rows = [("order, 1 epoch", chunks, "chunks", one[0])]
    plain = [np.empty(0)]

    def port() -> None:
        plain[:] = order_plainly(members, seed=1)

    rows.append(("order, 1 epoch, plain port", chunks, "chunks", once(port)))
    wanted = np.random.default_rng(1).integers(0, chunks, 5).tolist()

    def look_up_plainly() -> list[list[int]]:
        return [[s + 1 for s, batch in enumerate(plain) if (batch == chunk).any()] for chunk in wanted]

    rows.append(("steps of a chunk, 1 epoch, plain port", len(wanted), "look-ups", once(look_up_plainly)))
    found = look_up_plainly()
    plain.clear()
    orders = []
    several = once(
        lambda: orders.append(compute_curriculum_order(members, Curriculum(), **asked, epochs=epochs))
    )
    rows.append((f"order, {epochs} epochs", chunks * epochs, "chunks", several))
    order = orders[0]
    rows.append(
        (f"invert {epochs} epochs: chunk to steps", len(order.ids), "chunks", once(lambda: order.steps_of(0)))
    )
    some = np.random.default_rng(2).integers(0, chunks, 100_000).tolist()
    looked_up = once(lambda: [order.steps_of(chunk) for chunk in some])
    rows.append((f"steps of a chunk, {epochs} epochs", len(some), "look-ups", looked_up))
    first = [[int(s) for s in order.steps_of(chunk) if s <= sum(UPDATES.values())] for chunk in wanted]
    assert first == found, "the plain port and the closed form disagree"
    return rows


def make_members() -> dict[int, npt.NDArray[np.uint32]]:
    """Chunk ids of every bucket, scattered over the corpus; a few are too many for the updates."""
    sizes = np.array(list(UPDATES))
    counts = np.array(list(UPDATES.values())) * (BATCH_TOKENS // sizes) + 7
    buckets = np.random.default_rng(0).permutation(np.repeat(sizes, counts))
    return {int(size): np.flatnonzero(buckets == size).astype(np.uint32) for size in sizes}


def order_plainly(members: dict[int, npt.NDArray[np.uint32]], *, seed: int) -> list[npt.NDArray[Any]]:
    """One array an update, cut out of the shuffled buckets one by one."""
    numbered = []
    for size, ids in members.items():
        shuffled = np.random.Generator(np.random.PCG64(seed + size)).permutation(ids)
        rows = BATCH_TOKENS // size
        numbered += [shuffled[k * rows : (k + 1) * rows] for k in range(UPDATES[size])]
    return [
        numbered[number].astype(np.int64) for number in order_of_batches(UPDATES, Curriculum(), seed=seed)
    ]


def best(function: Callable[[], Any]) -> Run:
    """The shortest of a few runs."""
    return min(once(function) for _ in range(REPEATS))


def once(function: Callable[[], Any]) -> Run:
    """Seconds, seconds of the CPU, which others' work disturbs less, and the peak memory so far in GiB."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    function()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
    return seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


if __name__ == "__main__":
    main()
