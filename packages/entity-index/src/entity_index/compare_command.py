"""The command `compare`: an entity query beside searches for the entity's names."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from entity_index.backend import Backend, open_backend
from entity_index.compare import Comparison, compare_with_names
from entity_index.options import (
    AsJson,
    CaseSensitive,
    IndexReference,
    MinScore,
    Section,
    num_chunks,
    parse_thresholds,
    print_json,
    save_section,
)
from entity_index.query_commands import resolve
from entity_index.show import passage, print_hits, print_table, table

COMPARED = ["search for", "chunks", "same chunks", "missed", "other chunks"]


def compare(
    index: IndexReference,
    entity: Annotated[
        str | None, typer.Argument(help="Entity id, or name:TEXT. Default: the entity in most chunks.")
    ] = None,
    case_sensitive: CaseSensitive = False,
    min_score: MinScore = [],  # noqa: B006
    examples: Annotated[int, typer.Option(min=0, help="How many passages to show of each kind.")] = 3,
    as_json: AsJson = False,
    section: Section = None,
) -> None:
    """Compare the entity query with a search for its name, and for all its names.

    Its names are the texts of its mentions, but for those that only their cluster ties to it, such as
    pronouns. Shows what the search for the name misses (pronouns, aliases) and finds wrongly (shared names).

    Example: entity-index compare index "name:Ada Lovelace"
    """
    opened = open_backend(index)
    found = compare_with_names(
        opened,
        most_frequent(opened) if entity is None else resolve(opened, entity),
        parse_thresholds(min_score),
        case_sensitive=case_sensitive,
        examples=examples,
    )
    if section is not None:
        write_comparison(opened, found, section)
    if as_json:
        print_json(asdict(found))
    else:
        print_comparison(opened, found)


def most_frequent(index: Backend) -> str:
    """The entity in most chunks, the first of equals."""
    if not len(index.entities):
        raise ValueError(
            f"{index.reference!r} has no mention of any entity: was its store built with --mentions?"
        )
    return index.entities[int(index.chunk_counts().argmax())]


def comparison_rows(found: Comparison) -> list[list[Any]]:
    """Each way of searching beside the entity query."""
    rows: list[list[Any]] = [[f"the entity {found.entity}", found.total, found.total, 0, 0]]
    labels = (f"its name, {found.name}", f"all its names ({len(found.extended.names)})")
    for label, search in zip(labels, (found.canonical, found.extended), strict=True):
        rows.append([label, search.found, search.agreed, search.missed, search.extra])
    return rows


def comparison_tables(found: Comparison) -> list[tuple[str, list[str], list[list[Any]]]]:
    """Title, columns and rows of everything that a comparison counts."""
    missed = [list(pair) for pair in found.missed_surfaces.items()][:10]
    extra = [list(pair) for pair in found.extra_meanings.items()][:10]
    return [
        ("Chunks found", COMPARED, comparison_rows(found)),
        ("What it is called where its name misses it", ["text", "mentions"], missed),
        ("What the name means in the other chunks", ["entity", "chunks"], extra),
    ]


def print_comparison(opened: Backend, found: Comparison) -> None:
    """Print the tables, then passages."""
    for title, columns, rows in comparison_tables(found):
        if rows:
            print_table(columns, rows, title=title)
            print()
    for title, hits in (
        ("missed by its name", found.missed_hits),
        ("found by the name only", found.extra_hits),
    ):
        if hits:
            print(f"{title}:")
            print_hits(opened, hits)


def write_comparison(opened: Backend, found: Comparison, path: Path) -> None:
    """Write a comparison as a report section."""
    name = found.canonical
    summary = (
        f"{num_chunks(found.total)} mention {found.name} ({found.entity}). A search for the name finds "
        f"{name.agreed:,} of them, misses {name.missed:,} and finds {name.extra:,} others. Passages: chunks "
        "that the name misses, then others that it finds."
    )
    tables = [table(*parts) for parts in comparison_tables(found) if parts[2]]
    passages = [passage(opened, hit) for hit in (*found.missed_hits, *found.extra_hits)]
    save_section(path, "Entities against strings", summary, tables=tables, passages=passages)
