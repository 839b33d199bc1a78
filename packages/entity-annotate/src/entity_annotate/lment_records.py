"""LMEnt's records, one JSON object a line: merge them, resumably, and turn the result into our mentions.

A line that cannot be used is counted, and stored with its number, id and reason beside the output
(`OUT.failed.jsonl`); nothing else is lost.
"""

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entity_annotate.lment_merge import LEFT_OUT, SOURCES, merge_record
from entity_annotate.records import Document
from entity_annotate.tables import MENTIONS, FormatError, replacing, write_batches

ANNOTATIONS = ("hyperlinks_clean", "hyperlinks", "coref", "entity_linking")
BATCH = 1000


class _UnusableError(ValueError):
    """A line that cannot be used: `kind` is counted, the message told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class RecordCounts:
    """What became of the lines of a file."""

    done: int = 0
    done_before: int = 0
    mentions: int = 0
    candidates: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[tuple[str, int]]:
        """The counts with their names."""
        counts = [(name.replace("_", " "), getattr(self, name)) for name in _COUNTED]
        return counts + [(f"failed: {kind}", number) for kind, number in sorted(self.failed.items())]

    @property
    def share_failed(self) -> float:
        """Failed lines of all."""
        failed = sum(self.failed.values())
        return failed / max(1, failed + self.done + self.done_before)


_COUNTED = ("done", "done_before", "mentions", "candidates")


def read_labels(path: Path) -> dict[str, str]:
    """Read a JSON object of names by entity."""
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise FormatError(f'{str(path)!r} must be one JSON object of names by entity: {{"Q42": "..."}}')
    return labels


def merge_file(
    source: Path,
    out: Path,
    *,
    labels: Mapping[str, str],
    overwrite: bool = False,
    on_record: Callable[[int], None] = lambda number: None,
) -> RecordCounts:
    """Merge every record of a file that is not in the output yet, and append it there.

    Args:
        source: records with LMEnt's four annotation fields.
        out: the same records, `entities` in place of the four; what a kill left of a last line is removed.
        labels: names of entities, where the annotations give none.
        overwrite: begin anew.
        on_record: called with the number of lines read.

    Raises:
        FormatError: the output holds something else.
    """
    _check_source(source)
    if overwrite:
        out.unlink(missing_ok=True)
    counts = RecordCounts()
    known = _ids_in(out)
    with out.open("ab") as merged:

        def merge(record: dict[str, Any]) -> None:
            doc_id = str(record["id"])
            if doc_id in known:
                counts.done_before += 1
                known.discard(doc_id)
                return
            if doc_id in LEFT_OUT:
                raise _UnusableError("left out", "LMEnt leaves this page out without saying why")
            entities = merge_record(record, labels)
            kept = {name: value for name, value in record.items() if name not in ANNOTATIONS}
            merged.write(_as_line({**kept, "entities": entities}))
            _count(counts, entities)

        for number in _each_record(source, out, counts, merge):
            on_record(number)
            if number % BATCH == 0:
                merged.flush()
        merged.flush()
        os.fsync(merged.fileno())
    return counts


def convert_file(
    source: Path, out: Path, *, on_record: Callable[[int], None] = lambda number: None
) -> RecordCounts:
    """Turn merged records into a mentions file (Parquet).

    Scores are clipped to 1; `name` is null where LMEnt has none; there are no cluster ids.
    """
    _check_source(source)
    counts = RecordCounts()
    batch: list[dict[str, Any]] = []

    def convert(record: dict[str, Any]) -> None:
        rows = mention_rows(record)
        batch.extend(rows)
        _count(counts, record["entities"])

    def batches() -> Iterator[list[dict[str, Any]]]:
        for number in _each_record(source, out, counts, convert):
            on_record(number)
            if len(batch) >= BATCH * 100:
                yield batch
                batch.clear()
        yield batch

    write_batches(out, MENTIONS, batches())
    return counts


def mention_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a mentions file for a merged record.

    Raises:
        ValueError: the record is not as LMEnt writes it, or a span lies outside of its text.
    """
    text = record.get("text")
    if not isinstance(text, str):
        raise _UnusableError("no text", "the record has no text")
    shared = {"doc_id": str(record["id"]), "text_sha256": Document("", text).text_sha256, "cluster_id": None}
    rows = []
    try:
        for mention in record["entities"]:
            start, end = mention["char_start"], mention["char_end"]
            if not 0 <= start < end <= len(text):
                raise _UnusableError(
                    "offset mismatch", f"span [{start}, {end}) is not inside {len(text)} characters"
                )
            place = {**shared, "char_start": start, "char_end": end, "surface": text[start:end]}
            rows += [{**place, **_candidate(found)} for found in mention["candidates"] or [None]]
    except (AttributeError, KeyError, TypeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"its 'entities' is not as LMEnt writes it: {what}") from error
    return sorted(
        rows, key=lambda r: (r["char_start"], r["char_end"], -(r["score"] or 0.0), r["entity"] or "")
    )


