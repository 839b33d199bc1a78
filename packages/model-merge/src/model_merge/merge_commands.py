"""Commands that write a merge."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model_merge.carry_out import carry_out, parse_weights, short_names

if TYPE_CHECKING:  # NumPy is not needed for --help
    from model_merge.expression import Expression
    from model_merge.plan import MergePlan

TORCH_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


class Dtype(StrEnum):
    """Values of --dtype."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float8_e4m3fn = "float8_e4m3fn"
    float8_e5m2 = "float8_e5m2"


class CompatOption(StrEnum):
    """Values of --compat."""

    mergekit = "mergekit"
    ez = "ez"


Models = Annotated[
    list[str],
    typer.Argument(help="Checkpoints: PATH_OR_REPO[@REVISION][:SUBFOLDER]. One may be named twice."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight", "-w", help="One for each, in their order: 2, 0.5 or 1/3. Default: all the same."
    ),
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Type of the merged weights. Default: the inputs'.")
]
Compat = Annotated[
    CompatOption | None,
    typer.Option(help="Round as mergekit 0.1.5 or ez-data-ablations do, bit for bit, instead of once."),
]
Untie = Annotated[
    bool, typer.Option("--untie", help="Let models with and without a separate lm_head meet; write one.")
]
Donor = Annotated[
    str | None, typer.Option(help="The model whose config and tokenizer go along. Default: the first.")
]
Threads = Annotated[
    int, typer.Option(help="Threads that compute; the result is the same for any number.", min=1)
]
ShardSize = Annotated[
    str | None, typer.Option("--max-shard-size", help="5GB or 500MB. Default: files as the first model's.")
]
Sha256 = Annotated[
    bool, typer.Option("--sha256", help="Record the SHA-256 of all files too: 0.6 s per GB of one core.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, tell disk, memory and time, and write nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def average(
    models: Models,
    out: Out,
    weight: Weights = None,
    dtype: DtypeOption = None,
    compat: Compat = None,
    untie: Untie = False,
    donor: Donor = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Average checkpoints, uniformly or weighted: (sum of w x) / (sum of w), rounded once.

    Example: model-merge average biology physics history -o science -w 2 -w 1 -w 1
    """
    from model_merge.expression import Leaf
    from model_merge.expression import average as average_of

    expression = average_of([Leaf(model) for model in models], parse_weights(weight))
    plan = _plan(expression, dtype, compat, untie, donor)
    carry_out(
        plan,
        out,
        threads=threads,
        max_shard_size=max_shard_size,
        sha256=sha256,
        overwrite=overwrite,
        dry_run=dry_run,
        as_json=as_json,
    )


def macro(
    group: Annotated[
        list[str],
        typer.Option("--group", "-g", help="Checkpoints of one group, with commas between. Repeatable."),
    ],
    out: Out,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", "-w", help="One for each group. Default: all the same.")
    ] = None,
    dtype: DtypeOption = None,
    untie: Untie = False,
    donor: Donor = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Average the averages of groups, in one pass over all models: a group counts as much as another.

    Example: model-merge macro -g biology1,biology2,biology3 -g history -o both
    """
    from model_merge.expression import Leaf
    from model_merge.expression import average as average_of

    groups = [average_of([Leaf(model) for model in names.split(",") if model]) for names in group]
    plan = _plan(average_of(groups, parse_weights(weight)), dtype, None, untie, donor)
    carry_out(
        plan,
        out,
        threads=threads,
        max_shard_size=max_shard_size,
        sha256=sha256,
        overwrite=overwrite,
        dry_run=dry_run,
        as_json=as_json,
    )


def leave_one_out(
    models: Models,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the folders `without-NAME`.")],
    dtype: DtypeOption = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """For every model write the average of the others, as OUT/without-NAME.

    (To evaluate them all, `model-merge ablate` does so without writing any.)

    Example: model-merge leave-one-out biology physics history -o ablations
    """
    from model_merge.execute import check_free_name
    from model_merge.expression import leave_one_out as all_but_one

    merges = all_but_one(models)
    folders = [out / f"without-{name}" for name in short_names(list(merges))]
    for folder in folders:
        check_free_name(folder, overwrite=overwrite)
    plans = [_plan(expression, dtype, None, False, None) for expression in merges.values()]
    for plan, folder in zip(plans, folders, strict=True):
        carry_out(
            plan,
            folder,
            threads=threads,
            max_shard_size=max_shard_size,
            sha256=sha256,
            overwrite=overwrite,
            dry_run=dry_run,
            as_json=as_json,
        )


Run = Annotated[Path, typer.Argument(help="The folder of a training run, with folders step0, step100, ...")]


def ema(
    run: Run,
    out: Out,
    decay: Annotated[str, typer.Option(help="Share that the past keeps at each checkpoint: 0.9 or 9/10.")],
    last: Annotated[int | None, typer.Option(help="Only the last so many checkpoints.", min=1)] = None,
    dtype: DtypeOption = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Exponential moving average over a run's checkpoints, as if it had been kept while training.

    Example: model-merge ema run -o run-ema --decay 0.9
    """
    from model_merge.expression import moving_average, run_checkpoints

    (factor,) = parse_weights([decay]) or []
    plan = _plan(moving_average(run_checkpoints(run, last=last), factor), dtype, None, False, None)
    carry_out(
        plan,
        out,
        threads=threads,
        max_shard_size=max_shard_size,
        sha256=sha256,
        overwrite=overwrite,
        dry_run=dry_run,
        as_json=as_json,
    )


def lawa(
    run: Run,
    out: Out,
    last: Annotated[int, typer.Option(help="How many of the last checkpoints.", min=1)],
    dtype: DtypeOption = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Latest weight averaging: the uniform average of a run's last checkpoints.

    Example: model-merge lawa run -o run-averaged --last 5
    """
    from model_merge.expression import Leaf, run_checkpoints
    from model_merge.expression import average as average_of

    references = run_checkpoints(run, last=last)
    plan = _plan(average_of([Leaf(reference) for reference in references]), dtype, None, False, None)
    carry_out(
        plan,
        out,
        threads=threads,
        max_shard_size=max_shard_size,
        sha256=sha256,
        overwrite=overwrite,
        dry_run=dry_run,
        as_json=as_json,
    )


def run(
    file: Annotated[Path, typer.Argument(help="A mergekit file or an expression (YAML).")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    root: Annotated[Path, typer.Option(help="Where the file's relative paths begin.")] = Path("."),
    seed: Annotated[
        int | None, typer.Option(help="For methods that draw at random, instead of the file's.")
    ] = None,
    compat: Compat = None,
    threads: Threads = 2,
    max_shard_size: ShardSize = None,
    sha256: Sha256 = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Carry out a mergekit file: its methods, slices, parameters and tokenizer. Unknown keys are refused.

    Or an expression, which nests sums and methods as deep as wanted and rounds once, at the end:
    {method: slerp, base: {sum: [{of: a}, {of: b}]}, of: [c], parameters: {t: 0.5}}

    Example: model-merge run ties.yaml merged
    """
    from model_merge.merge_files import plan_from_file

    carry_out(
        plan_from_file(file, root, seed=seed, compat=_compat(compat)),
        out,
        threads=threads,
        max_shard_size=max_shard_size,
        sha256=sha256,
        overwrite=overwrite,
        dry_run=dry_run,
        as_json=as_json,
    )


def _plan(
    expression: "Expression", dtype: Dtype | None, compat: CompatOption | None, untie: bool, donor: str | None
) -> "MergePlan":
    from model_merge.linear import plan_linear

    return plan_linear(
        expression,
        dtype=TORCH_NAMES[dtype] if dtype else None,
        compat=_compat(compat),
        untie=untie,
        donor=donor,
    )


def _compat(option: CompatOption | None) -> Literal["mergekit", "ez"] | None:
    if option is None:
        return None
    return "ez" if option is CompatOption.ez else "mergekit"
