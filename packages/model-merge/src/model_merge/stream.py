"""Carrying out a plan: read, compute, write at the final offset. Memory depends on neither model nor inputs.

Every tensor is cut into chunks, the unit of the journal; a chunk is computed block by block, so that what
the arithmetic touches stays in the processor's cache. Threads take chunks of tensors that are prepared,
else the next tensor to prepare. No result depends on threads, chunks or blocks: a kernel sees positions, and
statistics come from `Inputs.blocks`, whose blocks are fixed.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Condition

import numpy as np
import numpy.typing as npt

from model_merge.checkpoint import Checkpoint
from model_merge.digests import TensorSums
from model_merge.dtypes import FLOATS, Values, encode_into, itemsize
from model_merge.inputs import Reader
from model_merge.journal import Journal
from model_merge.output import OutputFile, tensor_bytes
from model_merge.plan import BLOCK, Fold, Kernel, MergePlan, TensorPlan

CHUNK = 1 << 22
"""Elements per chunk."""
STEP = 1 << 19
"""Elements a thread computes at a time: few enough for its cache, many enough that threads seldom meet."""
SYNC_BYTES = 1 << 28
"""Output bytes between two entries of the journal."""
WORKSPACE_BYTES = 1 << 24
"""Values of all inputs that one thread holds at a time; fewer elements per block where inputs are many."""


@dataclass(frozen=True)
class Chunk:
    """Elements [start, stop) of one output tensor."""

    number: int
    tensor: TensorPlan
    start: int
    stop: int


def cut(tensors: Sequence[TensorPlan], chunk_elements: int) -> list[list[Chunk]]:
    """The chunks of every tensor, numbered through."""
    number, found = 0, []
    for tensor in tensors:
        starts = range(0, tensor.size, chunk_elements)
        found.append(
            [
                Chunk(number + i, tensor, start, min(start + chunk_elements, tensor.size))
                for i, start in enumerate(starts)
            ]
        )
        number += len(starts)
    return found


class _Work:
    """What is left to do. Chunks of prepared tensors go first, so that few kernels are alive at a time."""

    def __init__(self, tensors: Sequence[list[Chunk]]) -> None:
        self._unprepared = deque(tensors)
        self._ready: deque[tuple[Chunk, Kernel | None]] = deque()
        self._preparing = 0
        self._stopped = False
        self._changed = Condition()

    def take(self) -> list[Chunk] | tuple[Chunk, Kernel | None] | None:
        """A tensor to prepare, or a chunk with its kernel, or nothing any more."""
        with self._changed:
            while not self._stopped:
                if self._ready:
                    return self._ready.popleft()
                if self._unprepared:
                    self._preparing += 1
                    return self._unprepared.popleft()
                if not self._preparing:
                    return None
                self._changed.wait()
        return None

    def prepared(self, chunks: list[Chunk], kernel: Kernel | None) -> None:
        with self._changed:
            self._preparing -= 1
            self._ready.extend((chunk, kernel) for chunk in chunks)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Computer:
    """One thread's way from inputs to the bytes of outputs."""

    def __init__(self, checkpoints: Sequence[Checkpoint], sums: TensorSums | None = None) -> None:
        """Count what is read for results, but not for statistics, in `sums`."""
        self._checkpoints = checkpoints
        self._sums = sums
        self._reader: tuple[str, Reader] | None = None
        self._raw = np.empty(0, dtype=np.uint8)

    def prepare(self, tensor: TensorPlan) -> Kernel | None:
        """Run the statistics passes of a tensor."""
        return None if tensor.prepare is None else tensor.prepare(self._read(tensor))

    def _read(self, tensor: TensorPlan) -> Reader:
        if self._reader is None or self._reader[0] != tensor.name:
            self._reader = (tensor.name, Reader(self._checkpoints, tensor))
        return self._reader[1]

    def results(self, chunk: Chunk, kernel: Kernel | None) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """The bytes of a chunk, block by block: (first byte in the tensor, bytes until the next block)."""
        if kernel is None:
            yield from self._copied(chunk)
            return
        reader, tensor = self._read(chunk.tensor), chunk.tensor
        width = itemsize(tensor.dtype)
        step = _block_elements(2 if isinstance(kernel, Fold) else len(tensor.inputs))
        reader.will_need(chunk.start, chunk.stop)
        for start in range(chunk.start, chunk.stop, step):
            stop = min(start + step, chunk.stop)
            values = self._values(reader, kernel, start, stop)
            try:
                raw = self._encode(tensor, values, (stop - start) * width)
            except ValueError:
                reader.check_finite(start, stop)  # where an input was not finite, this says which and where
                raise
            yield start * width, raw

    def _values(self, reader: Reader, kernel: Kernel, start: int, stop: int) -> Values:
        """The output's elements [start, stop) before the one rounding."""
        if not isinstance(kernel, Fold):
            return kernel(start, reader.read(start, stop, self._sums))
        with np.errstate(over="ignore", invalid="ignore"):
            return kernel.fold(reader.in_turn(start, stop, self._sums))

    def _encode(self, tensor: TensorPlan, values: Values, num_bytes: int) -> npt.NDArray[np.uint8]:
        if len(self._raw) < num_bytes:
            self._raw = np.empty(num_bytes, dtype=np.uint8)
        raw = self._raw[:num_bytes]
        try:
            encode_into(values, tensor.dtype, raw)
        except OverflowError as error:
            raise ValueError(f"{tensor.name!r}: {error}: choose a wider --dtype") from error
        except ValueError as error:
            raise ValueError(
                f"{tensor.name!r}: a merged value is {error}, though every input is finite"
            ) from error
        return raw

    def _copied(self, chunk: Chunk) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """The bytes of the only input; a number that is none is refused here too."""
        (ref,) = chunk.tensor.inputs
        checkpoint: Checkpoint = self._checkpoints[ref.checkpoint]
        info = checkpoint.tensors[ref.name]
        if (info.dtype, info.shape) != (chunk.tensor.dtype, chunk.tensor.shape) or ref.rows is not None:
            raise ValueError(
                f"{ref.name!r} of {checkpoint.reference!r} is {info.dtype} {list(info.shape)} and cannot be "
                f"copied as {chunk.tensor.dtype} {list(chunk.tensor.shape)}"
            )
        if info.dtype in FLOATS:
            self._check_finite(chunk)
        first, last = (tensor_bytes_of(info.num_bytes, info.size, at) for at in (chunk.start, chunk.stop))
        for start in range(first, last, BLOCK):
            raw = checkpoint.read_bytes(ref.name, start, min(start + BLOCK, last))
            if self._sums is not None:
                self._sums.add(info.file, info.name, start, raw)
            yield start, raw

    def _check_finite(self, chunk: Chunk) -> None:
        reader, step = self._read(chunk.tensor), _block_elements(1)
        for start in range(chunk.start, chunk.stop, step):
            reader.check_finite(start, min(start + step, chunk.stop))


