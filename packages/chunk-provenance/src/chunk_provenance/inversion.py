"""Which updates trained on given chunks: the data order turned round, as dense layers.

A layer holds one update per chunk, so that an order that shows every chunk once per epoch becomes one layer
an epoch, written without sorting. What repeats within an epoch fills further layers as long as they would be
at least a quarter full, and is sorted otherwise: never more than 16 bytes per occurrence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.csr import Ints, gather, offsets_of
from chunk_provenance.order import DataOrder

Int32s = npt.NDArray[np.int32]
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
            return self.table[ids]
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
class Inverse:
    """The updates of chunks, numbered as in `Places`; each (update, chunk) once, masked ones left out."""

    num_chunks: int
    num_updates: int
    layers: Sequence[npt.NDArray[Any]] = ()
    """Each (chunks,): an update of every chunk, 0 = none."""
    spill_offsets: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """All others: those of chunk `c` are `spill[spill_offsets[c] : spill_offsets[c + 1]]`."""
    spill: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def relabel(self, labels: npt.NDArray[Any]) -> "Inverse":
        """The same with `labels[update]` for every update; labels[0] must be 0, the sign for none."""
        layers = [labels[layer] for layer in self.layers]
        return Inverse(self.num_chunks, self.num_updates, layers, self.spill_offsets, labels[self.spill])

    def events(self, chunks: Int32s) -> Iterator[tuple[Ints | None, npt.NDArray[Any]]]:
        """Parts of all (position in `chunks`, update) pairs, in no order; None = every position."""
        for layer in self.layers:
            updates = layer[chunks]
            if updates.all():
                yield None, updates
            else:
                position = np.flatnonzero(updates)
                yield position, updates[position]
        if len(self.spill):
            row, position = gather(self.spill_offsets, chunks)
            yield row, self.spill[position]


def invert(order: DataOrder, places: Places) -> Inverse:
    """The updates that trained on each of the given chunks."""
    num_chunks, bits = len(places.ids), order.num_updates.bit_length()
    layers: list[Int32s] = []
    spilt = [np.empty(0, dtype=np.int64)]
    for begin, end in _epochs(order):
        first, last = order.offsets[begin], order.offsets[end]
        place = places.find(order.ids[first:last])
        update = np.repeat(
            np.arange(begin + 1, end + 1, dtype=np.int32), np.diff(order.offsets[begin : end + 1])
        )
        place, update = _keep(place >= 0, place, update)
        while len(place) and 4 * len(place) >= num_chunks:
            layer = np.zeros(num_chunks, dtype=np.int32)
            layer[place] = update  # of several updates of a chunk one stays, the others go on
            place, update = _keep(layer[place] != update, place, update)
            layers.append(layer)
        spilt.append(pack(place, update, bits))
    keys = sorted_unique(np.concatenate(spilt))
    if order.masked is not None:
        held_out = places.find(order.masked["chunk_id"].to_numpy())
        update = order.masked["update"].to_numpy()
        inside = (held_out >= 0) & (update > 0) & (update <= order.num_updates)
        held_out, update = held_out[inside], update[inside]
        for layer in layers:
            layer[held_out[layer[held_out] == update]] = 0
        keys = np.setdiff1d(keys, pack(held_out, update, bits))
    local, spill = unpack(keys, bits)
    return Inverse(
        num_chunks, order.num_updates, layers, offsets_of(local, num_chunks), spill.astype(np.int32)
    )


def _epochs(order: DataOrder) -> Iterator[tuple[int, int]]:
    """Where epochs begin and end, in updates; any division of the order would do."""
    starts = order.epoch_starts[(order.epoch_starts > 0) & (order.epoch_starts < order.num_updates)]
    yield from pairwise([0, *np.unique(starts).tolist(), order.num_updates])


def _keep(which: npt.NDArray[np.bool_], *columns: Int32s) -> tuple[Int32s, ...]:
    return columns if which.all() else tuple(column[which] for column in columns)


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
