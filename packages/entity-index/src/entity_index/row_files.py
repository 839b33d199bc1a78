"""Tables of any columns, a thousand rows at a time: Parquet (a file or a folder of shards) and JSONL.

A JSONL file is read twice where Parquet is written: first for the types of its columns. Memory is that of the
rows at hand, whatever the file's size.
"""

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from chunk_provenance import FormatError

Row = dict[str, Any]
BATCH = 1000
"""Rows read together."""
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


def check_ending(path: Path) -> None:
    """Refuse a file whose name does not say its form."""
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"{str(path)!r} ends in none of {', '.join(ENDINGS)}")


def read_rows(path: Path, *, without: Collection[str] = ()) -> Iterator[list[Row]]:
    """The rows of a table, in batches, but for some columns.

    Raises:
        FormatError: a file is damaged, or a line of JSONL is no object.
    """
    if not is_parquet(path):
        yield from _read_lines(path, without)
        return
    for file in _parquet_files(path):
        with _open_parquet(file) as opened:
            wanted = [name for name in opened.schema_arrow.names if name not in without]
            try:
                for batch in opened.iter_batches(batch_size=BATCH, columns=wanted):
                    yield batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise FormatError(f"{str(file)!r} is damaged: {error}") from error


def read_schema(path: Path, *, without: Collection[str] = ()) -> pa.Schema:
    """The columns of a table and their types.

    Raises:
        FileNotFoundError: there is no such table.
        FormatError: its parts, or the values of a column, do not fit together.
    """
    if is_parquet(path):
        schemas = (_open_parquet(file).schema_arrow.remove_metadata() for file in _parquet_files(path))
    else:
        schemas = (pa.Table.from_pylist(rows).schema for rows in _read_lines(path, ()))
    try:
        joined = pa.unify_schemas(list(dict.fromkeys(schemas)), promote_options="permissive")
    except pa.ArrowException as error:
        raise FormatError(f"the columns of {str(path)!r} do not fit together: {error}") from error
    return pa.schema([field for field in joined if field.name not in without])


def read_names(path: Path) -> list[str]:
    """The names of a table's columns; of JSONL those of the first thousand rows."""
    if is_parquet(path):
        return list(read_schema(path).names)
    first: list[Row] = next(_read_lines(path, ()), [])
    return list(dict.fromkeys(name for row in first for name in row))


def is_parquet(path: Path) -> bool:
    """Whether a table is Parquet; a folder is taken to hold shards."""
    return path.is_dir() or path.suffix == ".parquet"


def _parquet_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no table at {str(path)!r}")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no Parquet file in {str(path)!r}")
    return files


def _open_parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{str(file)!r} is no Parquet file or a damaged one: {error}") from error


def _read_lines(path: Path, without: Collection[str]) -> Iterator[list[Row]]:
    if not path.is_file():
        raise FileNotFoundError(f"no table at {str(path)!r}")
    check_ending(path)
    rows: list[Row] = []
    with pa.input_stream(path, compression="detect") as stream:
        for number, line in enumerate(_lines(stream, path), start=1):
            if line.strip():
                rows.append(_parse(line, path, number, without))
            if len(rows) == BATCH:
                yield rows
                rows = []
    if rows:
        yield rows


def _lines(stream: pa.NativeFile, path: Path) -> Iterator[bytes]:
    """The lines of a stream, decompressed; Arrow's own has no lines where it decompresses."""
    rest = b""
    while True:
        try:
            block = stream.read(1 << 20)
        except OSError as error:
            raise FormatError(f"{str(path)!r} is damaged: {error}") from error
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _parse(line: bytes, path: Path, number: int, without: Collection[str]) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FormatError(f"{str(path)!r} line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise FormatError(f"{str(path)!r} line {number} is a {type(row).__name__}, expected an object")
    return {name: value for name, value in row.items() if name not in without}


class RowSink(Protocol):
    """Takes rows, with further columns beside them."""

    def write(self, rows: list[Row], columns: dict[str, pa.Array]) -> None:
        """Append rows; the columns are as long as the rows are many."""
        ...


@contextmanager
def open_sink(path: Path, schema: pa.Schema | None, metadata: dict[str, str]) -> Iterator[RowSink]:
    """Write rows to a file that gets its name when all went well.

    Args:
        path: where to; its ending says the form.
        schema: types of the rows' own columns; only Parquet needs them.
        metadata: what a Parquet file says about itself.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with ExitStack() as stack:
            if is_parquet(path):
                assert schema is not None
                yield stack.enter_context(_ParquetSink(unfinished, schema, metadata))
            else:
                kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
                stream = stack.enter_context(pa.output_stream(unfinished, compression=kind))
                yield _LineSink(stream)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class _ParquetSink:
    """Opened at the first rows, when the types of the further columns are known."""

    def __init__(self, path: Path, schema: pa.Schema, metadata: dict[str, str]) -> None:
        self.path, self.schema, self.metadata = path, schema, metadata
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_ParquetSink":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, rows: list[Row], columns: dict[str, pa.Array]) -> None:
        own = pa.Table.from_pylist(rows, schema=self.schema)
        table = pa.table([*own.columns, *columns.values()], names=[*own.column_names, *columns])
        if self.writer is None:
            schema = table.schema.with_metadata(self.metadata)
            self.writer = pq.ParquetWriter(self.path, schema, compression="zstd")
        self.writer.write_table(table.cast(self.writer.schema))


class _LineSink:
    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream = stream

    def write(self, rows: list[Row], columns: dict[str, pa.Array]) -> None:
        for number, row in enumerate(rows):
            further = {name: column[number].as_py() for name, column in columns.items()}
            self.stream.write(_line(_plain(row | further)) + b"\n")


def _line(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 does not have
        return json.dumps(row, default=str).encode()


def _plain(value: Any) -> Any:
    """A value that JSON has: not-a-number becomes null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
