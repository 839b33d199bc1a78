import math
from fractions import Fraction

import numpy as np
import pytest

from entity_index.evaluation.alt_test import alternative_annotator_test, benjamini_yekutieli
from entity_index.evaluation.student import student_cdf

# t, degrees of freedom, P(T <= t): scipy.stats.t.cdf of SciPy 1.17.1
GOLDEN_T = [
    (-0.001, 1, 0.49968169021990794),
    (-1.5, 2, 0.13619656244550055),
    (2.25, 7, 0.9704009412660836),
    (-3.7, 29, 0.0004487365521881347),
    (0.4, 99, 0.6549908602494199),
    (-12.0, 99, 2.5653148439487405e-21),
    (-1.0, 1000000.0, 0.15865537491678916),
    (40.0, 3, 0.9999828096596054),
    (-math.inf, 3, 0.0),
    (math.inf, 3, 1.0),
]

JUDGE = "1101111000011001010010001010010110111101001011000001101111010000100011100010111010110011100100011111"
ANNOTATORS = {
    "a": "11111110000110010100100010100111111111011010111010"
    "01101111010000000011001000111010110111110100011111",
    "b": "11111110010110010100100000100111111000010000111000"
    "01101011000000100011101001111010110011110100011111",
    "c": "11001100011101100000110010000111011001011110110000"
    "00101111110000100001111001010110100010100100111101",
}


@pytest.mark.parametrize(("t", "degrees", "expected"), GOLDEN_T)
def test_the_t_distribution_is_that_of_scipy(t, degrees, expected):
    assert student_cdf(t, degrees) == pytest.approx(expected, rel=2e-9)  # lgamma of a million loses digits


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 99])
@pytest.mark.parametrize("t", [-4.0, -1.3, -0.2, 0.0, 0.7, 2.5])
def test_the_t_distribution_is_the_integral_of_its_density(t, degrees):
    assert student_cdf(t, degrees) == pytest.approx(integral(t, degrees), abs=1e-9)


def integral(t, degrees):
    """Half, plus the density from 0 to t by Simpson's rule."""
    factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(
        degrees * math.pi
    )
    x = np.linspace(0, t, 2001)
    y = factor * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 0.5 + float((weights * y).sum()) * (t / 2000) / 3


def test_benjamini_yekutieli_steps_up():
    harmonic = float(sum(Fraction(1, k) for k in range(1, 4)))
    limits = [rank * 0.05 / (3 * harmonic) for rank in (1, 2, 3)]
    assert benjamini_yekutieli([limits[0], 0.9, 0.8], 0.05) == [True, False, False]
    assert benjamini_yekutieli([limits[0] * 1.01, 0.9, 0.8], 0.05) == [False, False, False]
    assert benjamini_yekutieli([limits[2], limits[2], limits[2]], 0.05) == [True, True, True]
    assert benjamini_yekutieli([0.8, limits[1], limits[1]], 0.05) == [False, True, True]


def slow_test(judge, annotators, epsilon, q=0.05):
    """The published procedure in plain steps, with exact fractions up to the t-test."""
    places = range(len(judge))
    enough = [
        i for i in places if judge[i] is not None and sum(a[i] is not None for a in annotators.values()) >= 2
    ]
    results, p_values = [], []
    for left_out, own in annotators.items():
        wins_judge, wins_own = [], []
        for i in enough:
            if own[i] is None:
                continue
            others = [a[i] for name, a in annotators.items() if name != left_out and a[i] is not None]
            score_judge = Fraction(sum(other == judge[i] for other in others), len(others))
            score_own = Fraction(sum(other == own[i] for other in others), len(others))
            wins_judge.append(score_judge >= score_own)
            wins_own.append(score_own >= score_judge)
        d = [int(b) - int(a) for a, b in zip(wins_judge, wins_own, strict=True)]
        n = len(d)
        mean = Fraction(sum(d), n)
        variance = sum((x - mean) ** 2 for x in d) / (n - 1)
        t = (float(mean) - epsilon) / math.sqrt(float(variance) / n)
        p_values.append(integral(t, n - 1))
        results.append((left_out, n, sum(wins_judge) / n, sum(wins_own) / n))
    m = len(p_values)
    passing = [0]
    for rank, p in enumerate(sorted(p_values), start=1):
        if p <= rank / m * q / sum(1 / k for k in range(1, m + 1)):
            passing.append(rank)
    rejected = sorted(range(m), key=p_values.__getitem__)[: passing[-1]]
    return results, p_values, [place in rejected for place in range(m)]


