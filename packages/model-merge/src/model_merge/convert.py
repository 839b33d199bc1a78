"""Convert checkpoints: pickled weights to safetensors, ez-data-ablations' tensor names to each other.

    OUT/model.safetensors    one file, tensor after tensor: no more than one is in memory
    OUT/conversion.json      source, names, what was tied, put in and left out
    OUT/config.json ...      the source's side files; for `customgpt` a configuration of its own

A tensor that the source stores once under two names is written once where they are the input embeddings and
the output layer (the configuration ties them again on loading), else once under each name.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model_merge.checkpoint import open_checkpoint
from model_merge.dtypes import decode, encode
from model_merge.folders import begin, check_output, finish
from model_merge.header import FormatError, write_header
from model_merge.olmo_names import (
    custom_gpt_fields,
    identity_attn_out,
    is_composer,
    is_olmo,
    olmo_name,
    rename_to_custom_gpt,
)

FORMAT = {"format": "conversion", "version": 1}
Names = Literal["keep", "olmo", "customgpt"]
PICKLED = (".bin", ".pt", ".pth")
SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".yaml", ".yml")
NOT_COPIED = ("config.json", "conversion.json")
OUTPUT_LAYERS = re.compile(r"(.*\.)?(lm_head|embed_out|output|transformer\.ff_out)\.weight")
EMBEDDINGS = re.compile(r"(.*\.)?(embed_tokens|embed_in|wte|tok_embeddings|word_embeddings)\.weight")


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: what it is, and how its bytes are had."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[np.uint8]]

    def values(self) -> npt.NDArray[Any]:
        """Its values, in its shape."""
        return decode(self.read(), self.dtype, "F64").reshape(self.shape)


@dataclass(frozen=True)
class Weights:
    """The weights of a source, and what became of them so far."""

    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str]
    """Name that is not written -> the name under which its bytes are."""
    added: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def convert(source: Path, out: Path, *, names: Names = "keep", overwrite: bool = False) -> dict[str, Any]:
    """Write a source's weights as safetensors; returns what conversion.json says.

    Args:
        source: a folder, or one file (.bin, .pt, .pth, .safetensors).
        out: the folder to make; it appears complete or not at all.
        names: keep them, or give the tensors of an ez-data-ablations model the names of OLMo (as its own
            converter does, with an identity behind the attention) or of the class in `custom_gpt`.

    Raises:
        FileNotFoundError: there are no weights.
        FormatError: they cannot be read; the message says why.
        ValueError: the model is not one of those that `names` is for.
    """
    check_output(out, "conversion.json", overwrite=overwrite)
    config = _read_config(source) if source.is_dir() else {}
    weights = read_weights(source, config)
    if names == "olmo":
        weights = as_olmo(weights)
    elif names == "customgpt":
        sizes = {name: tensor.shape for name, tensor in weights.tensors.items()}
        config = custom_gpt_fields(sizes, config)
        weights = as_custom_gpt(weights)
    unfinished = begin(out)
    digest = write_weights(weights.tensors, unfinished / "model.safetensors")
    if source.is_dir():
        _copy_side_files(source, unfinished)
    if config:
        _write_json(config, unfinished / "config.json")
    summary = {
        **FORMAT,
        "source": str(source),
        "names": names,
        "num_tensors": len(weights.tensors),
        "num_bytes": (unfinished / "model.safetensors").stat().st_size,
        "tied": dict(weights.tied),
        "added": list(weights.added),
        "left_out": list(weights.left_out),
        "sha256": digest,
    }
    _write_json(summary, unfinished / "conversion.json")
    finish(unfinished, out)
    return summary


def read_weights(source: Path, config: Mapping[str, Any]) -> Weights:
    """The tensors of a source, each once where it is tied."""
    files = find_pickled(source)
    if not files:
        checkpoint = open_checkpoint(source)
        return Weights(
            {
                name: Tensor(info.dtype, info.shape, partial(checkpoint.read_bytes, name))
                for name, info in checkpoint.tensors.items()
            },
            {},
        )
    read_pickled = _load_unpickler()
    tensors: dict[str, Any] = {}
    for file in files:
        found = read_pickled(file)
        if repeated := sorted(tensors.keys() & found.keys()):
            raise FormatError(f"{str(source)!r}: {repeated[0]!r} is in {file.name!r} and in a file before it")
        tensors |= found
    tied = {} if config.get("tie_word_embeddings") is False else find_tied(tensors)
    kept = {name: tensor for name, tensor in tensors.items() if name not in tied}
    return Weights({name: Tensor(t.dtype, t.shape, t.read) for name, t in kept.items()}, tied)


def find_pickled(source: Path) -> list[Path]:
    """The pickled files of a source; none where it has safetensors, which are then read."""
    if source.is_file():
        return [source] if source.suffix in PICKLED else []
    if not source.is_dir():
        raise FileNotFoundError(f"no checkpoint at {str(source)!r}: expected a folder or a file")
    if any(source.glob("*.safetensors")):
        return []
    index = source / "pytorch_model.bin.index.json"
    if index.is_file():
        return _shards(index)
    pickled = (path for path in source.iterdir() if path.suffix in PICKLED)
    found = sorted(path for path in pickled if path.name != "training_args.bin")
    if not found:
        raise FileNotFoundError(f"no weights in {str(source)!r}: no .safetensors, .bin, .pt or .pth file")
    if len(found) > 1:
        raise FormatError(
            f"{str(source)!r} has {len(found)} pickled files and no index "
            f"({', '.join(path.name for path in found)}): name the one to convert"
        )
    return found


def find_tied(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Output layers that are the input embeddings' own bytes: name -> the embeddings' name."""
    embeddings = {tensor.memory: name for name, tensor in tensors.items() if EMBEDDINGS.fullmatch(name)}
    return {
        name: embeddings[tensor.memory]
        for name, tensor in tensors.items()
        if OUTPUT_LAYERS.fullmatch(name) and tensor.memory in embeddings
    }


