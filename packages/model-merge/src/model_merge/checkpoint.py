"""Checkpoints: a folder of safetensors files, or one such file, and its config.json.

    PATH_OR_REPO[@REVISION][:SUBFOLDER]

No architecture is known here: the tensors are those in the files. What is on the disk wins over the
hub, also where its name contains ':', '@' or '+'. Files of the hub need the extra `hub`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_merge.digests import checksum_file
from model_merge.dtypes import FLOATS, Compute, Values, decode, itemsize
from model_merge.header import BITS, FormatError, TensorInfo, pread_into, read_header

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint. Its header is read and checked; its weights are read where they are asked for."""

    reference: str
    """As the user wrote it."""
    path: Path
    """The folder (the file, where a single safetensors file was named)."""
    files: tuple[Path, ...]
    """The safetensors files, in the order of their names."""
    tensors: Mapping[str, TensorInfo]
    """By name, file after file, in the order of their bytes."""
    config: Mapping[str, Any]
    """config.json, or nothing."""
    _descriptors: dict[Path, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Where config and tokenizer files lie."""
        return self.path if self.path.is_dir() else self.path.parent

    def descriptor(self, name: str) -> int:
        """The open file of a tensor, for reading at offsets; it stays open while the checkpoint lives."""
        file = self.tensors[name].file
        if file not in self._descriptors:
            opened = os.open(file, os.O_RDONLY)
            if self._descriptors.setdefault(file, opened) != opened:  # another thread was faster
                os.close(opened)
        return self._descriptors[file]

    def read(self, name: str, start: int = 0, stop: int | None = None, *, compute: Compute = "F32") -> Values:
        """The values of a tensor's flat elements [start, stop), exactly unless it is F64 and `compute` F32.

        Raises:
            KeyError: there is no such tensor.
            ValueError: it is not of a floating type that can be computed with.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in FLOATS:
            raise ValueError(
                f"{name!r} in {self.reference!r} is {tensor.dtype}: only {', '.join(FLOATS)} are numbers"
            )
        width = itemsize(tensor.dtype)
        raw = self.read_bytes(name, start * width, (tensor.size if stop is None else stop) * width)
        return decode(raw, tensor.dtype, compute)

    def read_bytes(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes [start, stop) of a tensor."""
        tensor = self.tensors[name]
        stop = tensor.num_bytes if stop is None else stop
        raw = np.empty(stop - start, dtype=np.uint8)
        pread_into(self.descriptor(name), raw.data, tensor.start + start)
        return raw

    @cached_property
    def checksums(self) -> dict[str, str]:
        """The checksum of every safetensors file, by its name. Reads all of them, once."""
        return {path.name: checksum_file(path) for path in self.files}

    def digest(self) -> str:
        """Identifies config and weights, by their content: the same wherever the checkpoint lies."""
        config = json.dumps(dict(self.config), sort_keys=True)
        return hashlib.sha256(json.dumps([config, self.checksums], sort_keys=True).encode()).hexdigest()

    def __del__(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def open_checkpoint(reference: str | Path) -> Checkpoint:
    """Open a checkpoint and check that its headers, its index and its files agree.

    Raises:
        FileNotFoundError: there is none, or no safetensors file in it.
        FormatError: listing what is wrong with the files.
    """
    path = find(str(reference))
    if path.is_file():
        return Checkpoint(str(reference), path, (path,), read_header(path), _read_config(path.parent))
    if not path.is_dir():
        raise FileNotFoundError(f"{str(reference)!r} is no folder and no file")
    has_index = (path / INDEX).exists()
    tensors = _read_indexed(path) if has_index else _read_files(path, _weight_files(path))
    files = tuple(sorted({tensor.file for tensor in tensors.values()}))
    return Checkpoint(str(reference), path, files, tensors, _read_config(path))


def find(reference: str) -> Path:
    """The folder or file that a reference names; fetched from the hub where nothing on the disk has its name.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    for colon in [len(reference), *(i for i in reversed(range(len(reference))) if reference[i] == ":")]:
        if reference[:colon] and Path(reference[:colon]).exists():
            return Path(reference[:colon]) / reference[colon + 1 :]
    head, _, subfolder = reference.partition(":")
    repository, _, revision = head.partition("@")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None or repository.startswith("."):
        raise FileNotFoundError(
            f"no checkpoint {reference!r}: expected a folder on this disk "
            "or OWNER/NAME[@REVISION][:SUBFOLDER]"
        )
    return _fetch(repository, revision or None, subfolder)


def _fetch(repository: str, revision: str | None, subfolder: str) -> Path:
    try:
        from huggingface_hub import snapshot_download  # here: only references to the hub need it
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"no folder {repository!r} on this disk, and the hub is not installed: "
            "pip install 'model-merge[hub]'"
        ) from error
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    patterns = [f"{inside}{ending}" for ending in ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")]
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"no folder {repository!r} on this disk, and none from the hub: {first}"
        ) from error
    return Path(folder) / inside


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        return {}
    content = _read_json(path)
    if not isinstance(content, dict):
        raise FormatError(f"{str(path)!r} is no JSON object")
    return content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint without an index: the single one, numbered shards, or all."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    found = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    if not found:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        hint = f", only {', '.join(pickled)}: convert it with `model-merge convert`" if pickled else ""
        raise FileNotFoundError(f"no safetensors file in {str(folder)!r}{hint}")
    numbered = [match for path in found if (match := NUMBERED.fullmatch(path.name))]
    if not numbered:
        return found
    series = {(match[1], int(match[3])) for match in numbered}
    if len(series) > 1:
        raise FormatError(
            f"{str(folder)!r} holds shards of several series ({', '.join(sorted({m[0] for m in numbered}))}) "
            f"and no {INDEX}: keep one of them"
        )
    ((prefix, count),) = series
    wanted = [folder / f"{prefix}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if missing := [path.name for path in wanted if path not in found]:
        raise FormatError(f"{str(folder)!r} lacks the shards {', '.join(missing)}: download them again")
    return wanted


def _read_files(folder: Path, files: list[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        found = read_header(path)
        if repeated := sorted(tensors.keys() & found.keys()):
            raise FormatError(
                f"{str(folder)!r}: {repeated[0]!r} is both in {tensors[repeated[0]].file.name!r} "
                f"and {path.name!r}"
                + (f", and {len(repeated) - 1} more tensors are" if len(repeated) > 1 else "")
            )
        tensors |= found
    return tensors


def _read_indexed(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a sharded checkpoint; every disagreement of index and shards is told."""
    index = _read_json(folder / INDEX)
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise FormatError(f"{str(folder / INDEX)!r} has no 'weight_map' of tensor names to file names")
    shards = sorted(set(shard_of.values()))
    if outside := [name for name in shards if not _is_inside(name)]:
        raise FormatError(f"{str(folder / INDEX)!r} names a file outside of its folder: {outside[0]!r}")
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise FormatError(f"{str(folder)!r} lacks the shards {', '.join(missing)} that its index names")
    if (folder / WEIGHTS).exists() and WEIGHTS not in shards:
        raise FormatError(
            f"{str(folder)!r} holds {WEIGHTS} and an index of other files: one of them is stale, remove it"
        )
    tensors = _read_files(folder, [folder / name for name in shards])
    wrong = [
        f"{name!r} is not in {shard!r}"
        for name, shard in sorted(shard_of.items())
        if name not in tensors or tensors[name].file.name != shard
    ]
    wrong += [f"{name!r} is in {tensors[name].file.name!r} only" for name in tensors if name not in shard_of]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FormatError(f"{str(folder)!r}: index and shards disagree: {'; '.join(wrong[:5])}{more}")
    return tensors


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder itself."""
    return name not in ("", ".", "..") and not any(mark in name for mark in ("/", "\\", "\0"))


__all__ = ["BITS", "Checkpoint", "FormatError", "TensorInfo", "find", "open_checkpoint"]
