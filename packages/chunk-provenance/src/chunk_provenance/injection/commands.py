"""The commands `inject ...`: facts to a plan, a plan into an order, probes of the facts."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from chunk_provenance.cloze import check_ending, write_probes
from chunk_provenance.hashing import hash_file
from chunk_provenance.injection.applying import inject
from chunk_provenance.injection.fact_file import fact_probes, read_injectable_facts
from chunk_provenance.injection.plan_command import Facts, plan
from chunk_provenance.injection.plan_file import read_injection_plan
from chunk_provenance.intervention_commands import hash_parent, open_parent
from chunk_provenance.learning_commands import Section, check_file_free
from chunk_provenance.order import DataOrder, save_order
from chunk_provenance.sections import command_line, write_section
from chunk_provenance.sections import section as section_of
from chunk_provenance.store import ChunkStore
from chunk_provenance.store_commands import AsJson, Overwrite, say

app = typer.Typer(
    name="inject",
    no_args_is_help=True,
    help="Put facts of your own into a data order: which texts, into which rows of which updates.",
)
"""The group of commands; cli.py adds it."""


app.command()(plan)


@app.command()
def apply(
    order: Annotated[Path, typer.Argument(help="The data order to change; it stays as it is.")],
    plan: Annotated[Path, typer.Argument(help="An injection plan: .parquet, or .jsonl of your own.")],
    store: Annotated[Path, typer.Option(help="The order's chunk store.")],
    out: Annotated[Path, typer.Option(help="The data order folder to make.")],
    section: Section = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put the items of a plan into an order. The new order says what stands where, and what fell out.

    Every other row of every update stays as it is. Hold out and swap before you inject.

    Example: chunk-provenance inject apply order plan.parquet --store store --out injected
    """
    parent, opened = open_parent(order, store)
    assert opened is not None
    items = read_injection_plan(plan)
    note = read_note(items, opened)
    changed = inject(
        parent,
        items,
        opened,
        parent_sha256=hash_parent(order),
        intervention={"kind": "injection", "plan": {"sha256": hash_file(plan), **note}},
    )
    save_order(changed, out, overwrite=overwrite)
    summary = summarize_order(changed)
    words = order_lines(summary, changed, out)
    if section is not None:
        table = injection_table(changed)
        written = section_of(
            "Injected items", command=command_line(), summary=". ".join(words), tables=[table]
        )
        write_section(written, section)
    print(json.dumps(summary, indent=2) if as_json else "\n".join(words))


def read_note(plan: pa.Table, store: ChunkStore) -> dict[str, Any]:
    """What the plan's writer noted; refuses a plan of another tokenizer."""
    noted = {name.decode(): value.decode() for name, value in (plan.schema.metadata or {}).items()}
    made_with, ours = noted.get("tokenizer_sha256"), store.meta["tokenizer"].get("sha256")
    if made_with is None:
        say("the plan does not say which tokenizer it was made with: nothing could be compared")
    elif ours is not None and made_with != ours:
        raise ValueError(
            f"the plan was made with the tokenizer {made_with[:12]}, the store with {ours[:12]}: make the "
            f"plan again with --tokenizer {store.path / 'tokenizer.json'}"
        )
    return {name: json.loads(value) if name != "tokenizer_sha256" else value for name, value in noted.items()}


def summarize_order(order: DataOrder) -> dict[str, int]:
    """What was injected, and what it displaced."""
    slots = order.injected
    assert slots is not None
    return {
        "items": len(slots.item_ids),
        "tokens": len(slots.tokens),
        "rows": len(slots.row),
        "updates": len(np.unique(slots.update)),
        "displaced_tokens": int(slots.displaced.sum()),
        "displaced_chunks": int(np.count_nonzero(slots.displaced)),
        "chunks_not_seen": int(np.count_nonzero(slots.kept == 0)),
    }


def order_lines(summary: dict[str, int], order: DataOrder, out: Path) -> list[str]:
    """The summary in words."""
    items = (
        f"{summary['items']:,} items, {summary['tokens']:,} tokens, in {summary['rows']:,} rows of "
        f"{summary['updates']:,} of {order.num_updates:,} updates, {out}"
    )
    displaced = (
        f"displaced: {summary['displaced_tokens']:,} tokens of {summary['displaced_chunks']:,} chunks, "
        f"{summary['chunks_not_seen']:,} of them whole"
    )
    return [items, displaced]


def injection_table(order: DataOrder) -> dict[str, Any]:
    """What every update with items trains on of them and no longer trains on, as a table of a section."""
    slots = order.injected
    assert slots is not None
    update, slot_of = np.unique(slots.update, return_inverse=True)
    counts = [
        np.bincount(slot_of, weights=weights).astype(int).tolist()
        for weights in (np.diff(slots.first_item), slots.num_tokens, slots.displaced)
    ]
    return {
        "title": "By update",
        "columns": ["update", "items", "their tokens", "tokens displaced"],
        "rows": [list(row) for row in zip(update.tolist(), *counts, strict=True)],
    }


@app.command()
def probes(
    facts: Facts,
    out: Annotated[Path, typer.Option(help="The probes to write, .parquet or .jsonl.")],
    distractors: Annotated[
        int,
        typer.Option(
            help="Give every probe so many wrong answers, targets of other facts' probes. Ranks, and so what "
            "'dynamics' calls known, need some; log-probabilities need none, and are faster without.",
            min=0,
        ),
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the probes of facts as an ordinary probes file: mem, gen and hard_gen are their relations.

    Example: chunk-provenance inject probes facts.json --out probes.jsonl
    """
    check_ending(out)
    check_file_free(out, overwrite=overwrite)
    known = read_injectable_facts(facts)
    table = fact_probes(known, num_distractors=distractors)
    if not table.num_rows:
        raise ValueError("the facts have no probes: give them mem_input and mem_target, gen_*, hard_gen_*")
    write_probes(table, out)
    print(f"{table.num_rows:,} probe{'s' * (table.num_rows != 1)} of {len(known):,} facts, {out}")
