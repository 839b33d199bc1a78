"""Command line of knowledge-entropy."""

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


def print_version(wanted: bool | None) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("knowledge-entropy"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """How widely a language model spreads over its memories, per checkpoint.

    Not built yet: this release only reserves the name.
    """


def main() -> None:
    """Run the command line."""
    app()
