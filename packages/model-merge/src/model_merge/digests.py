"""What identifies a file by its content: a checksum that costs hardly more than reading, and SHA-256.

The checksum covers every byte: the file as little-endian 64-bit words (zeros added at the end), in blocks
of 2^15 words; of each block the sum of word k times an odd number fixed for k, modulo 2^64; the SHA-256 of
the file's size and these sums. Changing one word always changes it, other damage goes unseen once in 2^64
times. It is no protection from someone who wants two files to agree: that is what SHA-256 is for, at 0.6 s
per gigabyte.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt

BLOCK_WORDS = 1 << 15
Digest = Callable[[Path, Event], str]


def checksum_file(path: Path, stop: Event | None = None) -> str:
    """The checksum of a file, as hex digits; of what was read until `stop` was set."""
    block = np.zeros(BLOCK_WORDS, dtype="<u8")
    digest = hashlib.sha256(struct.pack("<Q", path.stat().st_size))
    with path.open("rb", buffering=0) as file:
        while (count := _fill(file.readinto, block)) and not (stop and stop.is_set()):
            block.view(np.uint8)[count:] = 0
            digest.update(struct.pack("<Q", int(np.dot(block, _multipliers()))))
    return digest.hexdigest()


def _fill(read_into: Callable[[memoryview], int | None], block: npt.NDArray[np.uint64]) -> int:
    """Read until the block is full or the file ends; number of bytes."""
    buffer, done = memoryview(block.view(np.uint8).data), 0
    while done < len(buffer) and (count := read_into(buffer[done:])):
        done += count
    return done


@cache
def _multipliers() -> npt.NDArray[np.uint64]:
    """2^15 odd numbers: SplitMix64 of 0, 1, 2, ..., with the last bit set."""
    z = np.arange(1, BLOCK_WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd: npt.NDArray[np.uint64] = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    return odd


def hash_file(path: Path, stop: Event | None = None) -> str:
    """The sha256 of a file, as hex digits; of what was read until `stop` was set."""
    digest, buffer = hashlib.sha256(), bytearray(BLOCK_WORDS * 8)
    with path.open("rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and not (stop and stop.is_set()):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


class BackgroundDigests:
    """Files being digested while something else happens; in a `with` block, which ends what is not needed."""

    def __init__(self, threads: int) -> None:
        """Read up to so many files at a time."""
        self._pool = ThreadPoolExecutor(threads)
        self._stop = Event()
        self._found: dict[tuple[Digest, Path], Future[str]] = {}

    def start(self, digest: Digest, paths: Iterable[Path]) -> None:
        """Begin with these files; a file is read once."""
        for path in paths:
            if (digest, path) not in self._found:
                self._found[digest, path] = self._pool.submit(digest, path, self._stop)

    def result(self, digest: Digest, path: Path) -> str | None:
        """Wait for one digest; None where it was not begun."""
        future = self._found.get((digest, path))
        return future.result() if future else None

    def __enter__(self) -> "BackgroundDigests":
        """Nothing happens before `start`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what is still running: its result is not wanted any more."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
