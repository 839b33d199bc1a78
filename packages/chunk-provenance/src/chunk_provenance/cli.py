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
from chunk_provenance.injection import commands as injection_commands
from chunk_provenance.injection import metrics_command, paraphrase_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
MAKE, ASK, CHANGE = "Make chunks and an order", "Ask an order", "Change an order"
LEARN = "What was learned, when, and from which text"
app.command("analyze", rich_help_panel=LEARN)(analysis_commands.analyze_command)
app.command(rich_help_panel=LEARN)(analysis_commands.sample)
facts = typer.Typer(no_args_is_help=True, help="Chunks that state facts; paraphrases of facts of your own.")
facts.command("chunks")(learning_commands.fact_chunks)
facts.command("paraphrase")(paraphrase_command.paraphrase)
app.add_typer(facts, name="facts", rich_help_panel=LEARN)
app.command(rich_help_panel=LEARN)(learning_commands.dynamics)
app.command(rich_help_panel=LEARN)(learning_commands.cloze)
app.command(rich_help_panel=LEARN)(learning_commands.trace)
app.command(rich_help_panel=LEARN)(learning_commands.report)
app.command(rich_help_panel=MAKE)(store_commands.tokenizer)
app.command(rich_help_panel=MAKE)(build_command.build)
app.command(rich_help_panel=MAKE)(mixture_commands.mix)
app.command(rich_help_panel=MAKE)(store_commands.order)
app.add_typer(published_commands.app, rich_help_panel=MAKE)
app.command(rich_help_panel=ASK)(show_command.show)
app.command(rich_help_panel=ASK)(order_commands.steps_of)
app.command(rich_help_panel=ASK)(order_commands.chunks_at)
app.command(rich_help_panel=ASK)(order_commands.seen_by)
app.command(rich_help_panel=ASK)(order_commands.epochs)
app.command(rich_help_panel=ASK)(order_commands.check)
app.command(rich_help_panel=ASK)(order_commands.align)
app.command(rich_help_panel=ASK)(store_commands.verify)
app.command(rich_help_panel=CHANGE)(intervention_commands.hold_out)
app.command(rich_help_panel=CHANGE)(intervention_commands.reschedule)
app.command(rich_help_panel=CHANGE)(intervention_commands.swap)
app.command(rich_help_panel=CHANGE)(intervention_commands.diff)
injection_commands.app.command("metrics")(metrics_command.metrics)
app.add_typer(injection_commands.app, rich_help_panel=CHANGE)


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
