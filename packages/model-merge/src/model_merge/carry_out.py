"""What the commands that write a merge have in common: their texts, sizes, weights and progress."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:  # NumPy is not needed for --help
    from model_merge.plan import MergePlan

SECONDS_BETWEEN_LINES = 30
UNITS = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "B": 1}


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
        f"  read    {sizes['bytes_to_read']}\n"
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
