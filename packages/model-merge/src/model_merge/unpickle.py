"""Read pickled PyTorch weights without running what is pickled: only tensors and plain values are loaded.

A file is mapped where its format allows it, so that a checkpoint costs little memory until a tensor is read.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_merge.header import FormatError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
INSIDE = (("state", "model"), ("state_dict",), ("model_state_dict",), ("model",))
"""Where trainers put the weights among other things; Composer's is the first."""


@dataclass(frozen=True, eq=False)
class PickledTensor:
    """A tensor of a pickled file."""

    dtype: str
    """As safetensors writes it."""
    shape: tuple[int, ...]
    tensor: torch.Tensor

    def read(self) -> npt.NDArray[np.uint8]:
        """Its bytes, in row-major order."""
        flat: npt.NDArray[np.uint8] = self.tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        return flat

    @property
    def memory(self) -> tuple[object, ...]:
        """Equal for two tensors that are the same bytes of the same storage: tied weights."""
        tensor = self.tensor
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        return (*place, tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def read_pickled(path: Path) -> dict[str, PickledTensor]:
    """The tensors of a pickled file, by name; other entries of a state dict are no weights and left out.

    Raises:
        FormatError: it is damaged, holds more than tensors and plain values, or no tensors.
    """
    state = _find_state(_load(path), path)
    found = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if unknown := [name for name, tensor in found.items() if not _plain(tensor)]:
        raise FormatError(
            f"{str(path)!r}: {unknown[0]!r} is {_describe(found[unknown[0]])}, which cannot be converted: "
            "save the model with ordinary tensors"
        )
    return {
        name: PickledTensor(DTYPES[tensor.dtype], tuple(tensor.shape), tensor)
        for name, tensor in found.items()
    }


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on how the file was pickled, which its reader cannot change
        return _load_quietly(path)


def _load_quietly(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # torch's format before 1.6
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{str(path)!r} holds more than tensors, and nothing else is ever unpickled ({_reason(error)}): "
            "save only its state dict, in an environment where you trust the file"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FormatError(
            f"{str(path)!r} is damaged or cut off: {first}: download or copy it again"
        ) from error


def _find_state(loaded: Any, path: Path) -> Mapping[str, Any]:
    """The state dict in what was loaded."""
    for place in (*INSIDE, ()):
        state = loaded
        for key in place:
            state = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(state, Mapping) and any(isinstance(value, torch.Tensor) for value in state.values()):
            return state
    raise FormatError(f"{str(path)!r} holds no tensors by name, so it is no state dict")


def _plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and tensor.dtype in DTYPES


def _describe(tensor: torch.Tensor) -> str:
    return f"a {tensor.layout} tensor of {tensor.dtype}".replace("torch.", "")


def _reason(error: Exception) -> str:
    """Which class or function the file asks for, where torch says it."""
    words = str(error).split()
    named = [word for word, before in zip(words[1:], words, strict=False) if before == "GLOBAL"]
    return f"it asks for {named[0]}" if named else str(error).strip().splitlines()[0]
