"""Headers of safetensors files: read and checked to the last byte, and written.

A file is the header's length (8 bytes, little-endian), the header (JSON) and the tensors' bytes without
a gap. Whatever a header says is checked against the file before anything is read on its word.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per element of every type that safetensors has a name for."""


class FormatError(ValueError):
    """A file is not what its reader expects; the message says what was found and what to do."""


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies and what it is."""

    name: str
    dtype: str
    """As safetensors writes it: BF16, F32, I64, ..."""
    shape: tuple[int, ...]
    file: Path
    start: int
    """First byte in the file."""
    num_bytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
        FormatError: the file is cut short, or the header claims what the file cannot hold.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        if len(prefix) < LENGTH_BYTES:
            raise FormatError(f"{str(path)!r} has {size} bytes: no safetensors file is so short")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise FormatError(
                f"{str(path)!r} claims a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read: "
                "it is no safetensors file or a damaged one"
            )
        if LENGTH_BYTES + length > size:
            raise FormatError(
                f"{str(path)!r} ends inside its header, at byte {size:,} of {LENGTH_BYTES + length:,}: "
                "download or copy it again"
            )
        text = file.read(length)
    return _check_layout(path, _parse(path, text), data_start=LENGTH_BYTES + length, file_bytes=size)


def _parse(path: Path, text: bytes) -> list[tuple[str, Any]]:
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} has a header that is no JSON: {error}") from error
    if not isinstance(parsed, _Pairs):
        raise FormatError(f"{str(path)!r} has a header that is no JSON object")
    if repeated := parsed.repeated():
        raise FormatError(f"{str(path)!r} names tensors twice in its header: {_some(repeated)}")
    return [(name, entry) for name, entry in parsed if name != "__metadata__"]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repetitions, which a dict would swallow."""

    def repeated(self) -> list[str]:
        names = [name for name, _ in self]
        return sorted({name for name in names if names.count(name) > 1}) if len({*names}) < len(names) else []


def _check_layout(
    path: Path, entries: list[tuple[str, Any]], *, data_start: int, file_bytes: int
) -> dict[str, TensorInfo]:
    found = sorted(
        (_tensor(path, name, entry) for name, entry in entries), key=lambda one: (one.start, one.num_bytes)
    )
    end, before = 0, ""
    for tensor in found:
        if tensor.start < end:
            raise FormatError(
                f"{str(path)!r}: the bytes of {before!r} and {tensor.name!r} overlap at {tensor.start}"
            )
        if tensor.start > end:
            raise FormatError(
                f"{str(path)!r}: bytes {end} to {tensor.start} before {tensor.name!r} belong to no tensor"
            )
        end, before = tensor.start + tensor.num_bytes, tensor.name
    if data_start + end != file_bytes:
        state = "is cut short" if data_start + end > file_bytes else "has bytes after its last tensor"
        raise FormatError(
            f"{str(path)!r} {state}: its header describes {data_start + end:,} bytes, "
            f"the file has {file_bytes:,}: download or copy it again"
        )
    return {
        one.name: TensorInfo(one.name, one.dtype, one.shape, path, data_start + one.start, one.num_bytes)
        for one in found
    }


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    """One entry of the header, checked in itself; `start` still counts from the first tensor."""
    values: dict[str, Any] = dict(entry) if isinstance(entry, _Pairs) else {}
    dtype, shape, offsets = (values.get(key, "") for key in ("dtype", "shape", "data_offsets"))
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise FormatError(f"{str(path)!r}: the header's entry of {name!r} lacks dtype, shape or data_offsets")
    if dtype not in BITS:
        raise FormatError(
            f"{str(path)!r}: {name!r} is of type {dtype!r}, which is none that safetensors knows: "
            "upgrade model-merge or convert the checkpoint"
        )
    num_bytes = -(-math.prod(shape) * BITS[dtype] // 8)
    if offsets[1] - offsets[0] != num_bytes:
        raise FormatError(
            f"{str(path)!r}: {name!r} is {dtype} {list(shape)}, which takes {num_bytes:,} bytes, "
            f"but its offsets {list(offsets)} hold {offsets[1] - offsets[0]:,}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, offsets[0], num_bytes)


def _are_counts(values: Any) -> bool:
    return (
        isinstance(values, list)
        and not isinstance(values, _Pairs)
        and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    )


def _some(names: list[str], most: int = 5) -> str:
    listed = ", ".join(repr(name) for name in names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def write_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file of these tensors (name -> type, shape), and where each tensor's bytes start.

    >>> header, starts = write_header({"w": ("BF16", (2, 3)), "b": ("F32", (3,))})
    >>> starts, len(header)
    ({'b': 152, 'w': 164}, 152)
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, offsets = 0, {}
    # The widest types first, so that every tensor starts at a multiple of its element's size.
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -BITS[item[1][0]]):
        offsets[name] = end
        end += -(-math.prod(shape) * BITS[dtype] // 8)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = LENGTH_BYTES + len(text)
    return struct.pack("<Q", len(text)) + text, {name: first + start for name, start in offsets.items()}


def pread_into(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill the buffer from the file at this offset."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise FormatError(
                f"a file ended at byte {offset + done:,} while it was read: it was cut meanwhile"
            )
        done += count