_COLUMNS = dict(zip(("hyperlink", *SOURCES[1:]), SOURCES, strict=True))


def _candidate(found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("entity", "name", "score", *_COLUMNS))
    scores = {column: min(1.0, found["scores_by_source"][source]) for column, source in _COLUMNS.items()}
    return {
        "entity": found["qid"],
        "name": found["name"] or None,
        "score": found["aggregated_score"],
        **scores,
    }


def _count(counts: RecordCounts, entities: list[dict[str, Any]]) -> None:
    counts.done += 1
    counts.mentions += len(entities)
    counts.candidates += sum(len(mention["candidates"]) for mention in entities)


def _each_record(
    source: Path, out: Path, counts: RecordCounts, use: Callable[[dict[str, Any]], None]
) -> Iterator[int]:
    """Use every record, yield the number of lines read; lines that cannot be used are stored and counted."""
    seen: set[str] = set()
    failed_path = out.with_name(out.name + ".failed.jsonl")
    failed_path.unlink(missing_ok=True)
    with replacing(failed_path) as unfinished, unfinished.open("wb") as failures:
        for number, line in _lines(source):
            doc_id = None
            try:
                record = _parse(line)
                doc_id = str(record["id"])
                if doc_id in seen:
                    raise _UnusableError("duplicate id", "an earlier line has this id")
                use(record)
                seen.add(doc_id)
            except ValueError as error:
                kind = error.kind if isinstance(error, _UnusableError) else "broken record"
                counts.failed[kind] += 1
                failure = {"line": number, "id": doc_id, "kind": kind, "reason": str(error)}
                content = line.decode("utf-8", "backslashreplace").rstrip("\n")
                failures.write(json.dumps({**failure, "content": content}).encode("ascii") + b"\n")
            yield number
    if not counts.failed:
        failed_path.unlink()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, with their numbers from 1."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        except (EOFError, zlib.error) as error:
            raise FormatError(f"{str(path)!r} is cut off or damaged: {error}") from error


def _check_source(source: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {str(source)!r}")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _UnusableError("not UTF-8", str(error)) from error
    except ValueError as error:
        raise _UnusableError("bad JSON", str(error)) from error
    if not isinstance(record, dict) or record.get("id") in (None, ""):
        raise _UnusableError("no id", "the line is no JSON object with an id")
    return record


def _ids_in(out: Path) -> set[str]:
    """Ids of the records that are in the output; an unfinished last line is cut off."""
    if not out.exists():
        return set()
    ids = set()
    end = 0
    with out.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                record = _parse(line)
            except ValueError as error:
                raise FormatError(
                    f"{str(out)!r} holds something else than merged records: {error}"
                ) from error
            if "entities" not in record:
                raise FormatError(f"{str(out)!r} holds records without 'entities': choose another output")
            ids.add(str(record["id"]))
            end += len(line)
    os.truncate(out, end)
    return ids


def _as_line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
