"""Chunks with mentions as documents in LMEnt's layout. A million candidates take two seconds.

The JSON is put together a column at a time; each distinct string and score is written once a batch.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from entity_index.elastic.mapping import LONGEST_KEYWORD
from entity_index.elastic.queries import SOURCE_FIELDS
from entity_index.source import ChunkBatch

LARGEST_INTEGER = (1 << 31) - 1
as_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Documents:
    """The documents of a batch of chunks, ready to be sent."""

    chunk_ids: list[int]
    lines: list[bytes]
    """JSON of each."""
    num_mentions: int
    """Spans with at least one candidate."""
    num_dropped: int
    """Mentions without candidates, which LMEnt's layout leaves out."""
    has_long_text: bool
    """Whether a text is too long for a keyword."""


def documents_of(batch: ChunkBatch) -> Documents:
    """The documents of some chunks.

    Mentions without candidates are left out; a candidate that is no entity in a mention with others, too.
    """
    linked = batch.mentions.filter(pc.is_valid(batch.mentions["entity"])).combine_chunks()
    opens_mention = _begins(linked, ["chunk_id", "char_start", "char_end", "surface"])
    mentions = _mentions_json(linked, opens_mention)
    chunk_of_mention = linked["chunk_id"].to_numpy()[opens_mention]
    bounds = np.searchsorted(chunk_of_mention, [*batch.chunk_ids.tolist(), batch.chunk_ids[-1] + 1])
    entities = _joined(mentions, bounds).to_pylist()
    heads = _heads(batch)
    lines = [
        f'{head[:-1]},"entities":[{parts}]}}'.encode() for head, parts in zip(heads, entities, strict=True)
    ]
    return Documents(
        chunk_ids=batch.chunk_ids.tolist(),
        lines=lines,
        num_mentions=len(mentions),
        num_dropped=_num_spans(batch.mentions) - len(mentions),
        has_long_text=any(len(text.encode()) > LONGEST_KEYWORD for text in batch.texts),
    )


def _heads(batch: ChunkBatch) -> list[str]:
    """Each document without its mentions."""
    found = []
    for i, text in enumerate(batch.texts):
        head = {"chunk_id": int(batch.chunk_ids[i])}
        numbers = {
            "article_id": article_id(batch.doc_ids[i]),
            "start": int(batch.doc_token_start[i]),
            "end": int(batch.doc_token_end[i]),
        }
        head |= {k: v for k, v in numbers.items() if v is not None and v <= LARGEST_INTEGER}
        words = {"title": batch.titles[i], "metadata_source": batch.doc_sources[i], "text": text}
        found.append(as_json({**head, **words, "doc_id": batch.doc_ids[i]}))
    return found


def article_id(doc_id: str) -> int | None:
    """The number that LMEnt's layout has for a document: its id, where that is a number.

    >>> article_id("736"), article_id("00736"), article_id("d1"), article_id("99999999999")
    (736, None, None, None)
    """
    is_number = doc_id.isascii() and doc_id.isdigit() and str(int(doc_id[:20])) == doc_id
    return int(doc_id) if is_number and int(doc_id) <= LARGEST_INTEGER else None


def _mentions_json(linked: pa.Table, opens_mention: npt.NDArray[np.bool_]) -> pa.Array:
    """JSON of each mention with its candidates, (mentions,)."""
    sources = [(f'"{theirs}":', _numbers(linked[ours]), ",") for ours, theirs in SOURCE_FIELDS.items()]
    scores = list(itertools.chain(*sources))[:-1]  # no comma behind the last one
    candidates = _join(
        '{"qid":', _strings(linked["entity"]), ',"name":', _strings(pc.fill_null(linked["name"], "")),
        ',"aggregated_score":', _numbers(linked["score"]),
        ',"scores_by_source":{', *scores, '},"row":', _texts(linked["row"]), "}",
    )  # fmt: skip
    spans = linked.filter(pa.array(opens_mention))
    bounds = np.append(np.flatnonzero(opens_mention), linked.num_rows)
    return _join(
        '{"char_start":', _texts(spans["char_start"]), ',"char_end":', _texts(spans["char_end"]),
        ',"text_mention":', _strings(pc.fill_null(spans["surface"], "")),
        ',"candidates":[', _joined(candidates, bounds), "]}",
    )  # fmt: skip


def _join(*parts: str | pa.Array) -> pa.Array:
    """Columns and constants, one after the other, row by row."""
    return pc.binary_join_element_wise(*parts, "")


def _joined(texts: pa.Array, bounds: npt.NDArray[np.int64]) -> pa.Array:
    """Neighbours in one, separated by commas: texts `bounds[i]` to `bounds[i + 1]`."""
    lists = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), texts)
    return pc.binary_join(lists, ",")


def _strings(column: pa.ChunkedArray) -> pa.Array:
    return _by_value(column, as_json)


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    return _by_value(column, lambda value: shortest(np.float32(value)))


def _by_value(column: pa.ChunkedArray, write: Callable[[Any], str]) -> pa.Array:
    """Each value of a column as a text, made once for equal ones."""
    encoded = column.combine_chunks().dictionary_encode()
    return pa.array([write(value) for value in encoded.dictionary.to_pylist()], pa.string()).take(
        encoded.indices
    )


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(pa.string()).combine_chunks()


def shortest(value: np.float32) -> str:
    """The shortest decimal that is this number again once a server has read it by way of float64.

    >>> shortest(np.float32(0.62)), shortest(np.float32(0))
    ('0.62', '0.0')
    """
    text = str(value)
    return text if np.float32(float(text)) == value else repr(float(value))


def _begins(table: pa.Table, columns: list[str]) -> npt.NDArray[np.bool_]:
    """Which rows differ from the one before in one of these columns, (rows,)."""
    begins = np.zeros(table.num_rows, dtype=bool)
    begins[:1] = True
    for name in columns:
        codes = table[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        begins[1:] |= codes[1:] != codes[:-1]
    return begins


def _num_spans(mentions: pa.Table) -> int:
    return int(_begins(mentions.combine_chunks(), ["chunk_id", "char_start", "char_end", "surface"]).sum())
