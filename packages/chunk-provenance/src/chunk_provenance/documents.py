"""Read documents from JSONL, Parquet or Hugging Face datasets, one at a time; no file is held in memory.

Nothing bad stops the reading and nothing disappears: a line or row that is no usable document comes out as a
`Rejected` with the reason and the place. A file that cannot be read at all (cut off, another format) is an
error.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from chunk_provenance.formats import FormatError, open_table
from chunk_provenance.hashing import hash_file

FIELDS = ("id", "text", "title", "source", "url")
LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
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


@dataclass(frozen=True)
class Source:
    """A file of documents, or one split of a Hugging Face dataset."""

    name: str
    path: Path | None
    dataset: Any = None

    def fingerprint(self) -> dict[str, Any]:
        """What tells its content from another."""
        if self.path is None:
            return {"fingerprint": str(self.dataset._fingerprint)}
        return {"bytes": self.path.stat().st_size, "sha256": hash_file(self.path)}


def find_sources(where: str) -> list[Source]:
    """The sources behind a path or an `hf:` name, in a fixed order.

    Args:
        where: a JSONL(.gz/.zst) or Parquet file, a folder of such files, a folder saved by `save_to_disk`, or
            `hf:NAME[:CONFIG][:SPLIT]` (split `train` unless named).

    Raises:
        FileNotFoundError: nothing is there, or a folder without such files.
        ValueError: a file of an unknown kind.
    """
    if where.startswith("hf:"):
        return [Source(where, None, _load_hub(where))]
    path = Path(where)
    if path.is_file():
        if not _readable(path):
            raise ValueError(f"{where!r} is no .parquet, .jsonl, .jsonl.gz or .jsonl.zst file")
        return [Source(path.name, path)]
    if not path.is_dir():
        raise FileNotFoundError(f"no documents at {where!r}")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return [Source(path.name, None, _load_folder(path))]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _readable(file))
    if not files:
        raise FileNotFoundError(f"no .parquet, .jsonl, .jsonl.gz or .jsonl.zst files in the folder {where!r}")
    return [Source(file.relative_to(path).as_posix(), file) for file in files]


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
    names = {field: field for field in FIELDS} | dict(columns or {})
    seen: set[str] = set()
    for source in sources:
        for place, document in _read_source(source, names):
            if isinstance(document, Rejected):
                yield document
            elif document.doc_id in seen:
                yield Rejected(place, DUPLICATE, document.doc_id)
            else:
                seen.add(document.doc_id)
                yield document


def _readable(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return name.endswith(LINE_SUFFIXES) or path.suffix == ".parquet"


def _read_source(source: Source, names: dict[str, str]) -> Iterator[tuple[str, Document | Rejected]]:
    if source.path is None:
        rows = _read_dataset(source, names)
    elif source.path.suffix == ".parquet":
        rows = _read_parquet(source.path, source.name, names)
    else:
        rows = _read_lines(source.path, source.name, names)
    for number, (place, row) in enumerate(rows):
        if isinstance(row, str):
            yield place, Rejected(place, row)
            continue
        if names["id"] == NUMBERED:
            row["id"] = f"{source.name}:{number}"
        yield place, _check(row, place, source.name)


def _check(row: dict[str, Any], place: str, source_name: str) -> Document | Rejected:
    """A document from its fields, or why it is none."""
    doc_id, text = row.get("id"), row.get("text")
    if doc_id is None or isinstance(doc_id, list | dict) or doc_id == "":
        return Rejected(place, NO_ID)
    doc_id = str(doc_id)
    if not _encodable(doc_id):
        return Rejected(place, SURROGATE)
    if not isinstance(text, str):
        return Rejected(place, NO_TEXT, doc_id)
    if not text:
        return Rejected(place, EMPTY, doc_id)
    if not _encodable(text):
        return Rejected(place, SURROGATE, doc_id)
    if "\0" in text:
        return Rejected(place, NUL, doc_id)
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


Rows = Iterator[tuple[str, dict[str, Any] | str]]
"""(place, fields of the row or the reason for which it is refused)"""


def _read_lines(path: Path, name: str, names: dict[str, str]) -> Rows:
    found_columns = False
    for number, line in enumerate(_lines(path), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # byte order mark
        if not line.strip():
            continue
        place = f"{name} line {number}"
        row = _parse(line)
        if isinstance(row, dict):
            if not found_columns:
                _check_columns(name, names, list(row))
                found_columns = True
            row = {field: row.get(column) for field, column in names.items()}
        yield place, row


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with closing(pa.input_stream(str(path), compression="detect")) as stream:
            yield from io.BufferedReader(stream, buffer_size=1 << 20)
    except (OSError, EOFError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise FormatError(f"{str(path)!r} is damaged or cut off: {error}") from error


def _parse(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return BAD_JSON
    return row if isinstance(row, dict) else BAD_JSON


def _read_parquet(path: Path, name: str, names: dict[str, str]) -> Rows:
    with open_table(path, "documents", []) as file:
        found = file.schema_arrow.names
        _check_columns(name, names, found)
        wanted = {field: column for field, column in names.items() if column in found}
        number = 0
        for batch in file.iter_batches(batch_size=1000, columns=sorted(set(wanted.values()))):
            for row in _rows(batch, wanted):
                yield f"{name} row {number}", row
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


def _read_dataset(source: Source, names: dict[str, str]) -> Rows:
    _check_columns(source.name, names, source.dataset.column_names)
    for number, row in enumerate(source.dataset):
        yield f"{source.name} row {number}", {field: row.get(column) for field, column in names.items()}


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


def _load_hub(where: str) -> Any:
    load_dataset = _datasets().load_dataset
    name, *rest = where.removeprefix("hf:").split(":")
    config, split = (rest[0] if len(rest) > 1 else None), (rest[-1] if rest else "train")
    return load_dataset(name, config, split=split)


def _load_folder(path: Path) -> Any:
    dataset = _datasets().load_from_disk(str(path))
    if hasattr(dataset, "column_names") and isinstance(dataset.column_names, dict):
        splits = list(dataset)
        if len(splits) > 1:
            raise ValueError(f"{str(path)!r} holds the splits {splits}: give the folder of one of them")
        return dataset[splits[0]]
    return dataset


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "reading Hugging Face datasets needs the extra: pip install 'chunk-provenance[datasets]'"
        ) from error
    return datasets
