"""How well proxies predict the truth: correlations with bootstrap intervals, decisions, regret.

Rows are mixtures, columns are domains; lower is better in both (log-perplexity or perplexity).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
Statistic = Callable[[Values, Values], Values]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with the interval that resampling the mixtures gives. NaN where it is not defined."""

    value: float
    low: float
    high: float


def pearson(x: Values, y: Values) -> Values:
    """Pearson's r of each row of x with the same row of y; NaN where one does not vary.

    >>> pearson(np.array([[1.0, 2, 3]]), np.array([[2.0, 4, 7]])).round(4).tolist()
    [0.9934]
    """
    left, right = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    varies = (np.ptp(x, axis=1) > 0) & (np.ptp(y, axis=1) > 0)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    found: Values = np.full(len(x), np.nan)
    np.divide((left * right).sum(axis=1), scale, out=found, where=varies & (scale > 0))
    return np.clip(found, -1, 1)


def spearman(x: Values, y: Values) -> Values:
    """Spearman's rho by rows: Pearson's r of the ranks, ties at their mean rank."""
    return pearson(stats.rankdata(x, axis=1), stats.rankdata(y, axis=1))


def kendall(x: Values, y: Values) -> Values:
    """Kendall's tau-b by rows; NaN where one side does not vary."""
    return np.array([stats.kendalltau(left, right).statistic for left, right in zip(x, y, strict=True)])


STATISTICS: dict[str, Statistic] = {"pearson": pearson, "spearman": spearman, "kendall": kendall}
RANKS = ("spearman", "kendall")
"""These see only the order: log-perplexity and perplexity give the same, unless they are centred."""


def centre(values: Values) -> Values:
    """Each domain's mean taken off: pooled over domains, differences between mixtures remain.

    >>> centre(np.array([[1.0, 10.0], [3.0, 14.0]])).tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
    """
    centred: Values = values - values.mean(axis=-2, keepdims=True)
    return centred


def estimate(
    statistic: Statistic,
    proxies: Values,
    truth: Values,
    *,
    centred: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic over all cells, with a percentile interval.

    Mixtures are resampled with all their domains, because a mixture's domains are not independent.

    Args:
        statistic: of the rows of two arrays.
        proxies: by mixture and domain.
        truth: likewise.
        centred: take each domain's mean off first (in every resample anew).
        seed: of the resampling.
        resamples: how many.
    """

    count = len(proxies)
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    rows = np.concatenate([np.arange(count)[None], drawn])  # the first is the sample itself
    views = [centre(values[rows]) if centred else values[rows] for values in (proxies, truth)]
    value, *others = statistic(*(view.reshape(len(rows), -1) for view in views))
    defined = np.array(others)[~np.isnan(others)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def decision_accuracy(proxies: Values, truth: Values) -> float:
    """The share of pairs of mixtures of which the proxy names the better one; a tie of it counts half.

    Pairs that are equal in truth are left out; NaN if there are no others.

    >>> decision_accuracy(np.array([1.0, 2.0, 2.0]), np.array([5.0, 6.0, 7.0]))
    0.8333333333333334
    """
    first, second = np.triu_indices(len(truth), k=1)
    real = np.sign(truth[first] - truth[second])
    said = np.sign(proxies[first] - proxies[second])
    counted = real != 0
    if not counted.any():
        return float("nan")
    return float(np.mean(np.where(said == 0, 0.5, said == real)[counted]))


def regret(proxies: Values, truth: Values) -> float:
    """How much worse the mixture is that the proxy would choose than the best one, in the units of `truth`.

    >>> regret(np.array([1.0, 2.0, 3.0]), np.array([5.5, 5.0, 7.0]))
    0.5
    """
    return float(truth[int(np.argmin(proxies))] - truth.min())


def top_agreement(proxies: Values, truth: Values, count: int) -> float:
    """The share of the truth's `count` best mixtures that are among the proxy's.

    >>> top_agreement(np.array([1.0, 2.0, 3.0]), np.array([5.5, 7.0, 5.0]), 2)
    0.5
    """
    best = [set(np.argsort(values, kind="stable")[:count].tolist()) for values in (proxies, truth)]
    return len(best[0] & best[1]) / count