@pytest.mark.parametrize("seed", range(6))
def test_the_result_equals_the_procedure_in_plain_steps(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 90)

    def labels(error, missing):
        noisy = np.where(rng.random(90) < error, rng.integers(0, 3, 90), truth)
        return [
            None if gone else int(label) for label, gone in zip(noisy, rng.random(90) < missing, strict=True)
        ]

    judge = labels(0.1 + 0.1 * seed, 0.05)
    errors = {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.2}
    annotators = {name: labels(error, 0.2) for name, error in errors.items()}
    found = alternative_annotator_test(judge, annotators, epsilon=0.1)
    results, p_values, won = slow_test(judge, annotators, 0.1)
    assert [(one.annotator, one.instances) for one in found.against] == [row[:2] for row in results]
    assert [one.judge_as_good for one in found.against] == pytest.approx([row[2] for row in results])
    assert [one.annotator_as_good for one in found.against] == pytest.approx([row[3] for row in results])
    assert [one.p_value for one in found.against] == pytest.approx(p_values, abs=1e-8)
    assert [one.won for one in found.against] == won
    assert found.winning_rate == sum(won) / 4
    assert found.advantage == pytest.approx(sum(row[2] for row in results) / 4)
    assert found.passed == (sum(won) >= 2)


def test_the_result_equals_that_of_scipy():
    # SciPy 1.17.1: ttest_1samp(left out - judge, 0.1, alternative="less"), false_discovery_control("by")
    found = alternative_annotator_test(JUDGE, ANNOTATORS, epsilon=0.1)
    shares = [(one.annotator, one.judge_as_good, one.annotator_as_good) for one in found.against]
    assert shares == [("a", 0.96, 0.96), ("b", 0.96, 0.95), ("c", 0.96, 0.77)]
    p_values = [0.0003293415455163341, 0.00021024175511356527, 1.8898228236434584e-08]
    assert [one.p_value for one in found.against] == pytest.approx(p_values, rel=1e-9)
    assert found.winning_rate == 1.0


def test_a_judge_that_always_agrees_wins_and_one_that_never_does_loses():
    yes = [True] * 40
    everyone = {"a": yes, "b": yes, "c": yes}
    assert alternative_annotator_test(yes, everyone).winning_rate == 1.0
    opposite = alternative_annotator_test([False] * 40, everyone)
    assert (opposite.winning_rate, opposite.advantage, opposite.passed) == (0.0, 0.0, False)


def test_a_tie_counts_for_both_and_epsilon_decides():
    yes = [True] * 40
    found = alternative_annotator_test(yes, {"a": yes, "b": yes}, epsilon=0.0)
    assert [one.p_value for one in found.against] == [1.0, 1.0]  # no difference is not below 0
    assert alternative_annotator_test(yes, {"a": yes, "b": yes}, epsilon=0.01).passed


def test_annotators_with_few_instances_are_left_out():
    yes = [True] * 40
    few = [True] * 29 + [None] * 11
    found = alternative_annotator_test(yes, {"a": yes, "b": yes, "c": few})
    assert [one.annotator for one in found.against] == ["a", "b"]
    assert found.skipped == ("c",)


@pytest.mark.parametrize(
    ("judge", "annotators", "message"),
    [
        ([True] * 40, {"a": [True] * 40}, "needs two annotators or more"),
        ([True] * 40, {"a": [True] * 40, "b": [True] * 39}, "'b' has 39 labels, the judge 40"),
        ([True] * 20, {"a": [True] * 20, "b": [True] * 20}, "no annotator has 30 instances"),
        ([None] * 40, {"a": [True] * 40, "b": [True] * 40}, "no annotator has 30 instances"),
    ],
)
def test_what_cannot_be_tested_is_said(judge, annotators, message):
    with pytest.raises(ValueError, match=message):
        alternative_annotator_test(judge, annotators)
