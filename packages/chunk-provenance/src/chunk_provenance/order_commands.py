"""Commands that ask a data order: chunk to steps, step to chunks, what a checkpoint has seen, epochs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from chunk_provenance.alignment import check_alignment, read_index
from chunk_provenance.chunk_lists import read_chunk_list, read_steps
from chunk_provenance.formats import write_table
from chunk_provenance.injection.items import describe_injection, items_at, items_on
from chunk_provenance.injection.rows import update_chunks
from chunk_provenance.order import DataOrder, Ids
from chunk_provenance.order_checks import check_order
from chunk_provenance.order_questions import epochs_of, held_out_of, lment_readme_rows, seen_at
from chunk_provenance.published import open_order
from chunk_provenance.reverse_index import distinct
from chunk_provenance.store import open_store
from chunk_provenance.store_commands import AsJson, Overwrite, show_table

FIRST = 20
"""Chunks of an update that a line shows."""

Order = Annotated[Path, typer.Argument(help="A data order.")]
ChunksOption = Annotated[
    Path | None,
    typer.Option(help="Chunks: Parquet, JSONL or CSV with a column chunk_id, or .txt with one id a line."),
]


def steps_of(
    order: Order,
    chunks: Annotated[list[int] | None, typer.Argument(metavar="[CHUNK]...", help="Chunk ids.")] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="More chunks: a file with a column chunk_id, or .txt with an id a line."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a table (chunk_id, step) instead; without any chunk: of all chunks."),
    ] = None,
    lment_rows: Annotated[
        bool,
        typer.Option(
            "--lment-readme-rows",
            help="Print rows of batch_indices.npy, from 0 in every epoch, as LMEnt's README does.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """At which steps were these chunks trained on? A checkpoint of step N has seen the steps 1 to N.

    Example: chunk-provenance steps-of order 17 20 --json
    """
    opened = open_order(order)
    asked = np.array(chunks or [], dtype=np.int64)
    if from_file is not None:
        asked = np.concatenate([asked, read_chunk_list(from_file, order=opened).distinct])
    if out is not None:
        write_steps(opened, asked, out, overwrite=overwrite)
        return
    if not len(asked):
        raise ValueError("name the chunks, or give --from FILE or --out FILE")
    offsets, updates = opened.steps_of_many(asked)
    found = []
    for place, chunk_id in enumerate(asked.tolist()):
        steps = updates[offsets[place] : offsets[place + 1]]
        found.append({"chunk_id": chunk_id, "steps": steps.tolist()})
        if lment_rows:
            epochs, rows = lment_readme_rows(opened, steps)
            found[-1]["lment_readme_rows"] = [
                {"epoch": epoch, "row": row}
                for epoch, row in zip(epochs.tolist(), rows.tolist(), strict=True)
            ]
        if (held_out := held_out_of(opened, chunk_id)).size:
            found[-1]["held_out_at"] = held_out.tolist()
        if places := items_on(opened, chunk_id):
            found[-1]["injected_at"] = places
    print_result(found, [steps_line(row) for row in found], as_json=as_json)


def write_steps(order: DataOrder, chunk_ids: Ids, out: Path, *, overwrite: bool) -> None:
    """Write the reverse index of some chunks, or of all."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another place or give --overwrite")
    if not len(chunk_ids):
        chunk_ids = distinct(order.seen_by(order.num_updates))
    offsets, updates = order.steps_of_many(chunk_ids)
    table = pa.table({"chunk_id": np.repeat(chunk_ids, np.diff(offsets)), "step": updates})
    write_table(table, out, "chunk-steps")
    print(f"{len(updates):,} steps of {len(chunk_ids):,} chunks, {out}")


def steps_line(row: dict[str, Any]) -> str:
    """A chunk's steps in words."""
    if "lment_readme_rows" in row:
        places = [f"row {place['row']} of epoch {place['epoch']}" for place in row["lment_readme_rows"]]
    else:
        places = [str(step) for step in row["steps"]]
    told = ", ".join(places) or "never"
    held_out = ", held out of " + ", ".join(map(str, row["held_out_at"])) if "held_out_at" in row else ""
    items = "".join(
        f", at {place['step']} {describe_injection(place)}" for place in row.get("injected_at", [])
    )
    return f"chunk {row['chunk_id']}: {told}{held_out}{items}"


def chunks_at(
    order: Order,
    steps: Annotated[list[str], typer.Argument(metavar="STEP...", help="A step, or 7-9 for three.")],
    as_json: AsJson = False,
) -> None:
    """Which chunks did the update to a step train on, in the order of its rows?

    Where items are injected, it names them, and says how much of the row's chunk they displaced.

    Example: chunk-provenance chunks-at order 1 7-9
    """
    opened = open_order(order)
    found = []
    for step in read_steps(steps, num_updates=opened.num_updates):
        part = slice(opened.offsets[step - 1], opened.offsets[step])
        ids, chunks = opened.ids[part], update_chunks(opened, step)
        held_out = ids[:0] if opened.trained is None else ids[~opened.trained[part] & (ids >= 0)]
        found.append(
            {
                "step": step,
                "epoch": opened.epoch_of(step),
                "chunk_ids": chunks.tolist(),
                "held_out": held_out.tolist(),
                **({"injected": places} if (places := items_at(opened, step)) else {}),
            }
        )
    print_result(found, [batch_line(row) for row in found], as_json=as_json)


