"""Put the items of a plan into an order: a new order that says what stands where, and what fell out."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from chunk_provenance.injection.plan_file import find_problems, list_problems
from chunk_provenance.injection.slots import INJECTIONS, count_displaced, read_slots
from chunk_provenance.order import DataOrder, check_store
from chunk_provenance.store import ChunkStore


def inject(order: DataOrder, plan: pa.Table, store: ChunkStore, **info: Any) -> DataOrder:
    """The order with a plan's items in their slots.

    Args:
        order: its ids are copied, not changed; masks stay.
        plan: as `read_injection_plan` gives it.
        store: the chunks of the order.
        info: noted in `order.json`, such as `parent_sha256` and `intervention`.

    Raises:
        ValueError: all that is wrong: an update or row that is not there, two placements in a slot, more
            tokens than the row has, tokens the store's tokenizer does not have, a slot that is held out; or
            the order has injected items already.

    >>> from types import SimpleNamespace
    >>> from chunk_provenance.injection.plan_file import make_injection_plan
    >>> item = {"update": 1, "row": 0, "placement": "prepend", "item_id": "moon/0", "tokens": [1, 2]}
    >>> order = DataOrder(np.array([0, 2]), np.array([5, 3]), np.array([0]))  # chunks 5 and 3 in update 1
    >>> lengths = {"bucket": np.full(6, 8), "length": np.full(6, 7)}
    >>> store = SimpleNamespace(**lengths, num_chunks=6, sha256="abc", vocab_size=9)
    >>> injected = inject(order, make_injection_plan([item]), store)
    >>> injected.ids.tolist(), injected.chunk_ids.tolist()
    ([-1, 3], [5, 3])
    >>> injected.injections.select(["chunk_id", "displaced", "kept"]).to_pylist()
    [{'chunk_id': 5, 'displaced': 1, 'kept': 6}]
    """
    check_store(order, store.sha256)
    if order.injections is not None:
        raise ValueError("the order has injected items already: put all of them into one plan")
    if not plan.num_rows:
        raise ValueError("the plan holds no item: there is nothing to inject")
    if problems := [*find_problems(plan), *_slot_problems(order, plan, store)]:
        raise ValueError(list_problems("the plan does not fit the order", problems))
    table = _place(order, plan, store)
    slots = read_slots(table)
    ids = np.array(order.ids)
    ids[slots.positions(order.offsets)] = slots.ids
    kept = {name: value for name, value in order.info.items() if name != "plan_sha256"}
    return replace(order, ids=ids, injections=table, plan=None, info={**kept, **info})


def _grouped(plan: pa.Table) -> Iterator[tuple[int, int, range]]:
    """Update, row and plan rows of every slot."""
    update, row = plan["update"].to_numpy(), plan["row"].to_numpy()
    opens = np.ones(len(update), dtype=bool)
    opens[1:] = (update[1:] != update[:-1]) | (row[1:] != row[:-1])
    bounds = [*np.flatnonzero(opens).tolist(), len(update)]
    for first, last in pairwise(bounds):
        yield int(update[first]), int(row[first]), range(first, last)


def _slot_problems(order: DataOrder, plan: pa.Table, store: ChunkStore) -> Iterator[str]:
    placement, item_ids = plan["placement"].to_pylist(), plan["item_id"].to_pylist()
    tokens = plan["tokens"].to_pylist()
    slots: set[tuple[int, int]] = set()
    for update, row, items in _grouped(plan):
        where = f"update {update} row {row} ({', '.join(item_ids[item] for item in items)})"
        if (update, row) in slots:
            yield f"{where}: the plan is not sorted by update and row"
        slots.add((update, row))
        if not 1 <= update <= order.num_updates:
            yield f"{where}: the order has updates 1 to {order.num_updates}"
            continue
        start, end = order.offsets[update - 1 : update + 1].tolist()
        if not 0 <= row < end - start:
            yield f"{where}: the update has rows 0 to {end - start - 1}"
            continue
        if len(kinds := sorted({placement[item] for item in items})) > 1:
            yield f"{where}: placements {kinds} in one row, a row has one"
        if order.trained is not None and not order.trained[start + row]:
            yield f"{where}: the row's chunk {order.ids[start + row]} is held out, its slot stays"
        if order.ids[start + row] < 0:
            yield f"{where}: the row holds the injected item {order.ids[start + row]} already"
            continue
        if order.ids[start + row] >= store.num_chunks:
            yield f"{where}: the chunk {order.ids[start + row]}, the store has {store.num_chunks} chunks"
            continue
        length = sum(len(tokens[item]) for item in items)
        if length > (bucket := int(store.bucket[order.ids[start + row]])):
            yield f"{where}: {length} tokens, the row has {bucket}"
        if (largest := max((max(tokens[item], default=0) for item in items), default=0)) >= store.vocab_size:
            yield f"{where}: token {largest}, the store's tokenizer has 0 to {store.vocab_size - 1}"


def _place(order: DataOrder, plan: pa.Table, store: ChunkStore) -> pa.Table:
    """The plan with the chunk under each item and what of it falls out and stays."""
    placement = plan["placement"].to_pylist()
    lengths = plan["tokens"].combine_chunks().value_lengths().to_numpy()
    chunk_id, displaced, kept = (np.zeros(plan.num_rows, dtype=np.int64) for _ in range(3))
    for update, row, items in _grouped(plan):
        chunk = int(order.ids[order.offsets[update - 1] + row])
        length = int(store.length[chunk])
        chunk_id[items.start : items.stop] = chunk
        displaced[items.start] = count_displaced(
            placement[items.start],
            item_tokens=int(lengths[items.start : items.stop].sum()),
            chunk_tokens=length,
            bucket=int(store.bucket[chunk]),
        )
        kept[items.start] = length - displaced[items.start]
    columns = [*plan.select(INJECTIONS.names[:-3]).columns, chunk_id, displaced, kept]
    return pa.table(columns, names=INJECTIONS.names).cast(INJECTIONS).combine_chunks()
