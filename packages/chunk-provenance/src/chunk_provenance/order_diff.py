"""What differs between two data orders: slots, masks, sizes. Equal sizes: one pass over the ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from chunk_provenance.csr import gather
from chunk_provenance.order import DataOrder, Ids
from chunk_provenance.reverse_index import distinct

InjectedItem = tuple[int, int, str, str, str]
ITEM = ("update", "row", "item_id", "placement", "sha256")
"""What an `InjectedItem` holds."""


@dataclass(frozen=True)
class OrderDiff:
    """From order A to order B. A slot is a pair (update, chunk), (rows, 2); chunks under items count, too."""

    num_updates: tuple[int, int]
    changed_updates: Ids
    """Updates of both orders that train on other chunks, in another row order, or mask others."""
    slots_out: Ids
    """In A and not in B."""
    slots_in: Ids
    """In B and not in A."""
    masked_out: Ids
    """Trained on in A, held out in B."""
    masked_in: Ids
    """Held out in A, trained on in B."""
    reordered: Ids
    """Updates with the same chunks in other rows."""
    items_out: list[InjectedItem]
    """Injected in A and not so in B."""
    items_in: list[InjectedItem]
    """Injected in B and not so in A."""
    chunks_out: Ids
    """Chunks that A trains on and B never does."""
    chunks_in: Ids
    """Chunks that B trains on and A never does."""
    info: dict[str, tuple[Any, Any]]
    """Entries of `order.json` that differ."""

    @property
    def same(self) -> bool:
        """Whether a trainer would do the same; the entries of `order.json` may differ."""
        return self.num_updates[0] == self.num_updates[1] and not len(self.changed_updates)


def diff_orders(a: DataOrder, b: DataOrder) -> OrderDiff:
    """Compare two orders update by update."""
    common = min(a.num_updates, b.num_updates)
    candidates = _differing(a, b, common)
    before, after = _slots(a, candidates), _slots(b, candidates)
    out, new = _without(before, after), _without(after, before)
    masked_a, masked_b = _masked(a, common), _masked(b, common)
    slots_a, slots_b = _without(masked_a, masked_b), _without(masked_b, masked_a)
    masked_out, masked_in = _without(slots_b, new), _without(slots_a, out)
    moved = np.unique(np.concatenate([out[:, 0], new[:, 0]]))
    items_out, items_in = _items_apart(a, b, common)
    injected = np.array([item[0] for item in (*items_out, *items_in)], dtype=np.int64)
    changed = np.unique(np.concatenate([candidates, masked_out[:, 0], masked_in[:, 0], injected]))
    seen_a, seen_b = (distinct(order.seen_by(order.num_updates)) for order in (a, b))
    names = sorted({*a.info, *b.info})
    return OrderDiff(
        num_updates=(a.num_updates, b.num_updates),
        changed_updates=changed,
        slots_out=out,
        slots_in=new,
        masked_out=masked_out,
        masked_in=masked_in,
        reordered=np.setdiff1d(candidates, moved),
        items_out=items_out,
        items_in=items_in,
        chunks_out=_missing(seen_a, seen_b),
        chunks_in=_missing(seen_b, seen_a),
        info={
            name: (a.info.get(name), b.info.get(name))
            for name in names
            if a.info.get(name) != b.info.get(name)
        },
    )


def _differing(a: DataOrder, b: DataOrder, common: int) -> Ids:
    """The common updates whose chunks are not equal, row for row."""
    offsets = a.offsets[: common + 1]
    if np.array_equal(offsets, b.offsets[: common + 1]):
        places = np.flatnonzero(a.chunk_ids[: offsets[-1]] != b.chunk_ids[: offsets[-1]])
        return np.unique(np.searchsorted(offsets, places, side="right"))
    sizes = np.diff(offsets), np.diff(b.offsets[: common + 1])
    same_size = np.flatnonzero(sizes[0] == sizes[1])
    row, left = gather(a.offsets, same_size)
    _, right = gather(b.offsets, same_size)
    unequal = same_size[row[a.chunk_ids[left] != b.chunk_ids[right]]]
    return np.union1d(unequal, np.flatnonzero(sizes[0] != sizes[1])) + 1


def _missing(ids: Ids, others: Ids) -> Ids:
    """Those of the ids that are not among the others, all ascending."""
    place = np.searchsorted(others, ids)
    return ids[np.append(others, -1)[place] != ids] if len(others) else ids


def _slots(order: DataOrder, updates: Ids) -> Ids:
    """(update, chunk) of all slots of some updates."""
    row, position = gather(order.offsets, updates - 1)
    return np.column_stack([updates[row], order.chunk_ids[position]])


def _items_apart(a: DataOrder, b: DataOrder, common: int) -> tuple[list[InjectedItem], list[InjectedItem]]:
    """The items of common updates that only one order has, ascending; in a row, their order counts."""
    of_a, of_b = _items(a, common), _items(b, common)
    rows = {row for row in of_a.keys() | of_b.keys() if of_a.get(row) != of_b.get(row)}
    gone, new = ([item for row in sorted(rows) for item in of.get(row, [])] for of in (of_a, of_b))
    return gone, new


def _items(order: DataOrder, common: int) -> dict[tuple[int, int], list[InjectedItem]]:
    """The items of every row, in their order."""
    found: dict[tuple[int, int], list[InjectedItem]] = {}
    if order.injections is None:
        return found
    columns = (order.injections[name].to_pylist() for name in ITEM)
    for item in zip(*columns, strict=True):
        if item[0] <= common:
            found.setdefault(item[:2], []).append(item)
    return found


def _masked(order: DataOrder, common: int) -> Ids:
    if order.masked is None:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.column_stack([order.masked[name].to_numpy() for name in ("update", "chunk_id")])
    return pairs[pairs[:, 0] <= common]


def _without(pairs: Ids, others: Ids) -> Ids:
    """The pairs that are not among the others, ascending."""
    mine, theirs = (pa.table([rows[:, 0], rows[:, 1]], names=["update", "chunk"]) for rows in (pairs, others))
    left = mine.join(theirs, ["update", "chunk"], join_type="left anti")
    left = left.sort_by([("update", "ascending"), ("chunk", "ascending")])
    return np.column_stack([left[name].to_numpy() for name in ("update", "chunk")]).astype(np.int64)
