"""Read `batch_indices.npy` without unpickling: integer arrays come out, nothing else can happen.

Such a file is np.save's object array, that is a pickle of one array that holds an integer array per row; see
inert_pickle.py for how it is read. A second or two for LMEnt's 109,672 rows with 10.5 M ids; next to the ids,
memory for about 1 kB a row.
"""

import mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError
from chunk_provenance.published.inert_pickle import InertArray, RefusedError, run_instructions
from chunk_provenance.published.npy_files import map_npy, read_header

Ids = npt.NDArray[np.int64]


def read_rows(path: str | Path) -> tuple[Ids, Ids]:
    """The rows of a file of integer arrays of unequal length.

    A two-dimensional array of integers, which is what np.save makes of rows of equal length, is read too.

    Returns:
        `offsets` (rows + 1,) and `ids`: row `r` is `ids[offsets[r] : offsets[r + 1]]`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is cut off, or holds anything but rows of integers; nothing of it was executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    with path.open("rb") as file:
        try:
            shape, dtype = read_header(file)
            if dtype == np.dtype(object):
                return _read_pickled(file, shape)
            matrix = map_npy(path, dimensions=2)
            return np.arange(shape[0] + 1) * shape[1], _to_int64([matrix.reshape(-1)])
        except FormatError:
            raise
        except ValueError as refused:
            raise FormatError(f"{str(path)!r} is no file of integer arrays: {refused}") from None


def _read_pickled(file: BinaryIO, shape: tuple[int, ...]) -> tuple[Ids, Ids]:
    """Rows of an object array: one array each, or a matrix of numbers."""
    begin = file.tell()
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # freed with the last row
    outer = run_instructions(data, begin)
    if not isinstance(outer, InertArray) or outer.rows is None:
        raise RefusedError("its outermost value is no array of arrays")
    if outer.shape != shape:
        raise RefusedError(f"its header says shape {shape}, its content {outer.shape}")
    return _join_rows(outer.rows, shape, size=len(data))


def _join_rows(rows: list[Any], shape: tuple[int, ...], *, size: int) -> tuple[Ids, Ids]:
    if len(shape) == 2 and all(type(row) is int for row in rows):
        if rows and not -(2**63) <= min(rows) <= max(rows) < 2**63:
            raise RefusedError("it holds numbers beyond 64 bits")
        return np.arange(shape[0] + 1) * shape[1], np.array(rows, dtype=np.int64)
    if len(shape) != 1:
        raise RefusedError(f"it has shape {shape}, expected one array a row")
    arrays = []
    for number, row in enumerate(rows):
        if not isinstance(row, InertArray) or row.values is None:
            raise RefusedError(f"row {number} is no array of integers")
        arrays.append(row.values)
    lengths = [len(values) for values in arrays]
    if sum(values.nbytes for values in arrays) > size:
        raise RefusedError("it repeats arrays: its rows hold more than the whole file does")
    return np.cumsum([0, *lengths], dtype=np.int64), _to_int64(arrays)


def _to_int64(arrays: list[npt.NDArray[Any]]) -> Ids:
    """All values one after the other, as a copy."""
    if any(values.dtype.kind == "u" and values.dtype.itemsize == 8 for values in arrays):
        largest = max((int(values.max()) for values in arrays if len(values)), default=0)
        if largest >= 2**63:
            raise RefusedError(f"it holds the number {largest}, too large for an id")
    if not arrays:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(arrays, dtype=np.int64, casting="unsafe")
