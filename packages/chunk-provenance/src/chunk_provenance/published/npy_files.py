"""Arrays of integers on disk, memory-mapped: `.npy` files, and plain numbers without a header.

numpy's own reader parses a header as Python and fails on a crafted one in several ways; here it must look as
numpy writes it.
"""

import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError

MAGIC = b"\x93NUMPY"
SIZE_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}  # of the header's length, by version
LONGEST_HEADER = 10_000
HEADER = re.compile(
    rb"\{'descr': ?'(?P<type>[<>|=]?(?:[iufb]\d|O))', ?'fortran_order': ?(?P<fortran>True|False), ?"
    rb"'shape': ?\((?P<shape>\d{0,18}(?:, ?\d{1,18})*,?)\),? ?\}\s*"
)

Integers = npt.NDArray[np.integer[Any]]


def has_header(path: Path) -> bool:
    """Whether a file is, or pretends to be, a `.npy` file."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and element type of a `.npy` file, which is left at the first byte of its data.

    Raises:
        ValueError: it does not begin as such a file, or its rows are stored column by column.
    """
    start = file.read(len(MAGIC) + 2)
    size_bytes = SIZE_BYTES.get(start[len(MAGIC) :])
    if not start.startswith(MAGIC) or size_bytes is None:
        raise ValueError("it does not begin as a .npy file of version 1 or 2")
    length = int.from_bytes(file.read(size_bytes), "little")
    content = file.read(min(length, LONGEST_HEADER))
    found = HEADER.fullmatch(content)
    if found is None or len(content) != length:
        raise ValueError("it does not begin as a .npy file of numbers or rows: its header is another")
    shape = tuple(int(part) for part in found["shape"].split(b",") if part.strip())
    if found["fortran"] == b"True" and len(shape) > 1:
        raise ValueError("its rows are stored column by column")
    return shape, np.dtype(found["type"].decode())


def map_npy(path: Path, *, dimensions: int) -> Integers:
    """A `.npy` file of integers.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is none, has other dimensions, or another size than it says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    with path.open("rb") as file:
        try:
            shape, dtype = read_header(file)
        except ValueError as error:
            raise FormatError(f"{str(path)!r} is no .npy file of integers: {error}") from None
        begin = file.tell()
    if dtype.kind not in "iu" or len(shape) != dimensions:
        raise FormatError(
            f"{str(path)!r} has {dtype} of shape {shape}, expected integers in {dimensions} dimension(s)"
        )
    expected = dtype.itemsize
    for count in shape:
        expected *= count
    if (found := path.stat().st_size - begin) != expected:
        raise FormatError(
            f"{str(path)!r} holds {found:,} bytes of numbers, its header says {expected:,}: it is cut off"
        )
    return (
        np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=shape)
        if expected
        else np.empty(shape, dtype)
    )


def map_plain(path: Path, *, dtype: str) -> Integers:
    """A file of integers without a header, one after the other.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: its size is no multiple of a number's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    size, each = path.stat().st_size, np.dtype(dtype).itemsize
    if size % each:
        raise FormatError(
            f"{str(path)!r} has {size:,} bytes, no {each}-byte numbers: it is cut off or another file"
        )
    return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)
