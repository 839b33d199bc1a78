"""A column of strings, each written as what it adds to the one before, memory-mapped.

Every 16th string is whole. Look-up in a sorted column is a binary search over these, then at most 16 strings
are put together.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entity_index.bits import Ids, Packed, PackedWriter, map_bytes, width_of

BLOCK = 16
KNOWN = 4096
"""So many whole strings are kept in memory once a column is searched."""
LONGEST_SHARED = 255
PIECE = 1 << 16
"""Strings put into bytes at a time."""


@dataclass
class StringColumn:
    """Strings by position. `range_of` and `prefix_range` need a column sorted by its bytes."""

    content: "memoryview | bytes"
    starts: Packed
    """Where each block begins in `content`."""
    length: int
    _known: list[bytes] | None = None

    def __len__(self) -> int:
        """The number of strings."""
        return self.length

    def __getitem__(self, position: int) -> str:
        """One string."""
        if not 0 <= position < self.length:
            raise IndexError(f"no string {position}: there are {self.length}")
        return self.block(position // BLOCK, position % BLOCK + 1)[-1].decode()

    def __iter__(self) -> Iterator[str]:
        """The strings in order."""
        for number in range(-(-self.length // BLOCK)):
            for string in self.block(number):
                yield string.decode()

    def range_of(self, text: str) -> tuple[int, int]:
        """Half-open range of the positions that hold exactly this string."""
        key = text.encode(errors="surrogatepass")
        return self.first_from(key), self.first_from(key + b"\x00")

    def find(self, text: str) -> int | None:
        """The position of a string in a sorted column that holds each once; None where it is not there."""
        key = text.encode(errors="surrogatepass")
        number = self._block_before(key + b"\x00")
        for place, string in enumerate(self.block(number) if self.length else []):
            if string == key:
                return number * BLOCK + place
        return None

    def prefix_range(self, prefix: str) -> tuple[int, int]:
        """Half-open range of the positions whose string begins so."""
        key = prefix.encode(errors="surrogatepass")
        return self.first_from(key), self.first_from(key + b"\xff")

    def first_from(self, key: bytes) -> int:
        """The first position whose string is not before a key."""
        if not self.length:
            return 0
        number = self._block_before(key)
        for place, string in enumerate(self.block(number)):
            if string >= key:
                return number * BLOCK + place
        return min(self.length, (number + 1) * BLOCK)

    def block(self, number: int, count: int = BLOCK) -> list[bytes]:
        """The first strings of a block."""
        content, place = self.content, self.starts[number]
        strings, last = [], b""
        for _ in range(min(count, self.length - number * BLOCK)):
            shared, size = content[place], content[place + 1]
            place += 2
            if size >= 128:
                size, place = _long_size(content, place - 1)
            last = last[:shared] + bytes(content[place : place + size])
            place += size
            strings.append(last)
        return strings

    def _block_before(self, key: bytes) -> int:
        """The last block whose first string is before the key, else the first block."""
        blocks = -(-self.length // BLOCK)
        step = -(-blocks // KNOWN) or 1
        if self._known is None:
            self._known = [self._head(number) for number in range(0, blocks, step)]
        low = max(0, bisect_left(self._known, key) - 1) * step
        high = min(blocks, low + step)
        while high - low > 1:
            middle = (low + high) // 2
            if self._head(middle) < key:
                low = middle
            else:
                high = middle
        return low

    def _head(self, number: int) -> bytes:
        content, place = self.content, self.starts[number] + 1
        size = content[place]
        place += 1
        if size >= 128:
            size, place = _long_size(content, place - 1)
        return bytes(content[place : place + size])


def _long_size(content: "memoryview | bytes", place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, all but the last byte with the highest bit set."""
    size = shift = 0
    while content[place] >= 128:
        size |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
    return size | content[place] << shift, place + 1


def write_strings(folder: Path, name: str, strings: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    """Write a column; returns what `open_strings` must know of it. About 10 million strings in 4 s."""
    block_starts, written = [np.zeros(0, dtype=np.int64)], 0
    with (folder / f"{name}.strings").open("wb") as file:
        for start in range(0, len(strings), PIECE):
            content, starts = _share_prefixes(strings.slice(start, PIECE))
            file.write(content)
            block_starts.append(starts + written)
            written += len(content)
        file.write(b"\x00")  # an empty file cannot be mapped
    width = width_of(written)
    with PackedWriter(folder / f"{name}_starts.bits", width) as writer:
        for starts in block_starts:
            writer.append(starts)
    return {"length": len(strings), "width": width}


def open_strings(folder: Path, name: str, described: dict[str, int]) -> StringColumn:
    """Map a column that `write_strings` wrote."""
    length = described["length"]
    starts = Packed(folder / f"{name}_starts.bits", described["width"])
    return StringColumn(memoryview(map_bytes(folder / f"{name}.strings")), starts, length)


def _share_prefixes(strings: pa.ChunkedArray | pa.Array) -> tuple[bytes, Ids]:
    """The bytes of some strings, beginning with a block, and where in them their blocks begin."""
    content, offsets = string_bytes(strings)
    sizes = np.diff(offsets)
    shared = _shared_lengths(content, offsets[:-1], sizes)
    shared[::BLOCK] = 0
    added = sizes - shared
    size_bytes = 1 + (added >= 1 << 7) + (added >= 1 << 14) + (added >= 1 << 21)
    lengths = 1 + size_bytes + added
    ends = np.cumsum(lengths)
    starts = ends - lengths
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    out[starts] = shared
    for place in range(int(size_bytes.max())):
        rows = np.flatnonzero(size_bytes > place)
        more = np.where(size_bytes[rows] > place + 1, 128, 0)
        out[starts[rows] + 1 + place] = (added[rows] >> 7 * place) & 127 | more
    shift = np.repeat(offsets[:-1] + shared - (ends - added), added)
    places = np.arange(added.sum()) + np.repeat(ends - added - (np.cumsum(added) - added), added)
    out[places] = content[places + shift]
    return out.tobytes(), starts[::BLOCK]


def _shared_lengths(content: npt.NDArray[np.uint8], starts: Ids, sizes: Ids) -> Ids:
    """How many bytes each string has in common with the one before it, at most 255."""
    shared = np.zeros(len(sizes), dtype=np.int64)
    same = np.arange(1, len(sizes))  # those that agree so far
    for place in range(LONGEST_SHARED):
        same = same[(sizes[same] > place) & (sizes[same - 1] > place)]
        same = same[content[starts[same] + place] == content[starts[same - 1] + place]]
        if not len(same):
            break
        shared[same] = place + 1
    return shared


def string_bytes(strings: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.uint8], Ids]:
    """The UTF-8 bytes of strings end to end, and where each begins and the last ends; null is empty."""
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    strings = strings.cast(pa.large_string()).fill_null("")
    _, offsets_buffer, content_buffer = strings.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[
        strings.offset : strings.offset + len(strings) + 1
    ]
    if content_buffer is None or offsets[-1] == offsets[0]:
        return np.empty(0, dtype=np.uint8), np.zeros(len(strings) + 1, dtype=np.int64)
    content = np.frombuffer(content_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return content, offsets - offsets[0]
