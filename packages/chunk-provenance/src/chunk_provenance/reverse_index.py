"""From an order, step to chunks, to its inverse, chunk to steps: a counting sort where ids are dense.

10.5 M chunks seen six times: 0.5 s an epoch, 4 bytes an exposure and 8 bytes a chunk to keep, about 30 bytes
a chunk more while it is made. Ids far apart, or negative ones, are sorted instead: 1 s an epoch, 20 bytes an
exposure meanwhile.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from chunk_provenance.csr import Ints, gather

SPARSE = 4
"""Dense ids: the largest is below so many times the number of exposures (or `SMALL`)."""
SMALL = 1 << 16
BLOCK = 1 << 22
"""Ids looked at together."""


@dataclass(frozen=True)
class Inverse:
    """The updates of row `r` are `updates[offsets[r] : offsets[r + 1]]`, ascending."""

    chunk_ids: Ints | None
    """The id of every row, ascending; None where row `r` is chunk `r`."""
    offsets: Ints  # (rows + 2,); the last row is empty, for ids that never occur
    updates: npt.NDArray[np.int32]

    def rows(self, chunk_ids: Ints) -> Ints:
        """The row of each id."""
        empty = len(self.offsets) - 2
        if self.chunk_ids is None:
            inside = (chunk_ids >= 0) & (chunk_ids < empty)
            return np.where(inside, chunk_ids, empty)
        place = np.searchsorted(self.chunk_ids, chunk_ids)
        found = np.append(self.chunk_ids, np.int64(-1))[place] == chunk_ids
        return np.where(found & (place < empty), place, empty)

    def look_up(self, chunk_ids: Ints) -> tuple[Ints, Ints]:
        """Offsets (ids + 1,) and the updates of each id, one after the other."""
        rows = self.rows(chunk_ids)
        _, position = gather(self.offsets, rows)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return np.concatenate([[0], np.cumsum(lengths)]), self.updates[position].astype(np.int64)


def invert(ids: Ints, offsets: Ints, *, block_starts: Ints) -> Inverse:
    """The inverse of an order whose update `s` (from 1) holds `ids[offsets[s - 1] : offsets[s]]`.

    Args:
        ids: any integers.
        offsets: (updates + 1,)
        block_starts: updates done where an epoch begins; ids repeat seldom inside one, which is fast.

    >>> invert(np.array([5, 0, 2, 5, 0]), np.array([0, 2, 4, 5]), block_starts=np.array([0, 2])).updates
    array([1, 3, 2, 1, 2], dtype=int32)
    """
    if not is_dense(ids):
        return _invert_sparse(ids, offsets)
    num_rows = int(ids.max(initial=-1)) + 1
    starts = np.zeros(num_rows + 2, dtype=np.int64)
    starts[1:-1] = np.cumsum(np.bincount(ids, minlength=num_rows))
    starts[-1] = starts[-2]
    updates = np.empty(len(ids), dtype=np.int32)
    cursor = starts[:-2].copy()
    bounds = np.unique(np.concatenate([[0], block_starts, [len(offsets) - 1]]).astype(np.int64))
    for first, last in pairwise(bounds):
        block = ids[offsets[first] : offsets[last]]
        counts = np.bincount(block, minlength=num_rows)
        place = cursor[block]
        if counts.max(initial=0) > 1:
            _part_repeats(place, block, counts)
        updates[place] = _updates_of(offsets, int(first), int(last))
        cursor += counts
    return Inverse(None, starts, updates)


def _part_repeats(place: Ints, block: Ints, counts: Ints) -> None:
    """Move the second, third ... occurrence of an id in the block one, two ... places on."""
    repeated = np.flatnonzero(counts[block] > 1)
    order = np.argsort(block[repeated], kind="stable")
    chunk = block[repeated[order]]
    begins = np.flatnonzero(np.concatenate([[True], chunk[1:] != chunk[:-1]]))
    rank = np.arange(len(chunk)) - np.repeat(begins, np.diff(np.append(begins, len(chunk))))
    place[repeated[order]] += rank


def _updates_of(offsets: Ints, first: int, last: int) -> npt.NDArray[np.int32]:
    """The update of every position of updates `first` + 1 to `last`."""
    numbers = np.arange(first + 1, last + 1, dtype=np.int32)
    return np.repeat(numbers, np.diff(offsets[first : last + 1]))


def _invert_sparse(ids: Ints, offsets: Ints) -> Inverse:
    """By sorting: distinct ids numbered in ascending order, then number and update in one key."""
    chunk_ids, row = np.unique(ids, return_inverse=True)
    bits = len(offsets).bit_length()
    keys = (row.astype(np.int64) << bits) | _updates_of(offsets, 0, len(offsets) - 1)
    keys.sort()
    ends = np.cumsum(np.bincount(row, minlength=len(chunk_ids)))
    starts = np.concatenate([[0], ends, ends[-1:]]).astype(np.int64)
    return Inverse(chunk_ids, starts, (keys & ((1 << bits) - 1)).astype(np.int32))


def distinct(ids: Ints) -> Ints:
    """The distinct ids, ascending: what np.unique gives, many times faster where they are dense.

    >>> distinct(np.array([3, 0, 3])).tolist()
    [0, 3]
    """
    if not is_dense(ids):
        return np.unique(ids)
    seen = np.zeros(int(ids.max(initial=-1)) + 1, dtype=bool)
    seen[ids] = True
    return np.flatnonzero(seen)


def is_dense(ids: Ints) -> bool:
    """Whether a table with a place for every id up to the largest is small."""
    return int(ids.min(initial=0)) >= 0 and int(ids.max(initial=-1)) < max(SPARSE * len(ids), SMALL)


def find_places(ids: Ints, offsets: Ints, updates: Ints, chunk_ids: Ints) -> Ints:
    """Where in `ids` each pair (update, chunk) stands, -1 where the update does not hold the chunk.

    >>> ids, offsets = np.array([5, 0, 5, 1]), np.array([0, 2, 4])
    >>> find_places(ids, offsets, np.array([2, 1, 2, 9]), np.array([5, 0, 0, 5])).tolist()
    [2, 1, -1, -1]
    """
    wanted = np.unique(chunk_ids)
    if not len(wanted) or not len(ids):
        return np.full(len(updates), -1)
    position = _occurrences(ids, wanted)
    position = np.append(position, 0)  # so that there is one; its key fits no pair
    keys = np.searchsorted(offsets, position, side="right") * len(wanted)
    keys += np.searchsorted(wanted, ids[position])
    keys[-1] = -1
    by_key = np.argsort(keys)
    asked = updates * len(wanted) + np.searchsorted(wanted, chunk_ids)
    place = by_key[np.minimum(np.searchsorted(keys, asked, sorter=by_key), len(keys) - 1)]
    return np.where((keys[place] == asked) & (updates >= 1), position[place], -1)


def _occurrences(ids: Ints, wanted: Ints) -> Ints:
    """The positions of the wanted ids, a block at a time."""
    top = int(wanted[-1]) + 1
    dense = wanted[0] >= 0 and top < max(SPARSE * len(ids), SMALL)
    table = np.zeros(top + 1 if dense else 0, dtype=bool)
    table[wanted if dense else wanted[:0]] = True
    found = []
    for begin in range(0, len(ids), BLOCK):
        block = ids[begin : begin + BLOCK]
        hit = table[np.clip(block, -1, top)] if dense else np.isin(block, wanted)  # table[top] is False
        found.append(np.flatnonzero(hit) + begin)
    return np.concatenate(found)
