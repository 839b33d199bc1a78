"""The command `annotate`: a table of facts, with the chunks of each."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from entity_index.annotate import (
    ADDED,
    LISTS,
    ROLES,
    Lookup,
    Tally,
    added_columns,
    annotate_rows,
    choose_columns,
)
from entity_index.annotate import unresolved as unresolved_in
from entity_index.backend import Backend, open_backend
from entity_index.facts import evidence_rule
from entity_index.options import (
    AsJson,
    IndexReference,
    MinScore,
    Section,
    parse_thresholds,
    print_json,
    save_section,
    say,
)
from entity_index.query import Thresholds
from entity_index.row_files import check_ending, is_parquet, open_sink, read_names, read_rows, read_schema
from entity_index.show import print_table, table

SHOWN = 10
"""Names that are said to be nothing here; all are in the file beside."""


def annotate(
    facts: Annotated[
        Path, typer.Argument(help="Facts: .parquet, .jsonl(.gz, .zst), or a folder of Parquet shards.")
    ],
    index: IndexReference,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, or .jsonl(.gz, .zst).")],
    subject: Annotated[
        str | None, typer.Option(help="Column of the subject: ids, Wikidata addresses or names.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    min_score: MinScore = [],  # noqa: B006 (typer copies it)
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    as_json: AsJson = False,
    section: Section = None,
) -> None:
    """Add to a table of facts the chunks that mention each subject, each answer, and both.

    Every row is kept, with the columns subject_chunks, answer_chunks and shared_chunks as in LMEnt's
    popqa-kas. PopQA's columns are known (s_uri and o_uri, else subj and obj), and those of probes. A name is
    the entity that it means in most chunks; the columns subject_entity and subject_found_by say which. What
    means nothing here is counted, and listed in OUT.unresolved.jsonl.

    Example: entity-index annotate popqa.jsonl index --out popqa-kas.parquet
    """
    check_ending(out)
    listed = out.with_name(out.name + ".unresolved.jsonl")
    for file in (out, listed):
        if file.exists() and not overwrite:
            raise FileExistsError(f"{str(file)!r} exists: choose another place or give --overwrite")
    names = read_names(facts)
    columns = {
        role: choose_columns(names, word, role) for role, word in zip(ROLES, (subject, answer), strict=True)
    }
    thresholds = parse_thresholds(min_score)
    tally, examples = write_annotated(facts, out, listed, open_backend(index), thresholds, columns)
    tell_unresolved(tally, examples, listed)
    columns_shown, rows = ["chunks that mention", "facts with any", "(fact, chunk) pairs"], tally_rows(tally)
    title = f"{tally.rows:,} facts in {out}"
    if section is not None:
        found = ["found by", *ROLES]
        tables = [
            table(title, columns_shown, rows),
            table("How entities were found", found, found_rows(tally)),
        ]
        save_section(section, "Annotated facts", summary_of(tally), tables=tables)
    if as_json:
        print_json(asdict(tally))
    else:
        print_table(columns_shown, rows, title=title)
    if not any(tally.facts.values()):
        raise typer.Exit(1)


def write_annotated(
    facts: Path,
    out: Path,
    listed: Path,
    backend: Backend,
    thresholds: Thresholds,
    columns: dict[str, list[str]],
) -> tuple[Tally, list[dict[str, Any]]]:
    """Write the table and the list of what means nothing; give the counts and the first of the list."""
    metadata = {
        "format": "popqa-kas",
        "version": "1",
        "evidence": json.dumps(asdict(evidence_rule(thresholds))),
        "source": "entity-index",
        **({"store_sha256": backend.store_sha256} if backend.store_sha256 else {}),
    }
    schema = read_schema(facts, without=ADDED) if is_parquet(out) else None
    tally, examples, lookup = Tally(), list[dict[str, Any]](), Lookup(backend, thresholds)
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink(out, schema, metadata))
        problems = stack.enter_context(open_sink(listed, None, {}))
        for part in annotate_rows(read_rows(facts, without=ADDED), lookup, **columns):
            sink.write([fact.row for fact in part], added_columns(part))
            missing = list(unresolved_in(part, tally.rows))
            problems.write(missing, {})
            examples += missing[: SHOWN - len(examples)]
            for fact in part:
                tally.add(fact)
        if not tally.rows:
            sink.write([], added_columns([]))
    if not examples:
        listed.unlink()
    return tally, examples


def tell_unresolved(tally: Tally, examples: list[dict[str, Any]], listed: Path) -> None:
    """Say what means nothing here, and where the whole list is."""
    counts = {role: tally.found_by[role]["nothing"] for role in ROLES}
    if not any(counts.values()):
        return
    for example in examples:
        text = "" if example["text"] is None else f" {example['text']!r}"
        say(f"row {example['row']}: {example['role']}{text}: {example['problem']}")
    said = " and ".join(
        f"{count:,} {role}{'' if count == 1 else 's'}" for role, count in counts.items() if count
    )
    say(f"{said} of {tally.rows:,} facts mean nothing in this index; all are listed in {listed}")


def tally_rows(tally: Tally) -> list[list[Any]]:
    """A row for each kind of chunks."""
    return [[kind, tally.facts[kind], tally.pairs[kind]] for kind in LISTS]


def found_rows(tally: Tally) -> list[list[Any]]:
    """A row for each way to find an entity."""
    return [[way, *(tally.found_by[role][way] for role in ROLES)] for way in ("id", "name", "nothing")]


def summary_of(tally: Tally) -> str:
    """The result in a sentence."""
    return (
        f"Of {tally.rows:,} facts, {tally.facts['subject']:,} have chunks with the subject, "
        f"{tally.facts['answer']:,} with the answer and {tally.facts['shared']:,} with both."
    )
