"""The inputs of an output tensor, read block by block into arrays that are reused; NaN is refused."""

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from model_merge.checkpoint import Checkpoint
from model_merge.digests import TensorSums
from model_merge.dtypes import COMPUTE, FLOATS, Values, all_finite, bf16_finite, decode_into, itemsize
from model_merge.header import pread_into
from model_merge.plan import BLOCK, TensorPlan, TensorRef


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
        found = self._arrays(len(self._inputs), stop - start)
        for source, values in zip(self._inputs, found, strict=True):
            source.read_into(start, stop, values, self._raw, sums)
        return found

    def check_finite(self, start: int, stop: int) -> None:
        """Refuse NaN and infinities in elements [start, stop), one input after the other."""
        for _ in self.in_turn(start, stop, refuse_nan=True):
            pass

    def in_turn(
        self, start: int, stop: int, sums: TensorSums | None = None, *, refuse_nan: bool = False
    ) -> Iterator[Values]:
        """As `read`, but one input after the other, as a `Fold` takes them; NaN and infinities may stay."""
        first, *later = self._arrays(min(len(self._inputs), 2), stop - start)
        for position, source in enumerate(self._inputs):
            values = later[0] if position else first
            source.read_into(start, stop, values, self._raw, sums, refuse_nan=refuse_nan)
            yield values

    def _arrays(self, count: int, elements: int) -> list[Values]:
        """So many arrays of so many elements; the next call returns the same ones."""
        dtype = COMPUTE[self._tensor.compute]
        num_bytes = elements * dtype.itemsize
        if len(self._values) < count or len(self._values[0]) < num_bytes:
            self._values = [np.empty(num_bytes, dtype=np.uint8) for _ in range(count)]
            self._raw = np.empty(elements * 8, dtype=np.uint8)
        return [array[:num_bytes].view(dtype) for array in self._values[:count]]

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
        *,
        refuse_nan: bool = True,
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
        if refuse_nan and not (bf16_finite(raw) if self._info.dtype == "BF16" else all_finite(values)):
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
