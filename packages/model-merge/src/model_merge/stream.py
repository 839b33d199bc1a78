"""Carrying out a plan: read, compute, write at the final offset. Memory depends on neither model nor inputs.

Every tensor is cut into chunks, the unit of the journal; a chunk is computed block by block, so that what
the arithmetic touches stays in the processor's cache. Threads take chunks of tensors that are prepared,
else the next tensor to prepare. No result depends on threads, chunks or blocks: a kernel sees positions, and
statistics come from `Inputs.blocks`, whose blocks are fixed.
"""

import math
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
from model_merge.dtypes import COMPUTE, FLOATS, Values, decode_into, encode_into, itemsize
from model_merge.header import pread_into
from model_merge.journal import Journal
from model_merge.output import OutputFile, tensor_bytes
from model_merge.plan import BLOCK, Kernel, MergePlan, TensorPlan, TensorRef

CHUNK = 1 << 22
"""Elements per chunk."""
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


class Reader:
    """The inputs of one output tensor (the `Inputs` that `prepare` gets), in arrays that are reused."""

    def __init__(self, checkpoints: Sequence[Checkpoint], tensor: TensorPlan) -> None:
        """Refuse inputs whose shape does not fit, before anything is read."""
        self._tensor = tensor
        self._inputs = [_Input(checkpoints[ref.checkpoint], ref, tensor) for ref in tensor.inputs]
        self._values: list[npt.NDArray[np.uint8]] = []
        self._raw = np.empty(0, dtype=np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output tensor."""
        return self._tensor.shape

    def blocks(self) -> Iterator[tuple[int, list[Values]]]:
        """(flat start, values of every input there), `BLOCK` elements at a time, in order."""
        for start in range(0, self._tensor.size, BLOCK):
            yield start, self.read(start, min(start + BLOCK, self._tensor.size))

    def read(self, start: int, stop: int, sums: TensorSums | None = None) -> list[Values]:
        """The values of every input's elements [start, stop); the next call overwrites them."""
        dtype = COMPUTE[self._tensor.compute]
        num_bytes = (stop - start) * dtype.itemsize
        if not self._values or len(self._values[0]) < num_bytes:
            self._values = [np.empty(num_bytes, dtype=np.uint8) for _ in self._inputs]
            self._raw = np.empty((stop - start) * 8, dtype=np.uint8)
        found: list[Values] = [array[:num_bytes].view(dtype) for array in self._values]
        for source, values in zip(self._inputs, found, strict=True):
            source.read_into(start, stop, values, self._raw, sums)
        return found

    def will_need(self, start: int, stop: int) -> None:
        """Ask the kernel to fetch what will be read."""
        for source in self._inputs:
            source.will_need(start, stop)


class _Input:
    """One tensor of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, ref: TensorRef, tensor: TensorPlan) -> None:
        self._info = checkpoint.tensors[ref.name]
        self._reference = checkpoint.reference
        self._descriptor = checkpoint.descriptor(ref.name)
        self._rows = ref.rows
        self._row_size = math.prod(tensor.shape[1:])
        shape = self._info.shape if ref.rows is None else (len(ref.rows), *self._info.shape[1:])
        if shape != tensor.shape or self._info.dtype not in FLOATS:
            raise ValueError(
                f"{ref.name!r} of {checkpoint.reference!r} is {self._info.dtype} {list(shape)}, "
                f"which does not fit {tensor.name!r} {list(tensor.shape)}"
            )
        self._width = itemsize(self._info.dtype)

    def read_into(
        self,
        start: int,
        stop: int,
        values: Values,
        buffer: npt.NDArray[np.uint8],
        sums: TensorSums | None,
    ) -> None:
        """Decode elements [start, stop); NaN and infinities are refused, but for absent rows."""
        raw = buffer[: (stop - start) * self._width]
        absent: list[slice] = []
        if self._rows is None:
            pread_into(self._descriptor, raw.data, self._info.start + start * self._width)
            if sums is not None:
                sums.add(self._info.file, self._info.name, start * self._width, raw)
        else:
            absent = self._gather(self._rows, start, stop, raw)
        decode_into(raw, self._info.dtype, values)
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"{self._info.name!r} of {self._reference!r} holds {values[where]}, "
                f"at element {start + where}: a merge with it would hold it too"
            )
        for elements in absent:
            values[elements] = np.nan

    def _gather(
        self, rows: npt.NDArray[np.int64], start: int, stop: int, raw: npt.NDArray[np.uint8]
    ) -> list[slice]:
        """Read the rows that cover elements [start, stop), neighbours at once; which elements have none."""
        absent = []
        first, last = start // self._row_size, -(-stop // self._row_size)
        here = rows[first:last]
        breaks = np.flatnonzero((np.diff(here) != 1) | (here[:-1] < 0)) + 1  # -1 and 0 are no neighbours
        for begin, end in zip([0, *breaks], [*breaks, last - first], strict=True):
            out_start = max((first + int(begin)) * self._row_size, start)
            out_stop = min((first + int(end)) * self._row_size, stop)
            source = int(rows[first + begin])
            piece = raw[(out_start - start) * self._width : (out_stop - start) * self._width]
            if source < 0:
                piece[:] = 0
                absent.append(slice(out_start - start, out_stop - start))
                continue
            skipped = out_start - (first + int(begin)) * self._row_size
            offset = (source * self._row_size + skipped) * self._width
            pread_into(self._descriptor, piece.data, self._info.start + offset)
        return absent

    def will_need(self, start: int, stop: int) -> None:
        if self._rows is None and hasattr(os, "posix_fadvise"):
            begin, length = self._info.start + start * self._width, (stop - start) * self._width
            os.posix_fadvise(self._descriptor, begin, length, os.POSIX_FADV_WILLNEED)


class Computer:
    """One thread's way from inputs to the bytes of outputs."""

    def __init__(self, checkpoints: Sequence[Checkpoint], sums: TensorSums | None = None) -> None:
        """Count what is read for results, but not for statistics, in `sums`."""
        self._checkpoints = checkpoints
        self._sums = sums
        self._reader: tuple[str, Reader] | None = None
        self._raw = np.empty(0, dtype=np.uint8)
        self._scratch = np.empty(BLOCK, dtype=np.uint32)

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
        step = _block_elements(tensor)
        reader.will_need(chunk.start, chunk.stop)
        for start in range(chunk.start, chunk.stop, step):
            stop = min(start + step, chunk.stop)
            values = kernel(start, reader.read(start, stop, self._sums))
            yield start * width, self._encode(tensor, values, (stop - start) * width)

    def _encode(self, tensor: TensorPlan, values: Values, num_bytes: int) -> npt.NDArray[np.uint8]:
        if len(self._raw) < num_bytes:
            self._raw = np.empty(num_bytes, dtype=np.uint8)
        raw = self._raw[:num_bytes]
        try:
            encode_into(values, tensor.dtype, raw, self._scratch)
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
        reader, step = self._read(chunk.tensor), _block_elements(chunk.tensor)
        for start in range(chunk.start, chunk.stop, step):
            reader.read(start, min(start + step, chunk.stop))


def tensor_bytes_of(num_bytes: int, size: int, elements: int) -> int:
    """Where element `elements` starts in a tensor; chunks start at multiples of 8, so that F4 and F6 fit."""
    return num_bytes if elements == size else elements * num_bytes // size


def _block_elements(tensor: TensorPlan) -> int:
    """Elements a thread computes at a time."""
    fits = WORKSPACE_BYTES // (max(len(tensor.inputs), 1) * 8)
    return max(min(BLOCK, fits), 1 << 10)


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
