"""Command line of entity-index."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import duckdb
import typer

from entity_index.annotate_command import annotate
from entity_index.build_command import build, restore
from entity_index.compare_command import compare
from entity_index.evaluation.commands import alt_test, evaluate
from entity_index.options import say
from entity_index.query_commands import chunk, facts, names, query
from entity_index.serve_command import serve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (build, restore, query, names, chunk, facts, compare, serve, annotate, evaluate, alt_test):
    app.command()(command)


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


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError, duckdb.Error) as error:
        say(f"error: {str(error).splitlines()[0]}")
        sys.exit(2)
