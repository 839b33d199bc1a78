"""Every (entity, mention) pair as one row of memory-mapped columns, sorted by entity, then chunk.

A query reads only the rows of its entities. Arrays: P postings, E entities, C chunks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_index.query import SOURCES, Thresholds
from entity_index.strings import create

Ids = npt.NDArray[np.int64]
Column = npt.NDArray[Any]
Scores = npt.NDArray[np.float32]

COLUMNS = {
    "char_start": np.int32,
    "char_end": np.int32,
    "score": np.float32,
    **dict.fromkeys(SOURCES, np.float32),
}
"""Columns of a fixed type; `chunk_id`, `mention_row` and `by_chunk` take 32 bits where the counts allow."""

BLOCK = 1 << 22
"""How many postings are taken into memory at a time by what must read all."""


@dataclass(frozen=True)
class Postings:
    """The mapped columns."""

    offsets: Ids
    """(E + 1,) rows of entity e are offsets[e] to offsets[e + 1]."""
    columns: dict[str, Column]
    """(P,) each: `chunk_id`, `char_start`, `char_end`, `score`, the four sources, `mention_row`."""
    chunk_offsets: Ids
    """(C + 1,) the rows of chunk c are by_chunk[chunk_offsets[c] : chunk_offsets[c + 1]]."""
    by_chunk: Column
    """(P,) row numbers sorted by chunk, then row."""

    @property
    def num_entities(self) -> int:
        """How many entities have postings."""
        return len(self.offsets) - 1

    @property
    def num_chunks(self) -> int:
        """How many chunks the store has, with and without mentions."""
        return len(self.chunk_offsets) - 1

    def of_entity(self, entity: int, thresholds: Thresholds) -> Ids:
        """Rows of an entity (by its number) that pass a threshold, ascending."""
        start, end = int(self.offsets[entity]), int(self.offsets[entity + 1])
        return start + np.flatnonzero(self.passing(slice(start, end), thresholds))

    def of_entity_in_chunk(self, entity: int, chunk_id: int) -> Ids:
        """Rows of an entity in one chunk, ascending."""
        start, end = int(self.offsets[entity]), int(self.offsets[entity + 1])
        chunks = self.columns["chunk_id"][start:end]
        key = chunks.dtype.type(chunk_id)  # of the same type, else the column would be copied
        first, last = (start + int(np.searchsorted(chunks, key, side=side)) for side in ("left", "right"))
        return np.arange(first, last)

    def of_chunk(self, chunk_id: int) -> Ids:
        """Rows of a chunk, ascending."""
        start, end = self.chunk_offsets[chunk_id : chunk_id + 2]
        rows: Ids = self.by_chunk[start:end].astype(np.int64)
        return rows

    def of_chunks(self, chunk_ids: Ids) -> Ids:
        """Rows of many chunks, one chunk after the other."""
        starts, ends = self.chunk_offsets[chunk_ids], self.chunk_offsets[chunk_ids + 1]
        sizes = ends - starts
        before = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(starts - before, sizes)
        rows: Ids = self.by_chunk[places].astype(np.int64)
        return rows

    def passing(self, rows: slice | Ids, thresholds: Thresholds) -> npt.NDArray[np.bool_]:
        """Which of these rows pass at least one threshold."""
        active = thresholds.active().items()
        passing = [self.columns[source][rows] >= np.float32(least) for source, least in active]
        result: npt.NDArray[np.bool_] = np.logical_or.reduce(passing)
        return result

    def chunks(self, rows: slice | Ids) -> Ids:
        """The chunks of these rows."""
        chunk_ids: Ids = self.columns["chunk_id"][rows].astype(np.int64)
        return chunk_ids

    def scores(self, rows: slice | Ids) -> Scores:
        """The aggregated scores of these rows."""
        return np.asarray(self.columns["score"][rows], dtype=np.float32)

    def entities(self, rows: Ids) -> Ids:
        """The numbers of the entities these rows belong to."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def count_chunks(self, thresholds: Thresholds) -> Ids:
        """For every entity, (E,), in how many chunks a mention of it passes. Reads all postings once."""
        counts = np.zeros(self.num_entities, dtype=np.int64)
        last = (-1, -1)
        for start in range(0, len(self.by_chunk), BLOCK):
            rows = slice(start, min(start + BLOCK, len(self.by_chunk)))
            passing = np.flatnonzero(self.passing(rows, thresholds))
            chunks = self.chunks(rows)[passing]
            entities = self.entities(passing + start)
            new = np.ones(len(passing), dtype=bool)
            new[1:] = (chunks[1:] != chunks[:-1]) | (entities[1:] != entities[:-1])
            if len(passing):
                new[0] = (entities[0], chunks[0]) != last
                last = (entities[-1], chunks[-1])
            np.add.at(counts, entities[new], 1)
        return counts


def best_per_chunk(chunks: Ids, scores: Scores) -> tuple[Ids, Scores]:
    """Chunks (sorted, with repeats) and scores to each chunk once with its highest score."""
    if not len(chunks):
        return chunks, scores
    firsts = np.flatnonzero(np.concatenate([[True], chunks[1:] != chunks[:-1]]))
    return chunks[firsts], np.maximum.reduceat(scores, firsts)


def best_ranked(scores: Scores, limit: int | None) -> Ids:
    """Places of the highest scores, highest first, equal ones in the order they come.

    Sorts only what is returned: the rest is separated by a partition.
    """
    if limit is None or limit >= len(scores):
        return np.argsort(-scores, kind="stable")
    if limit == 0:
        return np.empty(0, dtype=np.int64)
    least = -np.partition(-scores, limit - 1)[limit - 1]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: limit - len(above)]
    return np.concatenate([above[np.argsort(-scores[above], kind="stable")], equal])


def contained(chunk_ids: Ids, others: Ids) -> npt.NDArray[np.bool_]:
    """Which of these ids are among the others; both ascending."""
    places = np.searchsorted(others, chunk_ids)
    inside = places < len(others)
    inside[inside] = others[places[inside]] == chunk_ids[inside]
    return inside


def write_chunk_order(folder: Path, chunk_id: Column, num_chunks: int) -> None:
    """Write `chunk_offsets.npy` and `by_chunk.npy`: a counting sort, two passes in blocks."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(chunk_id), BLOCK)]
    offsets = create(folder / "chunk_offsets.npy", np.int64, num_chunks + 1)
    for block in blocks:
        chunks, counts = np.unique(chunk_id[block], return_counts=True)
        offsets[chunks.astype(np.int64) + 1] += counts
    np.cumsum(offsets, out=offsets)
    by_chunk = create(folder / "by_chunk.npy", smallest_type(len(chunk_id)), len(chunk_id))
    next_place = np.array(offsets[:-1])
    for block in blocks:
        order = np.argsort(chunk_id[block], kind="stable")
        chunks, firsts, counts = np.unique(chunk_id[block][order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(firsts, counts)
        by_chunk[np.repeat(next_place[chunks], counts) + rank] = block.start + order
        next_place[chunks] += counts


def smallest_type(count: int) -> npt.DTypeLike:
    """Unsigned 32 bits for numbers below `count` if they fit, else 64 bits."""
    return np.uint32 if count <= 1 << 32 else np.int64


def open_postings(folder: Path) -> Postings:
    """Map the columns of an index folder."""

    def load(name: str) -> Column:
        column: Column = np.load(folder / f"{name}.npy", mmap_mode="r")
        return column

    columns = {name: load(name) for name in ["chunk_id", *COLUMNS, "mention_row"]}
    return Postings(load("offsets"), columns, load("chunk_offsets"), load("by_chunk"))
