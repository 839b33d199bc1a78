"""Element types: bytes to float32 or float64 and back, rounding once, to nearest, ties to even.

A conversion that the target cannot hold is an error, never an infinity: `encode` raises OverflowError, and
ValueError for NaN and infinities in the values themselves. Reading keeps them, so that they can be reported.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Compute = Literal["F32", "F64"]
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

FLOATS = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")
"""Types that can be merged, those of most precision first. Others are copied where all inputs agree."""

_NATIVE: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
COMPUTE: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}


def itemsize(dtype: str) -> int:
    """Bytes per element of a type that can be merged."""
    return {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}.get(dtype, 1)


def decode(raw: Bytes, dtype: str, compute: Compute = "F32") -> Values:
    """The values of the bytes, exactly.

    >>> decode(np.array([0x80, 0x3F, 0xC0, 0xBF], dtype=np.uint8), "BF16")
    array([ 1. , -1.5], dtype=float32)
    """
    values = np.empty(len(raw) // itemsize(dtype), dtype=COMPUTE[compute])
    decode_into(raw, dtype, values)
    return values


def decode_into(raw: Bytes, dtype: str, values: Values) -> None:
    """Write the values of the bytes into `values`; a float64 tensor may be rounded to float32."""
    if dtype == "BF16":
        np.copyto(values, raw.view(_narrow_type(dtype)))
    elif dtype in _NATIVE:
        np.copyto(values, raw.view(_NATIVE[dtype]), casting="same_kind")
    else:
        np.copyto(values, _table(dtype)[raw])


@cache
def _table(dtype: str) -> npt.NDArray[np.float32]:
    """The 256 values of an 8-bit type."""
    table: npt.NDArray[np.float32] = (
        np.arange(256, dtype=np.uint8).view(_narrow_type(dtype)).astype(np.float32)
    )
    return table


@cache
def _narrow_type(dtype: str) -> np.dtype[Any]:
    """The NumPy type of one that NumPy itself lacks."""
    import ml_dtypes  # here: many commands read no tensor

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))
    return found


def all_finite(values: Values) -> bool:
    """Whether no value is NaN or infinite.

    Their sum tells, and allocates nothing; only where it overflows is every value looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def bf16_finite(raw: Bytes) -> bool:
    """Whether no element of BF16 bytes is NaN or infinite.

    Such elements are the largest as unsigned integers (negative ones) or as signed ones (positive ones).

    >>> bf16_finite(np.array([0x80, 0x3F, 0x80, 0xFF], dtype=np.uint8))
    False
    """
    return bool(raw.view("<u2").max(initial=0) < 0xFF80 and raw.view("<i2").max(initial=0) < 0x7F80)


def encode(values: Values, dtype: str) -> Bytes:
    """The bytes of the values, each rounded once.

    >>> encode(np.array([1.0, -1.5], dtype=np.float32), "BF16").tolist()
    [128, 63, 192, 191]

    Raises:
        ValueError: a value is NaN or infinite.
        OverflowError: a value is beyond the largest of the type.
    """
    raw = np.empty(len(values) * itemsize(dtype), dtype=np.uint8)
    encode_into(values, dtype, raw)
    return raw


def encode_into(values: Values, dtype: str, raw: Bytes) -> None:
    """Write the bytes of the values into `raw`."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = _encode(values, dtype, raw)
    if not finite:
        if not all_finite(values):
            raise ValueError("NaN or infinite")
        raise OverflowError(f"{float(np.abs(values).max())} is beyond the largest {dtype}")


def _encode(values: Values, dtype: str, raw: Bytes) -> bool:
    """Write the bytes; false where what they stand for is NaN or infinite."""
    if dtype == "BF16":
        np.copyto(raw.view(_narrow_type(dtype)), _narrow(values), casting="unsafe")
        return bf16_finite(raw)
    if dtype in _NATIVE:
        native: Values = raw.view(_NATIVE[dtype])
        np.copyto(native, values, casting="same_kind")
        return all_finite(native)
    np.copyto(raw.view(_narrow_type(dtype)), _round_to_odd(values), casting="unsafe")
    return bool(np.isfinite(_table(dtype)[raw]).all())


def _narrow(values: Values) -> npt.NDArray[np.float32]:
    """float32 values that round to BF16 as the float64 values do.

    Rounding twice goes wrong only where the first rounding lands on a tie of the second one.
    """
    if values.dtype == np.float32:
        return values.view(np.float32)
    narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    ties = np.flatnonzero((bits & np.uint32(0xFFFF)) == 0x8000)
    if len(ties):
        exact, rounded = np.abs(values[ties]), np.abs(narrow[ties].astype(np.float64))
        bits[ties] += (exact > rounded).astype(np.uint32)
        bits[ties] -= (exact < rounded).astype(np.uint32)
    return narrow


def _round_to_odd(values: Values) -> npt.NDArray[np.float32]:
    """float32 values that round to any narrower type as the values do: an inexact one is made odd."""
    if values.dtype == np.float32:
        return values.view(np.float32)
    narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    exact, rounded = np.abs(values), np.abs(narrow.astype(np.float64))
    bits -= (rounded > exact).astype(np.uint32)
    bits |= (rounded != exact).astype(np.uint32)
    return narrow


def round_to_bf16(values: Values) -> None:
    """Round finite float32 values to BF16 where they stand."""
    bits = values.view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    bits &= np.uint32(0xFFFF0000)
