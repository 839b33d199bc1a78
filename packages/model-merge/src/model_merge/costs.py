"""What an ablation costs: every mixture trained, against every part trained once and merged.

With n parts of one unit of training each, all mixtures cost sum over k of C(n, k) k = n 2**(n - 1) units.
"""

from collections.abc import Sequence
from typing import Any

COLUMNS = ("way", "models trained", "units of training", "models evaluated")


def cost_rows(num_parts: int, mixture_sizes: Sequence[int]) -> list[list[Any]]:
    """Rows of the cost table.

    Args:
        num_parts: how many parts of the data there are.
        mixture_sizes: how many parts each mixture that was compared has.

    >>> cost_rows(10, [2, 2])[-1]
    ['all mixtures of 10 parts, each trained', 1023, 5120, 1023]
    """
    every = (1 << num_parts) - 1
    compared = len(mixture_sizes)
    return [
        ["these mixtures, merged", num_parts, num_parts, compared],
        ["these mixtures, each trained", compared, sum(mixture_sizes), compared],
        [f"all mixtures of {num_parts} parts, merged", num_parts, num_parts, every],
        [
            f"all mixtures of {num_parts} parts, each trained",
            every,
            num_parts << (num_parts - 1),
            every,
        ],
    ]


def break_even(num_parts: int, mixture_sizes: Sequence[int]) -> int | None:
    """How many of the mixtures, in their order, are trained before the parts once would have been cheaper.

    None if training them all is not dearer.

    >>> break_even(6, [2, 2, 3, 3])
    3
    """
    spent = 0
    for number, size in enumerate(mixture_sizes, start=1):
        spent += size
        if spent > num_parts:
            return number
    return None


def training_flops(units: int, tokens_per_unit: float, parameters: float) -> float:
    """Floating-point operations of training, as 6 * parameters * tokens."""
    return 6.0 * parameters * tokens_per_unit * units
