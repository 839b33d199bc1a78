"""Change a data order on purpose: hold chunks out, replace them, swap them. A plan in, a new order out.

A plan lists slots: in update `update`, the place of `chunk_id` goes to `new_chunk_id`, or, where that is
null, the chunk stays and its targets are ignored. All other slots, and the number and sizes of all updates,
stay as they are, so that two runs differ in nothing else. In memory: one copy of the order's ids.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.csr import gather
from chunk_provenance.formats import FormatError
from chunk_provenance.injection.rows import update_chunks
from chunk_provenance.order import MASKED, PLAN, DataOrder, Ids
from chunk_provenance.order_checks import check_targets_left
from chunk_provenance.reverse_index import find_places
from chunk_provenance.store import ChunkStore
from chunk_provenance.tables import read_user_table

SWAPS = pa.schema([(name, pa.int64()) for name in ("chunk_id", "other_chunk_id", "update", "other_update")])


def read_plan(path: Path, order: DataOrder) -> pa.Table:
    """Read a plan, of slots or of swaps (Parquet, JSONL or CSV), as a plan of slots of the order.

    Raises:
        FormatError: it has the columns of neither.
        ValueError: see `plan_swaps`.
    """
    schema = pa.unify_schemas([SWAPS, PLAN])
    table = read_user_table(path, "plan", schema, optional=tuple(set(schema.names) - {"chunk_id"}))
    if not table["other_chunk_id"].null_count:
        return plan_swaps(order, table.select(SWAPS.names))
    if table["update"].null_count:
        raise FormatError(
            f"{str(path)!r} must have other_chunk_id in every row (a plan of swaps), or update and, null "
            "where the chunk is held out, new_chunk_id (a plan of slots)"
        )
    return table.select(PLAN.names)


def plan_mask(order: DataOrder, chunk_ids: Ids) -> pa.Table:
    """Hold chunks out of every update that trains on them; ids and batches stay."""
    row, update = _slots(order, chunk_ids)
    return make_plan(update, chunk_ids[row], None)


def plan_replacement(order: DataOrder, chunk_ids: Ids, store: ChunkStore, *, seed: int) -> pa.Table:
    """Put another chunk in the place of each, everywhere the same one, from outside the order.

    It has the same padded length and, as long as there are such, the same number of tokens.

    Raises:
        ValueError: too few chunks of a padded length are outside the order.
    """
    row, update = _slots(order, chunk_ids)
    leaving = np.unique(chunk_ids[row])
    outside = np.ones(store.num_chunks, dtype=bool)
    outside[order.chunk_ids] = False
    outside[chunk_ids[chunk_ids < store.num_chunks]] = False
    free = np.random.default_rng(seed).permutation(np.flatnonzero(outside))
    _check_enough(store.bucket[leaving], store.bucket[free])
    substitute = np.full(len(leaving), -1)
    for length in np.unique(store.length[leaving]):
        wanted = np.flatnonzero(store.length[leaving] == length)
        for bucket in np.unique(store.bucket[leaving[wanted]]):
            same = wanted[store.bucket[leaving[wanted]] == bucket]
            found = free[(store.length[free] == length) & (store.bucket[free] == bucket)][: len(same)]
            substitute[same[: len(found)]] = found
    free = free[~np.isin(free, substitute)]
    for bucket in np.unique(store.bucket[leaving[substitute < 0]]):
        same = np.flatnonzero((substitute < 0) & (store.bucket[leaving] == bucket))
        substitute[same] = free[store.bucket[free] == bucket][: len(same)]
    return make_plan(update, chunk_ids[row], substitute[np.searchsorted(leaving, chunk_ids[row])])


def _check_enough(needed: npt.NDArray[np.int32], free: npt.NDArray[np.int32]) -> None:
    for bucket, number in zip(*np.unique(needed, return_counts=True), strict=True):
        if (found := np.count_nonzero(free == bucket)) < number:
            raise ValueError(
                f"chunks of padded length {bucket} to replace: {number}, outside the order: {found}; "
                "hold them out with --how mask, or train on fewer updates"
            )


def plan_swaps(order: DataOrder, swaps: pa.Table) -> pa.Table:
    """Exchange the places of two chunks: in the two updates given or, where none are, all of their places.

    Raises:
        ValueError: a chunk is not in the order, or a row names one update only.
    """
    columns = {name: _filled(swaps[name]) for name in SWAPS.names}
    chunk, other = columns["chunk_id"], columns["other_chunk_id"]
    if (same := np.flatnonzero(chunk == other)).size:
        raise ValueError(f"row {same[0] + 1} of the swap plan swaps chunk {chunk[same[0]]} with itself")
    half = (columns["update"] < 0) != (columns["other_update"] < 0)
    if half.any():
        raise ValueError(
            f"row {int(np.argmax(half)) + 1} of the swap plan names one update: give both, or none to swap "
            "all places of the two chunks"
        )
    for ids in (chunk, other):
        _check_in_order(order, ids)
    everywhere = columns["update"] < 0
    parts = []
    for mine, yours, update in ((chunk, other, "update"), (other, chunk, "other_update")):
        named = ~everywhere
        parts.append((columns[update][named], mine[named], yours[named]))
        row, slot = _slots(order, mine[everywhere])
        parts.append((slot, mine[everywhere][row], yours[everywhere][row]))
    return make_plan(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def make_plan(updates: Ids, chunk_ids: Ids, new_chunk_ids: Ids | None) -> pa.Table:
    """A plan, sorted by update and chunk; `new_chunk_ids` None holds the chunks out."""
    by_slot = np.lexsort((chunk_ids, updates))
    new = pa.nulls(len(updates), pa.int64()) if new_chunk_ids is None else pa.array(new_chunk_ids[by_slot])
    return pa.table([updates[by_slot], chunk_ids[by_slot], new], schema=PLAN)


def apply_plan(
    order: DataOrder, plan: pa.Table, *, buckets: npt.NDArray[np.int32] | None = None, **info: Any
) -> DataOrder:
    """The order with the plan's slots changed.

    Args:
        order: its ids are copied, not changed.
        plan: `update`, `chunk_id`, `new_chunk_id`.
        buckets: padded lengths of the store's chunks; without them, chunks whose updates hold equally many
            count as equally long.
        info: noted in `order.json`, such as `parent_sha256` and `intervention`.

    Raises:
        ValueError: a slot is not in the order, held out already or named twice; a new chunk is in the order
            and leaves no place there, has another padded length, or would stand twice in its update; an
            update would have nothing left to train on.
    """
    update, chunk = plan["update"].to_numpy(), plan["chunk_id"].to_numpy()
    new = _filled(plan["new_chunk_id"])
    position = _find_slots(order, update, chunk)
    moved = new >= 0
    _check_newcomers(order, chunk[moved], new[moved])
    _check_lengths(order, update[moved], chunk[moved], new[moved], buckets)
    ids = np.array(order.ids)
    ids[position[moved]] = new[moved]
    held_out = pa.table([update[~moved], chunk[~moved]], schema=MASKED)
    masked = held_out if order.masked is None else pa.concat_tables([order.masked.cast(MASKED), held_out])
    masked = masked.sort_by([("update", "ascending"), ("chunk_id", "ascending")])
    changed = replace(
        order,
        ids=ids,
        masked=masked if masked.num_rows else None,
        plan=plan.select(PLAN.names).cast(PLAN),
        info={**order.info, **info},
    )
    _check_repeats(order.offsets, changed.chunk_ids, np.unique(update[moved]))
    check_targets_left(changed)
    return changed


def _slots(order: DataOrder, chunk_ids: Ids) -> tuple[Ids, Ids]:
    """Which of the chunks, and in which update it is trained on, for all their slots."""
    offsets, updates = order.steps_of_many(chunk_ids)
    return np.repeat(np.arange(len(chunk_ids)), np.diff(offsets)), updates


def _filled(column: pa.ChunkedArray) -> Ids:
    """The values, -1 for null."""
    values: Ids = column.fill_null(-1).to_numpy()
    return values


def _check_in_order(order: DataOrder, chunk_ids: Ids) -> None:
    missing = np.flatnonzero(np.diff(order.steps_of_many(chunk_ids)[0]) == 0)
    if missing.size:
        raise ValueError(
            f"chunk {chunk_ids[missing[0]]} is not trained on in the order: it has no place to swap"
        )


def _find_slots(order: DataOrder, update: Ids, chunk: Ids) -> Ids:
    """The position in `order.ids` of every (update, chunk)."""
    outside = (update < 1) | (update > order.num_updates)
    if outside.any():
        raise ValueError(
            f"no update {update[np.argmax(outside)]}: the order has updates 1 to {order.num_updates}"
        )
    if chunk.min(initial=0) < 0:
        raise ValueError(f"{chunk.min()} is a row of an injection plan, a plan changes chunks only")
    mine = np.lexsort((chunk, update))
    twice = (np.diff(update[mine]) == 0) & (np.diff(chunk[mine]) == 0)
    if twice.any():
        at = mine[int(np.argmax(twice))]
        raise ValueError(
            f"the plan changes chunk {chunk[at]} in update {update[at]} twice: a slot has one plan"
        )
    positions = find_places(order.ids, order.offsets, update, chunk)
    if (missing := np.flatnonzero(positions < 0)).size:
        at = missing[0]
        check_no_item(order, int(update[at]), int(chunk[at]))
        raise ValueError(f"update {update[at]} does not hold chunk {chunk[at]}: the plan is of another order")
    if order.trained is not None and not order.trained[positions].all():
        at = int(np.argmin(order.trained[positions]))
        raise ValueError(f"chunk {chunk[at]} is held out of update {update[at]} already: its slot stays")
    return positions


def check_no_item(order: DataOrder, update: int, chunk_id: int) -> None:
    """Refuse to change the place of a chunk into which items are injected."""
    if chunk_id in update_chunks(order, update) and chunk_id not in order.batch(update):
        raise ValueError(
            f"an item is injected into the place of chunk {chunk_id} in update {update}: hold out and swap "
            "first, in the order without items, then inject"
        )


def _check_newcomers(order: DataOrder, leaving: Ids, new: Ids) -> None:
    """A chunk that the order trains on already may only come to other places if it leaves one."""
    inside = np.flatnonzero(np.diff(order.steps_of_many(new)[0]) > 0)
    if (stays := new[inside][~np.isin(new[inside], leaving)]).size:
        raise ValueError(
            f"chunk {stays[0]} is in the order already and leaves none of its places: a replacement "
            "comes from outside the order, or swaps"
        )


def _check_lengths(
    order: DataOrder, update: Ids, chunk: Ids, new: Ids, buckets: npt.NDArray[np.int32] | None
) -> None:
    if buckets is not None and len(new) and new.max() >= len(buckets):
        raise ValueError(f"no chunk {new.max()}: the store has chunks 0 to {len(buckets) - 1}")
    if buckets is not None:
        what, here, there = "padded length", buckets[chunk], buckets[new]
    else:
        sizes, starts = np.diff(order.offsets), order.steps_of_many(new)
        if (unknown := np.flatnonzero(np.diff(starts[0]) == 0)).size:
            raise ValueError(
                f"chunk {new[unknown[0]]} is not in the order, its length is unknown: name the chunk store"
            )
        what, here, there = (
            "number of chunks in its update",
            sizes[update - 1],
            sizes[starts[1][starts[0][:-1]] - 1],
        )
    if (differs := np.flatnonzero(here != there)).size:
        at = differs[0]
        raise ValueError(
            f"chunk {chunk[at]} in update {update[at]} has the {what} {here[at]}, chunk {new[at]} has "
            f"{there[at]}: only chunks of one length can take each other's place"
        )


def _check_repeats(offsets: Ids, ids: Ids, updates: Ids) -> None:
    row, position = gather(offsets, updates - 1)
    by_chunk = np.lexsort((ids[position], row))
    row, chunk = row[by_chunk], ids[position[by_chunk]]
    twice = (np.diff(row) == 0) & (np.diff(chunk) == 0)
    if twice.any():
        at = int(np.argmax(twice))
        raise ValueError(
            f"chunk {chunk[at]} would stand twice in update {updates[row[at]]}: it is there already"
        )
