"""The command `olmo-trainer evaluate`: arguments, the printed table, the report section."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunk_provenance import sections

if TYPE_CHECKING:
    import torch

    from olmo_trainer.evaluate import Plan, Summary

COLUMNS = ["step", "probes", "known %", "mean rank", "mean logprob", "greedy %", "generated %"]


def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="A run with step0, step1, ... in it, or one model: PATH_OR_REPO@REVISION:SUBFOLDER, "
            "the last two optional."
        ),
    ],
    probes: Annotated[Path, typer.Argument(help="Probes, Parquet or JSONL.")],
    out: Annotated[Path, typer.Argument(help="Where the answers go, a Parquet file.")],
    steps: Annotated[
        str, typer.Option(help="Checkpoints: all, a list (0,1,64), or FIRST:LAST:EVERY, LAST included.")
    ] = "all",
    generate: Annotated[
        int,
        typer.Option(min=0, help="Also let the model go on by up to this many tokens, and check the line."),
    ] = 0,
    device: Annotated[
        str, typer.Option(help="Where the model runs: cpu, cuda, or auto for cuda if there is one.")
    ] = "auto",
    section: Annotated[Path | None, typer.Option(help="Also write a report section (JSON) here.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")] = False,
) -> None:
    """Ask every checkpoint of RUN every probe: is the right answer the likeliest of the candidates?

    Prints a line a checkpoint and writes one row a checkpoint and probe to
    OUT. A killed evaluation continues where it stopped when started again.
    Probes that cannot be asked are counted and listed beside OUT.

    Example: olmo-trainer evaluate runs/small probes.parquet answers.parquet --steps 0:1000:100
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another name, or give --overwrite")
    from transformers.utils import logging

    from olmo_trainer.evaluate import ask_checkpoints, chance, make_plan, summarise, write_answers

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    plan = make_plan(run, probes, steps=steps, num_generated=generate, device=_device(device))
    _say_what_is_skipped(plan, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = out.with_name(f"{out.name}.parts")
    columns = COLUMNS if generate else COLUMNS[:-1]
    typer.echo("  ".join(f"{name:>12}" for name in columns))
    tables, summaries = [], []
    for table in ask_checkpoints(plan, parts):
        tables.append(table)
        summaries.append(summarise(table))
        typer.echo("  ".join(f"{cell:>12}" for cell in _cells(summaries[-1])))
    write_answers(tables, plan, out)
    shutil.rmtree(parts)
    if section is not None:
        sections.write_section(
            report_section(summaries, chance=chance(tables[0]), num_skipped=len(plan.skipped)), section
        )


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def _say_what_is_skipped(plan: "Plan", out: Path) -> None:
    if not plan.skipped:
        return
    from olmo_trainer.evaluate import skipped_path

    reasons = Counter(probe.reason for probe in plan.skipped).most_common(3)
    listed = "; ".join(f"{count}: {reason}" for reason, count in reasons)
    typer.echo(
        f"{len(plan.skipped)} of {len(plan.asked) + len(plan.skipped)} probes cannot be asked "
        f"({listed}), see {skipped_path(out)}",
        err=True,
    )


def _cells(summary: "Summary") -> list[str]:
    cells = [
        "-" if summary.step is None else str(summary.step),
        str(summary.num_probes),
        f"{100 * summary.known:.1f}",
        f"{summary.mean_rank:.2f}",
        f"{summary.mean_logprob:.2f}",
        f"{100 * summary.greedy:.1f}",
    ]
    if summary.generated_correct is not None:
        cells.append(f"{100 * summary.generated_correct:.1f}")
    return cells


def report_section(summaries: Sequence["Summary"], *, chance: float, num_skipped: int) -> dict[str, Any]:
    """What `chunk-provenance report` shows of an evaluation: accuracy over the steps, beside guessing."""
    last = summaries[-1]
    steps = [summary.step for summary in summaries]
    columns = COLUMNS if last.generated_correct is not None else COLUMNS[:-1]
    summary = (
        f"{last.num_probes} probes were asked of {len(summaries)} checkpoints, "
        f"{num_skipped} could not be asked. A probe counts as known where the answer is likelier than "
        f"every other candidate: "
        f"{100 * last.known:.1f}% at the last checkpoint, {100 * chance:.1f}% by guessing."
    )
    rows = [[_number(cell) for cell in _cells(summary)] for summary in summaries]
    return sections.section(
        "What the checkpoints know",
        command=sections.command_line(),
        summary=summary,
        tables=[{"title": "Answers by checkpoint", "columns": columns, "rows": rows}],
        figures=[_accuracy_figure(steps, summaries, chance)] if None not in steps else [],
    )


def _accuracy_figure(
    steps: Sequence[int | None], summaries: Sequence["Summary"], chance: float
) -> dict[str, Any]:
    curves = {
        "known": [summary.known for summary in summaries],
        "every token the first choice": [summary.greedy for summary in summaries],
        "guessing": [chance] * len(steps),
    }
    return {
        "title": "Share of the probes answered, by checkpoint",
        "kind": "line",
        "x_label": "step",
        "y_label": "share of probes",
        "x_scale": "symlog",
        "series": [{"label": label, "x": list(steps), "y": values} for label, values in curves.items()],
    }


def _number(cell: str) -> float | int | str:
    try:
        return float(cell) if "." in cell else int(cell)
    except ValueError:
        return cell
