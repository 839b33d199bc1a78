"""Commands that look at checkpoints and merges."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from model_merge.carry_out import say
from model_merge.merge_commands import AsJson, DtypeOption, Models, Untie

Model = Annotated[str, typer.Argument(help="A checkpoint: a folder, RUN:STEP, or OWNER/NAME@REVISION.")]


def inspect(
    model: Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds, without reading its weights; its headers are checked.

    Example: model-merge inspect run:step1000 --tensors
    """
    from model_merge.checkpoint import open_checkpoint
    from model_merge.compare import summarise

    checkpoint = open_checkpoint(model)
    found = summarise(checkpoint)
    listed = [[one.name, one.dtype, list(one.shape), one.file.name] for one in checkpoint.tensors.values()]
    if as_json:
        columns = ("name", "dtype", "shape", "file")
        rows = [dict(zip(columns, row, strict=True)) for row in listed]
        typer.echo(json.dumps(found | ({"tensors": rows} if tensors else {})))
        return
    typer.echo(f"{model}: {', '.join(found['architectures'] or ['no architecture named'])}")
    for dtype, counts in found["types"].items():
        typer.echo(
            f"  {dtype}: {counts['tensors']} tensors, {counts['parameters']:,} parameters, "
            f"{counts['bytes']:,} bytes"
        )
    typer.echo(f"  files: {', '.join(found['files'])}")
    if found["merge"]:
        typer.echo(f"  merge: {json.dumps(found['merge'])}")
    for name, dtype, shape, file in listed if tensors else []:
        typer.echo(f"  {name}  {dtype} {shape}  {file}")


def diff(first: Model, second: Model, as_json: AsJson = False) -> None:
    """Say how far two checkpoints are apart, tensor by tensor; exit code 1 if they are at all.

    max is the largest difference, relative the length of the difference over the first one's length, cosine
    that of the angle between the two.

    Example: model-merge diff merged retrained
    """
    from model_merge.checkpoint import open_checkpoint
    from model_merge.compare import differences

    found = list(differences(open_checkpoint(first), open_checkpoint(second)))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
    else:
        width = max((len(one.name) for one in found), default=4)
        typer.echo(f"{'tensor':{width}}         max    relative      cosine")
        for one in found:
            typer.echo(f"{one.name:{width}}  {one.max_abs:10.4g}  {one.relative:10.4g}  {one.cosine:10.7f}")
    if any(one.max_abs != 0 for one in found):
        raise typer.Exit(1)


def check(models: Models, dtype: DtypeOption = None, untie: Untie = False, as_json: AsJson = False) -> None:
    """Say every reason why checkpoints cannot be merged: names, shapes, configs, tokenizers. Exit code 2.

    Example: model-merge check biology physics history
    """
    from model_merge.checkpoint import open_checkpoint
    from model_merge.checks import IncompatibleError, find_problems

    problems = find_problems([open_checkpoint(model) for model in models], dtype=dtype, untie=untie)
    if as_json:
        typer.echo(json.dumps({"problems": problems}))
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise IncompatibleError(problems)
    typer.echo(f"{len(models)} models that can be merged")


def verify(
    out: Annotated[Path, typer.Argument(help="A folder that model-merge wrote.")],
    sample: Annotated[
        int | None, typer.Option(help="Compute only so many chunks of 4 M weights, and no checksums.", min=1)
    ] = None,
) -> None:
    """Compute a merge again from its merge.json and compare every byte. Exit code 1 if one differs.

    Example: model-merge verify science
    """
    from model_merge.merge_json import read_merge_json
    from model_merge.verify import find_differences, plan_again

    problems = find_differences(out, plan_again(read_merge_json(out)), sample=sample)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    what = "is the merge of its inputs" if sample is None else f"agrees in {sample} chunks"
    say(f"{out} {what}")
