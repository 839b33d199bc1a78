"""The updates of many chunks side by side: a grid that is read a row at a time.

An order that shows every chunk once per epoch fills a column an epoch. Columns go on as long as a quarter of
the chunks has so many updates; the rest lies in one flat array. So the grid never has more than four cells an
exposure, and nothing is sorted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.csr import Ints, gather
from chunk_provenance.order import DataOrder

Int32s = npt.NDArray[np.int32]
BLOCK = 1 << 16  # chunks at a time: what is made of them stays in the cache
DENSE_IDS = 1 << 28  # ids below this are looked up in a table, larger ones by bisection


@dataclass(frozen=True)
class Places:
    """Distinct chunk ids, numbered in ascending order."""

    ids: Ints
    table: Int32s | None
    """From chunk id to its number, -1 for others; None where the ids are too sparse for it."""

    def find(self, ids: Ints) -> Int32s:
        """The number of each id, -1 for ids that have none."""
        if self.table is None:
            spot = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            return np.where(self.ids[spot] == ids, spot, -1).astype(np.int32)
        inside = (ids >= 0) & (ids < len(self.table))
        if inside.all():
            return self.table.take(ids)
        found = np.full(len(ids), -1, dtype=np.int32)
        found[inside] = self.table[ids[inside]]
        return found


def place_chunks(chunks: Ints) -> Places:
    """Number the distinct ids among `chunks`.

    >>> places = place_chunks(np.array([7, 3, 7]))
    >>> places.ids.tolist(), places.find(np.array([3, 4, 7, -1])).tolist()
    ([3, 7], [0, -1, 1, -1])
    """
    largest = int(np.max(chunks, initial=-1))
    if largest >= max(DENSE_IDS, 8 * len(chunks)):
        return Places(np.unique(chunks), None)
    wanted = np.zeros(largest + 1, dtype=bool)
    wanted[chunks] = True
    table = np.where(wanted, np.cumsum(wanted, dtype=np.int32) - np.int32(1), np.int32(-1))
    return Places(np.flatnonzero(wanted), table)


@dataclass(frozen=True)
class ChunkUpdates:
    """The updates of some chunks, each once, ascending: those of chunk `c` stand in row `rows[c]`."""

    rows: Ints  # (chunks,)
    offsets: Ints
    """Row `r` is `updates[offsets[r] : offsets[r + 1]]`."""
    updates: npt.NDArray[Any]
    num_updates: int

    @property
    def starts(self) -> Ints:
        """Where the updates of each chunk begin, (chunks,)."""
        return self.offsets[self.rows]

    @property
    def lengths(self) -> Ints:
        """How many updates each chunk has, (chunks,)."""
        return self.offsets[self.rows + 1] - self.offsets[self.rows]

    def with_more(self, offsets: Ints, updates: Ints) -> "ChunkUpdates":
        """The same with rows added behind: row `r` of them is `updates[offsets[r] : offsets[r + 1]]`."""
        first, num_rows = len(self.offsets) - 1, len(offsets) - 1
        return ChunkUpdates(
            np.append(self.rows, first + np.arange(num_rows)),
            np.append(self.offsets, len(self.updates) + offsets[1:]),
            np.append(self.updates, updates.astype(self.updates.dtype)),
            self.num_updates,
        )

    def of(self, chunks: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
        """The updates of several chunks: of every update, the chunk's place in `chunks`, and the update."""
        row, position = gather(self.offsets, self.rows[chunks])
        return row, self.updates[position].astype(np.int64)

    def grid(self, labels: npt.NDArray[Any] | None = None) -> "Grid":
        """The updates, or `labels[update]` for each, a row a chunk; labels[0] must be 0, which means none."""
        labels = np.arange(self.num_updates + 1, dtype=np.int32) if labels is None else labels
        starts, lengths, num_chunks = self.starts, self.lengths, len(self.rows)
        quarter = num_chunks - max(num_chunks // 4, 1)
        depth = int(np.partition(lengths, quarter)[quarter]) if num_chunks else 0
        cells = np.empty((num_chunks, depth), dtype=labels.dtype)
        columns = np.arange(depth)
        for first in range(0, num_chunks if depth else 0, BLOCK):
            block = slice(first, first + BLOCK)
            updates = self.updates.take(starts[block, None] + columns, mode="clip")
            updates[columns >= lengths[block, None]] = 0
            cells[block] = labels.take(updates)
        tails = np.concatenate([[0], np.cumsum(np.maximum(lengths - depth, 0))])
        row = np.repeat(np.arange(num_chunks), np.diff(tails))
        spill = labels.take(self.updates.take(np.arange(len(row)) - tails[row] + starts[row] + depth))
        return Grid(cells, tails, spill)


@dataclass(frozen=True)
class Grid:
    """A row of values per chunk, 0 = none, and in `spill` those for which there is no column."""

    cells: npt.NDArray[Any]  # (chunks, columns)
    spill_offsets: Ints  # (chunks + 1,)
    spill: npt.NDArray[Any]

    def rows(self, chunks: Int32s) -> Iterator[tuple[Ints | None, npt.NDArray[Any]]]:
        """All values of some chunks, (rows, columns), and for each row its place in `chunks`; None = all."""
        if self.cells.shape[1]:
            yield None, self.cells.take(chunks, axis=0)  # ten times as fast as cells[chunks]
        if len(self.spill):
            row, position = gather(self.spill_offsets, chunks)
            yield row, self.spill[position][:, None]


def chunk_updates(order: DataOrder, chunks: Ints) -> ChunkUpdates:
    """The updates that trained on each of the given chunks, masked ones left out."""
    inverse = order.inverse
    offsets, updates = inverse.offsets, inverse.updates
    again = np.flatnonzero(updates[1:] == updates[:-1]) + 1  # a chunk twice in an update counts once
    again = again[offsets[np.searchsorted(offsets, again, side="right") - 1] != again]
    if len(again):
        once = np.ones(len(updates), dtype=bool)
        once[again] = False
        offsets, updates = np.concatenate([[0], np.cumsum(once)])[offsets], updates[once]
    return ChunkUpdates(inverse.rows(chunks), offsets, updates, order.num_updates)


def sorted_unique(keys: Ints) -> Ints:
    """What np.unique returns, by sorting in place: keys that hardly repeat are many times faster so."""
    if np.any(keys[1:] < keys[:-1]):
        keys.sort()
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def pack(high: Int32s | Ints, low: Int32s | Ints, bits: int) -> Ints:
    """Two numbers in one that sorts like the pair; `low` takes the lower `bits`."""
    packed = high.astype(np.int64)
    packed <<= bits
    packed |= low
    return packed


def unpack(packed: Ints, bits: int) -> tuple[Ints, Ints]:
    """Undo `pack`.

    >>> high, low = unpack(pack(np.array([3, 0]), np.array([2, 7]), 3), 3)
    >>> high.tolist(), low.tolist()
    ([3, 0], [2, 7])
    """
    return packed >> bits, packed & ((1 << bits) - 1)
