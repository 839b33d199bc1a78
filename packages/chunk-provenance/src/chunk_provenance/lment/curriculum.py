"""LMEnt's order of updates, in closed form: seconds where iterating over its data loader takes hours.

An update holds `batch_tokens // L` chunks of one bucket L. Updates are numbered bucket by bucket, shortest
first; update k of a bucket holds the k-th run of the bucket's chunks in the permutation of that epoch. The
curriculum then puts the numbers in order:

* `grow_p2`, `grow_linear`: an epoch is `num_cycles` equal cycles, a cycle as many sub-cycles as there are
  buckets. The sub-cycles take of each bucket what its weights say, so that short chunks come first and long
  ones last in every cycle, and are shuffled inside.
* `natural`: all updates shuffled.

The first update of an epoch is one of the longest bucket, to run out of memory early if at all. Epochs count
from 1; the random streams are PCG64 seeded with `seed + epoch` (order) and `seed + epoch + L` (bucket L).
An epoch of 10.5 million chunks takes 0.4 seconds and 0.4 GiB (benchmarks/lment_scale.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from chunk_provenance.lment.buckets import ChunkIds
from chunk_provenance.order import DataOrder, Ids

BatchNumbers = npt.NDArray[np.uint32]
CurriculumName = Literal["grow_p2", "grow_linear", "natural"]


@dataclass(frozen=True)
class Curriculum:
    """How the updates of an epoch are ordered; LMEnt's models were trained with the defaults."""

    name: CurriculumName = "grow_p2"
    num_cycles: int = 8
    """Of the two that grow."""
    balanced: bool = False
    """All buckets give as many updates as the one with the fewest; of the two that grow."""

    def check(self) -> None:
        """Refuse settings that no curriculum has."""
        if self.num_cycles < 1:
            raise ValueError(f"--cycles {self.num_cycles} must be at least 1")
        if self.name == "natural" and self.balanced:
            raise ValueError("--balanced has no meaning with --curriculum natural: it shuffles all updates")


