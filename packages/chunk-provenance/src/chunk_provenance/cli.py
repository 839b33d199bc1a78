"""Command line of chunk-provenance."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from chunk_provenance import (
    analysis_commands,
    build_command,
    intervention_commands,
    learning_commands,
    mixture_commands,
    order_commands,
    published_commands,
    show_command,
    store_commands,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(store_commands.tokenizer)
app.command()(build_command.build)
app.command()(store_commands.order)
app.command()(mixture_commands.mix)
app.command()(store_commands.verify)
app.command()(show_command.show)
app.command()(order_commands.steps_of)
app.command()(order_commands.chunks_at)
app.command()(order_commands.seen_by)
app.command()(order_commands.epochs)
app.command()(order_commands.check)
app.command()(order_commands.align)
app.command()(intervention_commands.hold_out)
app.command()(intervention_commands.reschedule)
app.command()(intervention_commands.swap)
app.command()(intervention_commands.diff)
app.add_typer(published_commands.app)
app.command()(learning_commands.facts)
app.command()(learning_commands.dynamics)
app.command()(learning_commands.cloze)
app.command()(learning_commands.trace)
app.command()(learning_commands.report)
app.command("analyze")(analysis_commands.analyze_command)
app.command()(analysis_commands.sample)


def print_version(wanted: bool | None) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        typer.echo(version("chunk-provenance"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Training chunks that remember which text they came from and at which step they were trained on."""


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