def batch_line(row: dict[str, Any]) -> str:
    """The chunks of an update in words."""
    ids = row["chunk_ids"]
    more = f" and {len(ids) - FIRST} more" if len(ids) > FIRST else ""
    held_out = f", held out: {' '.join(map(str, row['held_out']))}" if row["held_out"] else ""
    places = row.get("injected", [])
    more_items = f" and {len(places) - FIRST} more rows" if len(places) > FIRST else ""
    told = "; ".join(describe_injection(place) for place in places[:FIRST])
    items = f", injected: {told}{more_items}" if places else ""
    listed = " ".join(map(str, ids[:FIRST]))
    return f"step {row['step']}, epoch {row['epoch']}: {listed}{more}{held_out}{items}"


def seen_by(
    order: Order,
    step: Annotated[int, typer.Argument(help="A checkpoint; 0 has seen nothing.")],
    chunks: ChunksOption = None,
    as_json: AsJson = False,
) -> None:
    """What had a checkpoint seen: of all chunks, or how often and how long ago each of some.

    Example: chunk-provenance seen-by order 10000 --chunks fact_chunks.parquet
    """
    opened = open_order(order)
    ids = opened.seen_by(step)
    seen = ids[ids >= 0]
    summary = {"step": step, "exposures": len(seen), "chunks": len(distinct(seen))}
    line = f"step {step} has seen {summary['chunks']:,} chunks, {summary['exposures']:,} exposures"
    if opened.injections is not None:
        summary["injected_items"] = int(np.count_nonzero(opened.injections["update"].to_numpy() <= step))
        line += f", {summary['injected_items']:,} injected items"
    if chunks is None:
        print_result(summary, [line], as_json=as_json)
        return
    asked = read_chunk_list(chunks, order=opened).distinct
    answer = seen_at(opened, asked, step)
    columns = [asked, answer.exposures, answer.last_update, answer.steps_since]
    rows = [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    if as_json:
        names = ["chunk_id", "exposures", "last_update", "steps_since"]
        never = {"last_update": None, "steps_since": None}
        named = [dict(zip(names, row, strict=True)) for row in rows]
        listed = [row if row["exposures"] else {**row, **never} for row in named]
        print(json.dumps({**summary, "of_chunks": listed}, indent=2))
        return
    cells = [[str(cell) for cell in row] if row[1] else [str(row[0]), "0", "-", "-"] for row in rows]
    print(line)
    show_table("The chunks asked for", ["chunk", "seen", "last at step", "steps ago"], cells)


def epochs(order: Order, as_json: AsJson = False) -> None:
    """Where the epochs of an order begin and end: the last step is the checkpoint after the epoch.

    Example: chunk-provenance epochs order
    """
    found = [asdict(epoch) for epoch in epochs_of(open_order(order))]
    names = ["epoch", "first_update", "last_update", "updates", "exposures", "chunks"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    columns = ["epoch", "first step", "last step", "updates", "exposures", "chunks"]
    show_table("Epochs", columns, [[f"{row[name]:,}" for name in names] for row in found])


def check(
    order: Order,
    store: Annotated[
        Path | None, typer.Option(help="Its chunk store: also check ids, lengths and hash.")
    ] = None,
) -> None:
    """Read all of a data order and refuse what no trainer could follow; exit code 2 says what is wrong.

    Example: chunk-provenance check order --store store
    """
    opened = open_order(order)
    check_order(opened, None if store is None else open_store(store))
    of_store = "" if store is None else ", all of the store"
    held_out = 0 if opened.trained is None else int(np.count_nonzero(~opened.trained & (opened.ids >= 0)))
    masked = f", {held_out:,} held out" if held_out else ""
    rows = f"{opened.num_updates:,} updates, {len(opened.ids):,} exposures{masked}"
    if (slots := opened.injected) is not None:
        rows += f", {len(slots.item_ids):,} injected items in {len(slots.row):,} of them"
    print(f"{rows}{of_store}: nothing is wrong")


def align(
    store: Annotated[Path, typer.Argument(help="The dataset: a chunk store.")],
    table: Annotated[
        Path,
        typer.Argument(
            help="What an index holds: Parquet, JSONL or CSV with chunk_id and text, or with chunk_id, "
            "char_start, char_end (in the chunk's text) and surface; or .json of 'entity-index query --json'."
        ),
    ],
    sample: Annotated[int, typer.Option(help="Rows to look at, at random.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the sample.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Does an index mean the same text by a chunk id as the dataset? Exit code 1 if a random chunk differs.

    A text agrees if it equals the chunk's decoded tokens or its stored text; end tokens, and white space or
    broken characters at both ends, are left out. A surface must stand at its characters, exactly.

    Example: chunk-provenance align store index.parquet --sample 500
    """
    result = check_alignment(open_store(store), read_index(table), sample=sample, seed=seed)
    lines = [f"{result.agree:,} of {result.looked_at:,} rows agree"]
    for row in result.differences:
        lines += [f"chunk {row.chunk_id}", f"  index    {row.index!r}", f"  dataset  {row.dataset!r}"]
    print_result(asdict(result), lines, as_json=as_json)
    if result.agree < result.looked_at:
        raise typer.Exit(1)


def print_result(found: Any, lines: list[str], *, as_json: bool) -> None:
    """The result as JSON, or as lines for people."""
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))
