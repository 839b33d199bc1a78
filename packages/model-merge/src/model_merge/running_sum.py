"""Sums over changing sets of tensors, kept exact or made afresh, so that the bits never depend on the path.

A float with a significand of p bits and exponent e is a whole multiple of 2**(e - p + 1). If, at one
position, e_min and e_max are the smallest and largest exponents among the parts' values, then every sum with
whole coefficients whose absolute values add up to at most T is a multiple of 2**(e_min - p + 1) and smaller
than T * 2**(e_max + 1). It fits the 53 bits of a float64, and so do all sums on the way to it, if

    (e_max - e_min) + p + ceil(log2(T)) <= 53.

At such a position additions and subtractions never round: a running sum equals a fresh one. At the others
(few, if any, in real models), and where a zero has a sign that a running sum would lose, the sum is made
afresh, part after part from the first to the last.

Sums start from -0, the only number that adds nothing to any other, not even a sign.

The functions use only what numpy arrays and torch tensors share, so sums live where the model lives.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

SIGNIFICAND_BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}
SMALLEST_EXPONENT = {"F64": -1022, "F32": -126, "F16": -14, "BF16": -126, "F8_E4M3": -6, "F8_E5M2": -14}
"""Of a normal number; subnormal ones are multiples of the same power of two as the smallest normal ones."""

EXACT_BITS = 53
NO_EXPONENT = 1 << 20
FRESH_FRACTION = 8
"""If more than one in so many positions is inexact, the whole tensor is summed afresh."""

Array = Any  # a flat numpy array or torch tensor
"""A flat numpy array or torch tensor."""


@dataclass
class ExponentRange:
    """Per position, the exponents of the largest value and of the finest last bit seen so far."""

    top: npt.NDArray[np.int32]
    last_bit: npt.NDArray[np.int32]
    signed_zero: npt.NDArray[np.bool_]
    """Where a -0 was seen."""
    zero: npt.NDArray[np.bool_]
    """Where any zero was seen: with a negative coefficient it becomes a -0."""

    @classmethod
    def of_size(cls, size: int) -> "ExponentRange":
        """Nothing seen yet."""
        top, last_bit = np.full(size, -NO_EXPONENT, np.int32), np.full(size, NO_EXPONENT, np.int32)
        return cls(top, last_bit, np.zeros(size, bool), np.zeros(size, bool))

    def add(self, values: npt.NDArray[Any], dtype: str) -> None:
        """Take in one part's finite values, which are of `dtype` as stored (in float32 or float64 here)."""
        _, exponents = np.frexp(values)
        exponents = np.maximum(exponents.astype(np.int32) - 1, SMALLEST_EXPONENT[dtype])
        there = values != 0
        np.maximum(self.top, exponents, out=self.top, where=there)
        np.minimum(self.last_bit, exponents - (SIGNIFICAND_BITS[dtype] - 1), out=self.last_bit, where=there)
        self.zero |= ~there
        self.signed_zero |= ~there & np.signbit(values)

    def inexact(self, reach: "Reach") -> npt.NDArray[np.int64]:
        """Positions at which a running sum could differ from a fresh one."""
        bits = self.top + 1 + math.ceil(math.log2(reach.total)) - self.last_bit
        zeros = self.zero if reach.negative else self.signed_zero
        return np.flatnonzero((bits > EXACT_BITS) | zeros)


@dataclass(frozen=True)
class Reach:
    """How far sums go: the T of the bound, and whether anything is ever taken away."""

    total: float
    negative: bool


def find_reach(coefficients: Sequence[Sequence[float]]) -> Reach | None:
    """How far the sums of these merges go; None if a coefficient is not whole: no running sum is exact then.

    With negative coefficients, sums on the way from one merge to the next can reach the two together.
    """
    flat = {coefficient for row in coefficients for coefficient in row}
    if not all(float(coefficient).is_integer() for coefficient in flat):
        return None
    total = max(sum(abs(coefficient) for coefficient in row) for row in coefficients)
    negative = min(flat) < 0
    return Reach(total * 2 if negative else total, negative)


def fresh_sum(values: Sequence[Array], coefficients: Sequence[float], start: Array) -> Array:
    """Sum of coefficient * values in the parts' order, into the float64 array `start` of -0.

    This is the definition that every faster way must equal bit for bit.
    """
    for value, coefficient in zip(values, coefficients, strict=True):
        _add(start, value, coefficient)
    return start


def _add(total: Array, values: Array, coefficient: float, block: int = 1 << 62) -> None:
    """total += coefficient * values, a block at a time: temporary arrays then stay in a processor's cache."""
    for begin in range(0, len(total), block):
        _add_block(total[begin : begin + block], values[begin : begin + block], coefficient)


def _add_block(total: Array, values: Array, coefficient: float) -> None:
    if coefficient == 1:
        total += values
    elif coefficient == -1:
        total -= values
    elif coefficient:
        total += _double(values) * coefficient


def _double(values: Array) -> Array:
    return values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()


@dataclass
class RunningSum:
    """One tensor's sum for the merge it was last moved to."""

    load: Callable[[int], Array]
    """The values of one part, on the device of the sum."""
    start: Callable[[int], Array]
    """A flat float64 array of so many -0 on that device."""
    size: int
    block: int = 1 << 62
    """Elements to add at a time."""
    inexact: Array | None = None
    """Positions to be summed afresh each time; None: all of them."""
    coefficients: list[float] = field(default_factory=list)
    total: Array = None
    apart: dict[int, Array] = field(default_factory=dict)
    """Each part's values at the inexact positions."""

    def move(self, coefficients: Sequence[float]) -> Array:
        """The sum with these coefficients; the array belongs to the sum and changes with the next move."""
        if self.inexact is None:
            return self._afresh(coefficients)
        if self.total is None:
            self.total = self.start(self.size)
        if self._is_far(coefficients):
            self.total[:] = -0.0
            self.coefficients = [0.0] * len(coefficients)
        for part in self._by_growth(coefficients):
            change = coefficients[part] - self.coefficients[part]
            _add(self.total, self.load(part), change, self.block)
        self.coefficients = list(coefficients)
        if len(self.inexact):
            self.total[self.inexact] = self._apart_afresh(coefficients)
        return self.total

    def _afresh(self, coefficients: Sequence[float]) -> Array:
        """A whole sum that is not kept, one part in memory at a time."""
        total = self.start(self.size)
        for part, coefficient in enumerate(coefficients):
            if coefficient:
                _add(total, self.load(part), coefficient, self.block)
        return total

    def _is_far(self, coefficients: Sequence[float]) -> bool:
        if not self.coefficients:
            return True
        changes = sum(old != new for old, new in zip(self.coefficients, coefficients, strict=True))
        return changes > sum(map(bool, coefficients))

    def _by_growth(self, coefficients: Sequence[float]) -> list[int]:
        """Parts that change, those that lose first, so that no sum on the way exceeds the bound."""
        changed = [part for part, old in enumerate(self.coefficients) if old != coefficients[part]]
        return sorted(changed, key=lambda part: abs(coefficients[part]) > abs(self.coefficients[part]))

    def _apart_afresh(self, coefficients: Sequence[float]) -> Array:
        assert self.inexact is not None
        members = [part for part, coefficient in enumerate(coefficients) if coefficient]
        for part in members:
            if part not in self.apart:
                self.apart[part] = self.load(part)[self.inexact]
        values = [self.apart[part] for part in members]
        return fresh_sum(values, [coefficients[part] for part in members], self.start(len(self.inexact)))
