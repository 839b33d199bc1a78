"""Command line of entity-annotate."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from entity_annotate.lment_records import RecordCounts

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Section = Annotated[
    Path | None,
    typer.Option("--section", metavar="FILE", help="Also write the result as a section of a report (JSON)."),
]


def print_version(wanted: bool | None) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("entity-annotate"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Who is mentioned where: entity mentions with exact offsets, from Wikipedia dumps or any documents."""


@app.command()
def wikipedia(
    dump: Annotated[Path, typer.Argument(help="A MediaWiki XML dump: .xml, .xml.bz2 or .xml.gz.")],
    out: Annotated[Path, typer.Argument(help="Folder for the result; an unfinished one is continued.")],
    qids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table title<TAB>QID; other pages are title:Canonical_Title."),
    ] = None,
    max_quarantined: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of articles that may fail; above it the exit code is 1."),
    ] = 0.01,
    unit_megabytes: Annotated[
        float, typer.Option(min=0.0001, help="Wikitext in one unit of work, in million characters.")
    ] = 16.0,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="A dump that breaks off is said to, but is no failure.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished result in OUT.")] = False,
    section: Section = None,
) -> None:
    """Turn a Wikipedia dump into documents with exact link offsets, and mentions of entities.

    Writes documents, mentions, entities and quarantine (.parquet) and counts.json to OUT. The mentions come
    from hyperlinks, a linker that learns names from the corpus' own links, and simple coreference. A killed
    run continues when the same command is given again.

    Example: entity-annotate wikipedia enwiki-20250401-pages-articles.xml.bz2 annotated
    """
    from entity_annotate.titles import read_qids
    from entity_annotate.wikipedia import annotate_wikipedia

    table = read_qids(qids) if qids is not None else {}
    size = round(unit_megabytes * 1e6)
    with _progress() as tell:
        counts = annotate_wikipedia(
            dump, out, qids=table, unit_characters=size, overwrite=overwrite, on_unit=tell
        )
    rows = [(name.replace("_", " "), value) for name, value in counts["counts"].items()]
    rows += [(f"quarantined: {kind}", value) for kind, value in counts["quarantined"].items()]
    _print_table(["what", "count"], rows)
    if section is not None:
        summary = f"{counts['counts']['documents']:,} documents from {counts['source']}, annotated."
        if counts["dump_error"]:
            summary += f" The dump is damaged, and was read up to there: {counts['dump_error']}."
        _write_section(section, "Annotation", summary, [("Counts", ["what", "count"], rows)])
    _judge(counts, max_quarantined, allow_damaged=allow_damaged)


def _judge(counts: dict[str, Any], max_quarantined: float, *, allow_damaged: bool) -> None:
    """Exit with 1, saying why, where too much is missing from the result."""
    if counts["dump_error"]:
        typer.echo(
            f"the dump is damaged: {counts['dump_error']}; all pages before are in the result", err=True
        )
        if not allow_damaged:
            raise typer.Exit(1)
    failed = sum(counts["quarantined"].values()) - (counts["dump_error"] is not None)  # that is no article
    total = max(1, counts["counts"]["articles"])
    if failed > max_quarantined * total:
        typer.echo(
            f"{failed} of {total} articles are in quarantine.parquet, more than --max-quarantined "
            f"{max_quarantined:g} allows; the result is written all the same",
            err=True,
        )
        raise typer.Exit(1)


@app.command()
def evaluate(
    mentions: Annotated[Path, typer.Argument(help="mentions.parquet, or a JSONL file of that form.")],
    gold: Annotated[
        Path, typer.Argument(help="Gold mentions (Parquet or JSONL): doc_id, char_start, char_end, entity.")
    ],
    threshold: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Score from which an answer of linker or coreference counts."),
    ] = 0.6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    section: Section = None,
) -> None:
    """Compare mentions with gold mentions: precision, recall and F1 of each source.

    An answer is right if span and entity are exactly those of a gold mention. Only documents that have gold
    mentions are looked at.

    Example: entity-annotate evaluate annotated/mentions.parquet gold.parquet
    """
    from entity_annotate.evaluate import evaluate_mentions

    result = evaluate_mentions(mentions, gold, threshold=threshold)
    columns = ["source", "precision", "recall", "F1", "answers", "correct", "gold"]
    rows = [(s.source, s.precision, s.recall, s.f1, s.predicted, s.correct, s.gold) for s in result.sources]
    kinds = [(kind, found / total, found, total) for kind, (total, found) in result.kinds.items()]
    kind_columns = ["kind of gold mention", "recall", "found", "gold"]
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
    else:
        _print_table(columns, rows)
        _print_table(kind_columns, kinds)
    if section is not None:
        tables: list[tuple[str, list[str], Sequence[Any]]] = [
            ("By source", columns, rows),
            ("Recall by kind, all sources", kind_columns, kinds),
        ]
        summary = f"Mentions against gold on {result.num_documents:,} documents, exact span and entity."
        _write_section(section, "Annotation quality", summary, tables)


