"""Numbers from judged chunks: wins, ties and losses, precision, and precision among the first k."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entity_index.evaluation.running import Evaluation, Judged, JudgedEntity

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """How often one method had more right chunks than another, as many, or fewer."""

    wins: int
    ties: int
    losses: int

    @property
    def total(self) -> int:
        """Entities compared."""
        return self.wins + self.ties + self.losses


def compare(entities: Sequence[JudgedEntity], method: str, other: str) -> Outcome:
    """Win, tie or loss of a method against another, by the number of right chunks of each entity."""
    pairs = [(entity.methods[method].num_right, entity.methods[other].num_right) for entity in entities]
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return Outcome(wins, len(pairs) - wins - losses, losses)


def precision(entities: Sequence[JudgedEntity], method: str) -> float | None:
    """Share of right ones among all judged chunks of a method; None without any."""
    judged = sum(entity.methods[method].num_judged for entity in entities)
    right = sum(entity.methods[method].num_right for entity in entities)
    return right / judged if judged else None


@dataclass(frozen=True)
class Curve:
    """Precision among the first k chunks, for several k, (ks,) each."""

    ks: tuple[int, ...]
    precision: tuple[float, ...]
    """Mean over the entities with a judged chunk among the first k."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """95% interval of this mean over the entities."""
    entities: tuple[int, ...]
    """How many these are."""


def precision_curve(entities: Sequence[JudgedEntity], method: str) -> Curve:
    """Precision at k of one method, for k = 1, 2, 5, 10, 20, 50, ... up to the lowest judged rank."""
    judged = [_judged_ranks(entity.methods[method]) for entity in entities]
    ks = steps_up_to(max((int(ranks[-1]) for ranks, _ in judged if len(ranks)), default=0))
    means, margins, counts = [], [], []
    for k in ks:
        shares = [precision_at(ranks, right, k) for ranks, right in judged if len(ranks) and ranks[0] <= k]
        means.append(float(np.mean(shares)))
        spread = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
        margins.append(1.96 * spread / len(shares) ** 0.5)
        counts.append(len(shares))
    low = tuple(max(0.0, mean - margin) for mean, margin in zip(means, margins, strict=True))
    high = tuple(min(1.0, mean + margin) for mean, margin in zip(means, margins, strict=True))
    return Curve(tuple(ks), tuple(means), low, high, tuple(counts))


def precision_at(ranks: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], k: int) -> float:
    """Share of right ones among the judged chunks of rank up to k.

    >>> precision_at(np.array([1, 3, 9]), np.array([True, False, True]), 3)
    0.5
    """
    return float(right[: np.searchsorted(ranks, k, side="right")].mean())


def _judged_ranks(judged: Judged) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Ranks of which the judge could tell, ascending, and what it told."""
    known = [pair for pair in zip(judged.ranks, judged.right, strict=True) if pair[1] is not None]
    ranks, right = zip(*known, strict=True) if known else ((), ())
    return np.array(ranks, dtype=np.int64), np.array(right, dtype=bool)


def steps_up_to(largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 and so on, up to the first that is not below.

    >>> steps_up_to(30)
    [1, 2, 5, 10, 20, 50]
    """
    steps: list[int] = []
    while largest and (not steps or steps[-1] < largest):
        steps.append((1, 2, 5)[len(steps) % 3] * 10 ** (len(steps) // 3))
    return steps


def of_class(evaluation: Evaluation, kind: str) -> list[JudgedEntity]:
    """The entities of a class."""
    return [entity for entity in evaluation.entities if entity.kind == kind]
