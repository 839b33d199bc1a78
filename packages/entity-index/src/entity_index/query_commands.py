"""The commands that ask an index: `query`, `names`, `chunk` and `facts`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import typer

from chunk_provenance.facts import KINDS, read_probes, write_fact_chunks
from entity_index.backend import Backend, open_backend
from entity_index.facts import evidence_rule, find_fact_chunks
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
    say,
)
from entity_index.query import SOURCES, All, AnyOf, Clause, Entity, Not, Phrase, Query, Thresholds
from entity_index.show import hit_record, passage, print_hits, print_table

ANY_MENTION = Thresholds(hyperlink=0)
"""Thresholds that every candidate passes."""


def query(
    index: IndexReference,
    entity: Annotated[
        list[str],
        typer.Argument(help="Entity id, or name:TEXT for the entity this mostly names. All must be there."),
    ] = [],  # noqa: B006 (typer copies it)
    any_of: Annotated[bool, typer.Option("--any", help="One of the entities and strings is enough.")] = False,
    without: Annotated[
        list[str], typer.Option("--not", help="Entity that must not be there. Repeatable.")
    ] = [],  # noqa: B006
    string: Annotated[list[str], typer.Option(help="Words that must follow each other. Repeatable.")] = [],  # noqa: B006
    case_sensitive: CaseSensitive = False,
    min_score: MinScore = [],  # noqa: B006
    limit: Annotated[int, typer.Option(min=0, help="How many chunks to show.")] = 10,
    as_json: AsJson = False,
    section: Section = None,
) -> None:
    """Find the chunks that mention entities, or hold strings, or both. The total is exact.

    Ranked by the best score of the matching mentions (added up over several entities), then by chunk id.

    Example: entity-index query index Q7259 "name:Charles Babbage" --string engine --limit 3
    """
    opened, thresholds = open_backend(index), parse_thresholds(min_score)
    known = [resolve(opened, text) for text in entity]
    wanted: list[Clause] = [Entity(name, thresholds) for name in known]
    wanted += [Phrase(text, case_sensitive=case_sensitive) for text in string]
    unwanted = [Not(Entity(resolve(opened, text), thresholds)) for text in without]
    if not wanted and not unwanted:
        raise ValueError("nothing to look for: give an ENTITY, --string or --not")
    positive = [AnyOf(*wanted) if any_of else All(*wanted)] if wanted else []
    result = opened.search(Query(All(*positive, *unwanted), limit))
    asked = describe_query(known, string, without, any_of=any_of)
    if section is not None:
        passages = [passage(opened, hit) for hit in result.hits]
        save_section(section, f"Chunks with {asked}", f"{num_chunks(result.total)}.", passages=passages)
    if as_json:
        print_json({"total": result.total, "hits": [hit_record(opened, hit) for hit in result.hits]})
    else:
        print(f"{num_chunks(result.total)} with {asked}")
        print_hits(opened, result.hits)
    if not result.total:
        raise typer.Exit(1)


def resolve(index: Backend, text: str) -> str:
    """An entity as given, or for name:TEXT the one that TEXT names in most chunks, which is said."""
    if not text.startswith("name:"):
        if not index.count(Entity(text, ANY_MENTION)):
            say(f"no mention is of {text!r}: 'entity-index names' finds entities by name")
        return text
    name = text.removeprefix("name:")
    matches = index.names(name, limit=4)
    if not matches:
        raise ValueError(f"no entity is called {name!r}: try 'entity-index names INDEX {name!r} --prefix'")
    best, *others = (f"{match.entity} ({match.name}, {num_chunks(match.chunks)})" for match in matches)
    say(f"{name!r} is {best}" + "".join(f"; not {other}" for other in others))
    return matches[0].entity


def describe_query(entities: list[str], strings: list[str], without: list[str], *, any_of: bool) -> str:
    """What a query asks for, in words."""
    wanted = (" or " if any_of else " and ").join([*entities, *map(repr, strings)])
    unwanted = " and ".join(f"not {entity}" for entity in without)
    return " but ".join(filter(None, [wanted, unwanted]))


def names(
    index: IndexReference,
    text: Annotated[str, typer.Argument(help="A name, in any case.")],
    prefix: Annotated[bool, typer.Option("--prefix", help="Names that begin so.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="How many entities to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Which entities a name may mean, the one it names in most chunks first.

    Example: entity-index names index "Ada Lovelace"
    """
    matches = open_backend(index).names(text, prefix=prefix, limit=limit)
    if as_json:
        print_json([asdict(match) for match in matches])
    elif matches:
        rows = [(match.entity, match.name or "", match.text, match.chunks) for match in matches]
        print_table(["entity", "mostly called", "here", "chunks"], rows)
    if not matches:
        say(f"no entity is called {text!r}")
        raise typer.Exit(1)


def chunk(
    index: IndexReference,
    chunk_id: Annotated[int, typer.Argument(help="Chunk id, from 0.")],
    as_json: AsJson = False,
) -> None:
    """Show a chunk's text, and all candidates of all its mentions with their scores.

    Example: entity-index chunk index 12
    """
    opened = open_backend(index)
    found, mentions = opened.chunk(chunk_id), opened.mentions_of(chunk_id)
    if as_json:
        print_json({**asdict(found), "mentions": [asdict(mention) for mention in mentions]})
        return
    print(f"chunk {chunk_id}, {found.title or found.doc_id}\n{found.text}\n")
    columns = ["place", "text", "entity", "score", *SOURCES]
    rows: list[list[Any]] = [
        [f"{m.char_start}-{m.char_end}", found.text[m.char_start : m.char_end], m.entity, m.score]
        + [getattr(m, source) for source in SOURCES]
        for m in mentions
    ]
    print_table(columns, rows)


def facts(
    index: IndexReference,
    probes: Annotated[Path, typer.Argument(help="Probes, Parquet or JSONL: facts with subject and answer.")],
    out: Annotated[Path, typer.Argument(help="The fact-chunks file to write (Parquet).")],
    min_score: MinScore = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the chunks that state each fact: those that mention its subject and its answer.

    The same rows as 'chunk-provenance facts chunks', looked up in the index.

    Example: entity-index facts index probes.parquet fact_chunks.parquet
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another place or give --overwrite")
    opened, thresholds, asked = open_backend(index), parse_thresholds(min_score), read_probes(probes)
    found = find_fact_chunks(opened, asked, thresholds)
    store_sha256 = opened.store_sha256
    write_fact_chunks(
        found, out, evidence=evidence_rule(thresholds), source="entity-index", store_sha256=store_sha256
    )
    counts = {kind: [0, 0] for kind in KINDS}
    for kind in KINDS:
        of_kind = found.filter(pc.equal(found["kind"], kind))
        counts[kind] = [len(of_kind["fact_id"].unique()), len(of_kind)]
    num_facts = len(asked["fact_id"].unique())
    if as_json:
        print_json({"facts": num_facts, "chunks": {kind: count for kind, (_, count) in counts.items()}})
    else:
        title = f"{num_facts:,} facts"
        rows: list[list[Any]] = [[kind, *count] for kind, count in counts.items()]
        print_table(["chunks that mention", "facts with any", "(fact, chunk) pairs"], rows, title=title)
