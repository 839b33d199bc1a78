"""Command line of model-merge."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from model_merge import ablate_commands, convert_commands, mixture_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(ablate_commands.app, name="ablate")
app.command()(mixture_commands.perplexity)
app.command()(convert_commands.convert)


def print_version(wanted: bool | None) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("model-merge"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Model merging as an algebra over checkpoints, streamed in constant memory.

    Not built yet: this release only reserves the name.
    """


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