MaxFailed = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of lines that may fail; above it the exit code is 1.")
]


@app.command()
def merge_lment(
    records: Annotated[Path, typer.Argument(help="LMEnt's annotated documents, one JSON a line; also .gz.")],
    out: Annotated[Path, typer.Argument(help="Merged records, one JSON a line; continued if it is there.")],
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Names of entities: a JSON object {"Q42": "name"}.')
    ] = None,
    max_failed: MaxFailed = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin OUT anew.")] = False,
) -> None:
    """Merge links, linker and coreference into scored mentions exactly as LMEnt's published code does.

    A record has hyperlinks_clean, entity_linking and coref, and gets entities in their place. A killed run
    continues when the same command is given again. Lines that cannot be used go to OUT.failed.jsonl.

    Example: entity-annotate merge-lment annotated.jsonl merged.jsonl --labels qcode_to_wiki.json
    """
    from entity_annotate.lment_records import merge_file, read_labels

    names = read_labels(labels) if labels is not None else {}
    counts = merge_file(records, out, labels=names, overwrite=overwrite, on_record=_tell_lines)
    _tell_counts(counts, out, max_failed)


@app.command()
def lment_mentions(
    records: Annotated[Path, typer.Argument(help="Merged records: of merge-lment, or LMEnt's own.")],
    out: Annotated[Path, typer.Argument(metavar="MENTIONS", help="The mentions file (Parquet) to write.")],
    max_failed: MaxFailed = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace MENTIONS.")] = False,
) -> None:
    """Turn LMEnt's merged records into a mentions file, which the rest of the path reads.

    The records themselves serve as documents: chunk-provenance build merged.jsonl store --mentions MENTIONS.
    Lines that cannot be used go to MENTIONS.failed.jsonl.

    Example: entity-annotate lment-mentions merged.jsonl mentions.parquet
    """
    from entity_annotate.lment_records import convert_file

    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: remove it, choose another place or give --overwrite")
    counts = convert_file(records, out, on_record=_tell_lines)
    _tell_counts(counts, out, max_failed)


def _tell_lines(number: int) -> None:
    """Tell the progress now and then."""
    if number % 10_000 == 0:
        typer.echo(f"{number:,} lines read", err=True)


def _tell_counts(counts: "RecordCounts", out: Path, max_failed: float) -> None:
    """Print what became of the lines; exit with 1 where too many failed."""
    _print_table(["what", "count"], counts.rows())
    failed = sum(counts.failed.values())
    if failed:
        lines = "1 line" if failed == 1 else f"{failed:,} lines"
        typer.echo(f"{lines} could not be used: {out}.failed.jsonl says which and why", err=True)
    if counts.share_failed > max_failed:
        typer.echo(f"that is more than --max-failed {max_failed:g} allows", err=True)
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """Show which unit is done: on one line of a terminal, else line by line."""
    if not sys.stderr.isatty():
        yield lambda stage, number: typer.echo(f"{stage}: unit {number + 1} done", err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the dump") as status:
        yield lambda stage, number: status.update(f"{stage}: {number + 1} units done")


def _print_table(columns: list[str], rows: Sequence[Any]) -> None:
    """Print a table in plain columns; numbers to the right."""
    texts = [
        [f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row]
        for row in rows
    ]
    widths = [max(len(row[i]) for row in [columns, *texts]) for i in range(len(columns))]
    for row in [columns, *texts]:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo("  ".join([first, *others]).rstrip())


def _write_section(
    path: Path, title: str, summary: str, tables: Sequence[tuple[str, list[str], Sequence[Any]]]
) -> None:
    from entity_annotate.tables import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    section = {
        "format": "report-section",
        "version": 1,
        "title": title,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "summary": summary,
        "tables": [
            {"title": name, "columns": columns, "rows": [list(row) for row in rows]}
            for name, columns, rows in tables
        ],
        "figures": [],
    }
    write_json(path, section)


def main() -> None:
    """Run the command line; a mistake of the user is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
