"""What an injection teaches and how long it stays: acquisition, effectivity, retainability, decay.

The measures of Chang et al. (2406.11813) on plain arrays: `loss[k, p]` is minus the mean log-probability
(nats per target token) of probe p after `steps[k]` updates, and an injection at update `u` was last absent at
step `u - 1`. Evaluations may be sparse: what lies in a window counts, what does not is NaN. Memory: a few
times the curves; the work is linear in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
WINDOW = 50  # updates in which an injection shows its effect
IQR_MULTIPLIER = 1.5  # the paper's; its code takes 2.0
UPSTREAM_IQR_MULTIPLIER = 2.0


@dataclass(frozen=True)
class Maxima:
    """The local acquisition maximum after each injection; NaN (and step -1) where nothing was measured."""

    before: Floats  # (injections, probes) loss at the last evaluation without the injection
    best: Floats  # (injections, probes) lowest loss within the window after it
    best_step: Counts  # (injections, probes) the first step that has it
    evaluations: Counts  # (injections, probes) evaluations inside the window

    @property
    def effectivity(self) -> Floats:
        """Nats gained by each injection, (injections, probes); negative where the window only lost."""
        return self.before - self.best


def find_maxima(loss: Floats, steps: Counts, updates: Sequence[int], *, window: int = WINDOW) -> Maxima:
    """The local acquisition maxima of probes whose fact was injected at the same updates.

    The value before an injection is the last one measured since the injection before it; its window ends
    with `window` updates or with the next injection, whichever comes first.

    Args:
        loss: (steps, probes).
        steps: updates done at each evaluation, ascending, (steps,).
        updates: 1-based updates of the injections, ascending.
        window: updates after which the effect of an injection is no longer looked for.

    >>> maxima = find_maxima(np.array([[3.0], [2.0], [1.5], [2.5]]), np.array([0, 1, 2, 3]), [1])
    >>> maxima.best_step.tolist(), maxima.effectivity.tolist()
    ([[2]], [[1.5]])
    """
    shape = (len(updates), loss.shape[1])
    before, best = np.full(shape, np.nan), np.full(shape, np.nan)
    best_step, evaluations = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    bounds = [0, *updates, np.iinfo(np.int64).max]
    for number, (previous, update) in enumerate(pairwise(bounds[:-1])):
        last = int(np.searchsorted(steps, update - 1, side="right")) - 1
        end = min(update - 1 + window, bounds[number + 2] - 1)
        inside = np.flatnonzero((steps >= update) & (steps <= end))
        evaluations[number] = len(inside)
        if last < 0 or steps[last] < previous or not len(inside):
            continue
        lowest = inside[loss[inside].argmin(axis=0)]  # the first one on ties
        before[number] = loss[last]
        best[number] = loss[lowest, np.arange(loss.shape[1])]
        best_step[number] = steps[lowest]
    return Maxima(before, best, best_step, evaluations)


def retained(loss: Floats, steps: Counts, start: Counts, initial: Floats, intervals: Counts) -> Floats:
    """Share of what was gained that is still there: R = (v(start + dt) - initial) / (v(start) - initial).

    Between two evaluations the loss is taken to change evenly. NaN where the run ends earlier, where `start`
    is -1 and where nothing was gained or lost.

    Args:
        loss: (steps, probes).
        steps: updates done at each evaluation, ascending, (steps,).
        start: step of each probe's local acquisition maximum, (probes,).
        initial: the loss that R is measured against, (probes,).
        intervals: the dt, (intervals,).

    Returns:
        (intervals, probes).

    >>> loss = np.array([[4.0], [2.0], [2.5]])
    >>> retained(loss, np.array([0, 1, 3]), np.array([1]), np.array([4.0]), np.array([0, 1, 2])).tolist()
    [[1.0], [0.875], [0.75]]
    """
    gained = values_at(loss, steps, start[None])[0] - initial
    now = values_at(loss, steps, np.where(start < 0, -1, start + intervals[:, None]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gained == 0, np.nan, (now - initial) / gained)


def values_at(loss: Floats, steps: Counts, wanted: Counts) -> Floats:
    """The loss of each probe at wanted steps (times, probes), between evaluations on a straight line.

    >>> values_at(np.array([[1.0], [3.0]]), np.array([0, 10]), np.array([[5], [10], [11]])).tolist()
    [[2.0], [3.0], [nan]]
    """
    right = np.searchsorted(steps, wanted).clip(0, len(steps) - 1)
    left = np.where(steps[right] == wanted, right, right - 1).clip(0)
    width = np.maximum(steps[right] - steps[left], 1)
    share = (wanted - steps[left]) / width
    probes = np.arange(loss.shape[1])
    low, high = loss[left, probes], loss[right, probes]
    outside = (wanted < steps[0]) | (wanted > steps[-1])
    return np.where(outside, np.nan, low + share * (high - low))


def inliers(values: Floats, multiplier: float | None) -> npt.NDArray[np.bool_]:
    """Which values are finite and no outliers: in [Q1 - m IQR, Q3 + m IQR]; `None` keeps all finite ones.

    >>> inliers(np.array([1.0, 2.0, 3.0, 4.0, 100.0, np.nan]), 1.5).tolist()
    [True, True, True, True, False, False]
    """
    finite: npt.NDArray[np.bool_] = np.isfinite(values)
    if multiplier is None or not finite.any():
        return finite
    low, high = np.percentile(values[finite], [25, 75])
    reach = multiplier * (high - low)
    with np.errstate(invalid="ignore"):
        finite &= (values >= low - reach) & (values <= high + reach)
    return finite


@dataclass(frozen=True)
class Mean:
    """A mean, and what it leaves out."""

    value: float | None
    """None where there is nothing to average."""
    count: int
    outliers: int


def mean_without_outliers(values: Floats, multiplier: float | None) -> Mean:
    """The mean of the finite values that the interquartile range keeps.

    >>> mean_without_outliers(np.array([1.0, 2.0, 3.0, np.nan]), 1.5)
    Mean(value=2.0, count=3, outliers=0)
    """
    kept = inliers(values, multiplier)
    count = int(kept.sum())
    value = float(values[kept].mean()) if count else None
    return Mean(value, count, int(np.isfinite(values).sum()) - count)


@dataclass(frozen=True)
class DecayFit:
    """R(dt) = intercept - a log10(dt), by least squares."""

    a: float
    """Share of the gain lost per decade of updates (per factor e: a / ln 10)."""
    standard_error: float | None
    """Of a; None with two points."""
    intercept: float
    r2: float | None
    """None where R does not vary."""
    log10_tau: float | None
    """Where the line reaches 0: all is forgotten after 10 ** log10_tau updates. None if nothing decays."""
    points: int


def fit_decay(intervals: npt.ArrayLike, retainability: npt.ArrayLike) -> DecayFit | None:
    """Fit the decay of mean retainability (a fraction) over the intervals from 1 on; None below two points.

    >>> fit = fit_decay([0, 1, 10, 100], [1.0, 0.9, 0.7, 0.5])
    >>> round(fit.a, 9), round(fit.r2, 9), round(fit.log10_tau, 9), fit.points
    (0.2, 1.0, 4.5, 3)
    """
    dt, y = np.asarray(intervals, dtype=float), np.asarray(retainability, dtype=float)
    used = (dt >= 1) & np.isfinite(y)
    x, y = np.log10(dt[used]), y[used]
    if len(x) < 2:
        return None
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    intercept = float(y.mean() - slope * x.mean())
    residual = float(((y - intercept - slope * x) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    return DecayFit(
        a=-slope,
        standard_error=float(np.sqrt(residual / (len(x) - 2) / spread)) if len(x) > 2 else None,
        intercept=intercept,
        r2=1 - residual / total if total else None,
        log10_tau=-intercept / slope if slope < 0 else None,
        points=len(x),
    )


def common_reach(last_updates: Counts, last_step: int, *, window: int = WINDOW) -> int | None:
    """The longest interval that at least half of the probes can be followed for, None if none can.

    A probe is followed from the end of the window after its last injection (`last_updates`, (probes,)).

    >>> common_reach(np.array([1, 1, 901]), 1059), common_reach(np.array([1031]), 1059)
    (1009, None)
    """
    reach = np.sort(last_step - (last_updates - 1 + window))[::-1]
    reach = reach[reach >= 0]
    return int(reach[(len(reach) + 1) // 2 - 1]) if len(reach) else None


def measured_intervals(steps: Counts, start: Counts, reach: int) -> Counts:
    """All dt up to `reach` at which at least one probe was evaluated, (intervals,).

    >>> measured_intervals(np.array([0, 1, 2, 10]), np.array([1, 2]), 9).tolist()
    [0, 1, 8, 9]
    """
    later = steps[:, None] - np.unique(start[start >= 0])
    return np.unique(later[(later >= 0) & (later <= reach)])


def as_numbers(values: Floats) -> list[Any]:
    """A list for JSON: NaN becomes None."""
    return [None if not np.isfinite(value) else float(value) for value in values.tolist()]
