"""Rows of unequal length in two flat arrays: row `r` is `values[offsets[r] : offsets[r + 1]]`."""

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def gather(offsets: Ints, rows: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """Where the values of several rows lie, one row after the other.

    Returns:
        For every value, which of `rows` it belongs to (its place in `rows`) and its position in `values`.

    >>> row, position = gather(np.array([0, 2, 2, 5]), np.array([2, 1, 0]))
    >>> row.tolist(), position.tolist()
    ([0, 0, 0, 2, 2], [2, 3, 4, 0, 1])
    """
    lengths = offsets[rows + 1] - offsets[rows]
    row = np.repeat(np.arange(len(rows)), lengths)
    begins = np.cumsum(lengths) - lengths
    return row, np.arange(len(row)) - np.repeat(begins - offsets[rows], lengths)


def offsets_of(sorted_rows: npt.NDArray[np.integer[Any]], num_rows: int) -> Ints:
    """The offsets of values whose row numbers are given in ascending order.

    >>> offsets_of(np.array([0, 0, 2]), 4).tolist()
    [0, 2, 2, 3, 3]
    """
    # Of another type than the rows, numpy would copy them all.
    return np.searchsorted(sorted_rows, np.arange(num_rows + 1, dtype=sorted_rows.dtype))
