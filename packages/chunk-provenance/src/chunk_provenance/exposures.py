"""When a fact was seen: every update that trained on a chunk which states it.

An exposure is a pair (update, chunk) whose chunk is among the fact's shared chunks and not masked in that
update; a chunk counts once per update. So does an injected item that states the fact, as items.py says.
Nothing is sorted and exposures are never listed all at once: 30 M (fact, chunk) pairs of 100,000 facts take a
second or two an epoch and 12 bytes a pair, beside one table of (facts, checkpoints).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.chunk_updates import (
    ChunkUpdates,
    Grid,
    Int32s,
    chunk_updates,
    pack,
    place_chunks,
    sorted_unique,
    unpack,
)
from chunk_provenance.csr import Ints, gather, offsets_of
from chunk_provenance.injection.items import find_item_updates
from chunk_provenance.order import DataOrder

BLOCK = 1 << 19  # (fact, chunk) pairs at a time: what is made of them stays in the cache


@dataclass(frozen=True)
class Exposures:
    """The chunks of each fact, and the updates of each chunk."""

    offsets: Ints  # (facts + 1,)
    chunks: Int32s
    """The chunks of fact `f` are `chunks[offsets[f] : offsets[f + 1]]`, numbered as in `seen`."""
    seen: ChunkUpdates
    num_items: int = 0
    """So many of the last chunks in `seen` are no chunks but the order's distinct injected items."""
    num_injected: int = 0
    """Injected items in the order, whether they state one of the facts or not."""

    @property
    def num_facts(self) -> int:
        """How many facts were looked up."""
        return len(self.offsets) - 1

    def take(self, facts: Ints) -> "Exposures":
        """The exposures of some of the facts, in the given order."""
        row, position = gather(self.offsets, facts)
        offsets = offsets_of(row, len(facts))
        return replace(self, offsets=offsets, chunks=self.chunks[position])

    def of_fact(self, fact: int) -> Ints:
        """The updates (1-based, ascending) that showed a fact; twice for two of its chunks in a batch."""
        chunks = self.chunks[self.offsets[fact] : self.offsets[fact + 1]]
        return np.sort(self.seen.of(chunks)[1])

    def counts(self, steps: Ints) -> Ints:
        """How often each fact had been seen by each checkpoint, (facts, steps)."""
        column, back, width = _columns(steps, self.seen.num_updates)
        found = np.zeros((self.num_facts, width), dtype=np.int64)
        for first, end, fact, columns in self._rows(self.seen.grid(column)):
            cells = (fact * width)[:, None] + columns
            found[first:end] += np.bincount(cells.reshape(-1), minlength=(end - first) * width).reshape(
                -1, width
            )
        found[:, 0] = 0  # cells that hold nothing
        return np.cumsum(found, axis=1)[:, back]

    def last(self, steps: Ints) -> Ints:
        """The latest exposure (update) up to each checkpoint, 0 where there is none yet, (facts, steps)."""
        column, back, width = _columns(steps, self.seen.num_updates)
        found = np.zeros((self.num_facts, width), dtype=np.int32)
        for first, end, fact, updates in self._rows(self.seen.grid()):
            cells = (fact * width)[:, None] + column.take(updates)
            np.maximum.at(found[first:end].reshape(-1), cells.reshape(-1), updates.reshape(-1))
        return np.maximum.accumulate(found, axis=1)[:, back].astype(np.int64)

    def first(self) -> Ints:
        """The update of the first exposure, 0 for a fact that is never seen, (facts,)."""
        never = np.int32(self.seen.num_updates + 1)
        some = self.seen.lengths > 0
        first_of_chunk = np.full(len(some), never)
        first_of_chunk[some] = self.seen.updates[self.seen.starts[some]]  # a chunk's updates ascend
        found = np.full(self.num_facts, never)
        fact = np.flatnonzero(np.diff(self.offsets))
        if len(fact):
            found[fact] = np.minimum.reduceat(first_of_chunk[self.chunks], self.offsets[fact])
        return np.where(found == never, 0, found).astype(np.int64)

    def _rows(self, grid: Grid) -> Iterator[tuple[int, int, Ints, npt.NDArray[Any]]]:
        """Blocks of exposures: the facts [first, end) they are of; fact - first, and values, of each row."""
        first, size = 0, BLOCK // max(grid.cells.shape[1], 1)
        while first < self.num_facts:
            reach = int(np.searchsorted(self.offsets, self.offsets[first] + size, side="right")) - 1
            end = max(reach, first + 1)
            block = self.offsets[first : end + 1]
            fact = np.repeat(np.arange(end - first), np.diff(block))
            for row, values in grid.rows(self.chunks[block[0] : block[-1]]):
                yield first, end, fact if row is None else fact[row], values
            first = end


