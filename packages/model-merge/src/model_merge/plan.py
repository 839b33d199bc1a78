"""A merge with every question settled: for each output tensor its inputs and its arithmetic.

Whatever a merge was written as (an expression, a mergekit file), it becomes a `MergePlan`; `stream` carries
one out without knowing what it means.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values as Values

BLOCK = 1 << 18
"""Elements per step of a statistics pass. Fixed, so that sums do not depend on chunk size or threads."""


@dataclass(frozen=True)
class TensorRef:
    """One tensor of one checkpoint, as an input."""

    checkpoint: int
    """Position in `MergePlan.checkpoints`."""
    name: str
    rows: npt.NDArray[np.int64] | None = None
    """Row i of the input is row `rows[i]` of the tensor; -1 gives a row of NaN, which the arithmetic
    must fill."""


class Inputs(Protocol):
    """The inputs of one output tensor, readable any number of times in constant memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output tensor, which every input has."""

    def blocks(self) -> Iterator[tuple[int, list[Values]]]:
        """(flat start, values of every input there), `BLOCK` elements at a time, in order.

        The arrays are the reader's: the next block overwrites them.
        """


Kernel = Callable[[int, list[Values]], Values]
"""(flat start, values of every input there) -> values of the output there, before the one rounding.

Every output value depends on the input values at its own position (and on what `prepare` found out), so that
any cutting of the tensor into chunks gives the same bits. The kernel may overwrite the values it is given and
return one of those arrays: that keeps the linear merges free of allocations.
"""


@dataclass(frozen=True)
class Fold:
    """A `Kernel` that takes one input after the other, so that only two of them are in memory at a time."""

    fold: Callable[[Iterator[Values]], Values]
    """The first array stays as it is left, each later one is overwritten by the next. The result must not be
    finite where an input is not: a NaN is then found without looking for it in every input."""

    def __call__(self, flat_start: int, values: list[Values]) -> Values:
        """Of inputs that are all there, as any other kernel."""
        return self.fold(iter(values))


@dataclass(frozen=True)
class TensorPlan:
    """How one output tensor comes about."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: BF16, F16, F32, F64, F8_E4M3, F8_E5M2, or of a tensor that is copied."""
    inputs: tuple[TensorRef, ...]
    """In the order of the arithmetic; the base model's first where the method has one."""
    prepare: Callable[[Inputs], Kernel] | None
    """Reads what statistics it needs and returns the arithmetic; None copies the only input's bytes."""
    compute: Literal["F32", "F64"] = "F64"
    """The type in which the inputs reach the arithmetic."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class MergePlan:
    """A whole merge."""

    checkpoints: tuple[Any, ...]  # model_merge.checkpoint.Checkpoint
    tensors: tuple[TensorPlan, ...]
    expression: dict[str, Any]
    """Canonical, JSON: with the inputs' digests it identifies the merge."""
    donor: int = 0
    """The checkpoint whose config and tokenizer files go along."""
    config_changes: dict[str, Any] = field(default_factory=dict)
    """Entries of config.json that differ from the donor's."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Further side files by name, in place of the donor's of that name (a merged tokenizer)."""
