"""The command `inject metrics`: what came of the injections of a run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from chunk_provenance.facts import read_probes
from chunk_provenance.injection.acquisition import MetricSettings, measure, metric_settings
from chunk_provenance.injection.metrics import IQR_MULTIPLIER, WINDOW
from chunk_provenance.injection.metrics_section import describe, metric_tables, metrics_section
from chunk_provenance.injection.performance import (
    PAPER_TASKS,
    parse_tasks,
    read_task_scores,
    task_performance,
)
from chunk_provenance.injection.trajectories import read_injected, read_trajectories
from chunk_provenance.learning_commands import AsJson, Section, print_json, show_table
from chunk_provenance.sections import command_line, write_section


class Compat(StrEnum):
    """Values of --compat."""

    upstream = "upstream"


def metrics(
    answers: Annotated[
        list[Path],
        typer.Argument(help="Answers at many steps: files, or a run's folder (RUN/probes/NAME)."),
    ],
    plan: Annotated[Path, typer.Option(help="The injection plan, or an order's injections.parquet.")],
    probes: Annotated[
        Path | None,
        typer.Option(help="Probes whose relation is the depth (default: from FACT-DEPTH-NUMBER ids)."),
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, help="Updates after an injection in which its effect is looked for.")
    ] = WINDOW,
    iqr: Annotated[
        str | None,
        typer.Option(
            help="Outliers lie so many interquartile ranges outside the quartiles; 'none' keeps all.",
            show_default=f"{IQR_MULTIPLIER}; 2.0 with --compat",
        ),
    ] = None,
    compat: Annotated[
        Compat | None, typer.Option(help="As the paper's code: outliers at 2.0, probes that got worse kept.")
    ] = None,
    tasks_before: Annotated[
        Path | None, typer.Option(help="Task scores before: lm-eval's JSON, or an object of task and score.")
    ] = None,
    tasks_after: Annotated[Path | None, typer.Option(help="Task scores after.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task of P and F, NAME or NAME=METRIC; may be repeated.",
            show_default=", ".join(f"{name}={metric}" for name, metric in PAPER_TASKS.items()),
        ),
    ] = None,
    section: Section = None,
    as_json: AsJson = False,
) -> None:
    """Measure what injected facts taught a model and how long it stays.

    Effectivity (nats gained at the local acquisition maximum), retainability and its decay per decade of
    updates, K and acquisition A per scenario and depth; with task scores also P and forgetting F. What a
    number leaves out is counted. The evaluations may be sparse, as long as one precedes the first injection.

    Example: chunk-provenance inject metrics run/probes/facts --plan plan.parquet --section injected.json
    """
    settings = pick_settings(window, iqr, compat)
    tasks = read_tasks(tasks_before, tasks_after, task)
    depths = None if probes is None else relations(probes)
    trajectories = read_trajectories(answers, depths=depths)
    injected = read_injected(plan)
    measured = {**measure(trajectories, injected, settings), **tasks}
    if section is not None:
        write_section(metrics_section(measured, trajectories, injected, command=command_line()), section)
    if as_json:
        print_json(measured)
        return
    for table in metric_tables(measured):
        if table["rows"]:
            show_table(table["title"], table["columns"], table["rows"])
    for line in describe(measured):
        print(line)


def pick_settings(window: int, iqr: str | None, compat: Compat | None) -> MetricSettings:
    """The settings that the options ask for."""
    if compat is not None:
        if iqr is not None:
            raise ValueError("give one of --iqr and --compat: the paper's code filters at 2.0")
        return metric_settings(window=window, compat="upstream")
    return metric_settings(window=window, iqr=IQR_MULTIPLIER if iqr is None else parse_iqr(iqr))


def parse_iqr(text: str) -> float | None:
    """A multiplier, or none."""
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--iqr takes a number or 'none', found {text!r}") from None


def read_tasks(before: Path | None, after: Path | None, names: list[str] | None) -> dict[str, Any]:
    """P and F under `tasks`, nothing where no scores are given."""
    if before is None and after is None:
        if names:
            raise ValueError("--task needs --tasks-before and --tasks-after")
        return {}
    if before is None or after is None:
        raise ValueError("give both --tasks-before and --tasks-after: F is the change between them")
    wanted = parse_tasks(names or [])
    return {"tasks": task_performance(read_task_scores(before, wanted), read_task_scores(after, wanted))}


def relations(path: Path) -> dict[str, str]:
    """The relation of every probe."""
    table = read_probes(path)
    return dict(zip(table["probe_id"].to_pylist(), table["relation"].to_pylist(), strict=True))
