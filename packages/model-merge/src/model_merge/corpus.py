"""Read the lines of a corpus: JSONL(.gz/.zst) files, folders of them, and units already cut from one.

A folder laid out as modular-s2orc is read as what it is: `UNIT/{train,val,test}/*.json.gz`, the unit's name
being `Field,firstYear-lastYear`. One line is in memory at a time. Nothing bad stops the reading and nothing
disappears: a line that is no usable document comes out as `Rejected`, with its place and the reason.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

SPLITS = ("train", "val", "test")
SUFFIXES = (".jsonl", ".ndjson", ".json")

BAD_JSON = "bad JSON"
NOT_UTF8 = "not UTF-8"
NO_ID = "missing id"
NO_TEXT = "missing text"
EMPTY = "empty text"
DUPLICATE = "duplicate id"


@dataclass(frozen=True)
class Source:
    """A file of documents, and the unit and split it is, where its folder says so."""

    path: Path
    name: str
    """Its path below the folder that was given, with slashes."""
    unit: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Line:
    """A document: the bytes of its line, and what they say."""

    place: str
    raw: bytes
    row: dict[str, Any]
    doc_id: str
    text: str
    source: Source


@dataclass(frozen=True)
class Rejected:
    """A line that is no usable document, or one that a step leaves out."""

    place: str
    reason: str
    doc_id: str | None = None


def find_sources(where: Path) -> list[Source]:
    """The document files behind a path, in the order of their names; where some lie in units, only those.

    Raises:
        FileNotFoundError: nothing is there, or a folder without such files.
        ValueError: a file of another kind.
    """
    if where.is_file():
        if not _readable(where):
            raise ValueError(
                f"{str(where)!r} is no .jsonl, .json, .ndjson file (or one of them as .gz, .zst)"
            )
        return [Source(where, where.name)]
    if not where.is_dir():
        raise FileNotFoundError(f"no documents at {str(where)!r}")
    files = [path for path in where.rglob("*") if path.is_file() and _readable(path)]
    named = sorted((path.relative_to(where).as_posix(), path) for path in files)
    found = [Source(path, name, *_unit_and_split(name)) for name, path in named]
    found = [source for source in found if source.split] or found
    if not found:
        raise FileNotFoundError(f"no .jsonl, .json or .ndjson files (plain, .gz or .zst) in {str(where)!r}")
    return found


def read_lines(
    sources: Iterable[Source],
    *,
    id_key: str = "id",
    text_key: str = "text",
    seen: set[str] | None = None,
) -> Iterator[Line | Rejected]:
    """All documents of the sources, each id once; what cannot be used comes as `Rejected`.

    Args:
        sources: from `find_sources`.
        id_key: the key of the id; dots lead into objects, as in `metadata.id`.
        text_key: likewise for the text.
        seen: ids that were read before, to which these are added.

    Raises:
        ValueError: a file is damaged or cut off.
    """
    seen = set() if seen is None else seen
    for source in sources:
        for number, raw in enumerate(raw_lines(source.path), start=1):
            if not raw.strip():
                continue
            line = _check(raw, f"{source.name} line {number}", source, id_key, text_key)
            if isinstance(line, Line):
                if line.doc_id in seen:
                    yield Rejected(line.place, DUPLICATE, line.doc_id)
                    continue
                seen.add(line.doc_id)
            yield line


def look_up(row: dict[str, Any], key: str) -> Any:
    """The value of a key, dots leading into objects; None where there is none.

    >>> look_up({"metadata": {"year": 1999}}, "metadata.year")
    1999
    """
    value: Any = row
    for part in [key] if key in row else key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _readable(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return name.endswith(SUFFIXES)


def _unit_and_split(name: str) -> tuple[str | None, str | None]:
    """`Biology,1970-1993/train/0.json.gz` is of a unit and of a split; other paths are of none."""
    found = re.fullmatch(rf"(?:.*/)?([^/]+)/({'|'.join(SPLITS)})/.+", name)
    return (found[1], found[2]) if found else (None, None)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, decompressed; a byte order mark is taken off.

    Raises:
        ValueError: the file is damaged or cut off.
    """
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream):
                yield raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{str(path)!r} is damaged or cut off: {error}: fetch it again") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        return _open_zst(path)
    return path.open("rb")


def _open_zst(path: Path) -> IO[bytes]:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ValueError("reading .zst files needs the extra: pip install 'model-merge[ablate]'") from error
    try:
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    except OSError as error:
        raise ValueError(f"{str(path)!r} is damaged or cut off: {error}: fetch it again") from error


def parse(raw: bytes) -> dict[str, Any] | str:
    """The object on a line, or why there is none.

    >>> parse(b'{"id": 1}'), parse(b"[1]")
    ({'id': 1}, 'bad JSON')
    """
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return BAD_JSON
    return row if isinstance(row, dict) else BAD_JSON


def _check(raw: bytes, place: str, source: Source, id_key: str, text_key: str) -> Line | Rejected:
    row = parse(raw)
    if isinstance(row, str):
        return Rejected(place, row)
    doc_id, text = look_up(row, id_key), look_up(row, text_key)
    if doc_id is None or doc_id == "" or isinstance(doc_id, list | dict):
        return Rejected(place, NO_ID)
    if not isinstance(text, str):
        return Rejected(place, NO_TEXT, str(doc_id))
    if not text.strip():
        return Rejected(place, EMPTY, str(doc_id))
    return Line(place, raw, row, str(doc_id), text, source)
