"""When a fact was seen: every update that trained on a chunk which states it.

An exposure is a pair (update, chunk) whose chunk is among the fact's shared chunks and not masked in that
update; a chunk counts once per update. Rows of an injection plan (negative ids) are not counted yet.
Cost: one pass over the order, one sort of the exposures, 8 bytes each. 100,000 facts over 10 M chunks:
seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.csr import Ints, gather, offsets_of
from chunk_provenance.order import DataOrder

BLOCK = 1 << 19  # (fact, chunk) pairs at a time: what is made of them stays in the cache


@dataclass(frozen=True)
class Exposures:
    """The updates at which each fact was seen: row `f` is `updates[offsets[f] : offsets[f + 1]]`."""

    offsets: Ints  # (facts + 1,)
    updates: Ints  # (exposures,)
    num_updates: int

    @property
    def num_facts(self) -> int:
        """How many facts were looked up."""
        return len(self.offsets) - 1

    def of_fact(self, fact: int) -> Ints:
        """The updates (1-based, ascending) that showed a fact; twice for two of its chunks in a batch."""
        return self.updates[self.offsets[fact] : self.offsets[fact + 1]]

    def counts(self, steps: Ints) -> Ints:
        """How often each fact had been seen by each checkpoint, (facts, steps)."""
        return self._ends(steps) - self.offsets[:-1, None]

    def last(self, steps: Ints) -> Ints:
        """The latest exposure (update) up to each checkpoint, 0 where there is none yet, (facts, steps)."""
        ends = self._ends(steps)
        seen = ends > self.offsets[:-1, None]
        padded = np.concatenate([self.updates, [0]])
        return np.where(seen, padded[ends - 1], 0)

    def first(self) -> Ints:
        """The update of the first exposure, 0 for a fact that is never seen, (facts,)."""
        padded = np.concatenate([self.updates, [0]])
        return np.where(np.diff(self.offsets) > 0, padded[self.offsets[:-1]], 0)

    def _ends(self, steps: Ints) -> Ints:
        """Where the exposures of each fact up to each step end in `updates`, (facts, steps)."""
        width = max(self.num_updates, int(np.max(steps, initial=0))) + 1
        fact = np.repeat(np.arange(self.num_facts), np.diff(self.offsets))
        wanted = np.arange(self.num_facts)[:, None] * width + np.asarray(steps)[None, :]
        return np.searchsorted(fact * width + self.updates, wanted, side="right")


def find_exposures(order: DataOrder, fact_chunks: pa.Table, fact_ids: Sequence[str]) -> Exposures:
    """Every exposure of the given facts in the whole order.

    Args:
        order: the recorded data order.
        fact_chunks: `fact_id`, `kind`, `chunk_id`; rows of kind `shared` count, repeated ones once.
        fact_ids: the facts to look up, in the order of the result; one without chunks has no exposures.
    """
    shared = fact_chunks.filter(pc.equal(fact_chunks["kind"], "shared")).select(["fact_id", "chunk_id"])
    code = pc.index_in(shared["fact_id"], pa.array(fact_ids, pa.string())).fill_null(-1).to_numpy()
    chunk = shared["chunk_id"].to_numpy()[code >= 0]
    code = code[code >= 0].astype(np.int64)
    chunks, place = _distinct(chunk)
    # A fact's chunk counts once, however often it is listed.
    pairs = sorted_unique(code * max(len(chunks), 1) + place[chunk])
    updates_of = updates_of_chunks(order, chunks)
    counts = np.zeros(len(fact_ids), dtype=np.int64)
    seen = [np.empty(0, dtype=np.int64)]
    for block in _blocks(pairs, max(len(chunks), 1)):
        fact, local = _split(block, max(len(chunks), 1))
        events = _events(fact, local, updates_of, width=order.num_updates + 1)
        fact, updates = _split(events, order.num_updates + 1)
        counts += np.bincount(fact, minlength=len(fact_ids))
        seen.append(updates)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Exposures(offsets, np.concatenate(seen), order.num_updates)


def _blocks(pairs: Ints, width: int) -> Iterator[Ints]:
    """Slices of about `BLOCK` pairs that never divide a fact."""
    begin = 0
    while begin < len(pairs):
        last = pairs[min(begin + BLOCK, len(pairs)) - 1] // width
        end = int(np.searchsorted(pairs, (last + 1) * width))
        yield pairs[begin:end]
        begin = end


def _events(fact: Ints, local: Ints, updates_of: tuple[Ints, Ints], *, width: int) -> Ints:
    """fact * width + update for every exposure of the (fact, chunk) pairs, ascending."""
    offsets, updates = updates_of
    row, position = gather(offsets, local)
    events: Ints = fact[row] * width + updates[position]
    events.sort()
    return events


def updates_of_chunks(order: DataOrder, chunks: Ints) -> tuple[Ints, Ints]:
    """The updates that trained on each of the given chunks (ascending ids), masked ones left out.

    Returns:
        `offsets` (chunks + 1,) and the updates (1-based, ascending per chunk, each once).
    """
    place = _distinct(chunks)[1]
    position, local = _occurrences(order.ids, place)
    width = order.num_updates + 1
    keys = sorted_unique(local * width + np.searchsorted(order.offsets, position, side="right"))
    if order.masked is not None:
        of_masked, held_out = _occurrences(order.masked["chunk_id"].to_numpy(), place)
        masked = order.masked["update"].to_numpy()[of_masked]
        inside = masked < width  # an update the order lacks would read as one of the next chunk
        keys = np.setdiff1d(keys, (held_out * width + masked)[inside], assume_unique=True)
    local, update = _split(keys, width)
    return offsets_of(local, len(chunks)), update


def sorted_unique(keys: Ints) -> Ints:
    """What np.unique returns, by sorting in place: keys that hardly repeat are many times faster so."""
    if np.any(keys[1:] < keys[:-1]):
        keys.sort()
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _split(keys: Ints, width: int) -> tuple[Ints, Ints]:
    """Undo high * width + low; np.divmod takes ten times as long."""
    high = keys // width
    return high, keys - high * width


def _distinct(chunks: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """The distinct chunk ids, ascending, and a table from chunk id to place among them, -1 for others."""
    wanted = np.zeros(int(np.max(chunks, initial=-1)) + 1, dtype=bool)
    wanted[chunks] = True
    place = np.where(wanted, np.cumsum(wanted, dtype=np.int32) - np.int32(1), np.int32(-1))
    return np.flatnonzero(wanted), place


def _occurrences(ids: npt.NDArray[np.int64], place: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Where `ids` holds a chunk that has a place, and which place that is."""
    known = np.flatnonzero((ids >= 0) & (ids < len(place)))
    found = place[ids[known]]
    hit = found >= 0
    return known[hit], found[hit].astype(np.int64)
