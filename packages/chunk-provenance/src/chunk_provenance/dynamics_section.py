"""The tables and figures of a dynamics folder, as a report section."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.dynamics import bin_labels, count_bins, sum_intervals
from chunk_provenance.joining import Dynamics
from chunk_provenance.sections import section

MAX_HEATMAP_ROWS = 12
MAX_BARS = 16
MIN_FACTS = 10  # a bar of fewer says nothing, and its whiskers hide the others

# How to read each figure.
OVER_STEPS_NOTE = (
    "Each line is one group of facts, the same facts at every step: those whose statements the run "
    "trained on so many times in all. The line says which share of them the checkpoint knows, the band is "
    "a 95% interval. If reading teaches, lines of facts seen more often rise earlier and higher; facts "
    "never seen show what guessing gives."
)
BY_INTERVAL_NOTE = (
    "Only facts seen at least once between the two checkpoints count. Learned: not known at the first "
    "checkpoint, known at the second; forgotten: the reverse; net: their difference. The whiskers are 95% "
    "intervals; bars of fewer than 10 facts are left out."
)
BY_EXPOSURES_NOTE = (
    "All intervals taken together: one fact counts once per interval, in the group of how often it was "
    "seen within that interval. Bars of fewer than 10 facts are left out."
)
AT_END_NOTE = (
    "The last point of every line of the first figure, side by side. The whiskers are 95% intervals: wide "
    "ones mean few facts."
)
LEARNED_WHEN_NOTE = (
    "Every column is one group of facts and adds up to 100%: which share of the group was learned at "
    "which step. The further down, the later; the last row was never learned."
)


def dynamics_section(dynamics: Dynamics) -> dict[str, Any]:
    """Tables and figures of the learning dynamics, each figure with how to read it."""
    labels = bin_labels(dynamics.info["parameters"]["bins"])
    figures = [_accuracy_over_steps(dynamics, labels)]
    if dynamics.intervals.num_rows:
        figures += [_change_by_interval(dynamics), _change_by_exposures(dynamics, labels)]
    figures += [_accuracy_at_end(dynamics, labels), _learned_when(dynamics, labels)]
    return section(
        "Learning dynamics",
        command=dynamics.info.get("command", ""),
        summary=describe(dynamics.info),
        tables=[summary_rows(dynamics.info)],
        figures=figures,
    )


def describe(info: dict[str, Any]) -> str:
    """The result in words."""
    summary, early = info["summary"], info["summary"]["earliness"]
    steps = info["steps"]
    seen = f"{summary['facts_seen']} of {summary['facts']} facts were seen at least once"
    learned = (
        f"{early['known_at_start']} were known at step 0, {summary['learned']} of the others were learned"
    )
    known = f"{summary['known_at_end']} are known at step {steps[-1]}"
    return f"Up to step {steps[-1]}, {seen}; {learned}, {known}. {describe_rho(early)}"


def describe_rho(early: dict[str, Any]) -> str:
    """Rho with its interval, in one sentence."""
    if early["rho"] is None:
        return f"rho is undefined over {early['facts']} facts: exposures or steps do not vary."
    return (
        f"Spearman's rho between exposures and how early a fact was learned is {early['rho']:.3f} "
        f"(95% interval {early['low']:.3f} to {early['high']:.3f}, {early['facts']} facts; "
        f"{early['known_at_start']} known at step 0 left out)."
    )


def summary_rows(info: dict[str, Any]) -> dict[str, Any]:
    """The summary by exposures, as a table of a section."""
    rows = [
        [
            row["exposures"],
            row["facts"],
            row["known_at_start"],
            row["learned"],
            row["half_learned_at"],
            _percent(row["accuracy"]),
            f"{_percent(row['low'])}-{_percent(row['high'])}" if row["facts"] else None,
        ]
        for row in info["summary"]["by_exposures"]
    ]
    columns = ["exposures", "facts", "known at 0", "learned", "half by step", "at end %", "95% interval"]
    return {"title": "Facts by exposures in the run", "columns": columns, "rows": rows}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)


def _percents(column: pa.ChunkedArray) -> list[float | None]:
    return [_percent(share) for share in column.to_pylist()]


def _band(table: pa.Table, name: str) -> dict[str, list[float | None]]:
    """Rate and interval of one share, as the values of a series."""
    columns = {"y": "rate", "low": "low", "high": "high"}
    return {key: _percents(table[f"{name}_{suffix}"]) for key, suffix in columns.items()}


def _accuracy_over_steps(dynamics: Dynamics, labels: list[str]) -> dict[str, Any]:
    rows = dynamics.accuracy.filter(pc.equal(dynamics.accuracy["by"], "in_run"))
    series = []
    for label in labels:
        here = rows.filter(pc.equal(rows["exposures"], label))
        if pc.sum(here["facts"]).as_py():
            values = {"y": "accuracy", "low": "low", "high": "high"}
            points = {key: _percents(here[name]) for key, name in values.items()}
            series.append({"label": label, "x": here["step"].to_pylist(), **points})
    return {
        "title": "Facts known at each checkpoint, by exposures in the run",
        "note": OVER_STEPS_NOTE,
        "kind": "line",
        "x_label": "step",
        "y_label": "facts known (%)",
        "x_scale": "symlog",
        "legend": "exposures",
        "series": series,
    }


CHANGES = (("learned", "learned"), ("forgotten", "forgotten"), ("net", "net (learned - forgotten)"))


def _change_by_interval(dynamics: Dynamics) -> dict[str, Any]:
    intervals = dynamics.intervals
    seen = intervals.filter(pc.not_equal(intervals["exposures"], "0"))
    sums = sum_intervals(seen, ["step_from", "step_to"])
    sums = sums.filter(pc.greater_equal(sums["facts"], MIN_FACTS))
    bounds = zip(sums["step_from"].to_pylist(), sums["step_to"].to_pylist(), strict=True)
    many = sums.num_rows > MAX_BARS
    x = sums["step_to"].to_pylist() if many else [f"{low}-{high}" for low, high in bounds]
    return {
        "title": "Learned and forgotten between checkpoints",
        "note": BY_INTERVAL_NOTE,
        "kind": "line" if many else "bar",
        "x_label": "step at the end of the interval" if many else "steps",
        "x_scale": "symlog" if many else "linear",
        "y_label": "facts seen in the interval (%)",
        "series": [{"label": label, "x": x, **_band(sums, name)} for name, label in CHANGES],
    }


def _change_by_exposures(dynamics: Dynamics, labels: list[str]) -> dict[str, Any]:
    sums = sum_intervals(dynamics.intervals, ["exposures"])
    order = [label for label in labels if label in sums["exposures"].to_pylist()]
    sums = sums.take([sums["exposures"].to_pylist().index(label) for label in order])
    sums = sums.filter(pc.greater_equal(sums["facts"], MIN_FACTS))
    return {
        "title": "Learned and forgotten, by exposures between the two checkpoints",
        "note": BY_EXPOSURES_NOTE,
        "kind": "bar",
        "x_label": "exposures in the interval",
        "y_label": "facts per interval (%)",
        "series": [
            {"label": label, "x": sums["exposures"].to_pylist(), **_band(sums, name)}
            for name, label in CHANGES
        ],
    }


def _accuracy_at_end(dynamics: Dynamics, labels: list[str]) -> dict[str, Any]:
    rows = [row for row in dynamics.info["summary"]["by_exposures"] if row["facts"]]
    values = {"y": "accuracy", "low": "low", "high": "high"}
    last = dynamics.info["steps"][-1]
    return {
        "title": f"Facts known at step {last}, by exposures so far",
        "note": AT_END_NOTE,
        "kind": "bar",
        "x_label": "exposures up to the last checkpoint",
        "y_label": "facts known (%)",
        "series": [
            {
                "label": "known",
                "x": [f"{row['exposures']}\n({row['facts']} facts)" for row in rows],
                **{key: [_percent(row[name]) for row in rows] for key, name in values.items()},
            }
        ],
    }


def _learned_when(dynamics: Dynamics, labels: list[str]) -> dict[str, Any]:
    """Share of each group's facts by when they were learned: columns add up to 100%."""
    facts, steps = dynamics.facts, dynamics.info["steps"]
    of_bin = count_bins(facts["exposures"].to_numpy(), dynamics.info["parameters"]["bins"])
    sizes = np.bincount(of_bin, minlength=len(labels))
    learned = facts["learned_at"].cast(pa.float64()).fill_null(np.inf).to_numpy()
    # Learning at one of the last checkpoints cannot be confirmed any more: no rows for those.
    steps = steps[: max(len(steps) - dynamics.info["parameters"]["consecutive"] + 1, 1)]
    bounds = _row_bounds(steps)
    row = np.searchsorted(bounds, learned)  # bounds[row - 1] < learned <= bounds[row]
    used = np.flatnonzero(sizes)
    series = []
    for number, name in enumerate([*_row_names(bounds, steps), "never"]):
        hits = np.bincount(of_bin[row == number], minlength=len(labels))[used]
        shares = np.round(100 * hits / sizes[used], 1).tolist()
        series.append({"label": name, "x": [labels[column] for column in used], "y": shares})
    return {
        "title": "When facts were learned, by exposures in the run",
        "note": LEARNED_WHEN_NOTE,
        "kind": "heatmap",
        "x_label": "exposures in the run",
        "y_label": "learned at step",
        "series": series,
    }


def _row_bounds(steps: list[int]) -> list[int]:
    """At most `MAX_HEATMAP_ROWS` of the steps, the first and the last among them."""
    picked = np.linspace(0, len(steps) - 1, min(len(steps), MAX_HEATMAP_ROWS)).round().astype(int)
    return [steps[place] for place in picked]


def _row_names(bounds: list[int], steps: list[int]) -> list[str]:
    names = [f"{bounds[0]} (untrained)" if bounds[0] == 0 else str(bounds[0])]
    for low, high in pairwise(bounds):
        first = steps[steps.index(low) + 1]
        names.append(str(high) if first == high else f"{first}-{high}")
    return names
