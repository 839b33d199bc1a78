"""When each fact was injected: the items that state it, and their updates.

An item states a fact if the fact's subject and answer are both among the item's entities, or if it was made
of that fact (`FACT_ID/VARIANT`). An item counts once per update.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.csr import Ints
from chunk_provenance.injection.plan_file import fact_of
from chunk_provenance.order import DataOrder

Item = tuple[str, tuple[str, ...]]
"""An item's id and its entities."""


@dataclass(frozen=True)
class ItemUpdates:
    """The items that state some facts, and the updates of each item."""

    fact: Ints  # (pairs,) place in the list of facts
    item: Ints  # (pairs,) number of an item that states it
    offsets: Ints  # (items + 1,)
    updates: Ints
    """The updates of item `i` are `updates[offsets[i] : offsets[i + 1]]`, ascending, each once."""


def find_item_updates(
    order: DataOrder, fact_ids: Sequence[str], facts: pa.Table | None = None
) -> ItemUpdates:
    """Which injected items state which of the facts, and when they were trained on.

    Args:
        order: an order with injected items, or without any.
        fact_ids: the facts to look up.
        facts: `fact_id`, `subject`, `answer`; without it (or where they are null) an item counts only for
            the fact it was made of.
    """
    items = _updates_of_items(order)
    numbers = {item: number for number, item in enumerate(items)}
    pairs = sorted({(fact, numbers[item]) for fact, item in _stated(list(items), fact_ids, facts)})
    fact, number = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    lengths = [len(updates) for updates in items.values()]
    flat = [update for updates in items.values() for update in sorted(updates)]
    return ItemUpdates(fact, number, np.cumsum([0, *lengths]), np.array(flat, dtype=np.int64))


def _updates_of_items(order: DataOrder) -> dict[Item, set[int]]:
    if order.injections is None:
        return {}
    columns = (order.injections[name].to_pylist() for name in ("item_id", "entities", "update"))
    found: dict[Item, set[int]] = {}
    for item_id, entities, update in zip(*columns, strict=True):
        found.setdefault((item_id, tuple(entities)), set()).add(update)
    return found


def _stated(items: Sequence[Item], fact_ids: Sequence[str], facts: pa.Table | None) -> list[tuple[int, Item]]:
    """Pairs of a fact's place and an item that states it."""
    place = {fact_id: number for number, fact_id in enumerate(fact_ids)}
    found = [(place[own], item) for item in items if (own := fact_of(item[0])) in place]
    named: dict[str, set[Item]] = {}
    for item in items:
        for entity in item[1]:
            named.setdefault(entity, set()).add(item)
    if facts is None or not named:
        return found
    entities = pa.array(sorted(named), pa.string())
    both = pc.and_(pc.is_in(facts["subject"], entities), pc.is_in(facts["answer"], entities))
    for row in facts.select(["fact_id", "subject", "answer"]).filter(both).to_pylist():
        if row["fact_id"] in place:
            shared = named[row["subject"]] & named[row["answer"]]
            found += [(place[row["fact_id"]], item) for item in shared]
    return found


def stating_items(
    order: DataOrder, fact_id: str, facts: pa.Table | None = None
) -> list[tuple[str, str, list[int]]]:
    """The items that state one fact: id, text and updates (ascending), items in the order of their first."""
    if order.injections is None:
        return []
    items = _updates_of_items(order)
    columns = (order.injections[name].to_pylist() for name in ("item_id", "text"))
    texts = dict(reversed(list(zip(*columns, strict=True))))  # the first of an id stays
    stating = {item for _, item in _stated(list(items), [fact_id], facts)}
    return [(item[0], texts[item[0]], sorted(updates)) for item, updates in items.items() if item in stating]


def injected_facts(order: DataOrder) -> set[str]:
    """The ids of the facts that the order's items were made of."""
    return set() if order.injected is None else {fact_of(item) for item in order.injected.item_ids}


def items_at(order: DataOrder, update: int) -> list[dict[str, Any]]:
    """The rows of an update that hold items: which ones, where, and what of the chunk there is left."""
    if order.injected is None or order.injections is None:
        return []
    return [_describe(order, slot) for slot in order.injected.of_update(update)]


def items_on(order: DataOrder, chunk_id: int) -> list[dict[str, Any]]:
    """The places of a chunk into which items were put, as `items_at` describes them."""
    if order.injected is None:
        return []
    return [_describe(order, slot) for slot in np.flatnonzero(order.injected.chunk_id == chunk_id).tolist()]


def _describe(order: DataOrder, slot: int) -> dict[str, Any]:
    slots = order.injected
    assert slots is not None
    items = slots.items_of(slot)
    return {
        "step": int(slots.update[slot]),
        "row": int(slots.row[slot]),
        "placement": slots.placement[slot],
        "items": [slots.item_ids[item] for item in items],
        "tokens": int(slots.num_tokens[slot]),
        "chunk_id": int(slots.chunk_id[slot]),
        "displaced": int(slots.displaced[slot]),
        "kept": int(slots.kept[slot]),
    }


def describe_injection(place: dict[str, Any]) -> str:
    """A row with items in words.

    >>> place = {"items": ["7/0"], "placement": "prepend", "chunk_id": 3, "displaced": 2, "kept": 4}
    >>> describe_injection(place)
    '7/0 before chunk 3 (2 of its tokens displaced)'
    """
    where = {"prepend": "before", "append_doc": "after", "replace": "instead of"}[place["placement"]]
    if place["placement"] == "replace":
        lost = ""
    elif not place["kept"]:
        lost = " (displaced whole)"
    else:
        lost = f" ({place['displaced']} of its tokens displaced)" if place["displaced"] else ""
    return f"{' + '.join(place['items'])} {where} chunk {place['chunk_id']}{lost}"
