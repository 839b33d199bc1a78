"""Files of this package: safetensors, Parquet, JSON; written atomically, same bytes for the same."""

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray
from safetensors import SafetensorError, safe_open

FORMAT = "coefficients"


def write_coefficients(path: Path, tensors: dict[str, ndarray], metadata: dict[str, str]) -> None:
    """Write float64 arrays as safetensors. The library shuffles metadata, so the header is written here."""
    names = sorted(tensors)
    arrays = {name: np.ascontiguousarray(tensors[name], dtype="<f8") for name in names}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "version": "1", **metadata}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": "F64", "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(arrays[name].tobytes())
    os.replace(unfinished, path)


def read_coefficients(path: Path) -> tuple[dict[str, ndarray], dict[str, str]]:
    """Coefficients and metadata, from our safetensors or the published `mlp_average_coefficients.pt`.

    The published file holds one tensor, sums per row: its scale means nothing, entropies and ratios do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no coefficients at {str(path)!r}: `knowledge-entropy measure` writes them")
    if path.suffix == ".pt":
        return {"mean_abs": _published(path)}, {"format": FORMAT, "version": "1", "compat": "upstream"}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file or a damaged one: {error}") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, "1") or "mean_abs" not in tensors:
        raise ValueError(
            f"{str(path)!r} is {metadata.get('format')!r} version {metadata.get('version')!r}, this release "
            f"reads {FORMAT!r} version 1"
        )
    return tensors, metadata


def _published(path: Path) -> ndarray:
    content = load_pt(path)
    if getattr(content, "ndim", None) != 2:
        raise ValueError(f"{str(path)!r} holds no (layer, unit) tensor: expected mlp_average_coefficients.pt")
    values: ndarray = content.double().numpy()
    return values


def load_pt(path: Path) -> Any:
    """What a torch file holds: tensors and containers of them, nothing else (`weights_only`), on the CPU."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as tensors only: it is damaged or holds other objects, which are "
            "never unpickled"
        ) from error


def write_table(columns: dict[str, Any], schema: pa.Schema, path: Path, name: str, **metadata: str) -> None:
    """Write a Parquet file with its format's name and version."""
    tagged = pa.table(columns, schema=schema).replace_schema_metadata(
        {"format": name, "version": "1", **metadata}
    )
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(tagged, unfinished, compression="zstd")
    os.replace(unfinished, path)


def read_table(path: Path, name: str) -> pa.Table:
    """Read a Parquet file of this package."""
    if not path.is_file():
        raise FileNotFoundError(f"no {name} table at {str(path)!r}: `knowledge-entropy series` writes it")
    table = pq.read_table(path)
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if (found.get("format"), found.get("version")) != (name, "1"):
        raise ValueError(
            f"{str(path)!r} is {found.get('format')!r} version {found.get('version')!r}, this release reads "
            f"{name!r} version 1"
        )
    return table


def write_json(value: Any, path: Path) -> None:
    """Write JSON: sorted keys, two spaces, one newline at the end."""
    unfinished = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, path)
