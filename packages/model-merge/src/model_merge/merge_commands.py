"""Commands that write a merge."""

import json
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:  # NumPy is not needed for --help
    from model_merge.expression import Expression
    from model_merge.plan import MergePlan

SECONDS_BETWEEN_LINES = 30
UNITS = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "B": 1}
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


def carry_out(
    plan: "MergePlan",
    out: Path,
    *,
    threads: int,
    max_shard_size: str | None,
    sha256: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Execute a plan, or tell what it would take."""
    from model_merge.execute import check_free_name, execute

    max_shard_bytes = None if max_shard_size is None else parse_size(max_shard_size)
    check_free_name(out, overwrite=overwrite)
    if dry_run:
        from model_merge.estimate import estimate

        found = estimate(plan, out, threads=threads, max_shard_bytes=max_shard_bytes)
        typer.echo(json.dumps(found) if as_json else _estimate_text(out, found))
        return
    begun = time.monotonic()
    content = execute(
        plan,
        out,
        threads=threads,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        sha256=sha256,
        progress=say_progress("written"),
    )
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | content))
    else:
        files = "1 file" if len(content["files"]) == 1 else f"{len(content['files'])} files"
        typer.echo(
            f"{out}: {content['tensors']} tensors, {content['parameters']:,} parameters, {files}, "
            f"of {len(content['inputs'])} models"
        )
    say(f"{time.monotonic() - begun:.1f} s")


def _estimate_text(out: Path, found: dict[str, Any]) -> str:
    sizes = {key: size_text(value) for key, value in found.items() if "bytes" in key}
    files = "1 file" if len(found["files"]) == 1 else f"{len(found['files'])} files"
    return (
        f"{out}: {found['tensors']} tensors of {found['checkpoints']} models, in {files}\n"
        f"  read    {sizes['bytes_to_read']}, the checksums included\n"
        f"  write   {sizes['bytes_to_write']}, {sizes['bytes_free']} are free\n"
        f"  memory  {sizes['memory_bytes']}\n"
        f"  time    {found['seconds']:.1f} s, if the disk goes on as it began"
    )


def size_text(count: int) -> str:
    """Bytes in a unit that people read.

    >>> size_text(999), size_text(53_760), size_text(4_050_000_000)
    ('999 B', '53.8 KB', '4.05 GB')
    """
    power = min(len(str(count)) - 1, 9) // 3
    return f"{count / 1000**power:.3g} {('B', 'KB', 'MB', 'GB')[power]}"


def parse_weights(texts: list[str] | None) -> Any:
    """Weights as exact fractions.

    >>> parse_weights(["2", "0.1", "1/3"])
    [Fraction(2, 1), Fraction(1, 10), Fraction(1, 3)]
    """
    from fractions import Fraction

    try:
        return None if texts is None else [Fraction(text) for text in texts]
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{', '.join(texts or [])}: expected numbers such as 2, 0.5 or 1/3") from error


def parse_size(text: str) -> int:
    """Bytes of a size with a unit.

    >>> parse_size("500MB"), parse_size("1.5GiB")
    (500000000, 1610612736)
    """
    upper = text.strip().upper()
    unit = next((unit for unit in UNITS if upper.endswith(unit)), "")
    try:
        size = int(float(upper[: len(upper) - len(unit)]) * UNITS.get(unit, 1))
    except ValueError:
        size = 0
    if size < 1:
        raise ValueError(f"size {text!r}: expected a number and a unit, such as 500MB or 5GB")
    return size


def short_names(references: list[str]) -> list[str]:
    """A name for each reference: the end of its path, numbered where two end alike.

    >>> short_names(["a/biology", "run:step100", "b/biology"])
    ['biology-1', 'run-step100', 'biology-3']
    """
    ends = [reference.rstrip("/").split("/")[-1] for reference in references]
    names = [end.replace(":", "-").replace("@", "-") for end in ends]
    return [
        f"{name}-{position}" if names.count(name) > 1 else name
        for position, name in enumerate(names, start=1)
    ]


def say(text: str) -> None:
    """Words for people, on stderr."""
    print(text, file=sys.stderr)


def say_progress(done: str) -> Callable[[int], None]:
    """Tell from time to time how far it is."""
    last = time.monotonic()

    def progress(count: int) -> None:
        nonlocal last
        if time.monotonic() - last > (1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES):
            last = time.monotonic()
            say(f"{count / 1e9:,.2f} GB {done}")

    return progress