def tensor_bytes_of(num_bytes: int, size: int, elements: int) -> int:
    """Where element `elements` starts in a tensor; chunks start at multiples of 8, so that F4 and F6 fit."""
    return num_bytes if elements == size else elements * num_bytes // size


def _block_elements(arrays: int) -> int:
    """Elements a thread computes at a time, in so many arrays."""
    return max(min(STEP, WORKSPACE_BYTES // (max(arrays, 1) * 8)), 1 << 10)


def _pwrite(descriptor: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(descriptor, buffer[done:], offset + done)


Progress = Callable[[int], None]
"""Told the number of output bytes that are written, now and then."""


def write_tensors(
    plan: MergePlan,
    folder: Path,
    files: Sequence[OutputFile],
    journal: Journal,
    *,
    threads: int,
    chunk_elements: int = CHUNK,
    sync_bytes: int = SYNC_BYTES,
    progress: Progress | None = None,
    sums: TensorSums | None = None,
) -> None:
    """Write every tensor that the journal does not know as finished. The last chunks are not synced yet.

    Raises:
        ValueError: an input or a result is not finite, or too large for its type.
        OSError: the disk is full.
    """
    chunks = cut(plan.tensors, chunk_elements)
    pending = [left for one in chunks if (left := [c for c in one if c.number not in journal.finished])]
    sizes = {c.number: _chunk_bytes(c) for one in chunks for c in one}
    written = sum(sizes[number] for number in journal.finished)
    descriptors = {file.name: os.open(folder / file.name, os.O_RDWR | os.O_CREAT, 0o666) for file in files}
    try:
        for file in files:
            _pwrite(descriptors[file.name], memoryview(file.header), 0)
        unsynced: list[int] = []
        with closing(_run(plan, folder, files, descriptors, pending, threads, sums)) as numbers:
            for number in numbers:
                unsynced.append(number)
                written += sizes[number]
                if progress is not None:
                    progress(written)
                if sum(sizes[one] for one in unsynced) >= sync_bytes:
                    _sync(descriptors, journal, unsynced)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _chunk_bytes(chunk: Chunk) -> int:
    total, size = tensor_bytes(chunk.tensor), chunk.tensor.size
    return tensor_bytes_of(total, size, chunk.stop) - tensor_bytes_of(total, size, chunk.start)


def _sync(descriptors: Mapping[str, int], journal: Journal, unsynced: list[int]) -> None:
    for descriptor in descriptors.values():
        os.fsync(descriptor)
    journal.append(unsynced)
    unsynced.clear()


def _run(
    plan: MergePlan,
    folder: Path,
    files: Sequence[OutputFile],
    descriptors: Mapping[str, int],
    pending: Sequence[list[Chunk]],
    threads: int,
    sums: TensorSums | None,
) -> Generator[int]:
    """The numbers of the chunks, as the threads finish them."""
    work = _Work(pending)
    finished: SimpleQueue[int | None] = SimpleQueue()

    place = {
        name: (descriptors[file.name], folder / file.name, first_byte)
        for file in files
        for name, first_byte in file.starts.items()
    }

    def run() -> None:
        computer = Computer(plan.checkpoints, sums)
        try:
            while (job := work.take()) is not None:
                if isinstance(job, list):
                    work.prepared(job, computer.prepare(job[0].tensor))
                    continue
                name = job[0].tensor.name
                descriptor, path, first_byte = place[name]
                for start, raw in computer.results(*job):
                    _pwrite(descriptor, raw.data, first_byte + start)
                    if sums is not None:
                        sums.add(path, name, start, raw)
                finished.put(job[0].number)
        finally:
            work.stop()  # a failure, or nothing is left
            finished.put(None)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run) for _ in range(threads)]
        try:
            for _ in futures:  # each thread ends with a None
                yield from iter(finished.get, None)
        finally:
            work.stop()
        for future in futures:
            future.result()
