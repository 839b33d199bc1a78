"""All measures of an injected run: per scenario and depth, with counts of what each leaves out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from chunk_provenance.injection.metrics import (
    IQR_MULTIPLIER,
    UPSTREAM_IQR_MULTIPLIER,
    WINDOW,
    Counts,
    Floats,
    Maxima,
    as_numbers,
    common_reach,
    find_maxima,
    fit_decay,
    mean_without_outliers,
    measured_intervals,
    retained,
    values_at,
)
from chunk_provenance.injection.performance import acquisition, probe_performance
from chunk_provenance.injection.trajectories import SCENARIOS, Injected, Trajectories, check_start


@dataclass(frozen=True)
class MetricSettings:
    """How the measures are taken."""

    window: int = WINDOW
    """Updates after an injection within which its effect is looked for."""
    iqr: float | None = IQR_MULTIPLIER
    """Outliers lie further than so many interquartile ranges from the quartiles; None keeps all."""
    keep_worse: bool = False
    """Keep probes that end worse than they began in mean retainability, whose sign they turn around."""

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.window < 1:
            raise ValueError(f"the window must be at least 1 update, found {self.window}")
        if self.iqr is not None and not self.iqr >= 0:
            raise ValueError(f"the interquartile multiplier must be 0 or more, found {self.iqr}")


def metric_settings(
    *, window: int = WINDOW, iqr: float | None = IQR_MULTIPLIER, compat: Literal["upstream"] | None = None
) -> MetricSettings:
    """Settings after the paper, or (`compat`) after its code, which filters at 2.0 and keeps every probe.

    >>> metric_settings(compat="upstream")
    MetricSettings(window=50, iqr=2.0, keep_worse=True)
    """
    if compat is None:
        return MetricSettings(window, iqr)
    return MetricSettings(window, UPSTREAM_IQR_MULTIPLIER, keep_worse=True)


@dataclass(frozen=True)
class _Group:
    """Probes of one scenario and depth: curves and maxima, the n-th injection of a fact in row n."""

    loss: Floats  # (steps, probes)
    maxima: Maxima  # (most injections of a fact, probes)
    last: Counts  # (probes,) update of the last injection
    last_start: Counts  # (probes,) step of the maximum after it, -1 where unmeasured
    next_update: Counts  # (most injections, probes) the update of the injection after it


NEVER = np.iinfo(np.int64).max


def measure(
    trajectories: Trajectories, injected: Mapping[str, Injected], settings: MetricSettings | None = None
) -> dict[str, Any]:
    """Effectivity, retainability, decay, K and A of every scenario and depth, ready for JSON.

    Returns:
        `results` (one dict a scenario and depth), `performance` (K and A), `counts` and `settings`.

    Raises:
        ValueError: the answers begin after the first injection.
    """
    settings = settings or MetricSettings()
    check_start(trajectories, injected)
    groups = _gather(trajectories, injected, settings.window)
    if not groups:
        raise ValueError(
            f"the answers know none of the injected facts: the plan has {min(injected)!r}, the answers have "
            f"{min(trajectories.fact_ids, default=None)!r}"
        )
    reaches = [
        common_reach(group.last, int(trajectories.steps[-1]), window=settings.window)
        for group in groups.values()
    ]
    reach = min((value for value in reaches if value is not None), default=None)
    results = [
        {"scenario": scenario, "depth": depth, **_measure_group(group, trajectories.steps, reach, settings)}
        for (scenario, depth), group in groups.items()
    ]
    return {
        "results": results,
        "performance": _performance(trajectories, injected),
        "counts": _count(trajectories, injected),
        "settings": asdict(settings),
        "steps": [int(trajectories.steps[0]), int(trajectories.steps[-1])],
        "evaluations": len(trajectories.steps),
        "reach": reach,
    }


def scenarios_of(trajectories: Trajectories, injected: Mapping[str, Injected]) -> list[str]:
    """The scenario of each probe's fact, (probes,)."""
    return [injected[fact].scenario if fact in injected else "control" for fact in trajectories.fact_ids]


