"""What is in a checkpoint, and how far two of them are apart, tensor by tensor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_merge.checkpoint import Checkpoint
from model_merge.dtypes import FLOATS
from model_merge.merge_json import NAME, read_merge_json
from model_merge.plan import BLOCK


@dataclass(frozen=True)
class Difference:
    """One tensor of two checkpoints."""

    name: str
    max_abs: float
    relative: float
    """Length of the difference over length of the first, L2."""
    cosine: float
    """Cosine of the angle between the two; 1 where both are zero."""


def summarise(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `inspect` shows: tensors, parameters and bytes by type, files, and where a merge came from."""
    types: dict[str, dict[str, int]] = {}
    for tensor in checkpoint.tensors.values():
        found = types.setdefault(tensor.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        found["tensors"] += 1
        found["parameters"] += tensor.size
        found["bytes"] += tensor.num_bytes
    merged = (checkpoint.folder / NAME).is_file()
    return {
        "reference": checkpoint.reference,
        "architectures": checkpoint.config.get("architectures"),
        "files": [path.name for path in checkpoint.files],
        "types": types,
        "merge": read_merge_json(checkpoint.folder)["expression"] if merged else None,
    }


def differences(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """The differences of all tensors that both have, in the order of the first.

    Raises:
        ValueError: a tensor is not in both, or has another shape.
    """
    if one_sided := first.tensors.keys() ^ second.tensors.keys():
        raise ValueError(f"only one of the two has {', '.join(sorted(one_sided)[:10])}")
    for name, tensor in first.tensors.items():
        if tensor.shape != second.tensors[name].shape:
            raise ValueError(
                f"{name!r} is {list(tensor.shape)} in {first.reference!r} "
                f"and {list(second.tensors[name].shape)} in {second.reference!r}"
            )
        if tensor.dtype in FLOATS and second.tensors[name].dtype in FLOATS:
            yield _difference(first, second, name)


def _difference(first: Checkpoint, second: Checkpoint, name: str) -> Difference:
    """One pass over both, in float64."""
    size, max_abs = first.tensors[name].size, 0.0
    apart = one = two = product = 0.0
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        a, b = (checkpoint.read(name, start, stop, compute="F64") for checkpoint in (first, second))
        distance = np.abs(a - b)
        max_abs = float(np.maximum(max_abs, distance.max()))  # a NaN stays one
        apart += float(np.square(distance).sum())
        one, two, product = (
            one + float((a * a).sum()),
            two + float((b * b).sum()),
            product + float((a * b).sum()),
        )
    length = math.sqrt(one) * math.sqrt(two)
    cosine = min(product / length, 1.0) if length else float(one == two)
    relative = math.sqrt(apart / one) if one else (0.0 if apart == 0 else math.inf)
    return Difference(name, max_abs, relative, cosine)
