"""The measures of an injected run as tables, sentences and figures of a report section."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from chunk_provenance.injection.acquisition import scenarios_of
from chunk_provenance.injection.metrics import Floats
from chunk_provenance.injection.trajectories import SCENARIOS, Injected, Trajectories
from chunk_provenance.sections import section

Table = dict[str, Any]
NONE = "probes have no retainability"


def metrics_section(
    measured: dict[str, Any], trajectories: Trajectories, injected: Mapping[str, Injected], *, command: str
) -> dict[str, Any]:
    """Tables, what was left out, and the curves."""
    return section(
        "Injected facts",
        command=command,
        summary=" ".join(describe(measured)),
        tables=metric_tables(measured),
        figures=metric_figures(measured, trajectories, injected),
    )


def metric_tables(measured: dict[str, Any]) -> list[Table]:
    """Gains, decay, K and A, and (where there are scores) P and F; numbers as words."""
    tables = [
        _gain_table(measured),
        _injection_table(measured),
        _decay_table(measured),
        _performance_table(measured),
    ]
    return [*tables, _task_table(measured["tasks"])] if "tasks" in measured else tables


def _gain_table(measured: dict[str, Any]) -> Table:
    columns = ["scenario, depth", "probes", "times", "effectivity", "outliers", "lost", "never up"]
    rows = [
        [
            _name(row),
            row["probes"],
            row["effectivity_counted"] + row["effectivity_outliers"],
            _number(row["effectivity"]),
            row["effectivity_outliers"],
            row["encounters_that_lost"],
            row["probes_never_improved"],
        ]
        for row in measured["results"]
    ]
    return {"title": "What an injection taught (nats per target token)", "columns": columns, "rows": rows}


def _injection_table(measured: dict[str, Any]) -> Table:
    """Effectivity and retainability of the n-th injection, where a fact had more than one."""
    longest = max((len(row["injections"]) for row in measured["results"]), default=0)
    rows = [
        [f"{_name(row)}: {label}", *(_number(one[name], 2) for one in row["injections"])]
        + [None] * (longest - len(row["injections"]))
        for row in measured["results"]
        for name, label in (("effectivity", "gain"), ("retainability", "kept"))
        if len(row["injections"]) > 1
    ]
    window = measured["settings"]["window"]
    title = f"Injection by injection: nats gained, and the share of them left {window} updates later"
    return {"title": title, "columns": ["scenario, depth", *map(str, range(1, longest + 1))], "rows": rows}


def _decay_table(measured: dict[str, Any]) -> Table:
    columns = ["scenario, depth", "probes", "left", "a per decade", "SE", "R2", "log10 tau"]
    rows = []
    for row in measured["results"]:
        curve, fit = row["retainability"], row["decay"] or {}
        end = next((value for value in reversed(curve["mean"]) if value is not None), None)
        numbers = [_number(fit.get(name)) for name in ("a", "standard_error", "r2", "log10_tau")]
        rows.append([_name(row), curve["probes"], _number(end), *numbers])
    reach = measured["reach"]
    title = f"How it was forgotten, over {reach} updates" if reach is not None else "How it was forgotten"
    return {"title": title, "columns": columns, "rows": rows}


def _performance_table(measured: dict[str, Any]) -> Table:
    first, last = measured["steps"]
    rows = [
        [
            row["facts"],
            row["count"],
            _number(row["before"]),
            _number(row["after"]),
            _percent(row["acquisition"]),
        ]
        for row in measured["performance"]
    ]
    columns = ["facts", "count", f"K at step {first}", f"K at step {last}", "A"]
    return {
        "title": "What the model knows (K: nats per target token)",
        "columns": columns,
        "rows": rows,
    }


def _task_table(tasks: dict[str, Any]) -> Table:
    lines = [{"task": "P: the mean", **tasks}, *tasks["tasks"]]
    rows = [
        [row["task"], _number(row["before"]), _number(row["after"]), _percent(row["forgetting"])]
        for row in lines
    ]
    return {"title": "What else it can do", "columns": ["task", "before", "after", "F"], "rows": rows}


def describe(measured: dict[str, Any]) -> list[str]:
    """What the numbers rest on, and what they leave out; a sentence each."""
    counts, results, settings = measured["counts"], measured["results"], measured["settings"]
    first, last = measured["steps"]
    asked = f"{counts['probes']} probes of {counts['facts']} facts"
    lines = [f"{asked}, evaluated {measured['evaluations']} times between step {first} and step {last}."]
    if settings["iqr"] is not None:
        lines.append(
            f"Outliers lie more than {settings['iqr']:g} interquartile ranges outside the quartiles."
        )
    unmeasured = sum(row["encounters_unmeasured"] for row in results)
    worse = _sum(results, "worse_than_before")
    fate = "kept" if settings["keep_worse"] else "left out"
    left_out = [
        (counts["probes_not_finite"], "probes are left out: a value is missing or not finite"),
        (counts["facts_injected_without_probes"], "injected facts have no probe"),
        (unmeasured, "times, an injection was not measured: no evaluation in its window or right before it"),
        (
            _sum(results, "run_ends_too_soon"),
            f"{NONE}: the run ends within the window of their last injection",
        ),
        (_sum(results, "unmeasured"), f"{NONE}: no evaluation around their last injection"),
        (_sum(results, "unchanged"), f"{NONE}: their value never changed"),
        (worse, f"probes ended worse than they began; {fate} in retainability"),
    ]
    lines += [f"{count} {words}." for count, words in left_out if count]
    between = max((row["retainability"]["between_evaluations"] or 0 for row in results), default=0)
    if measured["evaluations"] <= last - first:
        fewest = min(row["evaluations_in_window"][0] for row in results)
        lines.append(
            f"The evaluations are sparse: a maximum is the best of those in its window, {fewest} at least."
        )
    if between > 0:
        lines.append(f"Up to {between:.0%} of a curve of retainability lies on a line between evaluations.")
    return lines


def _sum(results: list[dict[str, Any]], name: str) -> int:
    return sum(row["retainability"][name] for row in results)


def metric_figures(
    measured: dict[str, Any], trajectories: Trajectories, injected: Mapping[str, Injected]
) -> list[dict[str, Any]]:
    """Per scenario: the log-probability over the run, the gain after an injection, and what is retained."""
    scenario, depth = np.array(scenarios_of(trajectories, injected)), np.array(trajectories.depths)
    window = measured["settings"]["window"]
    figures = []
    for name in SCENARIOS:
        chosen = {
            kind: np.flatnonzero((scenario == name) & (depth == kind))
            for kind in dict.fromkeys(trajectories.depths)
        }
        chosen = {kind: probes for kind, probes in chosen.items() if len(probes)}
        if chosen:
            figures.append(_run_figure(name, trajectories, injected, chosen))
        if chosen and name != "control":
            figures.append(_gain_figure(name, trajectories, injected, chosen, reach=2 * window))
            figures.append(_retainability_figure(name, measured))
    return figures


def _run_figure(
    name: str, trajectories: Trajectories, injected: Mapping[str, Injected], chosen: dict[str, Any]
) -> dict[str, Any]:
    facts = {trajectories.fact_ids[probe] for probes in chosen.values() for probe in probes}
    updates = sorted({update for fact in facts & injected.keys() for update in injected[fact].updates})
    several = f"{len(updates)} updates from {updates[0]} to {updates[-1]}" if len(updates) > 1 else ""
    title = (
        f"{name}: injected at {several or f'update {updates[0]}'}" if updates else f"{name}: never injected"
    )
    series = [
        {
            "label": kind,
            "x": trajectories.steps.tolist(),
            "y": (-trajectories.loss[:, probes].mean(axis=1)).tolist(),
        }
        for kind, probes in chosen.items()
    ]
    return _line(title, "step", "mean log-probability", series, scale="linear")


def _gain_figure(
    name: str,
    trajectories: Trajectories,
    injected: Mapping[str, Injected],
    chosen: dict[str, Any],
    *,
    reach: int,
) -> dict[str, Any]:
    series = [
        {
            "label": kind,
            "x": np.flatnonzero(np.isfinite(gain)).tolist(),
            "y": gain[np.isfinite(gain)].tolist(),
        }
        for kind, probes in chosen.items()
        for gain in [mean_gain(trajectories, injected, probes, reach=reach)]
    ]
    title = f"{name}: what an injection adds, mean over injections and probes"
    return _line(title, "updates since the injection", "gain (nats)", series, scale="linear")


def mean_gain(
    trajectories: Trajectories, injected: Mapping[str, Injected], probes: Any, *, reach: int
) -> Floats:
    """Mean gain so many updates after the last step without the injection, (reach + 1,); NaN unmeasured.

    An injection is followed until the next one; one without an evaluation right before it is left out.
    """
    total, count = np.zeros(reach + 1), np.zeros(reach + 1)
    steps = trajectories.steps
    for probe in probes:
        updates = injected[trajectories.fact_ids[probe]].updates
        for update, following in zip(updates, [*updates[1:], np.inf], strict=True):
            here = np.flatnonzero((steps >= update - 1) & (steps < min(following, update + reach)))
            if len(here) and steps[here[0]] == update - 1:
                since = steps[here] - (update - 1)
                total[since] += trajectories.loss[here[0], probe] - trajectories.loss[here, probe]
                count[since] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def _retainability_figure(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Measured points and, where there is one, the fitted line of each depth."""
    series = []
    for row in (row for row in measured["results"] if row["scenario"] == name):
        curve, fit = row["retainability"], row["decay"]
        points = [(x, y) for x, y in zip(curve["interval"], curve["mean"], strict=True) if x >= 1]
        series.append({"label": row["depth"], "x": [x for x, _ in points], "y": [y for _, y in points]})
        if fit is not None:
            ends = [points[0][0], points[-1][0]]
            line = [fit["intercept"] - fit["a"] * float(np.log10(x)) for x in ends]
            series.append({"label": f"{row['depth']}, fit: a = {fit['a']:.3f}", "x": ends, "y": line})
    title = f"{name}: what is retained of the last gain"
    return _line(title, "updates since the maximum", "retainability", series, scale="log")


def _line(title: str, x_label: str, y_label: str, series: list[Any], *, scale: str) -> dict[str, Any]:
    labels = {"x_label": x_label, "y_label": y_label, "x_scale": scale}
    return {"title": title, "kind": "line", **labels, "series": series}


def _name(row: dict[str, Any]) -> str:
    return f"{row['scenario']}, {row['depth']}"


def _number(value: float | None, digits: int = 3) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
