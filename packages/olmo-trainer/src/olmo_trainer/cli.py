"""Command line of olmo-trainer."""

from importlib.metadata import version
from typing import Annotated

import typer

from olmo_trainer.evaluate_command import evaluate

app = typer.Typer(no_args_is_help=True, add_completion=False)


def print_version(wanted: bool) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("olmo-trainer"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Pretraining whose every batch can be named afterwards, and probes asked of every checkpoint.

    Not built yet: this release only reserves the name.
    """


app.command()(evaluate)


def main() -> None:
    """Run the command line."""
    app()
