"""Statistics passes: dot products and sums in float64, the same whatever the number of threads.

Sums run over the fixed blocks of `Inputs.blocks`, in order. Dot products are taken over stretches short
enough that no BLAS splits them between threads.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values
from model_merge.plan import Inputs

Doubles = npt.NDArray[np.float64]

STRETCH = 1 << 13
"""OpenBLAS shares a dot product among threads from 10,000 elements on."""


def differences(values: list[Values], *, has_base: bool) -> list[Values]:
    """What a method works on: the inputs, or the inputs after the first less the first."""
    return [value - values[0] for value in values[1:]] if has_base else values


class _Doubles:
    """The values of a block in float64, in arrays that are reused: new ones would cost more than the sums."""

    def __init__(self) -> None:
        self._arrays: list[Doubles] = []

    def of(self, values: list[Values], *, has_base: bool) -> list[Doubles]:
        """The inputs, or the inputs after the first less the first; the next call overwrites them."""
        if not self._arrays or len(self._arrays[0]) < len(values[0]):
            self._arrays = [np.empty(len(value)) for value in values]
        wide = [array[: len(value)] for array, value in zip(self._arrays, values, strict=True)]
        for into, value in zip(wide, values, strict=True):
            np.copyto(into, value)
        for vector in wide[1:] if has_base else []:
            vector -= wide[0]
        return wide[1:] if has_base else wide


def gram(inputs: Inputs, *, has_base: bool) -> Doubles:
    """Dot products of all pairs of inputs (less the base), (n, n). One pass; of no elements, (0, 0)."""
    total, doubles = np.zeros((0, 0)), _Doubles()
    for _, values in inputs.blocks():
        vectors = doubles.of(values, has_base=has_base)
        if not len(total):
            total = np.zeros((len(vectors), len(vectors)))
        for i, left in enumerate(vectors):
            for j in range(i + 1):
                total[i, j] += _dot(left, vectors[j])
    return _mirrored(total)


def _mirrored(lower: Doubles) -> Doubles:
    below, left = np.tril_indices(len(lower), -1)
    lower[left, below] = lower[below, left]
    return lower


def _dot(left: Doubles, right: Doubles) -> float:
    whole = len(left) // STRETCH * STRETCH
    rows, columns = left[:whole].reshape(-1, 1, STRETCH), right[:whole].reshape(-1, STRETCH, 1)
    return float(np.matmul(rows, columns).sum() + np.dot(left[whole:], right[whole:]))


def sums(inputs: Inputs, terms: Callable[[int, list[Values]], list[Values]]) -> Doubles:
    """Sum over the tensor of each array that `terms` makes of (flat start, inputs). One pass."""
    total = np.zeros(0)
    for flat_start, values in inputs.blocks():
        block = [term.sum(dtype=np.float64) for term in terms(flat_start, values)]
        total = np.asarray(block) if not len(total) else total + block
    return total


def vector_gram(inputs: Inputs, *, axis: int, has_base: bool) -> Doubles:
    """As `gram`, for every vector along `axis` (the last or the first): (n, n, vectors). One pass.

    Memory goes with the number of vectors, not with their length.
    """
    add = _add_last if axis == -1 else _add_first
    num_vectors = vector_count(inputs.shape, axis=axis)
    total, doubles = np.zeros((0, 0, num_vectors)), _Doubles()
    for flat_start, values in inputs.blocks():
        vectors = doubles.of(values, has_base=has_base)
        if not len(total):
            total = np.zeros((len(vectors), len(vectors), num_vectors))
        for i, left in enumerate(vectors):
            for j in range(i + 1):
                add(total[i, j], flat_start, np.multiply(left, vectors[j]), inputs.shape)
    return _mirrored(total)


def vector_count(shape: tuple[int, ...], *, axis: int) -> int:
    """Number of vectors along the last axis or the first; a vector or a scalar is one."""
    if len(shape) < 2:
        return 1
    rest = shape[:-1] if axis == -1 else shape[1:]
    return int(np.prod(rest))


def vector_ids(flat_start: int, length: int, shape: tuple[int, ...], *, axis: int) -> npt.NDArray[np.int64]:
    """Which vector each of `length` elements from `flat_start` on belongs to.

    >>> vector_ids(2, 4, (2, 3), axis=-1).tolist(), vector_ids(2, 4, (2, 3), axis=0).tolist()
    ([0, 1, 1, 1], [2, 0, 1, 2])
    """
    flat = np.arange(flat_start, flat_start + length, dtype=np.int64)
    if len(shape) < 2:
        return np.zeros_like(flat)
    return flat // shape[-1] if axis == -1 else flat % vector_count(shape, axis=0)


def _add_last(total: Doubles, flat_start: int, products: Doubles, shape: tuple[int, ...]) -> None:
    """Add runs of a block to the sums of the rows they belong to."""
    width = shape[-1] if len(shape) > 1 else max(flat_start + len(products), 1)
    first = flat_start // width
    borders = np.arange(first + 1, (flat_start + len(products) - 1) // width + 1) * width - flat_start
    runs = np.add.reduceat(products, np.concatenate([[0], borders]))
    total[first : first + len(runs)] += runs


def _add_first(total: Doubles, flat_start: int, products: Doubles, shape: tuple[int, ...]) -> None:
    """Add a block to the sums of the columns."""
    if len(shape) < 2:
        total[0] += products.sum()
    else:
        add_rows(total, flat_start, products)


def add_rows(total: Doubles, flat_start: int, products: Doubles) -> None:
    """Add a stretch of a tensor whose rows are as long as `total`, column by column."""
    for column, piece in _row_pieces(flat_start, products, len(total)):
        total[column : column + piece.shape[-1]] += piece.sum(axis=0)


def _row_pieces(flat_start: int, products: Doubles, width: int) -> Iterator[tuple[int, Doubles]]:
    """(first column, rows of equal columns): the rest of a row, whole rows, the start of a row."""
    column = flat_start % width
    head = min(-flat_start % width, len(products))
    if head:
        yield column, products[None, :head]
    whole = (len(products) - head) // width * width
    if whole:
        yield 0, products[head : head + whole].reshape(-1, width)
    if head + whole < len(products):
        yield 0, products[None, head + whole :]
