"""The mentions of a range of entities, gathered from all pieces and turned into what the index holds of them.

Pieces are sorted by entity and follow each other by chunk, so nothing is sorted here: every entity's rows are
put behind those it has in the pieces before. About 0.15 us a mention.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_index.bits import Ids, Words, pack
from entity_index.pieces import read_rows
from entity_index.postings import FREQUENT, LISTED, LISTED_FROM, SAMPLE, best_ranked, matching
from entity_index.query import DEFAULT_THRESHOLDS, SOURCES
from entity_index.records import PLACES, Field, join_fields
from entity_index.scores import AS_FLOAT, COLUMNS, ScoreCode, decode_sum, expected_score, passing

Column = npt.NDArray[Any]

BLOCK = 1 << 21
"""Rows of one entity that are looked at together; other ranges are taken whole."""


@dataclass(frozen=True)
class Source:
    """The pieces, and how their entities are numbered in the index."""

    folder: Path
    codes: Sequence[Ids]
    """For each piece, the number in the index of each of its entities, ascending."""
    row_starts: Sequence[Ids]
    """For each piece, where the rows of each of its entities begin, and where the last one's end."""
    summaries: Sequence[dict[str, Any]]
    fields: dict[str, Field]
    scores: dict[str, ScoreCode]


@dataclass(frozen=True)
class Run:
    """What the index holds of a range of entities."""

    entities: range
    numbers: list[Words]
    """The mentions, packed (records.py)."""
    first: npt.NDArray[np.bool_]
    """(mentions,) whether it is the first of its pair."""
    pair_counts: Ids
    """(entities,)"""
    chunks: Ids
    """(pairs,)"""
    best: Column
    """(pairs,)"""


def gather(source: Source, entities: range) -> Run:
    """Read the rows of a range of entities. A single entity may be large: it is read in blocks."""
    blocks = [_join_rows(source, entities, pieces) for pieces in _groups(source, entities)]
    parts = [_index_rows(rows, source) for rows in blocks]
    numbers = [np.concatenate(column) for column in zip(*(part[0] for part in parts), strict=True)]
    first, owners, chunks, best = (np.concatenate([part[i] for part in parts]) for i in range(1, 5))
    pair_counts = np.bincount(owners, minlength=len(entities))
    return Run(entities, numbers, first, pair_counts, chunks, best)


def _groups(source: Source, entities: range) -> Iterator[list[int]]:
    """The pieces, all at once, or for a single entity so many that their rows fill a block."""
    group: list[int] = []
    rows = 0
    for piece in range(len(source.codes)):
        start, end = _rows_in(source, piece, entities)
        if len(entities) == 1 and group and rows + end - start > BLOCK:
            yield group
            group, rows = [], 0
        group.append(piece)
        rows += end - start
    yield group


def _rows_in(source: Source, piece: int, entities: range) -> tuple[int, int]:
    first, last = np.searchsorted(source.codes[piece], [entities.start, entities.stop])
    starts = source.row_starts[piece]
    return int(starts[first]), int(starts[last])


def _join_rows(source: Source, entities: range, pieces: list[int]) -> dict[str, Column]:
    """The rows of some pieces by entity, those of one entity in the order of the pieces."""
    parts: list[dict[str, Column]] = []
    owners, counts = [], []
    for piece in pieces:
        first, last = np.searchsorted(source.codes[piece], [entities.start, entities.stop])
        starts = source.row_starts[piece][first : last + 1]
        if last > first:
            owners.append(source.codes[piece][first:last] - entities.start)
            counts.append(np.diff(starts))
            parts.append(_read_rows(source, piece, int(starts[0]), int(starts[-1])))
    if not parts:
        return {"entity": np.empty(0, dtype=np.int64)}
    places = _destinations(owners, counts, len(entities))
    joined = {}
    for name in list(parts[0]):
        column = np.concatenate([part.pop(name) for part in parts])
        joined[name] = np.empty_like(column)
        joined[name][places] = column
    totals = np.bincount(np.concatenate(owners), np.concatenate(counts), len(entities)).astype(np.int64)
    joined["entity"] = np.repeat(np.arange(len(entities)), totals)
    return joined


def _destinations(owners: list[Ids], counts: list[Ids], num_entities: int) -> Ids:
    """Where each row goes, for runs of rows (entity, how many) in the order they come."""
    totals = np.zeros(num_entities, dtype=np.int64)
    for owner, count in zip(owners, counts, strict=True):
        totals[owner] += count
    following = np.cumsum(totals) - totals
    places = []
    for owner, count in zip(owners, counts, strict=True):
        before = np.cumsum(count) - count
        places.append(np.repeat(following[owner] - before, count) + np.arange(count.sum()))
        following[owner] += count
    return np.concatenate(places)


def _read_rows(source: Source, piece: int, start: int, end: int) -> dict[str, Column]:
    """A run of rows of a piece; scores as the index's codes want them."""
    summary = source.summaries[piece]
    rows = read_rows(source.folder, piece, summary, start, end)
    rows["chunk"] = rows["chunk"].astype(np.int64) + summary["first_chunk"]
    for name in PLACES:
        rows[name] = rows[name].astype(np.uint32)
    for name in COLUMNS:
        if source.scores[name].kind == "float" and rows[name].dtype == np.uint8:
            rows[name] = AS_FLOAT[rows[name]]  # hundredths here, others in another piece
    return rows


