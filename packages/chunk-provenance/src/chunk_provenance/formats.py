"""Name and version of every file this package writes, and the atomic ways to write it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


class FormatError(ValueError):
    """A file is not what its reader expects; the message says what was found and what to do."""


def check_format(where: Path, found: str | None, version: object, expected: str) -> None:
    """Refuse a file that names another format or a version this release does not read."""
    if found != expected:
        raise FormatError(f"{str(where)!r} is a {found!r} file, expected {expected!r}")
    if str(version) != "1":
        raise FormatError(
            f"{str(where)!r} has {expected} version {version}, this release reads 1: upgrade chunk-provenance"
        )


def write_table(table: pa.Table, path: Path, name: str, **metadata: str) -> None:
    """Write a Parquet file atomically, with its format's name and version in the metadata."""
    tagged = table.replace_schema_metadata({"format": name, "version": "1", **metadata})
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(tagged, unfinished, compression="zstd")
    os.replace(unfinished, path)


def read_table(path: Path, name: str, columns: list[str]) -> pa.Table:
    """Read the named columns of a Parquet file that is, or does not deny being, a `name` file.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: the file names another format or an unknown version, or a column is missing.
    """
    with open_table(path, name, columns) as file:
        return file.read(columns=columns)


def open_table(
    path: str | Path, name: str, columns: list[str], *, file: BinaryIO | None = None
) -> pq.ParquetFile:
    """Open a Parquet file as `read_table` does, for reading it a row group at a time.

    `file` is the opened file, where `path` is only its name.
    """
    path = Path(path)
    if file is None and not path.is_file():
        raise FileNotFoundError(f"no {name} file at {str(path)!r}")
    try:
        table = pq.ParquetFile(path if file is None else file)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{str(path)!r} is no Parquet file or a damaged one: {error}") from error
    metadata = table.schema_arrow.metadata or {}
    if b"format" in metadata:
        check_format(path, metadata[b"format"].decode(), metadata.get(b"version", b"").decode(), name)
    names = table.schema_arrow.names
    if missing := [column for column in columns if column not in names]:
        raise FormatError(f"{str(path)!r} lacks the {name} columns {missing}, it has {names}")
    return table


def write_json(value: Any, path: Path) -> None:
    """Write JSON atomically: sorted keys, two spaces, one newline at the end."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    os.replace(unfinished, path)


def begin_folder(path: Path) -> Path:
    """An empty folder `path.tmp` to write into; what an earlier attempt left there is removed."""
    unfinished = path.with_name(path.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def replace_folder(unfinished: Path, path: Path) -> None:
    """Give a finished folder its name; one that has it already goes away."""
    if not path.exists() or not any(path.iterdir()):
        os.replace(unfinished, path)
        return
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(path, old)
    os.replace(unfinished, path)
    shutil.rmtree(old)
