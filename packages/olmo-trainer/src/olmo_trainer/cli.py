"""Command line of olmo-trainer."""

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from olmo_trainer.evaluate_command import evaluate
from olmo_trainer.presets_command import presets
from olmo_trainer.train_command import train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> bool:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("olmo-trainer"))
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Pretraining whose every batch can be named afterwards, and probes asked of every checkpoint."""


app.command()(train)
app.command()(evaluate)
app.command()(presets)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