def _index_rows(
    rows: dict[str, Column], source: Source
) -> tuple[list[Words], npt.NDArray[np.bool_], Ids, Ids, Column]:
    """The packed mentions, the first of each pair; of each pair its entity, chunk and best score."""
    if len(rows) == 1:  # no rows
        return _nothing(source)
    numbers = dict(rows)
    if source.scores["score"].kind == "sum":
        expected = expected_score({name: rows[name] for name in SOURCES})
        numbers["score"] = rows["score"].astype(np.int16) - expected
    codes = {name: source.scores[name].encode(numbers[name]) for name in COLUMNS}
    values = {**{name: rows[name].astype(np.uint64) for name in PLACES}, **codes}
    first = np.ones(len(rows["entity"]), dtype=bool)
    first[1:] = (rows["entity"][1:] != rows["entity"][:-1]) | (rows["chunk"][1:] != rows["chunk"][:-1])
    firsts = np.flatnonzero(first)
    matches = passing(codes, source.scores, DEFAULT_THRESHOLDS)
    if rows["score"].dtype == np.uint8:
        best = np.where(matches, rows["score"] + np.uint8(1), np.uint8(0))
    else:
        best = np.where(matches, decode_sum(codes, source.scores), np.float32(-1))
    return (
        join_fields(source.fields, values),
        first,
        rows["entity"][firsts],
        rows["chunk"][firsts],
        np.maximum.reduceat(best, firsts),
    )


def _nothing(source: Source) -> tuple[list[Words], npt.NDArray[np.bool_], Ids, Ids, Column]:
    count = 1 + max(field.number for field in source.fields.values())
    best = np.float32 if source.scores["score"].kind == "float" else np.uint8
    none = np.empty(0, dtype=np.int64)
    return [np.empty(0, dtype=np.uint64)] * count, np.empty(0, dtype=bool), none, none, np.empty(0, best)


@dataclass(frozen=True)
class FrequentPart:
    """The chunk ids of a run's frequent entities."""

    places: Ids
    """Which entities of the run they are."""
    deltas: bytes
    first_byte: Ids
    widths: Ids
    samples: Ids
    first_sample: Ids
    listed_pairs: Ids
    """Of those in many chunks: the best pairs, counted from the run's first."""
    listed: Ids
    """Where each one's begin, -1 for those without."""
    matching: Ids


def describe_frequent(run: Run) -> tuple[FrequentPart, Ids]:
    """What the index holds of entities in many chunks, and the chunk ids of all others."""
    ends = np.cumsum(run.pair_counts)
    starts = ends - run.pair_counts
    places = np.flatnonzero(run.pair_counts >= FREQUENT)
    is_rare = np.repeat(run.pair_counts < FREQUENT, run.pair_counts)
    gaps = np.diff(run.chunks, prepend=0) - 1
    gaps[starts[run.pair_counts > 0]] = 0
    sizes, begins = run.pair_counts[places], starts[places]
    widths = _widths(gaps, begins, sizes)
    deltas, first_byte = _pack_deltas(gaps, begins, sizes, widths)
    sampled = -(-sizes // SAMPLE)
    first_sample = np.cumsum(sampled) - sampled
    samples = run.chunks[np.repeat(begins, sampled) + _steps(np.zeros_like(sampled), sampled) * SAMPLE]
    matches = matching(run.best)
    counts = np.concatenate([[0], np.cumsum(matches)])
    listed_pairs, listed = _list_best(run.best, matches, begins, sizes)
    found = counts[begins + sizes] - counts[begins]
    part = FrequentPart(
        places, deltas, first_byte, widths, samples, first_sample, listed_pairs, listed, found
    )
    return part, run.chunks[is_rare]


def _widths(gaps: Ids, begins: Ids, sizes: Ids) -> Ids:
    """Bits that the largest gap of each entity needs."""
    if not len(begins):
        return begins
    borders = np.stack([begins, begins + sizes], axis=1).ravel()
    padded = np.append(gaps, 0)
    largest = np.maximum.reduceat(padded, borders)[::2]
    return np.searchsorted(1 << np.arange(62), largest, side="right")


def _pack_deltas(gaps: Ids, begins: Ids, sizes: Ids, widths: Ids) -> tuple[bytes, Ids]:
    """The gaps of each entity but its first, from a whole byte on; those of one width are packed at once."""
    padded = -(-(sizes - 1) // 8) * 8
    lengths = padded // 8 * widths
    first_byte = np.cumsum(lengths) - lengths
    packed = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for width in np.flatnonzero(np.bincount(widths, minlength=1)).tolist():
        chosen = np.flatnonzero(widths == width)
        counts = sizes[chosen] - 1
        numbers = np.zeros(padded[chosen].sum(), dtype=np.uint64)
        numbers[_steps(np.cumsum(padded[chosen]) - padded[chosen], counts)] = gaps[
            _steps(begins[chosen] + 1, counts)
        ]
        content = np.frombuffer(pack(numbers, width), dtype=np.uint8)
        packed[_steps(first_byte[chosen], lengths[chosen])] = content
    return packed.tobytes(), first_byte


def _steps(starts: Ids, counts: Ids) -> Ids:
    """From every start on so many numbers."""
    steps: Ids = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return steps


def _list_best(best: Column, matches: npt.NDArray[np.bool_], begins: Ids, sizes: Ids) -> tuple[Ids, Ids]:
    """The best pairs of the entities in many chunks."""
    listed, pairs = np.full(len(begins), -1), [np.empty(0, dtype=np.int64)]
    count = 0
    for place in np.flatnonzero(sizes >= LISTED_FROM).tolist():
        whole = slice(begins[place], begins[place] + sizes[place])
        found = np.flatnonzero(matches[whole])
        chosen = found[best_ranked(best[whole][found], LISTED)] + begins[place]
        listed[place] = count
        pairs.append(chosen)
        count += len(chosen)
    return np.concatenate(pairs), listed
