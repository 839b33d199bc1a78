"""A column of strings in two memory-mapped arrays: their UTF-8 bytes end to end, and where each ends.

Look-up in a sorted column is a binary search that touches log2(n) strings.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class StringColumn:
    """Strings by position. `range_of` and `prefix_range` need a column sorted by its bytes."""

    content: npt.NDArray[np.uint8]  # (bytes,)
    offsets: npt.NDArray[np.int64]  # (strings + 1,)

    def __len__(self) -> int:
        """The number of strings."""
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> str:
        """One string."""
        return self._bytes(position).decode()

    def __iter__(self) -> Iterator[str]:
        """The strings in order."""
        return (self[position] for position in range(len(self)))

    def range_of(self, text: str) -> tuple[int, int]:
        """Half-open range of the positions that hold exactly this string."""
        key = text.encode(errors="surrogatepass")
        return self._first_from(key), self._first_from(key + b"\x00")

    def prefix_range(self, prefix: str) -> tuple[int, int]:
        """Half-open range of the positions whose string begins so."""
        key = prefix.encode(errors="surrogatepass")
        return self._first_from(key), self._first_from(key + b"\xff")

    def _bytes(self, position: int) -> bytes:
        return self.content[self.offsets[position] : self.offsets[position + 1]].tobytes()

    def _first_from(self, key: bytes) -> int:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low


class StringColumnWriter:
    """Fills the two files of a column whose size is known, batch by batch."""

    def __init__(self, folder: Path, name: str, *, num_strings: int, num_bytes: int) -> None:
        """Create both files."""
        self._content = create(folder / f"{name}.bytes.npy", np.uint8, num_bytes)
        self._offsets = create(folder / f"{name}.offsets.npy", np.int64, num_strings + 1)
        self._filled = 0

    def append(self, strings: pa.Array) -> None:
        """Add the strings of an Arrow array; null becomes the empty string."""
        strings = strings.fill_null("").cast(pa.large_string())
        _, offsets_buffer, content_buffer = strings.buffers()
        ends = np.frombuffer(offsets_buffer, dtype=np.int64)[
            strings.offset : strings.offset + len(strings) + 1
        ]
        if not len(strings):
            return
        before = self._offsets[self._filled]
        shifted = ends - ends[0] + before
        self._offsets[self._filled + 1 : self._filled + 1 + len(strings)] = shifted[1:]
        if shifted[-1] > before:
            content = np.frombuffer(content_buffer, dtype=np.uint8)[ends[0] : ends[-1]]
            self._content[before : shifted[-1]] = content
        self._filled += len(strings)


def create(path: Path, dtype: npt.DTypeLike, length: int) -> np.memmap[Any, Any]:
    """A new one-dimensional .npy file of known length, memory-mapped for writing, zeros."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(length,))
    if hasattr(os, "posix_fallocate"):  # else a full disk would end the process while it writes
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def open_strings(folder: Path, name: str) -> StringColumn:
    """Map a column that `StringColumnWriter` wrote."""
    content = np.load(folder / f"{name}.bytes.npy", mmap_mode="r")
    return StringColumn(content, np.load(folder / f"{name}.offsets.npy", mmap_mode="r"))