def _gather(
    trajectories: Trajectories, injected: Mapping[str, Injected], window: int
) -> dict[tuple[str, str], _Group]:
    scenario, depth = np.array(scenarios_of(trajectories, injected)), np.array(trajectories.depths)
    groups = {}
    for name in SCENARIOS[:-1]:
        for kind in dict.fromkeys(trajectories.depths):
            probes = np.flatnonzero((scenario == name) & (depth == kind))
            if len(probes):
                updates = [injected[trajectories.fact_ids[probe]].updates for probe in probes]
                groups[name, kind] = _group(trajectories.loss[:, probes], trajectories.steps, updates, window)
    return groups


def _group(loss: Floats, steps: Counts, updates: list[tuple[int, ...]], window: int) -> _Group:
    """Probes whose facts were injected at the same updates are measured together."""
    shape = (max(map(len, updates)), len(updates))
    before, best = np.full(shape, np.nan), np.full(shape, np.nan)
    best_step, evaluations, following = np.full(shape, -1), np.full(shape, -1), np.full(shape, NEVER)
    for schedule in dict.fromkeys(updates):
        columns = np.flatnonzero([found == schedule for found in updates])
        maxima = find_maxima(loss[:, columns], steps, schedule, window=window)
        rows = np.arange(len(schedule))[:, None]
        before[rows, columns], best[rows, columns] = maxima.before, maxima.best
        best_step[rows, columns], evaluations[rows, columns] = maxima.best_step, maxima.evaluations
        following[rows, columns] = np.array([*schedule[1:], NEVER])[:, None]
    last = np.array([schedule[-1] for schedule in updates])
    at = np.array([len(schedule) - 1 for schedule in updates])
    maxima = Maxima(before, best, best_step, evaluations)
    return _Group(loss, maxima, last, best_step[at, np.arange(len(at))], following)


def _measure_group(
    group: _Group, steps: Counts, reach: int | None, settings: MetricSettings
) -> dict[str, Any]:
    gains = group.maxima.effectivity
    effectivity = mean_without_outliers(gains.reshape(-1), settings.iqr)
    planned = int((group.next_update != NEVER).sum()) + gains.shape[1]
    curve = _retainability(group, steps, reach, settings)
    fit = fit_decay(curve["interval"], [np.nan if value is None else value for value in curve["mean"]])
    return {
        "probes": gains.shape[1],
        "encounters": planned,
        "encounters_unmeasured": planned - int(np.isfinite(gains).sum()),
        "evaluations_in_window": _range_of(group.maxima.evaluations),
        "encounters_that_lost": int((gains < 0).sum()),
        "probes_never_improved": int((~(gains > 0).any(axis=0)).sum()),
        "effectivity": effectivity.value,
        "effectivity_counted": effectivity.count,
        "effectivity_outliers": effectivity.outliers,
        "injections": _per_injection(group, steps, settings),
        "retainability": curve,
        "decay": None if fit is None else asdict(fit),
    }


def _range_of(evaluations: Counts) -> list[int]:
    """Fewest and most evaluations after an injection; -1 stands where a fact has no such injection."""
    there = evaluations[evaluations >= 0]
    return [int(there.min()), int(there.max())]


def _per_injection(group: _Group, steps: Counts, settings: MetricSettings) -> list[dict[str, Any]]:
    """Effectivity of the n-th injection, and what of its own gain is left a window later."""
    rows = []
    interval = np.array([settings.window])
    for number, gains in enumerate(group.maxima.effectivity):
        start = group.maxima.best_step[number]
        kept = retained(group.loss, steps, start, group.maxima.before[number], interval)[0]
        disturbed = (start >= 0) & (start + settings.window >= group.next_update[number])
        gained = gains > 0
        gain = mean_without_outliers(gains, settings.iqr)
        left = mean_without_outliers(np.where(gained & ~disturbed, kept, np.nan), settings.iqr)
        rows.append(
            {
                "injection": number + 1,
                "effectivity": gain.value,
                "effectivity_counted": gain.count,
                "effectivity_outliers": gain.outliers,
                "retainability": left.value,
                "retainability_counted": left.count,
                "retainability_outliers": left.outliers,
                "no_gain": int((gains <= 0).sum()),
                "next_injection_too_soon": int((gained & disturbed).sum()),
                "run_ends_too_soon": int((gained & ~disturbed & ~np.isfinite(kept)).sum()),
            }
        )
    return rows