def _columns(steps: Ints, num_updates: int) -> tuple[npt.NDArray[Any], Any, int]:
    """Where exposures are counted: a column a checkpoint, and one for later updates.

    Returns:
        The column of every update, from 1 on that of the first checkpoint that has seen it; the columns of
        the wanted steps, and the number of columns.
    """
    ascending, back = np.unique(np.asarray(steps), return_inverse=True)
    width = len(ascending) + 2
    column = np.searchsorted(ascending, np.arange(num_updates + 1)) + 1
    column[0] = 0  # there is no update 0
    return column.astype(np.min_scalar_type(width)), back + 1, width


def find_exposures(
    order: DataOrder, fact_chunks: pa.Table, fact_ids: Sequence[str], *, facts: pa.Table | None = None
) -> Exposures:
    """Every exposure of the given facts in the whole order.

    Args:
        order: the recorded data order.
        fact_chunks: `fact_id`, `kind`, `chunk_id`; rows of kind `shared` count, repeated ones once.
        fact_ids: the facts to look up, in the order of the result; one without chunks has no exposures.
        facts: `fact_id`, `subject`, `answer`, so that injected items count through their entities, too.
    """
    fact, chunk = _shared_pairs(fact_chunks, fact_ids)
    places = place_chunks(chunk)
    place, seen = places.find(chunk), chunk_updates(order, places.ids)
    num_items = 0
    if order.injected is not None:
        items = find_item_updates(order, fact_ids, facts)
        fact, place = np.append(fact, items.fact), np.append(place, items.item + len(places.ids))
        seen = seen.with_more(items.offsets, items.updates)
        num_items = len(items.offsets) - 1
    fact, place = fact.astype(np.int32, copy=False), place.astype(np.int32, copy=False)
    fact, place = _distinct_pairs(fact, place, len(places.ids) + num_items)
    injected = 0 if order.injected is None else len(order.injected.item_ids)
    return Exposures(offsets_of(fact, len(fact_ids)), place, seen, num_items, injected)


def _distinct_pairs(fact: Int32s, place: Int32s, num_places: int) -> tuple[Int32s, Int32s]:
    """Ascending pairs, each once: a fact's chunk counts once, however often it is listed."""
    same = fact[1:] == fact[:-1]
    if np.any((fact[1:] < fact[:-1]) | (same & (place[1:] < place[:-1]))):
        bits = num_places.bit_length()
        first, second = unpack(sorted_unique(pack(fact, place, bits)), bits)
        return first.astype(np.int32), second.astype(np.int32)
    again = same & (place[1:] == place[:-1])
    if not again.any():
        return fact, place
    fresh = np.concatenate([[True], ~again])
    return fact[fresh], place[fresh]


def _shared_pairs(fact_chunks: pa.Table, fact_ids: Sequence[str]) -> tuple[Int32s, Ints]:
    """The rows of kind `shared` of the given facts: place of the fact, and chunk id."""
    code = pc.index_in(fact_chunks["fact_id"], pa.array(fact_ids, pa.string())).fill_null(-1).to_numpy()
    chunk = fact_chunks["chunk_id"].to_numpy()
    kept = pc.equal(fact_chunks["kind"], "shared").to_numpy() & (code >= 0)
    return (code, chunk) if kept.all() else (code[kept], chunk[kept])


def updates_of_chunks(order: DataOrder, chunks: Ints) -> tuple[Ints, Ints]:
    """The updates that trained on each of the given chunks (ascending ids), masked ones left out.

    Returns:
        `offsets` (chunks + 1,) and the updates (1-based, ascending per chunk, each once).
    """
    seen = chunk_updates(order, chunks)
    row, updates = seen.of(np.arange(len(chunks)))
    return offsets_of(row, len(chunks)), updates
