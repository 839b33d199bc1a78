"""The command `olmo-trainer presets`."""

from typing import Annotated

import typer


def presets(
    name: Annotated[str | None, typer.Argument(help="A recipe to print; without it, all are listed.")] = None,
) -> None:
    """List the published recipes that `train` takes as preset:NAME, or print one.

    Example: olmo-trainer presets ke-pubmed
    """
    from olmo_trainer.config import read_keys
    from olmo_trainer.presets import describe_preset, find_preset, list_presets

    if name is None:
        for preset, title in list_presets().items():
            typer.echo(f"{preset:24}{title}")
        return
    import yaml

    path = find_preset(name.removeprefix("preset:"))
    typer.echo("\n".join(f"# {line}".rstrip() for line in describe_preset(path).splitlines()))
    typer.echo(yaml.safe_dump(read_keys(path), sort_keys=False), nl=False)
