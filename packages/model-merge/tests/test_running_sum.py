"""Every sum is compared bit for bit with one made afresh, in the parts' order."""

import math
import random
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from model_merge.running_sum import ExponentRange, Reach, RunningSum, find_reach, fresh_sum
from model_merge.subsets import gray_code, list_family, weighted

PARTS = 10
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
GRAY = [tuple(float(mask >> bit & 1) for bit in range(PARTS)) for mask in gray_code(PARTS)]


def in_type(values, dtype):
    """Values as they are stored in a type, in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(NUMPY_TYPES[dtype]).astype(np.float32)


def ordinary(dtype, size=400):
    return in_type(np.random.default_rng(1).normal(0, 0.02, (PARTS, size)), dtype)


def near_the_bound(dtype, size=300):
    """Columns whose exponents lie about as far apart as may just be exact, with full significands."""
    rng = np.random.default_rng(4)
    bits = {"F32": 24, "F16": 11, "BF16": 8}[dtype]
    spread = np.minimum(53 - bits - 4 + rng.integers(-3, 3, size), 28)
    exponents = rng.integers(0, spread + 1, (PARTS, size)) - 14
    exponents[0], exponents[1] = -14, spread - 14
    return in_type(
        rng.choice([-1, 1], (PARTS, size)) * (1 + rng.random((PARTS, size))) * 2.0**exponents, dtype
    )


def adversarial(dtype):
    """Columns meant to break a running sum: huge and tiny together, subnormal, both zeros, cancelling."""
    info = ml_dtypes.finfo(NUMPY_TYPES[dtype])
    tiny, small, large = float(info.smallest_subnormal), float(info.tiny), float(info.max) / 16
    pool = [0.0, -0.0, 1.0, -1.0, 1 + float(info.eps), tiny, -tiny, 3 * tiny, small, large, -large, 1e-3, 0.1]
    rng = np.random.default_rng(2)
    random_bits = rng.choice(pool, (PARTS, 600))
    exponents = 2.0 ** rng.integers(math.log2(small), math.log2(large), (PARTS, 600))
    columns = np.concatenate([random_bits, rng.choice([-1, 1], (PARTS, 600)) * exponents], axis=1)
    columns = np.concatenate([columns, np.full((PARTS, 3), [[0.0, -0.0, tiny]])], axis=1)
    return np.concatenate([near_the_bound(dtype), in_type(columns, dtype)], axis=1)


def inexact_positions(values, dtype, coefficients):
    exponents = ExponentRange.of_size(values.shape[1])
    for part in values:
        exponents.add(part, dtype)
    return exponents.inexact(find_reach(coefficients))


def running(values, inexact):
    return RunningSum(values.__getitem__, lambda size: np.full(size, -0.0), values.shape[1], 100, inexact)


def afresh(values, coefficients):
    """The definition, one multiplication and addition after the other."""
    columns = []
    for column in values.T.tolist():
        total = -0.0
        for value, coefficient in zip(column, coefficients, strict=True):
            if coefficient:
                total += value * coefficient
        columns.append(total)
    return np.array(columns)


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


@pytest.mark.parametrize("make", [ordinary, adversarial])
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_all_1023_subsets_of_10_in_gray_order_are_the_bits_of_a_fresh_sum(make, dtype):
    values = make(dtype)
    moving = running(values, inexact_positions(values, dtype, GRAY))
    expected_parts = values.astype(np.float64)
    for coefficients in GRAY:
        expected = np.full(values.shape[1], -0.0)
        for part, coefficient in enumerate(coefficients):
            if coefficient:
                expected = expected + expected_parts[part]
        assert_same_bits(moving.move(coefficients), expected)


@pytest.mark.parametrize("make", [ordinary, adversarial])
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_any_order_of_the_subsets_gives_the_bits_of_a_fresh_sum(make, dtype):
    values = make(dtype)[:, :60]
    moving = running(values, inexact_positions(values, dtype, GRAY))
    for coefficients in random.Random(3).sample(GRAY, 60):
        assert_same_bits(moving.move(coefficients), afresh(values, coefficients))


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_a_simplex_grid_and_lists_with_negative_weights_give_the_bits_of_a_fresh_sum(dtype):
    names = [str(part) for part in range(PARTS)]
    values = np.concatenate([ordinary(dtype, 60), adversarial(dtype)[:, ::40]], axis=1)
    grid = [merge.coefficients for merge in list_family("simplex:1/3", names)][::4]
    signs = [
        weighted({"0": 3, "4": -1, "7": 2}, names).coefficients,
        weighted({"4": -5, "9": 2}, names).coefficients,
    ]
    for rows in (grid, [*signs, *grid[:10], signs[0]]):
        moving = running(values, inexact_positions(values, dtype, rows))
        for coefficients in rows:
            assert_same_bits(moving.move(coefficients), afresh(values, coefficients))


def test_weights_that_are_not_whole_are_summed_afresh_in_the_parts_order():
    rows = [(0.1, 0.2, 0.7), (0.3, 0.0, 0.7)]
    assert find_reach(rows) is None
    values = ordinary("F32")[:3]
    moving = running(values, None)
    for coefficients in rows:
        assert_same_bits(moving.move(coefficients), afresh(values, coefficients))


def test_the_adversarial_values_do_break_a_running_sum_that_does_not_look_out():
    values = adversarial("F32")
    careless = running(values, np.zeros(0, np.int64))
    wrong = sum(
        (
            careless.move(row).view(np.int64)
            != fresh_sum(values, row, np.full(values.shape[1], -0.0)).view(np.int64)
        ).any()
        for row in GRAY
    )
    assert wrong > 500


def test_ordinary_values_are_nearly_all_exact():
    for dtype in NUMPY_TYPES:
        assert len(inexact_positions(ordinary(dtype), dtype, GRAY)) <= 4


@pytest.mark.parametrize(("dtype", "bits"), [("F32", 24), ("F16", 11), ("BF16", 8)])
def test_the_bound_is_reached_and_not_passed(dtype, bits):
    """Spread + p + ceil(log2 10) = 53 is exact, one more is not counted as exact."""
    for extra in (0, 1):
        spread = 53 - bits - 4 + extra
        column = np.zeros((PARTS, 1), np.float32)
        column[0], column[1] = 2.0 ** (spread - 14), 2.0**-14
        if dtype == "F16" and spread > 29:
            continue
        found = inexact_positions(in_type(column, dtype), dtype, GRAY)
        assert len(found) == extra


def test_at_positions_called_exact_no_partial_sum_ever_rounds():
    values = adversarial("F32")
    inexact = set(inexact_positions(values, "F32", GRAY).tolist())
    exact = [column for column in range(values.shape[1]) if column not in inexact]
    assert len(exact) > 100
    for column in exact:
        parts = [Fraction(value) for value in values[:, column].tolist()]
        for order in range(3):
            shuffled = random.Random(order).sample(parts, PARTS)
            total = Fraction(0)
            for part in shuffled:
                total += part
                assert Fraction(float(total)) == total


def test_a_sum_that_is_nearer_from_nothing_starts_again():
    values = ordinary("F32")
    loads = []

    def load(part):
        loads.append(part)
        return values[part]

    moving = RunningSum(load, lambda size: np.full(size, -0.0), values.shape[1], 100, np.zeros(0, np.int64))
    one_hot = [tuple(float(part == wanted) for part in range(PARTS)) for wanted in range(PARTS)]
    for coefficients in one_hot:
        moving.move(coefficients)
    assert loads == list(range(PARTS))


def test_float64_parts_are_always_summed_afresh():
    exponents = ExponentRange.of_size(2)
    exponents.add(np.array([1.0, 0.0]), "F64")
    assert exponents.inexact(Reach(2, negative=False)).tolist() == [0]


def test_a_zero_matters_only_where_its_sign_could_be_lost():
    exponents = ExponentRange.of_size(2)
    exponents.add(np.array([0.0, -0.0], np.float32), "F32")
    assert exponents.inexact(Reach(2, negative=False)).tolist() == [1]
    assert exponents.inexact(Reach(2, negative=True)).tolist() == [0, 1]
