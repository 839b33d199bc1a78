"""The files of a merged checkpoint: which tensor at which byte of which file, and what goes beside."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_merge.checkpoint import INDEX, WEIGHTS, Checkpoint
from model_merge.dtypes import FLOATS
from model_merge.header import BITS, write_header
from model_merge.plan import MergePlan, TensorPlan

DEFAULT_SHARD_BYTES = 5_000_000_000

SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
)
"""What goes along from the donor, where it is there."""

CONFIG_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True)
class OutputFile:
    """One safetensors file to be written."""

    name: str
    header: bytes
    starts: Mapping[str, int]
    """First byte of every tensor."""
    sizes: Mapping[str, int]
    """Bytes of every tensor."""
    num_bytes: int


def lay_out(
    tensors: Sequence[TensorPlan], *, like: Checkpoint, max_shard_bytes: int | None = None
) -> list[OutputFile]:
    """Cut the tensors into files: as `like` is cut, or none larger than wanted unless one tensor is."""
    known = all(tensor.name in like.tensors for tensor in tensors)
    if max_shard_bytes is None and known:
        groups = _groups_like(tensors, like)
    else:
        groups = _groups_by_size(tensors, max_shard_bytes or DEFAULT_SHARD_BYTES)
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return [
        _output_file(name, group)
        for name, group in zip([WEIGHTS] if count == 1 else names, groups, strict=True)
    ]


def _groups_like(tensors: Sequence[TensorPlan], like: Checkpoint) -> list[list[TensorPlan]]:
    groups: dict[Path, list[TensorPlan]] = {path: [] for path in like.files}
    for tensor in tensors:
        groups[like.tensors[tensor.name].file].append(tensor)
    return [group for group in groups.values() if group]


def _groups_by_size(tensors: Sequence[TensorPlan], max_shard_bytes: int) -> list[list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor_bytes(tensor) > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor_bytes(tensor)
    return groups


def tensor_bytes(tensor: TensorPlan) -> int:
    """Bytes of an output tensor."""
    return -(-tensor.size * BITS[tensor.dtype] // 8)


def _output_file(name: str, tensors: list[TensorPlan]) -> OutputFile:
    header, starts = write_header({one.name: (one.dtype, one.shape) for one in tensors})
    sizes = {one.name: tensor_bytes(one) for one in tensors}
    return OutputFile(name, header, starts, sizes, len(header) + sum(sizes.values()))


def index_of(files: Sequence[OutputFile]) -> bytes:
    """model.safetensors.index.json of several files."""
    total = sum(file.num_bytes - len(file.header) for file in files)
    content = {
        "metadata": {"total_size": total},
        "weight_map": {name: file.name for file in files for name in file.starts},
    }
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def merged_config(plan: MergePlan) -> dict[str, Any]:
    """The donor's config.json with the plan's changes and the dtype of the merged weights."""
    config = dict(plan.checkpoints[plan.donor].config) | plan.config_changes
    sizes: dict[str, int] = {}
    for tensor in plan.tensors:
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    if config and sizes:
        key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
        config[key] = CONFIG_DTYPES[max(sizes, key=lambda dtype: sizes[dtype])]
    return config


def write_side_files(plan: MergePlan, folder: Path, files: Sequence[OutputFile]) -> None:
    """config.json, the index where there are shards, and the donor's or the plan's other files."""
    donor: Checkpoint = plan.checkpoints[plan.donor]
    for path in _donor_files(donor):
        if path.name not in plan.files:
            shutil.copyfile(path, folder / path.name)
    for name, content in plan.files.items():
        (folder / name).write_bytes(content)
    if config := merged_config(plan):
        (folder / "config.json").write_text(
            json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if len(files) > 1:
        (folder / INDEX).write_bytes(index_of(files))


def _donor_files(donor: Checkpoint) -> list[Path]:
    found = [donor.folder / name for name in SIDE_FILES if (donor.folder / name).is_file()]
    code = sorted(donor.folder.glob("*.py")) if "auto_map" in donor.config else []
    return found + code  # a model whose config names code of its own does not open without it
