"""The commands of `model-merge ablate`: which mixture of data is worth training on."""

import typer

from model_merge import partition_commands

app = typer.Typer(no_args_is_help=True, help="Evaluate data mixtures through merges of models.")
app.command()(partition_commands.partition)
app.command()(partition_commands.decontaminate)
