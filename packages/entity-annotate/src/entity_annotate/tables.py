"""The files this package writes and reads: schemas with format and version, written whole or not at all."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VERSION = "1"


class FormatError(ValueError):
    """A file is not what it should be: another format, another version, a missing column."""


def _schema(name: str, fields: list[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(fields, metadata={"format": name, "version": VERSION})


_LINK = pa.struct(
    [("char_start", pa.int64()), ("char_end", pa.int64()), ("target", pa.string()), ("entity", pa.string())]
)
_SCORES = [
    (name, pa.float32()) for name in ("score", "hyperlink", "entity_linking", "coref", "coref_cluster")
]
DOCUMENTS = _schema(
    "documents",
    [*((name, pa.string()) for name in ("id", "title", "source", "url", "text")), ("links", pa.list_(_LINK))],
)
MENTIONS = _schema(
    "mentions",
    [
        ("doc_id", pa.string()),
        ("text_sha256", pa.string()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("surface", pa.string()),
        ("entity", pa.string()),
        ("name", pa.string()),
        *_SCORES,
        ("cluster_id", pa.int32()),
    ],
)
GOLD = _schema(
    "gold-mentions",
    [
        ("doc_id", pa.string()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("entity", pa.string()),
        ("surface", pa.string()),
        ("kind", pa.string()),
    ],
)
ENTITIES = _schema(
    "entities", [("entity", pa.string()), ("name", pa.string()), ("aliases", pa.list_(pa.string()))]
)
QUARANTINE = _schema(
    "quarantine", [(name, pa.string()) for name in ("doc_id", "stage", "kind", "message", "text_sha256")]
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside the path to write to; it takes the path's place when all went well."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    os.replace(temporary, path)


def write_rows(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    """Write one table of rows."""
    write_batches(path, schema, [rows])


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[list[dict[str, Any]] | pa.Table]) -> None:
    """Write batches of rows one after another, one row group each; only one is in memory."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            table = batch if isinstance(batch, pa.Table) else pa.Table.from_pylist(batch, schema=schema)
            if table.num_rows:
                writer.write_table(table)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet or JSONL(.gz) file of a format; columns that it lacks and may lack come back null."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    name = schema.metadata[b"format"].decode()
    if ".jsonl" in path.suffixes:
        table = _read_jsonl(path, name)
    else:
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise FormatError(f"{str(path)!r} is neither Parquet nor named .jsonl: {error}") from error
    _check_format(path, table.schema.metadata or {}, name)
    return _with_columns(path, table, schema)


def _read_jsonl(path: Path, name: str) -> pa.Table:
    open_text = gzip.open if path.suffix == ".gz" else open
    rows = []
    with open_text(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise FormatError(f"line {number} of {str(path)!r} ({name}) is no JSON: {error}") from error
    return pa.Table.from_pylist(rows)


def _check_format(path: Path, metadata: Mapping[bytes, bytes], name: str) -> None:
    found, version = metadata.get(b"format"), metadata.get(b"version")
    if found is not None and found.decode() != name:
        raise FormatError(f"{str(path)!r} holds {found.decode()!r}, expected {name!r}")
    if version is not None and found is not None and version.decode() != VERSION:
        raise FormatError(
            f"{str(path)!r} has version {version.decode()}, this entity-annotate reads {VERSION}: "
            "upgrade entity-annotate"
        )


_OPTIONAL = {
    "title",
    "source",
    "url",
    "links",
    "surface",
    "kind",
    "name",
    "cluster_id",
    "text_sha256",
    "score",
}


def _with_columns(path: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        elif field.name in _OPTIONAL:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            raise FormatError(
                f"{str(path)!r} has no column {field.name!r}; it has {', '.join(table.column_names)}"
            )
    return pa.Table.from_arrays(columns, schema=schema)
