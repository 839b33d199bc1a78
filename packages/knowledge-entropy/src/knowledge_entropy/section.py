"""The report section of a series, in the form that `chunk-provenance report` reads (its FORMAT.md)."""

import shlex
import sys
from pathlib import Path
from typing import Any

from knowledge_entropy.files import write_json

COLUMNS = ["model", "step", "entropy", "deficit", "spread", "se", "change", "change_se", "zero_units"]


def write_section(series: dict[str, Any], path: Path) -> None:
    """Write the section of what `series.json` holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(make_section(series, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])), path)


def make_section(series: dict[str, Any], *, command: str) -> dict[str, Any]:
    """Table, summary and figure of a series."""
    totals, tokens = series["totals"], series["tokens"]
    seen = tokens["first_seen_step"]
    known = "" if seen is None else f", all of them trained on by step {seen}"
    summary = (
        f"Measured on {tokens['rows']} rows of {tokens['tokens']} tokens ({tokens['source']}){known}. "
        f"At most {totals[0]['maximum']:.4f} nats over {series['layers']} layers of {series['width']} units."
    )
    figures = [_figure(totals)] if len(totals) > 1 and all(row["step"] is not None for row in totals) else []
    return {
        "format": "report-section",
        "version": 1,
        "title": "Knowledge entropy",
        "command": command,
        "summary": summary,
        "tables": [
            {
                "title": "Entropy by checkpoint, in nats",
                "columns": COLUMNS,
                "rows": [[row[name] for name in COLUMNS] for row in totals],
            }
        ],
        "figures": figures,
        "passages": [],
    }


def _figure(totals: list[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "label": "deficit",
        "x": [row["step"] for row in totals],
        "y": [row["deficit"] for row in totals],
    }
    if all(row["se"] is not None for row in totals):
        line["low"] = [row["deficit"] - 1.96 * row["se"] for row in totals]
        line["high"] = [row["deficit"] + 1.96 * row["se"] for row in totals]
    return {
        "title": "What is missing to the largest possible knowledge entropy",
        "kind": "line",
        "x_label": "step",
        "y_label": "nats",
        "x_scale": "symlog",
        "series": [line],
    }
