import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.statistics import bootstrap_spearman, net_change, spearman, wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_the_published_ones(hits, total, low, high):
    _, found_low, found_high = wilson(np.array([hits]), np.array([total]))
    assert (round(float(found_low[0]), 4), round(float(found_high[0]), 4)) == (low, high)


def test_a_share_of_nothing_is_nan_and_the_limits_stay_between_0_and_1():
    share, low, high = wilson(np.array([0, 0, 3]), np.array([0, 3, 3]))
    assert np.isnan([share[0], low[0], high[0]]).all()
    assert (low[1], high[2]) == (0.0, 1.0)


def test_the_interval_of_a_paired_change_is_the_published_one():
    # Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10 for the pairs 36, 12, 2, 0.
    change, low, high = net_change(*(np.array([n]) for n in (12, 2, 38, 50)))
    assert [round(float(x[0]), 4) for x in (change, low, high)] == [0.2, 0.0569, 0.3404]


def test_a_change_of_nothing_is_nan_and_no_change_is_0():
    change, low, high = net_change(*(np.array(n) for n in ([0, 0], [0, 0], [0, 5], [0, 10])))
    assert np.isnan([change[0], low[0], high[0]]).all()
    assert (change[1], low[1] < 0 < high[1]) == (0.0, True)


def test_spearman_shares_the_ranks_of_ties():
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5; from their mean: -1.5, 0, 0, 1.5 and -0.5, -1.5, 1, 1.
    # Sum of products 0.75 + 1.5 = 2.25, both sums of squares 4.5.
    assert spearman([1, 2, 2, 3], [5, 0, 7, 7]) == pytest.approx(2.25 / 4.5)


def test_never_is_later_than_every_step():
    assert spearman([3, 2, 1], [-4.0, -8.0, -np.inf]) == pytest.approx(1.0)


def test_spearman_is_undefined_where_nothing_varies():
    assert np.isnan([spearman([1, 1], [1, 2]), spearman([], []), spearman([1], [1])]).all()
    assert np.isnan(bootstrap_spearman([1, 1], [1, 2], seed=0)).all()


def slow_ranks(values):
    return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2))
def test_spearman_equals_the_correlation_of_slow_ranks(pairs):
    x, y = (slow_ranks(list(side)) for side in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(spearman(*zip(*pairs, strict=True)))
    else:
        assert spearman(*zip(*pairs, strict=True)) == pytest.approx(np.corrcoef(x, y)[0, 1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), min_size=2))
def test_weights_are_repetitions(rows):
    x, y, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated = spearman(np.repeat(x, weights), np.repeat(y, weights))
    assert spearman(x, y, weights) == pytest.approx(repeated, nan_ok=True)


def test_the_bootstrap_is_seeded_and_surrounds_rho():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, 300)
    y = x + rng.normal(0, 10, 300)
    low, high = bootstrap_spearman(x, y, seed=1)
    assert (low, high) == bootstrap_spearman(x, y, seed=1)
    assert low < spearman(x, y) < high
    # Fisher's approximate standard error of rho is 1.06 / sqrt(n - 3) on the z scale.
    center = np.arctanh(spearman(x, y))
    expected = np.tanh(center + np.array([-1.96, 1.96]) * 1.06 / np.sqrt(297))
    assert [low, high] == pytest.approx(list(expected), abs=0.02)
