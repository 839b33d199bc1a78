"""Command line of knowledge-entropy."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from knowledge_entropy.commands import convert, measure, plot, resuscitate, series

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> bool:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("knowledge-entropy"))
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """How widely a language model spreads over its memories, per checkpoint."""


for command in (measure, series, plot, resuscitate, convert):
    app.command()(command)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