def as_olmo(weights: Weights) -> Weights:
    """OLMo's names, with an identity behind the attention where there is none."""
    if is_olmo(weights.tensors):  # hf_olmo's wrapper adds "model.", which is taken off only where it stands
        plain = {name.removeprefix("model."): tensor for name, tensor in weights.tensors.items()}
        return replace(weights, tensors=plain)
    _refuse_others(weights)
    named = {olmo_name(_with_model(name)): tensor for name, tensor in weights.tensors.items()}
    layers = {int(found[1]) for name in named if (found := re.search(r"\.blocks\.(\d+)\.", name))}
    added: dict[str, Tensor] = {}
    for layer in sorted(layers):
        like = named[f"transformer.blocks.{layer}.att_proj.weight"]
        for name, values in identity_attn_out(layer, like.shape[1]).items():
            raw = encode(values.reshape(-1), like.dtype)
            added[name] = Tensor(like.dtype, values.shape, raw.view)
    return replace(weights, tensors=named | added, added=tuple(added))


def as_custom_gpt(weights: Weights) -> Weights:
    """The names of the registered class; checks and leaves out what it does not have."""
    if not is_olmo(weights.tensors):
        _refuse_others(weights)
    renamed = rename_to_custom_gpt(weights.tensors, read=lambda name: weights.tensors[name].values())
    tensors = {new: weights.tensors[old] for old, new in renamed.items()}
    return replace(
        weights, tensors=tensors, left_out=tuple(name for name in weights.tensors if name not in renamed)
    )


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write one safetensors file, tensor after tensor, to the disk; its sha256."""
    header, starts = write_header({name: (t.dtype, t.shape) for name, t in tensors.items()})
    digest = hashlib.sha256(header)
    with path.open("wb") as file:
        file.write(header)
        for name in sorted(starts, key=lambda name: starts[name]):
            raw = np.ascontiguousarray(tensors[name].read())
            file.write(raw.data)
            digest.update(raw.data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _load_unpickler() -> Callable[[Path], dict[str, Any]]:
    try:
        from model_merge.unpickle import read_pickled
    except ImportError as error:
        raise ValueError("reading pickled weights needs torch: pip install 'model-merge[eval]'") from error
    return read_pickled


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them there and in its folder."""
    content = _read_json(index)
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise FormatError(f"{str(index)!r} has no 'weight_map' of tensor names to file names")
    shards = sorted(set(shard_of.values()))
    if outside := [name for name in shards if Path(name).name != name or name in ("", "..")]:
        raise FormatError(f"{str(index)!r} names a file outside of its folder: {outside[0]!r}")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise FormatError(f"{str(index.parent)!r} lacks the shards {', '.join(missing)} that its index names")
    return [index.parent / name for name in shards]


def _refuse_others(weights: Weights) -> None:
    if not is_composer(weights.tensors):
        some = ", ".join(repr(name) for name in list(weights.tensors)[:3])
        raise ValueError(
            f"these are no tensors of ez-data-ablations (found {some}, expected blocks.0.att_norm.weight "
            "or transformer.blocks.0.attn_out.weight): convert with --names keep"
        )


def _with_model(name: str) -> str:
    return name if name.startswith("model.") else f"model.{name}"


def _copy_side_files(source: Path, out: Path) -> None:
    for path in sorted(source.iterdir()):
        copied = path.suffix in SIDE_FILES and not path.name.endswith(".index.json")
        if path.is_file() and copied and path.name not in NOT_COPIED:
            shutil.copyfile(path, out / path.name)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content = _read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise FormatError(f"{str(path)!r} is no JSON object")
    return content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
