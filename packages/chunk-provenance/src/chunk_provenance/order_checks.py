"""Check all of a data order: every id, every update. Reads and sorts all ids, 1 s for 10 M."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError
from chunk_provenance.injection.plan_file import find_problems, list_problems
from chunk_provenance.injection.slots import InjectedSlots, count_displaced
from chunk_provenance.order import DataOrder, Ids, check_store
from chunk_provenance.reverse_index import find_places
from chunk_provenance.store import ChunkStore

BLOCK = 1 << 23
"""Ids looked at together."""


def check_order(order: DataOrder, store: ChunkStore | None = None) -> None:
    """Refuse an order that no trainer could follow, or that was made for another store.

    An update may hold a chunk only once; a mask must name a chunk of its update, and leave one to train on;
    injected items must be as recorded.
    With the store: ids must be chunks of it, and all chunks of an update of one padded length.

    Raises:
        FormatError: the first thing that is wrong, with its update.
    """
    if store is not None:
        check_store(order, store.sha256)
    for first, last in _blocks(order):
        offsets = order.offsets[first : last + 1]
        ids = order.chunk_ids[order.offsets[first] : order.offsets[last]]
        update = np.repeat(np.arange(first + 1, last + 1), np.diff(offsets))
        _check_repeats(update, ids)
        if store is not None:
            _check_range(update, ids, store.num_chunks)
            _check_lengths(update, ids, store.bucket)
    _check_injections(order, store)
    _check_masks(order)


def _blocks(order: DataOrder) -> Iterator[tuple[int, int]]:
    """Runs of updates with about `BLOCK` ids each, as (updates done before, updates done after)."""
    first = 0
    while first < order.num_updates:
        last = int(np.searchsorted(order.offsets, order.offsets[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), order.num_updates)
        yield first, last
        first = last


def _check_repeats(update: Ids, ids: Ids) -> None:
    dense = 0 <= ids.min() <= ids.max() < 1 << 40
    rank = ids if dense else np.unique(ids, return_inverse=True)[1]
    keys = np.sort((update - update[0]) * (int(rank.max()) + 1) + rank)  # a block has fewer than 2^23 updates
    same = keys[1:] == keys[:-1]
    if same.any():
        repeated, place = divmod(int(keys[np.argmax(same)]), int(rank.max()) + 1)
        chunk = ids[np.argmax(rank == place)]
        raise FormatError(
            f"update {update[0] + repeated} holds chunk {chunk} twice: an update sees a chunk once, "
            "make the order again"
        )


def _check_range(update: Ids, ids: Ids, num_chunks: int) -> None:
    if ids.max(initial=-1) >= num_chunks:
        at = int(np.argmax(ids >= num_chunks))
        raise FormatError(
            f"update {update[at]} holds chunk {ids[at]}, the store has chunks 0 to {num_chunks - 1}: "
            "it is an order of another store"
        )


def _check_lengths(update: Ids, ids: Ids, buckets: npt.NDArray[np.int32]) -> None:
    chunk = ids >= 0
    of_update, length = update[chunk], buckets[ids[chunk]]
    differs = (of_update[1:] == of_update[:-1]) & (length[1:] != length[:-1])
    if differs.any():
        at = int(np.argmax(differs))
        raise FormatError(
            f"update {of_update[at]} holds chunks of the padded lengths {length[at]} and {length[at + 1]}: "
            "an update has one"
        )


def _check_injections(order: DataOrder, store: ChunkStore | None) -> None:
    """Refuse ids that stand for no item, items that are not as recorded, and slots that do not add up."""
    negative = np.flatnonzero(order.ids < 0)
    slots = order.injected
    positions = negative[:0] if slots is None else slots.positions(order.offsets)
    if (lost := np.setdiff1d(negative, positions)).size:
        update = int(np.searchsorted(order.offsets, lost[0], side="right"))
        raise FormatError(
            f"update {update} holds {order.ids[lost[0]]}, an injected item that injections.parquet lacks: "
            "inject again"
        )
    if slots is None or order.injections is None:
        return
    if problems := find_problems(order.injections):
        raise FormatError(list_problems("injections.parquet is damaged", problems))
    if store is not None:
        _check_displaced(slots, store)


def _check_displaced(slots: InjectedSlots, store: ChunkStore) -> None:
    length, bucket = store.length[slots.chunk_id], store.bucket[slots.chunk_id]
    for slot, placement in enumerate(slots.placement):
        tokens = int(slots.num_tokens[slot])
        displaced = count_displaced(
            placement, item_tokens=tokens, chunk_tokens=int(length[slot]), bucket=int(bucket[slot])
        )
        where = f"update {slots.update[slot]} row {slots.row[slot]}"
        if tokens > bucket[slot]:
            raise FormatError(f"{where} holds {tokens} injected tokens, its row has {bucket[slot]}")
        if (slots.displaced[slot], slots.kept[slot]) != (displaced, length[slot] - displaced):
            raise FormatError(
                f"{where} says that {slots.displaced[slot]} tokens of chunk {slots.chunk_id[slot]} are "
                f"displaced and {slots.kept[slot]} kept, it must be {displaced} and "
                f"{length[slot] - displaced}: it is an order of another store, or damaged"
            )


def _check_masks(order: DataOrder) -> None:
    if order.masked is None:
        return
    updates, chunks = (order.masked[name].to_numpy() for name in ("update", "chunk_id"))
    missing = find_places(order.ids, order.offsets, updates, chunks) < 0
    if missing.any():
        at = int(np.argmax(missing))
        raise FormatError(
            f"masked.parquet holds chunk {chunks[at]} out of update {updates[at]}, which does not train on it"
        )
    check_targets_left(order)


def check_targets_left(order: DataOrder) -> None:
    """Refuse an order with an update whose every chunk is held out: there would be nothing to train on.

    An injected item is something to train on.

    Raises:
        FormatError: with the first such update.
    """
    if order.trained is None:
        return
    kept = np.add.reduceat(order.trained | (order.ids < 0), order.offsets[:-1], dtype=np.int64)
    if (empty := np.flatnonzero(kept == 0)).size:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise FormatError(
            f"every chunk of update {empty[0] + 1}{more} would be held out, nothing would be left to train "
            "on: replace these chunks instead, or hold out fewer"
        )
