"""What a merge will take: disk, memory, time. The time comes from reading a little of the inputs."""

import shutil
import time
from pathlib import Path
from typing import Any

from model_merge.header import TensorInfo, pread_into
from model_merge.output import lay_out
from model_merge.plan import MergePlan
from model_merge.stream import STEP as BLOCK_ELEMENTS
from model_merge.stream import WORKSPACE_BYTES

MEASURED_BYTES = 1 << 26
STEP = 1 << 20
INTERPRETER_BYTES = 60_000_000
"""Python, NumPy and the headers."""


def estimate(plan: MergePlan, out: Path, *, threads: int, max_shard_bytes: int | None) -> dict[str, Any]:
    """Bytes to read and write, memory, and seconds if the disk stays as fast as it was just now.

    A weighted sum reads its inputs once; others are counted twice, for their statistics.
    """
    files = lay_out(plan.tensors, like=plan.checkpoints[0], max_shard_bytes=max_shard_bytes)
    read_bytes = sum(
        plan.checkpoints[ref.checkpoint].tensors[ref.name].num_bytes
        for tensor in plan.tensors
        for ref in tensor.inputs
    )
    written = sum(file.num_bytes for file in files)
    most_inputs = max((len(tensor.inputs) for tensor in plan.tensors), default=0)
    passes = 1 if plan.expression.get("weights") else 2
    return {
        "checkpoints": len(plan.checkpoints),
        "tensors": len(plan.tensors),
        "files": [file.name for file in files],
        "bytes_to_read": passes * read_bytes,
        "bytes_to_write": written,
        "bytes_free": shutil.disk_usage(next(one for one in out.absolute().parents if one.exists())).free,
        "memory_bytes": INTERPRETER_BYTES + threads * _workspace(most_inputs),
        "seconds": (passes * read_bytes + written) * measure(plan),
    }


def _workspace(num_inputs: int) -> int:
    return min(num_inputs * BLOCK_ELEMENTS * 8, WORKSPACE_BYTES) + 3 * BLOCK_ELEMENTS * 8


def measure(plan: MergePlan) -> float:
    """Seconds per byte of reading the largest tensor that is merged, at most 64 MB of it."""
    refs = [(ref, plan.checkpoints[ref.checkpoint]) for tensor in plan.tensors for ref in tensor.inputs]
    ref, checkpoint = max(refs, key=lambda pair: pair[1].tensors[pair[0].name].num_bytes)
    info: TensorInfo = checkpoint.tensors[ref.name]
    buffer = bytearray(STEP)
    num_bytes = min(info.num_bytes, MEASURED_BYTES)
    begun = time.perf_counter()
    for start in range(0, num_bytes, STEP):
        view = memoryview(buffer)[: min(STEP, num_bytes - start)]
        pread_into(checkpoint.descriptor(ref.name), view, info.start + start)
    seconds: float = time.perf_counter() - begun
    return seconds / max(num_bytes, 1)
