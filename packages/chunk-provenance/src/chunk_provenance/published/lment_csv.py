"""LMEnt's `part-k-00000.csv.gz`, one document a line, read as a stream: nothing is unpacked on disk.

A line is `start,end,id,src,loc,title,entities,offsets`: the document's tokens in its shard, its Wikipedia
page id, its source file, its number there, its title, JSON, and the characters of its tokens as Python writes
a list of pairs. The pairs are read as numbers and never evaluated. One line is in memory at a time; about
45 MB of text a second, most of it for the JSON.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chunk_provenance.documents import Rejected
from chunk_provenance.formats import FormatError

FIELD = rb'("[^"]*+(?:""[^"]*+)*+"|[^",]*+)'
LINE = re.compile(rb",".join([FIELD] * 8) + rb"\r?\n?")
LONGEST_LINE = 1 << 28
FARTHEST = 1 << 40  # no character is beyond
DIGITS = b"0123456789"
TEXT, NUMBER = (str, type(None)), (int, float)


@dataclass(frozen=True)
class LMEntRow:
    """A document as the CSV describes it."""

    token_start: int  # in its shard
    token_end: int  # one past its end token
    doc_id: str
    source: str
    number: int
    """Its place in the source file."""
    title: str
    entities: list[dict[str, Any]]
    """As published: `char_start`, `char_end` (in the document), `text_mention`, `candidates`."""
    char_offsets: npt.NDArray[np.int64]  # (tokens - 1, 2) characters of each token but the end token


class _BadLineError(ValueError):
    """A line that is no document; the message is the reason."""


def read_lment_csv(path: Path) -> Iterator[LMEntRow | Rejected]:
    """The documents of a shard, in file order; a line that cannot be read comes as `Rejected`, with place.

    Raises:
        FormatError: the file cannot be unpacked to its end.
    """
    number = 0
    with ExitStack() as opened:
        file: BinaryIO = opened.enter_context(path.open("rb"))
        if path.suffix == ".gz":
            file = opened.enter_context(gzip.GzipFile(fileobj=file))  # type: ignore[assignment]
        while True:
            try:
                line = file.readline(LONGEST_LINE)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise FormatError(
                    f"{str(path)!r} is cut off or damaged after line {number:,}: {error}"
                ) from None
            if not line:
                return
            number += 1
            try:
                yield parse_line(line)
            except _BadLineError as reason:
                yield Rejected(f"{path.name}:{number}", str(reason))


def parse_line(line: bytes) -> LMEntRow:
    """One line of the CSV.

    >>> row = parse_line(b'5,8,12,a.json,0,"Ada, L.",[],"[(0, 3), (3, 9)]"')
    >>> row.title, row.char_offsets.tolist()
    ('Ada, L.', [[0, 3], [3, 9]])
    """
    found = LINE.fullmatch(line)
    if found is None:
        raise _BadLineError("no line of eight columns")
    start, end, doc_id, source, number, title, entities, offsets = map(_unquote, found.groups())
    try:
        token_start, token_end, loc = int(start), int(end), int(number)
        words = [part.decode("utf-8") for part in (doc_id, source, title)]
    except UnicodeDecodeError:
        raise _BadLineError("not UTF-8") from None
    except ValueError:
        raise _BadLineError("start, end or loc is no number") from None
    if not 0 <= token_start < token_end:
        raise _BadLineError("start is not before end")
    if not words[0]:
        raise _BadLineError("missing id")
    char_offsets = parse_offsets(offsets)
    if len(char_offsets) != token_end - token_start - 1:
        raise _BadLineError("as many offsets as tokens without the end token are expected")
    return LMEntRow(
        token_start, token_end, words[0], words[1], loc, words[2], parse_entities(entities), char_offsets
    )


def _unquote(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field[:1] == b'"' else field


def parse_offsets(text: bytes) -> npt.NDArray[np.int64]:
    """The pairs of a list as Python writes it, (pairs, 2).

    >>> parse_offsets(b"[(0, 2), (2, 5)]").tolist()
    [[0, 2], [2, 5]]
    """
    if text == b"[]":
        return np.empty((0, 2), dtype=np.int64)
    pairs = text.count(b"(")
    bare = text.translate(None, DIGITS)
    if (
        bare != b"[" + b", ".join([b"(, )"] * pairs) + b"]"
        or text.count(b"), (") != pairs - 1
        or not (text.startswith(b"[(") and text.endswith(b")]"))
        or b"(," in text
        or b", )" in text
    ):
        raise _BadLineError("offsets are no list of pairs of numbers")
    numbers = np.fromstring(text.translate(None, b"[]() "), dtype=np.int64, sep=",")
    starts, ends = numbers[::2], numbers[1::2]
    if len(numbers) != 2 * pairs or np.any(starts[1:] < starts[:-1]) or np.any(starts > ends):
        raise _BadLineError("offsets do not ascend")
    if int(numbers.max()) >= FARTHEST:  # a number beyond 64 bits comes as the largest of them
        raise _BadLineError("offsets beyond any text")
    return numbers.reshape(-1, 2)


def parse_entities(text: bytes) -> list[dict[str, Any]]:
    """The mentions of a document, as published, checked for what is read of them."""
    try:
        entities = json.loads(text)
    except (ValueError, RecursionError):
        raise _BadLineError("entities are no JSON") from None
    if type(entities) is list:
        try:
            if all(map(_is_entity, entities)):
                return entities
        except (AttributeError, KeyError, TypeError):  # a part is missing, or something else
            pass
    raise _BadLineError("entities are not as LMEnt writes them")


def _is_entity(entity: dict[str, Any]) -> bool:
    """Whether all that is read of a mention is there; plain code, as it takes a third of the time."""
    start, end, candidates = entity["char_start"], entity["char_end"], entity["candidates"]
    if type(start) is not int or type(end) is not int or type(candidates) is not list:
        return False
    for candidate in candidates:
        scores = candidate["scores_by_source"].values()
        number = type(candidate["aggregated_score"] + sum(scores))
        if type(candidate["qid"]) not in TEXT or number not in NUMBER:
            return False
    near = -FARTHEST < start < FARTHEST and -FARTHEST < end < FARTHEST
    return near and type(entity["text_mention"]) is str
