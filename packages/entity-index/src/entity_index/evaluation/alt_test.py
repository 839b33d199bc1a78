"""May a judge stand in for human annotators? The alternative-annotator test (Calderon et al., 2025).

Each annotator in turn is left out. On every instance it is asked who agrees better with the others, the judge
or the one left out. The judge wins over an annotator if it is as good or better so often that even with a
handicap of epsilon on the annotator's side (the annotator costs more) chance does not explain it: a
one-sided t-test, corrected for several annotators by Benjamini and Yekutieli. It may replace them if it wins
over at least half of them. Suggested epsilon: 0.2 for experts, 0.15 for skilled annotators, 0.1 for crowd
workers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entity_index.evaluation.student import student_cdf

Label = str | int | bool
Labels = Sequence[Label | None]

LEAST_INSTANCES = 30
"""An annotator with fewer is not compared: the t-test would not hold."""


@dataclass(frozen=True)
class Against:
    """The judge against one annotator."""

    annotator: str
    instances: int
    judge_as_good: float
    """Share of instances on which the judge agrees with the others as well or better."""
    annotator_as_good: float
    """Share on which the annotator does; on a tie both do."""
    p_value: float
    won: bool


@dataclass(frozen=True)
class AltTest:
    """The result of the test."""

    epsilon: float
    against: tuple[Against, ...]
    skipped: tuple[str, ...]
    """Annotators with too few instances."""

    @property
    def winning_rate(self) -> float:
        """Share of annotators over whom the judge wins (omega)."""
        return sum(one.won for one in self.against) / len(self.against)

    @property
    def advantage(self) -> float:
        """Mean share of instances on which the judge is as good or better (rho): to compare judges."""
        return sum(one.judge_as_good for one in self.against) / len(self.against)

    @property
    def passed(self) -> bool:
        """Whether the judge may replace annotators."""
        return self.winning_rate >= 0.5


def alternative_annotator_test(
    judge: Labels, annotators: Mapping[str, Labels], *, epsilon: float = 0.1, q: float = 0.05
) -> AltTest:
    """Test a judge against annotators who labelled the same instances; None is a missing label.

    Instances count that the judge and at least two annotators labelled.

    Raises:
        ValueError: there are fewer than two annotators, none has enough instances, or lengths differ.
    """
    if len(annotators) < 2:
        raise ValueError(f"the test needs two annotators or more (best three), found {len(annotators)}")
    if wrong := [name for name, labels in annotators.items() if len(labels) != len(judge)]:
        raise ValueError(f"{wrong[0]!r} has {len(annotators[wrong[0]])} labels, the judge {len(judge)}")
    usable = [
        place
        for place, label in enumerate(judge)
        if label is not None and sum(labels[place] is not None for labels in annotators.values()) >= 2
    ]
    measured: list[tuple[str, list[int], list[int]]] = []
    skipped = []
    for name, labels in annotators.items():
        own = [place for place in usable if labels[place] is not None]
        if len(own) < LEAST_INSTANCES:
            skipped.append(name)
            continue
        measured.append((name, *_indicators(judge, annotators, name, own)))
    if not measured:
        raise ValueError(
            f"no annotator has {LEAST_INSTANCES} instances that the judge and another annotator labelled, too"
        )
    p_values = [_p_value(np.subtract(other, own), epsilon) for _, own, other in measured]
    won = benjamini_yekutieli(p_values, q)
    against = tuple(
        Against(name, len(own), float(np.mean(own)), float(np.mean(other)), p_value, one)
        for (name, own, other), p_value, one in zip(measured, p_values, won, strict=True)
    )
    return AltTest(epsilon, against, tuple(skipped))


def _indicators(
    judge: Labels, annotators: Mapping[str, Labels], left_out: str, places: Sequence[int]
) -> tuple[list[int], list[int]]:
    """On each instance, whether the judge, and whether the one left out, agrees as well or better."""
    judge_good, annotator_good = [], []
    for place in places:
        others = [
            labels[place]
            for name, labels in annotators.items()
            if name != left_out and labels[place] is not None
        ]
        by_judge = sum(label == judge[place] for label in others)
        by_annotator = sum(label == annotators[left_out][place] for label in others)
        judge_good.append(int(by_judge >= by_annotator))
        annotator_good.append(int(by_annotator >= by_judge))
    return judge_good, annotator_good


def _p_value(differences: np.ndarray, epsilon: float) -> float:
    """How likely a mean difference this far below epsilon is if it were epsilon; one-sided t-test."""
    below = float(differences.mean()) - epsilon
    spread = float(differences.std(ddof=1))
    if spread == 0:
        return 0.0 if below < 0 else 1.0
    return student_cdf(below / (spread / math.sqrt(len(differences))), len(differences) - 1)


def benjamini_yekutieli(p_values: Sequence[float], q: float) -> list[bool]:
    """Which hypotheses are rejected at a false discovery rate q, whatever their dependence.

    >>> benjamini_yekutieli([0.001, 0.04, 0.02], 0.05)
    [True, False, False]
    """
    count = len(p_values)
    harmonic = sum(1 / rank for rank in range(1, count + 1))
    ordered = sorted(p_values)
    passing = [p for rank, p in enumerate(ordered, start=1) if p <= rank * q / (count * harmonic)]
    return [bool(passing) and p <= passing[-1] for p in p_values]
