"""Read documents from JSONL, Parquet or Hugging Face datasets, one at a time; no file is held in memory.

Nothing bad stops the reading and nothing disappears: a line or row that is no usable document comes out as a
`Rejected` with the reason and the place. A file that cannot be read at all (cut off, another format) is an
error.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa

from chunk_provenance.formats import FormatError, open_table
from chunk_provenance.sources import Piece, Source, find_sources

__all__ = ["Document", "Rejected", "Source", "find_sources", "read_documents", "read_piece"]

FIELDS = ("id", "text", "title", "source", "url")
NUMBERED = "#"
"""Given as the name of the id's column, documents are named FILE:ROW."""

DUPLICATE = "duplicate id"
BAD_JSON = "bad JSON"
NOT_UTF8 = "not UTF-8"
NO_ID = "missing id"
NO_TEXT = "missing text"
EMPTY = "empty text"
SURROGATE = "lone surrogate"
NUL = "NUL character"


@dataclass(frozen=True)
class Document:
    """A text with its id; offsets everywhere count the Unicode code points of `text`."""

    doc_id: str
    text: str
    title: str | None = None
    source: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A line or row that is no usable document."""

    place: str
    reason: str
    doc_id: str | None = None


def read_documents(
    sources: Iterable[Source], *, columns: Mapping[str, str] | None = None
) -> Iterator[Document | Rejected]:
    """All documents of the sources, each id once; what cannot be used comes as `Rejected`.

    Args:
        sources: from `find_sources`.
        columns: where a field (id, text, title, source, url) has another name in the files; `{"id": "#"}`
            names the documents FILE:ROW.

    Raises:
        FormatError: a source has no column for the id or the text, or a file is damaged.
    """
    seen: set[str] = set()
    for source in sources:
        for number, document in read_piece(Piece(source), columns or {}):
            if isinstance(document, Rejected):
                yield replace(document, place=name_place(source, number))
            elif document.doc_id in seen:
                yield Rejected(name_place(source, number), DUPLICATE, document.doc_id)
            else:
                seen.add(document.doc_id)
                yield document


def read_piece(piece: Piece, columns: Mapping[str, str]) -> Iterator[tuple[int, Document | Rejected]]:
    """The documents of a piece with the row or line each stands in; `Rejected` has no place yet.

    Lines count from 0 at the piece's start, rows from 0 at the source's.
    """
    names = {field: field for field in FIELDS} | dict(columns)
    source = piece.source
    if source.path is None:
        rows = _read_dataset(piece, names)
    elif source.is_parquet:
        rows = _read_parquet(piece, names)
    else:
        rows = _read_lines(piece, names)
    for count, (number, row) in enumerate(rows):
        if isinstance(row, str):
            yield number, Rejected("", row)
            continue
        if names["id"] == NUMBERED:
            row["id"] = f"{source.name}:{piece.first_row + count}"
        yield number, _check(row, source.name)


def name_place(source: Source, number: int) -> str:
    """Where a document stands, for people: lines count from 1, rows from 0."""
    if source.path is None or source.is_parquet:
        return f"{source.name} row {number}"
    return f"{source.name} line {number + 1}"


def _check(row: dict[str, Any], source_name: str) -> Document | Rejected:
    """A document from its fields, or why it is none."""
    doc_id, text = row.get("id"), row.get("text")
    if doc_id is None or isinstance(doc_id, list | dict) or doc_id == "":
        return Rejected("", NO_ID)
    doc_id = str(doc_id)
    if not _encodable(doc_id):
        return Rejected("", SURROGATE)
    if not isinstance(text, str):
        return Rejected("", NO_TEXT, doc_id)
    if not text:
        return Rejected("", EMPTY, doc_id)
    if not _encodable(text):
        return Rejected("", SURROGATE, doc_id)
    if "\0" in text:
        return Rejected("", NUL, doc_id)
    rest = {field: _words(row.get(field)) for field in ("title", "source", "url")}
    return Document(doc_id, text, **(rest | {"source": rest["source"] or source_name}))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _words(value: Any) -> str | None:
    """A title, source or URL as a string; lone surrogates in it are replaced, they never reach the text."""
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


Rows = Iterator[tuple[int, dict[str, Any] | str]]
"""(number, fields of the row or the reason for which it is refused)"""


def _read_lines(piece: Piece, names: dict[str, str]) -> Rows:
    found_columns = False
    for number, line in enumerate(_lines(piece)):
        if number == 0 and piece.start == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")  # byte order mark
        if not line.strip():
            continue
        row = _parse(line)
        if isinstance(row, dict):
            if not found_columns:
                _check_columns(piece.source.name, names, list(row))
                found_columns = True
            row = {field: row.get(column) for field, column in names.items()}
        yield number, row


def _lines(piece: Piece) -> Iterator[bytes]:
    """The lines that begin in the piece."""
    with piece.source.open() as file:
        codec = piece.source.compression
        if codec is None:
            yield from _lines_between(file, piece.start, piece.stop)
            return
        try:
            with closing(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)) as stream:
                yield from io.BufferedReader(stream, buffer_size=1 << 20)
        except (OSError, EOFError) as error:
            raise FormatError(f"{piece.source.path!r} is damaged or cut off: {error}") from error


def _lines_between(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    if start:
        file.seek(start - 1)
        file.readline()  # the line that began before
    at = file.tell()
    for line in file:
        if stop is not None and at >= stop:
            return
        at += len(line)
        yield line


def count_lines(piece: Piece) -> int:
    """How many lines begin in a piece of a plain JSONL file."""
    return sum(1 for _ in _lines(piece))


def _parse(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return BAD_JSON
    return row if isinstance(row, dict) else BAD_JSON


def _read_parquet(piece: Piece, names: dict[str, str]) -> Rows:
    name = piece.source.name
    with piece.source.open() as binary, open_table(name, "documents", [], file=binary) as file:
        found = file.schema_arrow.names
        _check_columns(name, names, found)
        wanted = {field: column for field, column in names.items() if column in found}
        groups = list(range(file.num_row_groups))[piece.start : piece.stop]
        number = piece.first_row
        for batch in file.iter_batches(1000, row_groups=groups, columns=sorted(set(wanted.values()))):
            for row in _rows(batch, wanted):
                yield number, row
                number += 1


def _rows(batch: pa.RecordBatch, wanted: dict[str, str]) -> Iterator[dict[str, Any] | str]:
    try:
        columns = [batch[column].to_pylist() for column in wanted.values()]
    except UnicodeDecodeError:
        yield from (_row(batch.slice(i, 1), wanted) for i in range(len(batch)))
        return
    for values in zip(*columns, strict=True):
        yield dict(zip(wanted, values, strict=True))


def _row(row: pa.RecordBatch, wanted: dict[str, str]) -> dict[str, Any] | str:
    try:
        return {field: row[column][0].as_py() for field, column in wanted.items()}
    except UnicodeDecodeError:
        return NOT_UTF8


def _read_dataset(piece: Piece, names: dict[str, str]) -> Rows:
    dataset = piece.source.dataset
    _check_columns(piece.source.name, names, dataset.column_names)
    stop = len(dataset) if piece.stop is None else piece.stop
    for number, row in enumerate(dataset.select(range(piece.start, stop)), start=piece.start):
        yield number, {field: row.get(column) for field, column in names.items()}


def _check_columns(name: str, names: dict[str, str], found: list[str]) -> None:
    for field in FIELDS:
        column = names[field]
        if column in found or column == NUMBERED:
            continue
        if field in ("id", "text") or column != field:  # required, or asked for by the user
            way = " (or --column id='#' to number the documents)" if field == "id" else ""
            raise FormatError(
                f"{name!r} has no column {column!r} for the {field}, its columns are {found}: "
                f"give --column {field}=NAME{way}"
            )
