"""Commands that make a new data order out of another one, and say what differs between two."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from chunk_provenance.chunk_lists import ChunkList, read_chunk_list, read_range
from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.interventions import apply_plan, plan_mask, plan_replacement, read_plan
from chunk_provenance.order import DataOrder, Ids, check_store, hash_order, save_order
from chunk_provenance.order_diff import ITEM, OrderDiff, diff_orders
from chunk_provenance.published.opening import open_order, published_files, recognise
from chunk_provenance.schedules import plan_schedule
from chunk_provenance.store import ChunkStore, open_store
from chunk_provenance.store_commands import AsJson, Overwrite, say

FIRST = 10
"""Differences that are printed."""


class How(StrEnum):
    """Values of --how."""

    MASK = "mask"
    REPLACE = "replace"


class Schedule(StrEnum):
    """Values of --schedule."""

    BURST = "burst"
    SPREAD = "spread"


Parent = Annotated[Path, typer.Argument(metavar="ORDER", help="The data order to change; it stays as it is.")]
Chunks = Annotated[
    Path,
    typer.Argument(
        help="The chunks: fact chunks, or any Parquet, JSONL or CSV with a column chunk_id (and fact_id or "
        "entity, to tell groups apart), the .json of 'entity-index query --json', or .txt with one id a line."
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The data order folder to make.")]
Kind = Annotated[str, typer.Option(help="Of fact chunks, take these: subject, answer or shared.")]
Fact = Annotated[list[str] | None, typer.Option(help="Of fact chunks, take this fact only. Repeatable.")]
Store = Annotated[
    Path | None,
    typer.Option(help="The order's chunk store. Without it, a chunk's length is known by its update's size."),
]
Seed = Annotated[int, typer.Option(help="Of all that is chosen at random.", min=0)]


def hold_out(
    order: Parent,
    chunks: Chunks,
    out: Out,
    how: Annotated[
        How,
        typer.Option(
            help="mask: batches stay, the chunks' targets are ignored; replace: others of their length, from "
            "outside the order, take their places (needs --store)."
        ),
    ] = How.MASK,
    store: Store = None,
    kind: Kind = "shared",
    fact: Fact = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Keep a model from training on some chunks; nothing else in the order changes.

    Example: chunk-provenance hold-out order fact_chunks.parquet order-without --fact "Q7259|Q84"
    """
    parent, opened = open_parent(order, store)
    found = read_chunk_list(chunks, order=parent, kind=kind, facts=fact)
    ids = check_known(found.distinct, parent, opened)
    if how is How.MASK:
        plan = plan_mask(parent, ids)
    elif opened is None:
        raise ValueError("--how replace needs --store: that is where other chunks come from")
    else:
        plan = plan_replacement(parent, ids, opened, seed=seed)
    note = {"kind": f"hold-out, {how.value}", "seed": seed, "chunks": describe_source(chunks, kind, fact)}
    save_derived(parent, plan, order, out, store=opened, note=note, overwrite=overwrite)


