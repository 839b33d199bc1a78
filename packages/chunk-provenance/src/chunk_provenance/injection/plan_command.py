"""The command `inject plan`: facts and a schedule to a plan."""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.injection.fact_file import InjectableFact, read_injectable_facts
from chunk_provenance.injection.metrics_command import Compat
from chunk_provenance.injection.plan_file import write_injection_plan
from chunk_provenance.injection.planning import (
    Planned,
    Shape,
    Shapes,
    describe_plan,
    plan_injections,
    shapes_of,
)
from chunk_provenance.injection.schedules import Schedule, fka_schedule, ke_schedule, parse_group
from chunk_provenance.learning_commands import check_file_free
from chunk_provenance.order import check_store
from chunk_provenance.published import open_order
from chunk_provenance.store import ChunkStore, open_store
from chunk_provenance.store_commands import AsJson, Overwrite
from chunk_provenance.tokenizing import load_encoder


class ScheduleName(StrEnum):
    """Values of --schedule."""

    FKA = "fka"
    KE = "ke"
    GENERAL = "general"


class Placement(StrEnum):
    """Values of --placement."""

    PREPEND = "prepend"
    REPLACE = "replace"
    APPEND_DOC = "append_doc"


Facts = Annotated[
    list[Path],
    typer.Argument(
        metavar="FACTS.json...",
        help="Facts: JSON lists of records with train_context, paraphrases, mem_input, mem_target, gen_*, "
        "hard_gen_* and, of your own, id and entities. Several files are read one after the other.",
    ),
]


