"""The commands of `model-merge ablate`: which mixture of data is worth training on."""

import typer

from model_merge import mixture_commands, partition_commands, report_command

app = typer.Typer(no_args_is_help=True, help="Evaluate data mixtures through merges of models.")
app.command()(mixture_commands.plan)
app.command("eval")(mixture_commands.evaluate)
app.command("eval-models")(mixture_commands.evaluate_models)
app.command()(report_command.report)
app.command()(partition_commands.partition)
app.command()(partition_commands.decontaminate)
