"""What several commands share: their options, and how they speak."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chunk_provenance.sections import command_line, write_section
from chunk_provenance.sections import section as report_section
from entity_index.build import Progress as Told
from entity_index.query import SOURCES, Thresholds

IndexReference = Annotated[
    str,
    typer.Argument(
        metavar="INDEX",
        help="Entity index: a folder made by 'entity-index build', or an index on an Elasticsearch server, "
        "such as http://localhost:9200/enwiki.",
    ),
]
MinScore = Annotated[
    list[str],
    typer.Option(
        help=f"SOURCE=SCORE, the least score with which a source ({', '.join(SOURCES)}) counts; SOURCE=none "
        "leaves it out. Repeatable. Default: hyperlink=1, the others 0.6.",
        metavar="SOURCE=SCORE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Section = Annotated[
    Path | None, typer.Option(help="Also write the result as a section for the report (JSON).")
]
CaseSensitive = Annotated[
    bool, typer.Option("--case-sensitive", help="Tell upper from lower case in strings.")
]

# Building on a server

Elasticsearch = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Build on this Elasticsearch server. Environment variables say who asks and whom to trust: "
        "ELASTICSEARCH_API_KEY_FILE, or _USER and _PASSWORD_FILE; _CA_FILE or _FINGERPRINT.",
    ),
]
IndexName = Annotated[
    str | None,
    typer.Option(
        "--index", metavar="NAME", help="There: the names of the indices, NAME and NAME_case_sensitive."
    ),
]
Replicas = Annotated[int, typer.Option(help="There: copies of each index, put when it is complete.")]
KeepReplicas = Annotated[
    bool,
    typer.Option("--keep-replicas", help="There: make the copies from the beginning, against lost nodes."),
]
Rejected = Annotated[
    Path | None,
    typer.Option(
        help="There: list chunks that the server refuses in this file (default NAME.rejected.jsonl)."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print the disk, the memory and the time it will take.")
]
AllowRejected = Annotated[
    bool, typer.Option("--allow-rejected", help="There: publish the indices without the chunks refused.")
]


def parse_thresholds(texts: list[str]) -> Thresholds:
    """The default thresholds, changed by SOURCE=SCORE."""
    changed: dict[str, float | None] = {}
    for text in texts:
        source, _, score = text.partition("=")
        try:
            changed[source] = None if score == "none" else float(score)
        except ValueError:
            source = ""
        if source not in SOURCES:
            raise ValueError(
                f"--min-score {text!r} is not SOURCE=SCORE with a source of {', '.join(SOURCES)}"
            )
    return Thresholds(**changed)


def num_chunks(count: int) -> str:
    """A number of chunks, in words."""
    return f"{count:,} chunk" if count == 1 else f"{count:,} chunks"


def print_json(value: object) -> None:
    """Print a result for a program to read."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """Words go to stderr."""
    typer.echo(message, err=True)


def save_section(path: Path, title: str, summary: str, **parts: list[dict[str, Any]]) -> None:
    """Write a section for the report of chunk-provenance."""
    write_section(report_section(title, command=command_line(), summary=summary, **parts), path)


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
