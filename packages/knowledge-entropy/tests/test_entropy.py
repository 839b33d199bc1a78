import numpy as np
import pytest
from numpy.testing import assert_allclose

from knowledge_entropy.entropy import entropy, jackknife_error, rank_correlation


def test_equal_coefficients_have_the_largest_entropy_and_a_single_one_none():
    rows = np.array([[3.0, 3.0, 3.0, 3.0], [0.0, 5.0, 0.0, 0.0]])
    assert_allclose(entropy(rows), [np.log(4), 0], atol=1e-15)


def test_scale_does_not_matter():
    values = np.random.default_rng(0).random((2, 63))
    assert_allclose(entropy(values), entropy(2048 * values), rtol=1e-14)


def test_a_half_and_two_quarters_have_one_and_a_half_bits():
    assert entropy(np.array([2.0, 1.0, 1.0])) == pytest.approx(1.5 * np.log(2))


def test_the_published_epsilon_stands_inside_the_logarithm():
    shares = np.array([0.25, 0.75])
    expected = -(0.25 * np.log(0.25 + 1e-9) + 0.75 * np.log(0.75 + 1e-9))
    assert entropy(shares, eps=1e-9) == pytest.approx(expected, abs=1e-16)


def test_the_jackknife_of_a_mean_is_the_usual_standard_error():
    values = np.random.default_rng(1).random(20)
    without = (values.sum() - values) / 19
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(20))


def test_rank_correlation_is_spearmans_with_ties_and_nan_for_constants():
    first = np.array([[1.0, 2.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    second = np.array([[1.0, 3.0, 2.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    # ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, squares 4.5 and 5
    assert_allclose(rank_correlation(first, second), [4.5 / np.sqrt(4.5 * 5), -1, np.nan])
