"""Numbers of a few bits each, end to end in a memory-mapped file, read one at a time or as arrays.

A file `NAME.bits` holds number i of w bits at the bits i * w to (i + 1) * w, the lowest bit first, then
zeros: to a whole byte, and sixteen bytes more, so that eight or sixteen can be read anywhere. 1 to 6 ns a
number to write, 6 ns to read.
"""

import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]

WIDEST = 57
"""With up to 7 bits of the number before it, eight bytes hold no wider one."""
PADDING = 16
BLOCK = 1 << 17
"""So many numbers are packed at a time: they stay in the processor's cache."""
MARKS = 128
"""A `Bitmap` counts its ones before every so many bits."""


class Packed:
    """The numbers of a file; all are 0 where the width is 0."""

    def __init__(self, path: Path, width: int) -> None:
        """Map a file that `PackedWriter` wrote."""
        self.width = width
        self._raw = map_bytes(path)
        self._mask = (1 << width) - 1
        self._words = unaligned_words(self._raw)

    def __getitem__(self, position: int) -> int:
        """One number."""
        bit = position * self.width
        return int.from_bytes(self._raw[bit >> 3 : (bit >> 3) + 8], "little") >> (bit & 7) & self._mask

    def at(self, positions: Ids) -> Words:
        """The numbers at these positions."""
        return read_bits(self._words, positions * self.width, self.width)

    def part(self, start: int, end: int) -> Words:
        """The numbers from a position to another."""
        return self.at(np.arange(start, end))


def unaligned_words(raw: mmap.mmap | bytes) -> Words:
    """The eight bytes that begin at every byte, as numbers; nothing is copied."""
    words: Words = np.ndarray((len(raw) - 7,), dtype="<u8", buffer=raw, strides=(1,))
    return words


def read_bits(words: Words, bits: Ids, width: int) -> Words:
    """The numbers of `width` bits that begin at these bits."""
    found: Words = words[bits >> 3]
    found >>= (bits & 7).view(np.uint64)
    found &= np.uint64((1 << width) - 1)
    return found


def pack(numbers: npt.NDArray[Any], width: int) -> bytes:
    """Numbers end to end, the last byte filled with zeros.

    >>> pack(np.array([1, 2, 3], dtype=np.uint64), 4).hex()
    '2103'
    """
    assert width <= WIDEST, width
    size = (len(numbers) * width + 7) // 8
    if not width:
        return b""
    if width == 1:
        return np.packbits(numbers.astype(bool), bitorder="little").tobytes()
    padded = np.zeros(-(-len(numbers) // 64) * 64, dtype=np.uint64)
    padded[: len(numbers)] = numbers
    blocks = [_pack_block(padded[start : start + BLOCK], width) for start in range(0, len(padded), BLOCK)]
    return b"".join(blocks)[:size]


def _pack_block(numbers: Words, width: int) -> bytes:
    """Multiples of 64 numbers: 64 of them fill `width` words of eight bytes."""
    in_a_row = 64
    while width <= 32 and in_a_row > 1:  # two neighbours are one number of twice the width
        numbers = numbers[0::2] | numbers[1::2] << np.uint64(width)
        width, in_a_row = 2 * width, in_a_row // 2
    columns = numbers.reshape(-1, in_a_row)
    words = np.zeros((len(columns), in_a_row * width // 64), dtype="<u8")
    for place in range(in_a_row):
        word, shift = divmod(place * width, 64)
        words[:, word] |= columns[:, place] << np.uint64(shift)
        if shift + width > 64:
            words[:, word + 1] |= columns[:, place] >> np.uint64(64 - shift)
    return words.tobytes()


class PackedWriter:
    """Writes a file of packed numbers, some at a time."""

    def __init__(self, path: Path, width: int) -> None:
        """Create the file."""
        self.width = width
        self._file: BinaryIO = path.open("wb")
        self._rest = np.empty(0, dtype=np.uint64)  # fewer than eight: they may end inside a byte

    def append(self, numbers: npt.NDArray[Any]) -> None:
        """Write more numbers."""
        if not self.width:
            return
        missing = -len(self._rest) % 8 if len(self._rest) else 0
        start = np.concatenate([self._rest, numbers[:missing].astype(np.uint64)])
        if len(start) % 8:
            self._rest = start
            return
        whole = len(numbers) - (len(numbers) - missing) % 8
        self._file.write(pack(start, self.width) + pack(numbers[missing:whole], self.width))
        self._rest = numbers[whole:].astype(np.uint64)

    def __enter__(self) -> "PackedWriter":
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, and close the file."""
        self._file.write(pack(self._rest, self.width) + bytes(PADDING))
        self._file.close()


def write_packed(path: Path, numbers: npt.NDArray[np.integer]) -> int:
    """Write numbers in as few bits as the largest needs; returns how many that are."""
    width = width_of(int(numbers.max(initial=0)))
    with PackedWriter(path, width) as writer:
        writer.append(numbers)
    return width


def width_of(largest: int) -> int:
    """Bits of the numbers from 0 to this one.

    >>> width_of(0), width_of(1), width_of(255), width_of(256)
    (0, 1, 8, 9)
    """
    return int(largest).bit_length()


class Bitmap:
    """Bits of which the k-th one is found, from their counts before every 128th bit."""

    def __init__(self, path: Path, counts: npt.NDArray[np.integer]) -> None:
        """Map a file of numbers of one bit; `counts` says how many are set before each `MARKS` bits."""
        self._raw, self._counts = map_bytes(path), counts
        whole = len(self._raw) // (MARKS // 8)
        content = np.frombuffer(self._raw, dtype=np.uint8)
        self._blocks = content[: whole * (MARKS // 8)].reshape(whole, MARKS // 8)

    def place_of(self, ranks: Ids) -> Ids:
        """Where the ones of these ranks (from 0) are."""
        sought = ranks.astype(self._counts.dtype)  # of the same type, else the counts would be copied
        block = self._counts.searchsorted(sought, side="right")
        block -= 1
        sought -= self._counts[block]
        ones = np.unpackbits(self._blocks[block], axis=1, bitorder="little").cumsum(axis=1, dtype=np.uint8)
        places: Ids = (ones > sought.astype(np.uint8)[:, None]).argmax(axis=1)
        block *= MARKS
        places += block
        return places

    def run_length(self, start: int) -> int:
        """How far it is from a one to the next one."""
        byte, shift = (start + 1) >> 3, (start + 1) & 7
        beyond = 0
        while True:
            window = int.from_bytes(self._raw[byte : byte + 16], "little") >> shift
            if window:
                return beyond + (window & -window).bit_length()
            byte, beyond, shift = byte + 16, beyond + 128 - shift, 0

    def flags(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        """The bits from a position to another, a byte each."""
        content = np.frombuffer(self._raw, dtype=np.uint8)[start >> 3 : (end + 7) >> 3]
        return np.unpackbits(content, bitorder="little")[start & 7 : (start & 7) + end - start]


def map_bytes(path: Path) -> mmap.mmap:
    """A file as bytes that are read when they are looked at."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
