"""One model in memory that becomes one merge after the other, in place; nothing is written.

The sums are float64 and live where the model lives. A merge's values are (sum / divisor), rounded once to the
model's type: the same bits as `model-merge average` writes, by whatever path the sum came about.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

import model_merge.custom_gpt  # noqa: F401, registers the class of the published models
from model_merge.checkpoint import Checkpoint
from model_merge.checks import check
from model_merge.dtypes import FLOATS
from model_merge.running_sum import FRESH_FRACTION, ExponentRange, Reach, RunningSum, find_reach
from model_merge.subsets import Merge

SCAN = 1 << 20  # elements
CPU_BLOCK = 1 << 16  # elements, whose temporaries fit a processor's cache
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass
class Inputs:
    """The parts' tensors: those that the plan needs most often stay on the device, others are read again."""

    checkpoints: Sequence[Checkpoint]
    device: torch.device
    budget: int
    """Bytes to keep."""
    uses: Sequence[int]
    """How often the plan needs each part."""
    kept: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)
    kept_bytes: int = 0
    bytes_read: int = 0

    def get(self, part: int, name: str) -> torch.Tensor:
        """A tensor's values, flat, in a type that sums with float64 exactly."""
        key = (part, name)
        if key in self.kept:
            return _computable(self.kept[key])
        tensor = self._read(part, name)
        if self._make_room(tensor.nbytes, self.uses[part]):
            self.kept[key] = tensor
            self.kept_bytes += tensor.nbytes
        return _computable(tensor)

    def _make_room(self, size: int, uses: int) -> bool:
        """Let go of tensors that are needed less often; false if that is not enough."""
        rarer = sorted((self.uses[part], part, name) for part, name in self.kept if self.uses[part] < uses)
        free = self.budget - self.kept_bytes
        let_go = []
        for _, part, name in rarer:
            if size <= free:
                break
            let_go.append((part, name))
            free += self.kept[part, name].nbytes
        if size > free:
            return False
        for key in let_go:
            self.kept_bytes -= self.kept.pop(key).nbytes
        return True

    def _read(self, part: int, name: str) -> torch.Tensor:
        checkpoint = self.checkpoints[part]
        raw = torch.from_numpy(checkpoint.read_bytes(name))
        self.bytes_read += raw.nbytes
        return raw.view(TORCH_TYPES[checkpoint.tensors[name].dtype]).to(self.device)


def count_uses(merges: Sequence[Merge]) -> list[int]:
    """How often each part's coefficient changes from one merge to the next."""
    rows = [merge.coefficients for merge in merges]
    before = [tuple(0.0 for _ in rows[0]), *rows]
    return [sum(old != new for old, new in pairwise(column)) for column in zip(*before, strict=True)]


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.itemsize == 1 else tensor


def find_inexact(checkpoints: Sequence[Checkpoint], name: str, reach: Reach | None) -> Any:
    """Positions of a tensor that must be summed afresh; None: all.

    Reads every part once, a million elements at a time, unless all must be summed afresh anyway.

    Raises:
        ValueError: a part holds NaN or infinite values.
    """
    if reach is None:
        return None
    size = checkpoints[0].tensors[name].size
    found = []
    for start in range(0, size, SCAN):
        stop = min(start + SCAN, size)
        exponents = ExponentRange.of_size(stop - start)
        for checkpoint in checkpoints:
            values = _finite_values(checkpoint, name, start, stop)
            exponents.add(values, checkpoint.tensors[name].dtype)
        found.append(start + exponents.inexact(reach))
    positions = np.concatenate(found) if found else np.zeros(0, np.int64)
    return None if len(positions) * FRESH_FRACTION > size else positions


