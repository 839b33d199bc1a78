import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

NAMES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype(ml_dtypes.float8_e5m2): "F8_E5M2",
    np.dtype(np.int64): "I64",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}

Tensors = Mapping[str, Any]


def save_file(path: Path, tensors: Tensors) -> None:
    """A safetensors writer that shares nothing with the package's."""
    header, data = {}, b""
    for name, array in tensors.items():
        data_start = len(data)
        data += np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [data_start, len(data)],
        }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_folder(folder: Path) -> dict[str, Any]:
    """All tensors of a folder of safetensors files, whatever an index says."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                array = np.frombuffer(content[begin:end], dtype=DTYPES[entry["dtype"]])
                found[name] = array.reshape(entry["shape"])
    return found


@pytest.fixture
def write_safetensors() -> Callable[[Path, Tensors], None]:
    return save_file


@pytest.fixture
def load_tensors() -> Callable[[Path], dict[str, Any]]:
    return read_folder


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint: in one file, or in as many shards as lists of names are given."""

    def write(
        name: str,
        tensors: Tensors,
        *,
        shards: list[list[str]] | None = None,
        index: bool = True,
        config: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if shards is None:
            save_file(folder / "model.safetensors", tensors)
            return folder
        weight_map = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(folder / file, {key: tensors[key] for key in names})
            weight_map |= dict.fromkeys(names, file)
        if index:
            content = {"metadata": {}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden files; golden/README.md says where they come from."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def write_domains(tmp_path: Path) -> Callable[..., Path]:
    """Write evaluation texts: a folder a domain, a file with a JSON line a text."""

    def write(texts: Mapping[str, list[str]], *, split: str = "") -> Path:
        for domain, documents in texts.items():
            folder = tmp_path / "data" / domain / split
            folder.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
            (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
        return tmp_path / "data"

    return write


@pytest.fixture
def letters_tokenizer(tmp_path: Path) -> Path:
    """A tokenizer.json of one token a character; the models' configurations name 2 as the end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    characters = {
        character: number for number, character in enumerate("abcdefghijklmnopqrstuvwxyz ", start=3)
    }
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, **characters}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"
