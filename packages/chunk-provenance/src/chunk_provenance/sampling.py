"""Draw facts of all frequencies: as many from every power of ten, as far as there are so many."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from chunk_provenance.csr import Ints

DECADES = (0, 10, 100, 1000, 10_000, 100_000, 1_000_000)


def decade_labels(limits: Sequence[int]) -> list[str]:
    """Names of the buckets: above the lower limit, up to the upper one.

    >>> decade_labels([0, 10, 100])
    ['1-10', '11-100']
    """
    return [f"{low + 1}-{high}" for low, high in pairwise(limits)]


def bucket_of(counts: Ints, limits: Sequence[int] = DECADES) -> Ints:
    """The bucket of each count, (limits[b], limits[b + 1]]; -1 outside all.

    >>> bucket_of(np.array([0, 1, 10, 11, 2_000_000])).tolist()
    [-1, 0, 0, 1, -1]
    """
    bucket = np.searchsorted(np.asarray(limits), counts, side="left") - 1
    return np.where(bucket < len(limits) - 1, bucket, -1)


def share_out(sizes: Sequence[int], wanted: int) -> list[int]:
    """How many to draw from buckets of these sizes: equally many, what some lack from those that have more.

    The shortage is divided in proportion to what the other buckets have to spare, rounded down; the largest
    remainders take what rounding leaves, of equal ones the first.

    >>> share_out([2, 100, 50], 60)  # 20 each; 18 are missing, spare are 80 and 30
    [2, 33, 25]
    """
    wanted = min(wanted, sum(sizes))
    drawn = np.minimum(sizes, wanted // max(len(sizes), 1))
    spare, shortage = np.asarray(sizes, dtype=np.int64) - drawn, wanted - int(drawn.sum())
    if not shortage:
        return [int(number) for number in drawn]
    more, remainder = np.divmod(shortage * spare, int(spare.sum()))
    rest = shortage - int(more.sum())
    more[np.argsort(-remainder, kind="stable")[:rest]] += 1
    return [int(number) for number in drawn + more]


def stratified_sample(
    counts: Ints, size: int, *, seed: int = 0, limits: Sequence[int] = DECADES
) -> tuple[Ints, Ints]:
    """Places of a sample of `counts` with all buckets alike, ascending, and the bucket of each.

    Counts outside all buckets, as 0, are never drawn.

    >>> [part.tolist() for part in stratified_sample(np.array([0, 5, 50, 500]), 3)]
    [[1, 2, 3], [0, 1, 2]]
    """
    bucket = bucket_of(counts, limits)
    members = [np.flatnonzero(bucket == number) for number in range(len(limits) - 1)]
    drawn = share_out([len(places) for places in members], size)
    rng = np.random.default_rng(seed)
    picked = [
        np.sort(rng.permutation(places)[:number]) for places, number in zip(members, drawn, strict=True)
    ]
    places = np.sort(np.concatenate(picked))
    return places, bucket[places]
