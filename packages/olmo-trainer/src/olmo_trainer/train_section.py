"""What `chunk-provenance report` shows of a training run, read from its metrics.jsonl."""

import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

from chunk_provenance.sections import command_line, section

POINTS = 200
"""A curve has at most so many points; each is the mean of its steps."""


def training_section(run: Path) -> dict[str, Any]:
    """The loss over the steps, beside that on the validation sets, and what the run took."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    updates = [entry for entry in logged if "ce" in entry]
    if not updates:
        return section("Training", command=command_line(), summary="No update is done yet.")
    validation = _validation_curves(logged)
    last = updates[-1]
    seconds = sum(_tokens(updates, at) / entry["tokens_per_second"] for at, entry in enumerate(updates))
    injected = sum(len(entry.get("injected", ())) for entry in updates)
    rows = [
        ["updates", last["step"]],
        ["tokens, padding not counted", last["tokens"]],
        *([["injected items", injected]] if injected else []),
        ["epochs begun", last["epoch"]],
        ["time in updates (s)", round(seconds, 1)],
        ["tokens a second, median of the updates", median(entry["tokens_per_second"] for entry in updates)],
        ["loss of the last update (nats a token)", round(last["ce"], 3)],
        *([f"loss on {curve['label']} (nats a token)", round(curve["y"][-1], 3)] for curve in validation),
    ]
    figure = {
        "title": "Cross-entropy while training",
        "kind": "line",
        "x_label": "step",
        "y_label": "nats a token",
        "x_scale": "linear",
        "series": [_training_curve(updates), *validation],
    }
    summary = "Every update's chunks were recorded before the first step, and checked at every step."
    table = {"title": "The run", "columns": ["what", "value"], "rows": rows}
    return section("Training", command=command_line(), summary=summary, tables=[table], figures=[figure])


def _tokens(updates: list[dict[str, Any]], at: int) -> int:
    return int(updates[at]["tokens"]) - (int(updates[at - 1]["tokens"]) if at else 0)


def _training_curve(updates: list[dict[str, Any]]) -> dict[str, Any]:
    width = -(-len(updates) // POINTS)
    groups = [updates[first : first + width] for first in range(0, len(updates), width)]
    return {
        "label": "training",
        "x": [group[-1]["step"] for group in groups],
        "y": [fmean(entry["ce"] for entry in group) for group in groups],
    }


def _validation_curves(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One curve a validation set; the fields are named validation/NAME/ce."""
    names = dict.fromkeys(
        key.split("/")[1] for entry in logged for key in entry if key.startswith("validation/")
    )
    curves = []
    for name in names:
        points = [entry for entry in logged if f"validation/{name}/ce" in entry]
        curve = [entry[f"validation/{name}/ce"] for entry in points]
        curves.append({"label": name, "x": [entry["step"] for entry in points], "y": curve})
    return curves
