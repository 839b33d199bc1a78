"""Radix selection against a stable sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_merge.methods.select import EVERYTHING, NOTHING, Cut, every, largest
from model_merge.plan import BLOCK


def by_sorting(values, k):
    order = np.argsort(-values, kind="stable")
    mask = np.zeros(len(values), bool)
    mask[order[:k]] = True
    return mask


def streams_of(columns, block=BLOCK):
    def streams(step):
        for start in range(0, len(columns[0]), block):
            yield start, every(step, start, [column[start : start + block] for column in columns])

    return streams


magnitudes = st.sampled_from([0.0, 1e-45, 1e-20, 0.5, 1.0, 1.0000001, 3e38]) | st.floats(0, 100, width=32)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, st.integers(1, 50), elements=magnitudes), st.data())
def test_the_kept_are_the_first_of_a_stable_sort(values, data):
    ks = [data.draw(st.integers(0, len(values))) for _ in range(3)]
    (cuts,) = largest(streams_of([values], block=7), [ks], size=len(values))
    for k, cut in zip(ks, cuts, strict=True):
        np.testing.assert_array_equal(cut.keeps(0, values), by_sorting(values, k))


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.999])
def test_several_streams_of_many_blocks_with_thousands_of_equals(share):
    rng = np.random.default_rng(1)
    size = 5 * BLOCK + 17
    columns = [
        np.abs(rng.standard_normal(size)).astype(np.float32),
        rng.integers(0, 5, size).astype(np.float32),
    ]
    k = int(share * size)
    cuts = largest(streams_of(columns), [[k], [k]], size=size)
    for column, (cut,) in zip(columns, cuts, strict=True):
        np.testing.assert_array_equal(cut.keeps(0, column), by_sorting(column, k))


@pytest.mark.parametrize("k", [1, 1000, 100_000, 5 * BLOCK])
def test_a_sample_that_misleads_costs_passes_and_no_accuracy(k):
    size = 5 * BLOCK + 17
    rng = np.random.default_rng(2)
    misleading = np.abs(rng.standard_normal(size)).astype(np.float32)
    misleading[::7] *= 1000  # every 7th element is what the sample sees of so many
    wide = np.exp(rng.uniform(-80, 80, size)).astype(np.float32)  # more keys in question than are counted
    cuts = largest(streams_of([misleading, wide]), [[k], [k]], size=size)
    for column, (cut,) in zip([misleading, wide], cuts, strict=True):
        np.testing.assert_array_equal(cut.keeps(0, column), by_sorting(column, k))


@pytest.mark.parametrize("shape_of", ["constant", "rows"])
def test_tensors_of_equal_or_sorted_rows_are_selected_exactly(shape_of):
    size = 3 * BLOCK
    column = np.full(size, 0.25, np.float32)
    if shape_of == "rows":
        column = np.repeat(np.arange(size // 64, dtype=np.float32), 64)
    for k in (1, 65, size // 2, size - 1):
        ((cut,),) = largest(streams_of([column]), [[k]], size=size)
        np.testing.assert_array_equal(cut.keeps(0, column), by_sorting(column, k))


def test_a_chunk_from_the_middle_keeps_what_the_whole_keeps():
    values = np.array([2, 1, 2, 2, 3, 2], np.float32)
    cut = Cut(2.0, 3)
    whole = cut.keeps(0, values)
    assert whole.tolist() == [True, False, True, True, True, False]
    for start in range(6):
        for stop in range(start, 7):
            np.testing.assert_array_equal(cut.keeps(start, values[start:stop]), whole[start:stop])


def test_none_and_all_cost_no_pass():
    def never(step):
        raise AssertionError

    assert largest(never, [[0, 4], [4]], size=4) == [[NOTHING, EVERYTHING], [EVERYTHING]]
