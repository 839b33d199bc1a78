"""Shares with intervals and rank correlation, in the few lines of numpy they take."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

Z95 = 1.959963984540054  # the two-sided 95% point of the normal distribution


def wilson(hits: Counts, total: Counts) -> tuple[Floats, Floats, Floats]:
    """Share of hits with its 95% Wilson score interval; nan where the total is 0.

    >>> share, low, high = wilson(np.array([1]), np.array([10]))
    >>> [round(float(x[0]), 4) for x in (share, low, high)]
    [0.1, 0.0179, 0.4042]
    """
    n = np.where(total > 0, total, np.nan)
    share = hits / n
    center = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # At 0 and n the limits are exactly 0 and 1; rounding would leave 1e-17 on the wrong side.
    return share, np.where(hits == 0, share, center - half), np.where(hits == total, share, center + half)


def net_change(gained: Counts, lost: Counts, before: Counts, total: Counts) -> tuple[Floats, Floats, Floats]:
    """Share after minus share before, of the same `total` things, with Newcombe's 95% interval for pairs.

    Newcombe (1998), method 10: the Wilson limits of both shares, joined with their correlation.

    Args:
        gained: how many were off before and on after.
        lost: how many were on before and off after.
        before: how many were on before.
        total: how many there are.
    """
    kept, never = before - lost, total - before - gained
    after_share, after_low, after_high = wilson(before - lost + gained, total)
    before_share, before_low, before_high = wilson(before, total)
    margins = 1.0 * (kept + gained) * (lost + never) * (kept + lost) * (gained + never)  # float: n ** 4
    cross = 1.0 * kept * never - 1.0 * gained * lost
    cross = np.where(cross > 0, np.maximum(cross - total / 2, 0), cross)  # Newcombe's continuity correction
    phi = np.where(margins > 0, cross / np.sqrt(np.maximum(margins, 1)), 0)
    change = after_share - before_share
    low = _joined(after_share - after_low, before_high - before_share, phi)
    high = _joined(after_high - after_share, before_share - before_low, phi)
    return change, change - low, change + high


def _joined(a: Floats, b: Floats, phi: Floats) -> Floats:
    joined: Floats = np.sqrt(np.maximum(a**2 - 2 * phi * a * b + b**2, 0))
    return joined


def average_ranks(levels: Counts, weights: Counts) -> Floats:
    """Rank of each observation among all, ties sharing the mean of their ranks.

    Args:
        levels: dense codes 0, 1, ... in the order of the values, (observations,).
        weights: how often each observation occurs.

    >>> average_ranks(np.array([1, 0, 1]), np.array([1, 1, 1])).tolist()
    [2.5, 1.0, 2.5]
    """
    of_level = np.bincount(levels, weights=weights)
    below = np.cumsum(of_level) - of_level
    ranks: Floats = (below + (of_level + 1) / 2)[levels]
    return ranks


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, weights: Counts | None = None) -> float:
    """Spearman's rank correlation with average ranks; nan where one side does not vary.

    `-inf` and `inf` are values like any other, below and above all numbers.

    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4]), 6)
    0.8
    """
    x_levels, y_levels = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (x, y))
    return _rho(x_levels, y_levels, np.ones(len(x_levels), dtype=np.int64) if weights is None else weights)


def _rho(x_levels: Counts, y_levels: Counts, weights: Counts) -> float:
    """Spearman's rho of dense codes in the order of the values."""
    total = weights.sum()
    if not total:
        return float("nan")
    x_ranks, y_ranks = (average_ranks(levels, weights) - (total + 1) / 2 for levels in (x_levels, y_levels))
    spread = np.sqrt((weights * x_ranks**2).sum() * (weights * y_ranks**2).sum())
    return float((weights * x_ranks * y_ranks).sum() / spread) if spread else float("nan")


def bootstrap_spearman(
    x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int, resamples: int = 1000
) -> tuple[float, float]:
    """95% percentile interval of Spearman's rho under resampling of the pairs; (nan, nan) if rho is.

    Pairs that are equal are drawn together: a resample is one multinomial draw over the distinct pairs.
    """
    if np.isnan(spearman(x, y)):
        return float("nan"), float("nan")
    x_levels, y_levels = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (x, y))
    cells, counts = np.unique(np.stack([x_levels, y_levels]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    share = counts / counts.sum()
    rhos = [_rho(cells[0], cells[1], rng.multinomial(counts.sum(), share)) for _ in range(resamples)]
    low, high = np.nanpercentile(rhos, [2.5, 97.5])
    return float(low), float(high)
