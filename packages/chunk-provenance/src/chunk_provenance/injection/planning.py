"""From facts and a schedule to a plan: encode the texts, deal the items of an update to its rows.

An item has a row of its own, item i the row i. The published trainers did otherwise where an update has 64
rows or fewer, or fewer rows than items: `compat` does what they did (`deal_as_published`).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.injection.fact_file import InjectableFact
from chunk_provenance.injection.plan_file import PLACEMENTS, list_problems, make_injection_plan
from chunk_provenance.injection.schedules import Item, Schedule, schedule_items
from chunk_provenance.order import DataOrder
from chunk_provenance.store import ChunkStore
from chunk_provenance.tokenizing import TextEncoder

Tokens = npt.NDArray[np.uint32]
UPSTREAM_ROWS = 128
"""The published code joins items where this, divided by the rows, is more than 1."""


@dataclass(frozen=True)
class Shape:
    """The rows of an update."""

    num_rows: int
    length: int
    """Tokens of a row, padding included."""


Shapes = Callable[[int], Shape | None]
"""The shape of an update; None for one that is not there."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what the published rule left out of it."""

    plan: pa.Table
    dropped_items: int = 0
    """Items beyond the last row, or behind the end of their row."""
    cut_tokens: int = 0
    """Tokens of the other items that fell off the end of their row."""


def shapes_of(order: DataOrder, store: ChunkStore) -> Shapes:
    """The shapes of an order's updates."""

    def shape(update: int) -> Shape | None:
        if not 1 <= update <= order.num_updates:
            return None
        batch = order.batch(update)
        chunks = batch[batch >= 0]
        return Shape(len(batch), int(store.bucket[chunks].max(initial=0)))

    return shape


def plan_injections(
    facts: Sequence[InjectableFact],
    schedule: Schedule,
    encoder: TextEncoder,
    *,
    shapes: Shapes,
    placement: str = "prepend",
    eos: bool = True,
    compat: bool = False,
) -> Planned:
    """Plan which item comes to which row of which update.

    Args:
        facts: their texts are the items.
        schedule: when which fact comes, in which variant.
        encoder: gives the tokens, the end token last.
        shapes: rows of every update, and their length.
        placement: of all items: prepend, replace or append_doc.
        eos: keep the end token.
        compat: deal the items to rows as the published trainers did.

    Raises:
        ValueError: all that is wrong: the schedule and the facts, an update that is not there, more items
            than rows, an item longer than its row.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"no placement {placement!r}: it is one of {', '.join(PLACEMENTS)}")
    scheduled = schedule_items(schedule, facts)
    tokens = encode_items(
        facts, sorted({item for items in scheduled.values() for item in items}), encoder, eos=eos
    )
    if problems := list(_shape_problems(facts, scheduled, tokens, shapes, compat=compat)):
        raise ValueError(list_problems("the items do not fit into their updates", problems))
    rows, dropped, cut = [], 0, 0
    for update, items in scheduled.items():
        shape = shapes(update)
        assert shape is not None
        lengths = [len(tokens[item]) for item in items]
        dealt = (
            deal_as_published(lengths, num_rows=shape.num_rows, length=shape.length)
            if compat
            else [[(number, length)] for number, length in enumerate(lengths)]
        )
        for row, parts in enumerate(dealt):
            for number, kept in parts:
                fact, variant = items[number]
                rows.append(
                    {
                        "update": update,
                        "row": row,
                        "placement": placement,
                        "item_id": f"{facts[fact].fact_id}/{variant}",
                        "tokens": tokens[items[number]][:kept],
                        "text": facts[fact].texts[variant],
                        "entities": list(facts[fact].entities),
                    }
                )
                cut += lengths[number] - kept
        dropped += len(items) - sum(map(len, dealt))
    return Planned(make_injection_plan(rows), dropped, cut)


def deal_as_published(lengths: Sequence[int], *, num_rows: int, length: int) -> list[list[tuple[int, int]]]:
    """The items of every row, and how many tokens of each are left, as the published trainers have it.

    With at most 64 rows the items are joined into as many runs as there are rows, the first runs one item
    longer where they cannot be equal; with more, item i has row i and those without a row are dropped. What
    stands behind the end of a row falls off.

    Args:
        lengths: tokens of every item.
        num_rows: rows of the update, over all devices.
        length: tokens of a row.

    >>> deal_as_published([2, 2, 2, 2, 2], num_rows=2, length=5)
    [[(0, 2), (1, 2), (2, 1)], [(3, 2), (4, 2)]]
    """
    joined = UPSTREAM_ROWS // num_rows > 1
    runs: list[list[int]] = (
        [run.tolist() for run in np.array_split(np.arange(len(lengths)), num_rows)]
        if joined
        else [[number] for number in range(min(len(lengths), num_rows))]
    )
    dealt = []
    for run in runs:
        begins = np.cumsum([0, *(lengths[number] for number in run)]).tolist()
        kept = [
            (number, min(lengths[number], length - begin)) for number, begin in zip(run, begins, strict=False)
        ]
        dealt.append([(number, left) for number, left in kept if left > 0])
    return dealt


def encode_items(
    facts: Sequence[InjectableFact], items: Sequence[Item], encoder: TextEncoder, *, eos: bool
) -> dict[Item, Tokens]:
    """The tokens of items, with the end token last or without it."""
    encoded = encoder.encode([facts[fact].texts[variant] for fact, variant in items])
    bounds = encoded.doc_bounds.tolist()
    return {
        item: encoded.ids[bounds[number] : bounds[number + 1] - (not eos)]
        for number, item in enumerate(items)
    }


def _shape_problems(
    facts: Sequence[InjectableFact],
    scheduled: dict[int, list[Item]],
    tokens: dict[Item, Tokens],
    shapes: Shapes,
    *,
    compat: bool,
) -> Iterator[str]:
    for update, items in scheduled.items():
        shape = shapes(update)
        if shape is None:
            yield f"update {update}: the order has no such update"
            continue
        if compat:
            if UPSTREAM_ROWS // shape.num_rows > 1 and len(items) < shape.num_rows:
                few = f"{len(items)} items for {shape.num_rows} rows"
                yield f"update {update}: {few}, too few for the published code"
            continue
        if len(items) > shape.num_rows:
            yield f"update {update}: {len(items)} items for {shape.num_rows} rows"
        for fact, variant in items:
            if (length := len(tokens[fact, variant])) > shape.length:
                name = f"{facts[fact].fact_id}/{variant}"
                yield f"update {update}: item {name} has {length} tokens, a row has {shape.length}"


def describe_plan(
    name: str,
    schedule: Schedule,
    facts: Sequence[InjectableFact],
    **more: Any,
) -> str:
    """What a plan's metadata says of its schedule: JSON with sorted keys, facts by their ids."""
    groups = [
        {"facts": [facts[fact].fact_id for fact in group.facts], "variants": group.variants}
        for group in schedule.groups
    ]
    content = {"name": name, **asdict(schedule), "groups": groups, "epoch_updates": schedule.period, **more}
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
