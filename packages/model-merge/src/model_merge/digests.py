"""What identifies a file by its content: a checksum that a merge gets for next to nothing, and SHA-256.

The checksum of a tensor is the sum over its 64-bit words of word times an odd number fixed for the place,
modulo 2^64. Sums of parts add up in any order, so that a merge sums what it reads and writes anyway. The
checksum of a file is the SHA-256 of its header and of its tensors' sums. Changing one word always changes it,
other damage goes unseen once in 2^64 times. It is no protection from someone who wants two files to agree:
that is what SHA-256 is for, at 0.6 s per gigabyte.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Event, Lock

import numpy as np
import numpy.typing as npt

from model_merge.header import TensorInfo, pread_into, read_header

BLOCK_WORDS = 1 << 15
MASK = (1 << 64) - 1
Bytes = npt.NDArray[np.uint8]


def sum_words(raw: Bytes, first_word: int = 0) -> int:
    """The sum of words, of which the first is word `first_word` of its tensor; zeros fill the last one."""
    if len(raw) % 8:
        raw = np.concatenate([raw, np.zeros(-len(raw) % 8, dtype=np.uint8)])
    words, total, done = raw.view("<u8"), 0, 0
    while done < len(words):
        block, inside = divmod(first_word + done, BLOCK_WORDS)
        part = words[done : done + BLOCK_WORDS - inside]
        total += int(np.dot(part, _in_block()[inside : inside + len(part)])) * _of_block(block)
        done += len(part)
    return total & MASK


@cache
def _in_block() -> npt.NDArray[np.uint64]:
    """2^15 odd numbers: SplitMix64 of 0, 1, 2, ..., with the last bit set."""
    z = np.arange(1, BLOCK_WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd: npt.NDArray[np.uint64] = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    return odd


def _of_block(block: int) -> int:
    """An odd number for a block: SplitMix64 of 2^32 + its number, with the last bit set."""
    z = ((1 << 32) + block + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return (z ^ (z >> 31)) | 1


def sum_tensor(descriptor: int, tensor: TensorInfo) -> int:
    """The sum of a tensor's words, read from its file."""
    total, step = 0, BLOCK_WORDS * 8
    buffer = np.empty(min(step, tensor.num_bytes), dtype=np.uint8)
    for start in range(0, tensor.num_bytes, step):
        raw = buffer[: min(step, tensor.num_bytes - start)]
        pread_into(descriptor, raw.data, tensor.start + start)
        total += sum_words(raw, start // 8)
    return total & MASK


def checksum_file(path: Path, known: Mapping[str, int] | None = None) -> str:
    """The checksum of a safetensors file, as hex digits; tensors whose sum is `known` are not read."""
    tensors = sorted(read_header(path).values(), key=lambda tensor: (tensor.start, tensor.name))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        first = min((tensor.start for tensor in tensors), default=os.fstat(descriptor).st_size)
        digest = hashlib.sha256(os.pread(descriptor, first, 0))
        for tensor in tensors:
            total = (known or {}).get(tensor.name)
            digest.update(struct.pack("<Q", sum_tensor(descriptor, tensor) if total is None else total))
    finally:
        os.close(descriptor)
    return digest.hexdigest()


class TensorSums:
    """Sums of tensors that are read or written once, part by part, by several threads."""

    def __init__(self, sizes: Mapping[tuple[Path, str], int]) -> None:
        """Follow these tensors: (file, name) -> bytes."""
        self._sizes = sizes
        self._done = dict.fromkeys(sizes, 0)
        self._totals = dict.fromkeys(sizes, 0)
        self._lock = Lock()

    def add(self, file: Path, name: str, start: int, raw: Bytes) -> None:
        """Count the bytes from `start` on; a part that cuts a word leaves the tensor to `checksum_file`."""
        key = (file, name)
        size = self._sizes.get(key)
        if size is None or start % 8 or (len(raw) % 8 and start + len(raw) != size):
            return
        total = sum_words(raw, start // 8)
        with self._lock:
            self._totals[key] += total
            self._done[key] += len(raw)

    def of_file(self, file: Path) -> dict[str, int]:
        """The sums of the tensors of a file that were counted from end to end."""
        return {
            name: total & MASK
            for (path, name), total in self._totals.items()
            if path == file and self._done[path, name] == self._sizes[path, name]
        }


def hash_file(path: Path, stop: Event | None = None) -> str:
    """The sha256 of a file, as hex digits; of what was read until `stop` was set."""
    digest, buffer = hashlib.sha256(), bytearray(BLOCK_WORDS * 8)
    with path.open("rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and not (stop and stop.is_set()):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


class BackgroundHashes:
    """SHA-256 of files while something else happens; in a `with` block, which ends what is not needed."""

    def __init__(self, threads: int) -> None:
        """Read up to so many files at a time."""
        self._pool = ThreadPoolExecutor(threads)
        self._stop = Event()
        self._found: dict[Path, Future[str]] = {}

    def start(self, paths: Iterable[Path]) -> None:
        """Begin with these files; a file is read once."""
        for path in paths:
            if path not in self._found:
                self._found[path] = self._pool.submit(hash_file, path, self._stop)

    def result(self, path: Path) -> str:
        """Wait for the hash of a file that was begun."""
        return self._found[path].result()

    def __enter__(self) -> "BackgroundHashes":
        """Nothing happens before `start`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what is still running: its result is not wanted any more."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


Digests = tuple[Callable[[Path], str], Callable[[Path], str | None]]
"""How to get the checksum and the SHA-256 of a file."""
