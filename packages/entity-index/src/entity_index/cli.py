"""Command line of entity-index."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chunk_provenance.facts import KINDS, read_probes, write_fact_chunks
from entity_index.annotate_command import annotate
from entity_index.backend import Backend, check_client, open_backend
from entity_index.build import Progress as Told
from entity_index.build_command import (
    FromLMEnt,
    Tokenizer,
    build_here,
    input_of,
    open_lment_options,
    print_estimate,
    say_found,
    source_of,
)
from entity_index.compare import Comparison, compare_with_names
from entity_index.evaluation.commands import alt_test, evaluate
from entity_index.facts import evidence_rule, find_fact_chunks
from entity_index.options import (
    AllowRejected,
    AsJson,
    CaseSensitive,
    DryRun,
    Elasticsearch,
    IndexName,
    IndexReference,
    KeepReplicas,
    MinScore,
    Rejected,
    Replicas,
    Section,
    num_chunks,
    parse_thresholds,
    print_json,
    save_section,
    say,
)
from entity_index.query import SOURCES, All, AnyOf, Clause, Entity, Not, Phrase, Query, Thresholds
from entity_index.serve_command import serve
from entity_index.show import hit_record, passage, print_hits, print_table, table
from entity_index.source import ChunkSource

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def print_version(wanted: bool | None) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("entity-index"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Speak unencrypted to Elasticsearch on other machines, too."),
    ] = False,
) -> None:
    """Which training chunks mention an entity: one query over memory-mapped postings."""
    if allow_http:
        os.environ["ELASTICSEARCH_ALLOW_HTTP"] = "1"


@app.command()
def build(
    store: Annotated[
        Path | None,
        typer.Argument(help="Chunk store, made by 'chunk-provenance build', or a mixture of several."),
    ] = None,
    index: Annotated[
        Path | None, typer.Argument(help="Folder to write the index to, unless --elasticsearch.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What the mentions may take in memory at a time; the rest is on disk.")
    ] = "2GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    from_lment: FromLMEnt = None,
    tokenizer: Tokenizer = None,
    elasticsearch: Elasticsearch = None,
    index_name: IndexName = None,
    replicas: Replicas = 0,
    keep_replicas: KeepReplicas = False,
    rejected: Rejected = None,
    allow_rejected: AllowRejected = False,
    dry_run: DryRun = False,
) -> None:
    """Build the entity index of a chunk store: postings by entity, names, and a text index.

    An index of the same store is kept. A run that was stopped left nothing under the final name and goes on
    with what it has finished, in INDEX.tmp or on the server.

    Example: entity-index build chunks index

    Example: entity-index build --from-lment LMEnt-Dataset --tokenizer tokenizer.json index

    Example: entity-index build chunks --elasticsearch http://localhost:9200 --index enwiki
    """
    published = open_lment_options(from_lment, tokenizer)
    if published is not None:  # its folder stands for STORE
        if index is not None:
            raise ValueError("give either STORE or --from-lment")
        store, index = None, store
    if elasticsearch is not None:
        if index is not None or index_name is None:
            raise ValueError("an index on a server has a name: give --index NAME, and no folder")
        build_on_server(
            source_of(store, published),
            elasticsearch,
            index_name,
            replicas=replicas,
            keep_replicas=keep_replicas,
            overwrite=overwrite,
            rejected=rejected,
            allow_rejected=allow_rejected,
            only_estimate=dry_run,
        )
        say_found(published)
        return
    if dry_run:
        print_estimate(input_of(store, published), memory, index)
        return
    if index is None:
        raise ValueError("nowhere to write to: give INDEX, a folder, or --elasticsearch and --index")
    with show_progress() as progress:
        done = build_here(
            input_of(store, published), index, memory=memory, overwrite=overwrite, progress=progress
        )
    say(done)
    say_found(published)


def build_on_server(
    source: ChunkSource, url: str, name: str, *, rejected: Path | None, only_estimate: bool, **plan: Any
) -> None:
    """Build both indices of a name on a server, and say what came of it."""
    check_client()
    from entity_index.elastic.bulk_command import build_and_report, dry_run  # the client is an extra

    if only_estimate:
        fits, lines = dry_run(source, url, name, replicas=plan["replicas"])
        print("\n".join(lines))
        if not fits:
            say("that is too little disk")
            raise typer.Exit(1)
        return

    report = rejected or Path(f"{name}.rejected.jsonl")
    with show_progress() as progress:
        published, words = build_and_report(
            source, url, name, report=report, progress=progress, tell=say, **plan
        )
    say(words)
    if not published:
        raise typer.Exit(1)


@app.command()
def restore(
    server: Annotated[
        str, typer.Argument(help="Address of the Elasticsearch server, such as http://localhost:9200.")
    ],
    folder: Annotated[
        str,
        typer.Argument(help="Folder of the snapshots, as the server sees it; its path.repo must allow it."),
    ],
    snapshot: Annotated[str | None, typer.Option(help="Which snapshot, where there are several.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Name for the index. Default: the name it has there."),
    ] = None,
) -> None:
    """Restore a published snapshot on an Elasticsearch server, to query it as it is.

    Both indices of the pair are restored, NAME and NAME_case_sensitive. What is there is never replaced.

    Example: entity-index restore http://localhost:9200 /data/snapshots/lment --as wikipedia
    """
    check_client()
    from entity_index.elastic.restore import restore_snapshot

    with show_progress() as progress:
        done = restore_snapshot(server, folder, snapshot=snapshot, name=name, progress=progress)
    indices = " and ".join(done.indices)
    say(f"{indices} restored from {done.snapshot}: {num_chunks(done.num_chunks)}")
    print(f"{server.rstrip('/')}/{done.indices[0]}")


@app.command()
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


def describe_query(entities: list[str], strings: list[str], without: list[str], *, any_of: bool) -> str:
    """What a query asks for, in words."""
    wanted = (" or " if any_of else " and ").join([*entities, *map(repr, strings)])
    unwanted = " and ".join(f"not {entity}" for entity in without)
    return " but ".join(filter(None, [wanted, unwanted]))


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


COMPARED = ["search for", "chunks", "same chunks", "missed", "other chunks"]


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


ANY_MENTION = Thresholds(hyperlink=0)
"""Thresholds that every candidate passes."""


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


@contextmanager
def show_progress() -> Iterator[Told]:
    """A bar for each thing done, on a terminal; else a line when something new begins."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def announce(what: str, done: int, total: int) -> None:
            if what not in begun:
                begun.add(what)
                say(f"{what} ({total:,})")

        yield announce
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield update


app.command()(serve)
app.command()(annotate)
app.command()(evaluate)
app.command()(alt_test)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError, duckdb.Error) as error:
        say(f"error: {str(error).splitlines()[0]}")
        sys.exit(2)