def count_batches(sizes: Mapping[int, int], curriculum: Curriculum, *, batch_tokens: int) -> dict[int, int]:
    """Updates an epoch takes of each bucket.

    Args:
        sizes: padded length -> number of chunks.
        curriculum: the two that grow round down to a multiple of their cycles.
        batch_tokens: tokens of an update, padding included.

    >>> count_batches({64: 5000, 128: 4000}, Curriculum(), batch_tokens=8192)
    {64: 32, 128: 56}
    """
    curriculum.check()
    if uneven := [size for size in sizes if batch_tokens % size]:
        raise ValueError(f"--batch-tokens {batch_tokens} is not a multiple of the chunk lengths {uneven}")
    natural = {size: count // (batch_tokens // size) for size, count in sizes.items()}
    if curriculum.name == "natural":
        return natural
    if curriculum.balanced:
        natural = dict.fromkeys(natural, min(natural.values()))
    cycles = curriculum.num_cycles
    return {size: count // cycles * cycles for size, count in natural.items()}


def order_of_batches(batches: Mapping[int, int], curriculum: Curriculum, *, seed: int) -> BatchNumbers:
    """The order of an epoch's updates, as their numbers.

    Args:
        batches: padded length -> updates, in ascending order of lengths; from `count_batches`.
        curriculum: what order.
        seed: of this epoch, `data seed + epoch`.

    Raises:
        ValueError: there is nothing to order, or `grow_linear` has no way to share the updates out.

    >>> order_of_batches({64: 2, 128: 4}, Curriculum(num_cycles=2), seed=1).tolist()
    [2, 0, 3, 1, 4, 5]
    """
    counts = list(batches.values())
    if not sum(counts):
        raise ValueError("no bucket has enough chunks for the updates of an epoch: nothing would be trained")
    rng = np.random.Generator(np.random.PCG64(seed))
    if curriculum.name == "natural":
        return _shuffle_all(counts, rng)
    starts = np.cumsum([0, *counts])
    parts = []
    for cycle in range(curriculum.num_cycles):
        pieces = [_split_cycle(number, counts, cycle, curriculum) for number in range(len(counts))]
        for subcycle in range(len(counts)):
            runs = [starts[number] + pieces[number][subcycle] for number in range(len(counts))]
            mixed = np.concatenate(runs).astype(np.uint32)
            rng.shuffle(mixed)
            parts.append(mixed)
    order = np.concatenate(parts)
    first_long = int(np.argmax(order >= starts[-2]))  # 0 if the longest bucket gives no update
    order[[0, first_long]] = order[[first_long, 0]]
    return order


def subcycle_weights(bucket: int, num_buckets: int, name: CurriculumName) -> list[int]:
    """How strongly each sub-cycle of a cycle draws on a bucket.

    >>> [subcycle_weights(bucket, 3, "grow_p2") for bucket in range(3)]
    [[4, 2, 1], [2, 4, 1], [1, 2, 4]]
    """
    rise = [num_buckets - (bucket - j if j <= bucket else j) for j in range(num_buckets)]
    return [1 << (step - 1) for step in rise] if name == "grow_p2" else rise


def share_out(num_batches: int, weights: list[int]) -> list[int]:
    """Updates of a bucket for each sub-cycle; what rounding leaves over goes to the last.

    Raises:
        ValueError: rounding up gives out more than there are. Only the linear weights can do that.

    >>> share_out(13, [32, 16, 8, 4, 2, 1])
    [7, 3, 2, 1, 0, 0]
    """
    counts = [round(weight / sum(weights) * num_batches) for weight in weights]
    if (given := sum(counts)) > num_batches:
        raise ValueError(
            f"grow_linear cannot share {num_batches} updates of a bucket among {len(weights)} sub-cycles: "
            f"rounding gives out {given} (LMEnt's code stops here, too); "
            "take grow_p2, or other --cycles or --batch-tokens"
        )
    counts[-1] += num_batches - given
    return counts


def compute_curriculum_order(
    members: Mapping[int, ChunkIds],
    curriculum: Curriculum,
    *,
    batch_tokens: int,
    seed: int,
    epochs: int | None = None,
    updates: int | None = None,
) -> DataOrder:
    """LMEnt's order of updates for a number of epochs, or the start of it for a number of updates.

    Args:
        members: padded length -> chunk ids, in ascending order of lengths; from `bucket_members`.
        curriculum: how the updates of an epoch are ordered.
        batch_tokens: tokens of an update, padding included; a multiple of every length.
        seed: the data seed; LMEnt's is 0.
        epochs: how many epochs (exactly one of `epochs` and `updates`).
        updates: stop after this many updates, within an epoch if need be.
    """
    if (epochs is None) == (updates is None):
        raise ValueError("give either epochs or updates")
    sizes = {size: len(ids) for size, ids in members.items()}
    batches = count_batches(sizes, curriculum, batch_tokens=batch_tokens)
    per_epoch = sum(batches.values())
    num_epochs = epochs if epochs is not None else -(-(updates or 0) // max(1, per_epoch))
    rows = np.repeat([batch_tokens // size for size in batches], list(batches.values()))
    lengths = np.empty((num_epochs, per_epoch), dtype=np.int64)
    ids = np.empty((num_epochs, int(rows.sum())), dtype=np.int64)
    for epoch in range(num_epochs):
        order = order_of_batches(batches, curriculum, seed=seed + epoch + 1)
        lengths[epoch] = rows[order]
        flat = _permuted(members, batches, batch_tokens, seed + epoch + 1)
        ids[epoch] = _take_runs(flat, np.cumsum(rows) - rows, order, lengths[epoch])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[: updates and updates + 1]
    asked = {"epochs": epochs} if epochs is not None else {"updates": updates}
    info = {"seed": seed, "batch_tokens": batch_tokens, "curriculum": asdict(curriculum), **asked}
    return DataOrder(offsets, ids.ravel()[: offsets[-1]], np.arange(num_epochs) * per_epoch, info)


def _shuffle_all(counts: list[int], rng: np.random.Generator) -> BatchNumbers:
    total = sum(counts)
    if not counts[-1]:
        raise ValueError(
            "the longest bucket has too few chunks for an update, and the natural curriculum begins with "
            "one (LMEnt's code stops here, too): take smaller --batch-tokens or a smaller --max-length"
        )
    order = np.arange(total, dtype=np.uint32)
    first = int(rng.integers(total - counts[-1], total))
    order[[0, first]] = order[[first, 0]]
    rng.shuffle(order[1:])
    return order


def _split_cycle(
    bucket: int, counts: list[int], cycle: int, curriculum: Curriculum
) -> list[npt.NDArray[np.int64]]:
    """Numbers within a bucket that a cycle takes, by sub-cycle."""
    of_cycle = counts[bucket] // curriculum.num_cycles
    shares = share_out(of_cycle, subcycle_weights(bucket, len(counts), curriculum.name))
    numbers = np.arange(cycle * of_cycle, (cycle + 1) * of_cycle)
    return np.split(numbers, np.cumsum(shares)[:-1])


def _permuted(
    members: Mapping[int, ChunkIds], batches: Mapping[int, int], batch_tokens: int, seed: int
) -> ChunkIds:
    """The chunks of all updates of an epoch, in the order of the updates' numbers."""
    parts = []
    for size, ids in members.items():
        shuffled = np.random.Generator(np.random.PCG64(seed + size)).permutation(ids)
        parts.append(shuffled[: batches[size] * (batch_tokens // size)])
    return np.concatenate(parts)


def _take_runs(flat: ChunkIds, starts: Ids, order: BatchNumbers, lengths: Ids) -> Ids:
    """The runs of `flat` that belong to the updates, one after the other."""
    index = np.repeat(starts[order] - (np.cumsum(lengths) - lengths), lengths)
    index += np.arange(len(index))
    taken: Ids = flat[index].astype(np.int64)
    return taken
