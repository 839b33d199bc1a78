"""The arithmetic of linear merges, in place: nothing is allocated per element.

Sums run in the order of the inputs, and one division ends them. In F32 for inputs of 16 bits and fewer: a
BF16 sum is then exact unless its terms are more than some 14 powers of two apart, and dividing an exact sum
by a count never moves it across a tie, so that the result is the correctly rounded one but for about one
element in 10^8. In F64 for anything wider.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from model_merge.dtypes import Compute, Values, itemsize, round_to_bf16
from model_merge.plan import Fold, Inputs, Kernel

Compat = Literal["mergekit", "ez"]
Prepare = Callable[[Inputs], Kernel]


def compute_dtype(input_dtypes: Sequence[str], output_dtype: str) -> Compute:
    """The narrowest type that is enough for a sum of such inputs.

    >>> compute_dtype(["BF16", "BF16"], "BF16"), compute_dtype(["BF16", "F32"], "BF16")
    ('F32', 'F64')
    """
    widest = max(map(itemsize, (*input_dtypes, output_dtype)))
    return "F32" if widest <= 2 else "F64"


def weighted_sum(weights: Sequence[float], divisor: float) -> Prepare:
    """(Sum of w x) / divisor, over the inputs in their order. They are overwritten."""

    def fold(values: Iterator[Values]) -> Values:
        total = next(values)
        if weights[0] != 1:
            total *= weights[0]
        for weight, value in zip(weights[1:], values, strict=True):
            if weight != 1:
                value *= weight
            total += value
        if divisor != 1:
            total /= divisor
        return total

    kernel = Fold(fold)
    return lambda inputs: kernel


def ez_average(count: int, *, in_bf16: bool) -> Prepare:
    """((x1 + x2) + x3 ...) * float32(1/n) as ez-data-ablations does it: in the tensors' own type."""
    factor = np.float32(1 / count)

    def kernel(flat_start: int, values: list[Values]) -> Values:
        total = values[0]
        for value in values[1:]:
            total += value
            if in_bf16:
                round_to_bf16(total)
        total *= factor
        return total

    return lambda inputs: kernel