def reschedule(
    order: Parent,
    chunks: Chunks,
    out: Out,
    schedule: Annotated[
        Schedule,
        typer.Option(help="burst: every --interval updates from a random one on; spread: at random updates."),
    ],
    interval: Annotated[int, typer.Option(help="Updates between two exposures of a burst.", min=1)] = 1,
    window: Annotated[
        str, typer.Option(help="Updates to stay in, both included: 400-500, or 80%-100% of the order.")
    ] = "0%-100%",
    parts: Annotated[
        int, typer.Option(help="Cut the window into so many, and deal the groups to them.", min=1)
    ] = 1,
    store: Store = None,
    kind: Kind = "shared",
    fact: Fact = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Let the chunks of a fact or an entity come in a burst, or spread out, inside a window of updates.

    Each exposure swaps places with a chunk of the same length, in the update of that length nearest to where
    it should come. Chunks of different facts or entities (groups) each have a burst of their own.

    Example: chunk-provenance reschedule order chunks.parquet late --schedule burst --window 80%-100%
    """
    parent, opened = open_parent(order, store)
    found = read_chunk_list(chunks, order=parent, kind=kind, facts=fact)
    check_known(found.distinct, parent, opened)
    first, end = read_range(window, num_updates=parent.num_updates)
    lengths = None if opened is None else lengths_of_updates(parent, opened)
    asked = interval if schedule is Schedule.BURST else None
    found = only_trained(found, parent)
    scheduled = plan_schedule(
        parent, found, interval=asked, window=(first, end), parts=parts, seed=seed, lengths=lengths
    )
    note = {
        "kind": f"schedule, {schedule.value}",
        "interval": asked,
        "window": [first, end - 1],
        "parts": parts,
        "seed": seed,
        "chunks": describe_source(chunks, kind, fact),
    }
    save_derived(parent, scheduled.plan, order, out, store=opened, note=note, overwrite=overwrite)
    print(
        f"exposures scheduled: {scheduled.exposures:,} in {len(found.names):,} group(s), each at most "
        f"{scheduled.farthest:,} updates from where it was asked for"
    )


def swap(
    order: Parent,
    plan: Annotated[
        Path,
        typer.Argument(
            help="Parquet, JSONL or CSV. Swaps: chunk_id, other_chunk_id and, to swap in two updates only, "
            "update, other_update. Or slots: update, chunk_id, new_chunk_id (null: held out)."
        ),
    ],
    out: Out,
    store: Store = None,
    overwrite: Overwrite = False,
) -> None:
    """Let chunks of equal length exchange their places, as a plan says.

    Example: chunk-provenance swap order plan.csv swapped --store store
    """
    parent, opened = open_parent(order, store)
    note = {"kind": "plan", "plan": {"sha256": hash_file(plan)}} if plan.is_file() else {}
    slots = read_plan(plan, parent)
    save_derived(parent, slots, order, out, store=opened, note=note, overwrite=overwrite)


def diff(
    order_a: Annotated[Path, typer.Argument(metavar="ORDER_A", help="A data order.")],
    order_b: Annotated[Path, typer.Argument(metavar="ORDER_B", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Say exactly what changed from one order to another; exit code 1 if a trainer would do anything else.

    Example: chunk-provenance diff order order-without
    """
    found = diff_orders(open_order(order_a), open_order(order_b))
    print(json.dumps(diff_record(found), indent=2) if as_json else "\n".join(diff_lines(found)))
    if not found.same:
        raise typer.Exit(1)


def open_parent(order: Path, store: Path | None) -> tuple[DataOrder, ChunkStore | None]:
    """The order to change, and its store where it is given."""
    parent = open_order(order)
    opened = None if store is None else open_store(store)
    if opened is not None:
        check_store(parent, opened.sha256)
    return parent, opened


def hash_parent(path: Path) -> str:
    """Identifies the order that is changed: of a published one, the files it is read from."""
    kind = recognise(path)
    if kind == "own":
        return hash_order(path)
    return hash_text("".join(map(hash_file, published_files(path, kind))) or str(path))


def check_known(ids: Ids, order: DataOrder, store: ChunkStore | None) -> Ids:
    """The same ids; refuses ids the store lacks and lists of which nothing is trained on."""
    if store is not None:
        store.check_chunk(int(ids[-1]))
    trained = np.diff(order.steps_of_many(ids)[0]) > 0
    if not trained.any():
        raise ValueError(f"none of the {len(ids)} chunks is trained on in the order: nothing would change")
    if (never := ids[~trained]).size:
        listed = ", ".join(map(str, never[:8])) + (" ..." if len(never) > 8 else "")
        say(f"{len(never)} of {len(ids)} chunks are not trained on in the order anyway: {listed}")
    return ids


def lengths_of_updates(order: DataOrder, store: ChunkStore) -> Ids:
    """The padded length of every update."""
    lengths: Ids = store.bucket[order.chunk_ids[order.offsets[:-1]]].astype(np.int64)  # an update has one
    return lengths


def only_trained(chunks: ChunkList, order: DataOrder) -> ChunkList:
    """Without chunks, and groups, that the order does not train on."""
    trained = np.diff(order.steps_of_many(chunks.chunk_ids)[0]) > 0
    left, group = np.unique(chunks.group[trained], return_inverse=True)
    return ChunkList(chunks.chunk_ids[trained], group, [chunks.names[old] for old in left])


def describe_source(chunks: Path, kind: str, facts: list[str] | None) -> dict[str, Any]:
    """What the list of chunks was: its hash and, of fact chunks, kind, facts and evidence thresholds."""
    metadata = pq.read_schema(chunks).metadata or {} if chunks.suffix == ".parquet" else {}
    source: dict[str, Any] = {"sha256": hash_file(chunks)}
    if metadata.get(b"format") == b"fact-chunks":
        source |= {"kind": kind, "facts": facts}
        if b"evidence" in metadata:
            source["evidence"] = json.loads(metadata[b"evidence"])
    return source


def save_derived(
    parent: DataOrder,
    plan: pa.Table,
    path: Path,
    out: Path,
    *,
    store: ChunkStore | None,
    note: dict[str, Any],
    overwrite: bool,
) -> None:
    """Apply a plan, write the new order, say what changed."""
    changed = apply_plan(
        parent,
        plan,
        buckets=None if store is None else store.bucket,
        parent_sha256=hash_parent(path),
        intervention=note,
    )
    save_order(changed, out, overwrite=overwrite)
    held_out = plan["new_chunk_id"].null_count
    updates = len(np.unique(plan["update"].to_numpy()))
    print(
        f"{plan.num_rows - held_out:,} slots have another chunk, {held_out:,} are held out, "
        f"in {updates:,} of {parent.num_updates:,} updates, {out}"
    )


def diff_record(diff: OrderDiff) -> dict[str, Any]:
    """The differences as JSON writes them."""
    slots = ("slots_out", "slots_in", "masked_out", "masked_in")
    return {
        "same": diff.same,
        "num_updates": list(diff.num_updates),
        **{
            name: getattr(diff, name).tolist()
            for name in ("changed_updates", "reordered", "chunks_out", "chunks_in", *slots)
        },
        **{
            name: [dict(zip(ITEM, item, strict=True)) for item in getattr(diff, name)]
            for name in ("items_out", "items_in")
        },
        "info": {name: list(values) for name, values in diff.info.items()},
    }


def diff_lines(diff: OrderDiff) -> list[str]:
    """The differences for people to read; the first of each kind."""
    a, b = diff.num_updates
    lines = [f"{len(diff.changed_updates):,} of {min(a, b):,} updates differ"]
    if a != b:
        lines.append(f"{a:,} updates in A, {b:,} in B")
    for name, words in (
        ("slots_out", "slots that lose their chunk"),
        ("slots_in", "slots with another chunk"),
        ("masked_out", "slots held out"),
        ("masked_in", "slots no longer held out"),
    ):
        lines += _listed(
            words,
            [f"{chunk} at {update}" for update, chunk in getattr(diff, name)[:FIRST]],
            len(getattr(diff, name)),
        )
    for name, words in (("items_out", "items no longer injected"), ("items_in", "items injected")):
        items = getattr(diff, name)
        lines += _listed(
            words,
            [f"{item_id} at {update} row {row}" for update, row, item_id, *_ in items[:FIRST]],
            len(items),
        )
    for name, words in (
        ("reordered", "updates with the same chunks in other rows"),
        ("chunks_out", "chunks no longer trained on at all"),
        ("chunks_in", "chunks that were not trained on before"),
    ):
        lines += _listed(
            words, [str(value) for value in getattr(diff, name)[:FIRST]], len(getattr(diff, name))
        )
    if diff.info:
        lines.append(f"order.json differs in {', '.join(diff.info)}")
    return lines


def _listed(words: str, first: list[str], number: int) -> list[str]:
    more = " ..." if number > len(first) else ""
    return [f"{words}: {number:,} ({', '.join(first)}{more})"] if number else []