def _finite_values(checkpoint: Checkpoint, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    compute: Literal["F32", "F64"] = "F64" if checkpoint.tensors[name].dtype == "F64" else "F32"
    values = checkpoint.read(name, start, stop, compute=compute)
    if not np.isfinite(values).all():
        raise ValueError(f"{name!r} of {checkpoint.reference!r} holds NaN or infinite values")
    return values


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values in a narrower type, rounded once, to nearest, ties to even.

    torch itself goes to 16 bits through float32, which rounds twice. Made odd where it is inexact, the
    float32 value falls on the same side as the float64 one.
    """
    if dtype in (torch.float64, torch.float32):
        return values.to(dtype)
    narrow = values.float()
    back = narrow.double()
    bits = narrow.view(torch.int32)
    bits -= (back.abs() > values.abs()).int()
    bits |= (back != values).int()
    return narrow.to(dtype)


@dataclass
class Resident:
    """A model whose parameters take the values of a merge."""

    model: PreTrainedModel
    targets: dict[str, torch.Tensor]
    """By the tensor's name in the files, flat, sharing the model's memory."""
    sums: dict[str, RunningSum]
    may_overflow: bool
    """Parts have not been looked at, or negative weights let a merge exceed them: look at each result."""

    def become(self, merge: Merge) -> None:
        """Give the model's parameters the merge's values.

        Raises:
            ValueError: a value is NaN, infinite or beyond the largest of the model's type.
        """
        for name, running in self.sums.items():
            total = running.move(merge.coefficients)
            target = self.targets[name]
            for begin in range(0, len(total), running.block):
                block = slice(begin, begin + running.block)
                target[block] = round_once(total[block] / merge.divisor, target.dtype)
            if self.may_overflow and not bool(torch.isfinite(target).all()):
                raise ValueError(
                    f"{name!r} has NaN, infinite values or some beyond the largest {target.dtype}"
                )


def load_model(checkpoint: Checkpoint, device: str, dtype: str = "auto") -> PreTrainedModel:
    """The model of a checkpoint, for evaluation.

    Raises:
        ValueError: transformers knows no such model, or the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"no device {device!r}: torch finds no CUDA device here")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=wanted, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{checkpoint.reference!r} cannot be opened as a language model: {error}") from error
    module: torch.nn.Module = model  # the class wraps `to` in a way that has no type
    module.to(device).requires_grad_(False).eval()
    found: PreTrainedModel = model
    return found


def find_targets(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The model's memory for every tensor of the files.

    Raises:
        ValueError: the model has no place for a tensor, or a place that no tensor fills.
    """
    state = model.state_dict()
    prefix = f"{model.base_model_prefix}."
    named = {name: name if name in state else prefix + name for name in checkpoint.tensors}
    if homeless := sorted(name for name, key in named.items() if key not in state):
        raise ValueError(f"the model of {checkpoint.reference!r} has no place for {homeless}")
    targets = {name: state[key] for name, key in named.items()}
    filled = {tensor.data_ptr() for tensor in targets.values()}
    if empty := sorted(key for key, tensor in state.items() if tensor.data_ptr() not in filled):
        raise ValueError(f"{checkpoint.reference!r} has no tensors for {empty} of its model")
    return {
        name: target.view(-1) for name, target in targets.items() if checkpoint.tensors[name].dtype in FLOATS
    }


def make_resident(
    checkpoints: Sequence[Checkpoint],
    merges: Sequence[Merge],
    *,
    device: str = "cpu",
    dtype: str = "auto",
    budget: int = 8 << 30,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> Resident:
    """The model of the parts, ready to become any of the merges.

    Args:
        checkpoints: the parts.
        merges: all that it will become; how far sums can go decides where they stay exact.
        device: where model, sums and the kept inputs live.
        dtype: of the model: `auto` as stored, or a torch type's name.
        budget: bytes of inputs to keep on the device.
        progress: goes through the tensors' names while they are looked at.
    """
    check(checkpoints, dtype=None if dtype == "auto" else dtype)
    model = load_model(checkpoints[0], device, dtype)
    targets = find_targets(model, checkpoints[0])
    inputs = Inputs(checkpoints, torch.device(device), budget, count_uses(merges))
    reach = find_reach([merge.coefficients for merge in merges])
    if all(len(merge.members) == 1 for merge in merges):
        reach = None  # nothing to run

    def start(size: int) -> torch.Tensor:
        return torch.full((size,), -0.0, dtype=torch.float64, device=device)

    block = CPU_BLOCK if device == "cpu" else 1 << 62
    sums = {}
    for name in progress(list(targets)):
        inexact = find_inexact(checkpoints, name, reach)
        if inexact is not None:
            inexact = torch.from_numpy(inexact).to(device)
        load = partial(_get, inputs, name)
        sums[name] = RunningSum(load, start, targets[name].numel(), block, inexact)
    return Resident(model, targets, sums, may_overflow=reach is None or reach.negative)


def _get(inputs: Inputs, name: str, part: int) -> torch.Tensor:
    return inputs.get(part, name)
