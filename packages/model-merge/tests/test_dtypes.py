import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_merge.dtypes import decode, encode

NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def all_values(dtype):
    """Every finite value of a type of 8 or 16 bits, as float64, sorted, with its bits."""
    width = np.dtype(NUMPY[dtype]).itemsize
    bits = np.arange(256**width).astype(f"<u{width}")
    with np.errstate(invalid="ignore"):  # signalling NaNs are among them
        values = bits.view(NUMPY[dtype]).astype(np.float64)
    order = np.argsort(values[np.isfinite(values)], kind="stable")
    return values[np.isfinite(values)][order], bits[np.isfinite(values)][order]


def nearest(values, dtype):
    """The slow twin: of the two neighbours of each value the nearer one, of two as near the even one."""
    table, bits = all_values(dtype)
    keep = np.append(True, table[1:] != table[:-1])
    table, bits = table[keep], bits[keep]
    above = np.clip(np.searchsorted(table, values), 1, len(table) - 1)
    to_low, to_high = values - table[above - 1], table[above] - values
    takes_high = (to_high < to_low) | ((to_high == to_low) & (bits[above] % 2 == 0))
    return table[np.where(takes_high, above, above - 1)]


def hard_cases(dtype):
    """Every value, every middle between two, and the float64 numbers just beside the middles."""
    table, _ = all_values(dtype)
    middles = (table[1:] + table[:-1]) / 2
    return np.concatenate([table, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_float64_is_rounded_once_to_the_nearest_value_and_ties_to_even(dtype):
    values = hard_cases(dtype)
    assert np.array_equal(decode(encode(values.copy(), dtype), dtype, "F64"), nearest(values, dtype))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_float32_is_rounded_to_the_nearest_value_and_ties_to_even(dtype):
    values = hard_cases(dtype).astype(np.float32)
    expected = nearest(values.astype(np.float64), dtype)
    assert np.array_equal(decode(encode(values.copy(), dtype), dtype, "F64"), expected)


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("compute", ["F32", "F64"])
def test_decoding_agrees_with_numpy(dtype, compute):
    raw = np.random.default_rng(0).integers(0, 256, 8 * 500).astype(np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = raw.view(NUMPY[dtype]).astype({"F32": np.float32, "F64": np.float64}[compute])
        found = decode(raw, dtype, compute)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", NUMPY)
@given(st.lists(st.floats(-400, 400, width=32)))
def test_encoding_what_was_decoded_changes_nothing(dtype, values):
    raw = np.array(values, dtype=np.float32).astype(NUMPY[dtype]).view(np.uint8)
    assert np.array_equal(encode(decode(raw, dtype, "F64"), dtype), raw)
    assert dtype == "F64" or np.array_equal(encode(decode(raw, dtype, "F32"), dtype), raw)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", NUMPY)
def test_values_that_are_not_finite_are_refused(dtype, value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(np.array([1.0, value, 2.0]), dtype)


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [
        ("F16", 65504.0, 65520.0),
        ("BF16", 3.3895313892515355e38, 3.39617754e38),
        ("F8_E4M3", 448.0, 464.1),  # the tie, 464, goes to 448
        ("F8_E5M2", 57344.0, 61440.0),
    ],
)
@pytest.mark.parametrize("compute", [np.float32, np.float64])
def test_the_largest_value_passes_and_the_middle_above_it_is_an_overflow(dtype, largest, too_large, compute):
    assert decode(encode(np.array([largest], dtype=compute), dtype), dtype).tolist() == [largest]
    with pytest.raises(OverflowError, match=f"beyond the largest {dtype}"):
        encode(np.array([-too_large], dtype=compute), dtype)


def test_a_float64_beyond_float32_is_an_overflow():
    with pytest.raises(OverflowError, match=r"1e\+300 is beyond the largest F32"):
        encode(np.array([1e300]), "F32")