def _retainability(
    group: _Group, steps: Counts, reach: int | None, settings: MetricSettings
) -> dict[str, Any]:
    """Mean retainability after each interval since the last maximum, and which probes it leaves out."""
    start, initial = group.last_start, group.loss[0]
    change = values_at(group.loss, steps, start[None])[0] - initial
    room = int(steps[-1]) - (group.last - 1 + settings.window)  # that every probe surely has
    used = (start >= 0) & (change != 0) & (settings.keep_worse | (change < 0)) & (room >= 0)
    counts = {
        "probes": int(used.sum()),
        "run_ends_too_soon": int((room < 0).sum()),
        "unmeasured": int(((room >= 0) & (start < 0)).sum()),
        "unchanged": int(((room >= 0) & (change == 0)).sum()),
        "worse_than_before": int(((room >= 0) & (change > 0)).sum()),
    }
    intervals = np.empty(0, np.int64) if reach is None else measured_intervals(steps, start[used], reach)
    shares = retained(group.loss, steps, np.where(used, start, -1), initial, intervals)
    shares[intervals[:, None] > room] = np.nan
    means = [mean_without_outliers(row, settings.iqr) for row in shares]
    return {
        **counts,
        "between_evaluations": _count_between(shares, steps, start, intervals),
        "interval": intervals.tolist(),
        "mean": as_numbers(np.array([np.nan if mean.value is None else mean.value for mean in means])),
        "counted": [mean.count for mean in means],
        "outliers": [mean.outliers for mean in means],
    }


def _count_between(shares: Floats, steps: Counts, start: Counts, intervals: Counts) -> float | None:
    """The share of values that lie between two evaluations."""
    there = np.isfinite(shares)
    if not there.any():
        return None
    return 1 - float(np.isin(start + intervals[:, None], steps)[there].mean())


def _performance(trajectories: Trajectories, injected: Mapping[str, Injected]) -> list[dict[str, Any]]:
    """K before any update and at the end, and A, of all injected facts, of each scenario and of the rest."""
    facts = list(dict.fromkeys(trajectories.fact_ids))
    place = {fact: number for number, fact in enumerate(facts)}
    of_probe = np.array([place[fact] for fact in trajectories.fact_ids], dtype=np.int64)
    count = np.bincount(of_probe, minlength=len(facts))
    before, after = (
        np.bincount(of_probe, -trajectories.loss[row], minlength=len(facts)) / count for row in (0, -1)
    )
    scenario = np.array([injected[fact].scenario if fact in injected else "control" for fact in facts])
    names = [name for name in SCENARIOS if name in scenario]
    rows = []
    for label, chosen in [
        ("all injected", [name for name in names if name != "control"]),
        *((n, [n]) for n in names),
    ]:
        if not chosen:
            continue
        old, new = (
            probe_performance({name: values[scenario == name] for name in chosen})
            for values in (before, after)
        )
        size = int(np.isin(scenario, chosen).sum())
        rows.append(
            {"facts": label, "count": size, "before": old, "after": new, "acquisition": acquisition(old, new)}
        )
    return rows


def _count(trajectories: Trajectories, injected: Mapping[str, Injected]) -> dict[str, int]:
    asked = set(trajectories.fact_ids)
    return {
        "facts": len(asked),
        "probes": len(trajectories.probe_ids),
        "probes_not_finite": trajectories.not_finite,
        "facts_injected": len(injected),
        "facts_injected_without_probes": len(injected.keys() - asked),
        "facts_without_injection": len(asked - injected.keys()),
    }