def plan(
    facts: Facts,
    out: Annotated[Path, typer.Option(help="The plan to write, .parquet.")],
    schedule: Annotated[
        ScheduleName,
        typer.Option(
            help="fka: facts 0-39 paraphrased, 40-79 duplicated, 80-119 once, at updates 1, 101, ..., 901; "
            "ke: facts 0-69 paraphrased, 70-129 six at a time, at updates 160, 320, ..., 1600; general: "
            "as the other options say. They also change fka and ke."
        ),
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json; without it, that of --store.")
    ] = None,
    order: Annotated[
        Path | None, typer.Option(help="The order that the plan is for: it says how many rows an update has.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The order's chunk store: how long the rows are.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Instead of --order: rows of every update, over all devices.", min=1)
    ] = None,
    seq_length: Annotated[
        int | None, typer.Option(help="Instead of --order: tokens of every row.", min=1)
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="FACTS=VARIANTS, in the order of the rows; repeatable. FACTS: positions from 0 (0-39,50), "
            "ids, or all. VARIANTS: paraphrase (the original, then each paraphrase), duplicate (the original "
            "each time), once (the original, first time), split (originals dealt to the injections), or "
            "numbers, one for each injection (0,1,1: 0 is the original)."
        ),
    ] = None,
    start: Annotated[int | None, typer.Option(help="Update of the first injection, from 1.", min=1)] = None,
    interval: Annotated[
        int | None, typer.Option(help="Updates from one injection to the next.", min=1)
    ] = None,
    count: Annotated[int | None, typer.Option(help="Injections in an epoch.", min=1)] = None,
    group_spacing: Annotated[
        int, typer.Option(help="Updates by which each group comes later than the one before.", min=0)
    ] = 0,
    epochs: Annotated[int, typer.Option(help="How often everything is repeated.", min=1)] = 1,
    epoch_updates: Annotated[
        int | None,
        typer.Option(help="Updates from one repetition to the next [default: interval x count].", min=1),
    ] = None,
    placement: Annotated[
        Placement,
        typer.Option(
            help="prepend: before the row's chunk, whose end falls out; append_doc: after it; replace: alone."
        ),
    ] = Placement.PREPEND,
    eos: Annotated[bool, typer.Option(help="End every item with the end token.")] = True,
    eos_token: Annotated[
        str | None, typer.Option(help="The tokenizer's end token, where it is not one of the usual.")
    ] = None,
    compat: Annotated[
        Compat | None,
        typer.Option(
            help="upstream: deal items to rows as the published code: up to 64 rows, join items so that "
            "every row has some; with more, drop the items that have none; cut what is too long. Says what "
            "was lost."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Plan which fact comes to which row of which update. Updates count from 1.

    Without --compat, an update with more items than rows, or an item longer than its row, is refused.

    Example: chunk-provenance inject plan facts.json --schedule general --group all=paraphrase --start 50
    --interval 10 --count 4 --order order --store store --out plan.parquet
    """
    check_parquet_free(out, overwrite=overwrite)
    known = read_injectable_facts(facts)
    opened = None if store is None else open_store(store)
    shapes = find_shapes(order, opened, rows, seq_length)
    encoder = load_encoder(find_tokenizer(tokenizer, opened), eos_token=eos_token)
    wanted = make_schedule(schedule, group or [], known, start=start, interval=interval, count=count)
    wanted = replace(wanted, group_spacing=group_spacing, epochs=epochs, epoch_updates=epoch_updates)
    how: dict[str, Any] = {"placement": placement.value, "eos": eos, "compat": compat is not None}
    planned = plan_injections(known, wanted, encoder, shapes=shapes, **how)
    note = describe_plan(schedule.value, wanted, known, **how)
    hashes = json.dumps([hash_file(path) for path in facts])
    write_injection_plan(
        planned.plan, out, schedule=note, facts_sha256=hashes, tokenizer_sha256=hash_text(encoder.content)
    )
    summary = summarize_plan(planned)
    print(json.dumps(summary, indent=2) if as_json else plan_line(summary, out))


def find_tokenizer(tokenizer: Path | None, store: ChunkStore | None) -> Path:
    """The tokenizer that is named, else that of the store."""
    if tokenizer is not None:
        return tokenizer
    if store is None:
        raise ValueError("give --tokenizer, or --store to take the tokenizer of the chunk store")
    return store.path / "tokenizer.json"


def find_shapes(
    order: Path | None, store: ChunkStore | None, rows: int | None, seq_length: int | None
) -> Shapes:
    """Rows of the updates: those of an order, or the same for all."""
    if order is not None:
        if store is None or rows is not None or seq_length is not None:
            raise ValueError("--order goes with --store, and without --rows and --seq-length")
        opened = open_order(order)
        check_store(opened, store.sha256)
        return shapes_of(opened, store)
    if rows is None or seq_length is None:
        raise ValueError("give --order and --store, or --rows and --seq-length: how many items fit?")
    shape = Shape(rows, seq_length)
    return lambda update: shape


def make_schedule(
    name: ScheduleName,
    groups: Sequence[str],
    facts: Sequence[InjectableFact],
    *,
    start: int | None,
    interval: int | None,
    count: int | None,
) -> Schedule:
    """The schedule that the options ask for; `ke` starts at its interval if nothing else is said."""
    parsed = tuple(parse_group(words, facts) for words in groups)
    given = {key: value for key, value in (("interval", interval), ("count", count)) if value is not None}
    if name is ScheduleName.GENERAL:
        if not parsed or (interval is None and (count or 1) > 1):
            raise ValueError(
                "--schedule general needs at least one --group, and --interval if --count is above 1"
            )
        return Schedule(start or 1, interval or 1, count or 1, parsed)
    made = fka_schedule(parsed, **given) if name is ScheduleName.FKA else ke_schedule(parsed, **given)
    return made if start is None else replace(made, start=start)


def summarize_plan(planned: Planned) -> dict[str, Any]:
    """How much is injected when, and what was lost."""
    plan = planned.plan
    update = plan["update"].to_numpy()
    lengths = plan["tokens"].combine_chunks().value_lengths().to_numpy()
    slots = np.unique(update << 32 | plan["row"].to_numpy(), return_inverse=True)[1]
    return {
        "items": plan.num_rows,
        "facts": len({item.rpartition("/")[0] for item in plan["item_id"].to_pylist()}),
        "updates": len(np.unique(update)),
        "first_update": int(update.min()),
        "last_update": int(update.max()),
        "tokens": int(lengths.sum()),
        "most_tokens_in_a_row": int(np.bincount(slots, weights=lengths).max(initial=0)),
        "dropped_items": planned.dropped_items,
        "cut_tokens": planned.cut_tokens,
    }


def plan_line(summary: dict[str, Any], out: Path) -> str:
    """The summary in words."""
    line = (
        f"{summary['items']:,} items of {summary['facts']:,} facts in {summary['updates']:,} updates, "
        f"{summary['first_update']:,} to {summary['last_update']:,}; {summary['tokens']:,} tokens, at most "
        f"{summary['most_tokens_in_a_row']:,} in a row, {out}"
    )
    if summary["dropped_items"] or summary["cut_tokens"]:
        line += (
            f"\nlost as in the published code: {summary['dropped_items']:,} items, "
            f"{summary['cut_tokens']:,} tokens of others"
        )
    return line


def check_parquet_free(out: Path, *, overwrite: bool) -> None:
    """Refuse a name that is no Parquet file's, or taken."""
    if out.suffix != ".parquet":
        raise ValueError(f"{str(out)!r} must end in .parquet")
    check_file_free(out, overwrite=overwrite)
