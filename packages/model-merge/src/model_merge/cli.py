"""Command line of model-merge."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from model_merge import (
    ablate_commands,
    convert_commands,
    look_commands,
    merge_commands,
    mixture_commands,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(merge_commands.average)
app.command()(merge_commands.macro)
app.command()(merge_commands.leave_one_out)
app.command()(merge_commands.ema)
app.command()(merge_commands.lawa)
app.command()(merge_commands.run)
app.command()(look_commands.inspect)
app.command()(look_commands.diff)
app.command()(look_commands.check)
app.command()(look_commands.verify)
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
    """Merge checkpoints of language models, in constant memory, and know afterwards what was merged.

    A model is a folder of safetensors files, a step of a run (run:step1000), or a repository of the hub,
    OWNER/NAME, with @REVISION and :SUBFOLDER where wanted (needs the extra `hub`).

    Example: model-merge average biology physics -o science
    """


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
