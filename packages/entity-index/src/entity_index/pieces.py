"""A piece of the mentions - some whole chunks - sorted by entity, in files of its own.

What comes out depends on nothing but the piece, so pieces are made by several threads, and those of a build
that was killed are taken over. About 0.25 us a mention, a quarter of it for reading them.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance import FormatError
from entity_index.bits import Ids
from entity_index.query import DEFAULT_THRESHOLDS, SOURCES, Thresholds
from entity_index.scores import AS_FLOAT, COLUMNS, Floats, as_hundredths, expected_score

Column = npt.NDArray[Any]

NEEDED = ("chunk_id", "char_start", "char_end", "surface", "entity", "name", *COLUMNS)
"""Columns of the mentions that the index is made of."""
STRINGS = ("surface", "entity", "name")
PLACES = ("chunk_id", "char_start", "char_end")
RESOLVED = Thresholds(coref_cluster=None)
"""With more than its cluster behind it, a mention's text is a name: surnames are names, pronouns are not."""


@dataclass(frozen=True)
class Bounds:
    """What the mentions must fit."""

    where: str
    """What the messages call them."""
    num_chunks: int
    largest_score: float = 1.0


@dataclass(frozen=True)
class Piece:
    """A finished piece."""

    rows: dict[str, Column]
    """The mentions with an entity, sorted by it, then as they come: `chunk` (from `first_chunk`), the fields
    of a posting, and the scores, as hundredths (uint8) or float32."""
    entities: pa.Table
    """`entity`, sorted, and the number of its `rows`."""
    names: pa.Table
    """`entity` (row of `entities`), `text`, in how many `chunks` it is the entity's name, how many `times` a
    mention says so."""
    sizes: Column
    """Mentions of each chunk, with or without entity, from `first_chunk`."""
    summary: dict[str, Any]


def make_piece(mentions: pa.Table, bounds: Bounds) -> Piece:
    """Sort the mentions of some chunks by entity.

    Raises:
        FormatError: they do not ascend by chunk, or do not fit the bounds.
    """
    columns: dict[str, Column] = {name: _numbers(mentions[name]) for name in PLACES}
    chunk = columns["chunk_id"]
    _check_places(**columns, bounds=bounds)
    first_chunk = int(chunk[0]) if len(chunk) else 0
    sizes = np.bincount(chunk - first_chunk)
    starts = np.cumsum(sizes) - sizes
    columns |= {"place": np.arange(len(chunk)) - starts[chunk - first_chunk]}
    columns |= {name: _scores(mentions[name]) for name in COLUMNS}
    order = _in_order(**{name: columns[name] for name in PLACES})
    known = pc.is_valid(mentions["entity"]).to_numpy()
    order = np.flatnonzero(known) if order is None else order[known[order]]
    if len(order) < len(chunk) or not known.all():
        columns = {name: column[order] for name, column in columns.items()}
        mentions = mentions.select(STRINGS).take(pa.array(order))
    _check_scores(columns, bounds)
    entities, code = sorted_codes(mentions["entity"])
    by_entity = stable_order(code)
    code = code[by_entity]
    scores, seen = _compact_scores({name: columns[name] for name in COLUMNS})
    rows = {
        "chunk": shrunk(columns["chunk_id"] - first_chunk),
        "char_start": shrunk(columns["char_start"]),
        "length": shrunk(columns["char_end"] - columns["char_start"]),
        "place": shrunk(columns["place"]),
        **scores,
    }
    largest = {name: int(rows[name].max(initial=0)) for name in ("char_start", "length", "place")}
    rows = {name: column[by_entity] for name, column in rows.items()}
    counts = np.bincount(code, minlength=len(entities))
    summary = {
        "num_mentions": len(chunk),
        "num_postings": len(code),
        "first_chunk": first_chunk,
        "end_chunk": first_chunk + len(sizes),
        "largest": largest,
        "columns": {name: column.dtype.str for name, column in rows.items()},
        **seen,
    }
    return Piece(
        rows,
        pa.table({"entity": entities, "rows": counts.astype(np.uint32)}),
        _names(mentions, by_entity, code, rows, len(entities)),
        sizes.astype(np.uint32),
        summary,
    )


def _numbers(column: pa.ChunkedArray) -> Ids:
    numbers: Ids = column.to_numpy().astype(np.int64, copy=False)
    return numbers


def _scores(column: pa.ChunkedArray) -> Floats:
    """Scores; a missing one is 0."""
    if column.null_count:
        column = column.fill_null(0.0)
    scores: Floats = column.to_numpy().astype(np.float32, copy=False)
    return scores


def _check_places(chunk_id: Ids, char_start: Ids, char_end: Ids, bounds: Bounds) -> None:
    if not len(chunk_id):
        return
    if np.any(chunk_id[1:] < chunk_id[:-1]):
        raise FormatError(f"{bounds.where} are not sorted by chunk: build the store again")
    if chunk_id[0] < 0 or chunk_id[-1] >= bounds.num_chunks:
        raise FormatError(
            f"{bounds.where} has mentions in chunks {chunk_id[0]} to {chunk_id[-1]}, the store has "
            f"{bounds.num_chunks} chunks: build the store again"
        )
    if char_start.min() < 0 or np.any(char_start > char_end) or char_end.max() >= 1 << 31:
        raise FormatError(f"{bounds.where} has a mention that ends before it begins, or outside a text")


def _check_scores(columns: dict[str, Column], bounds: Bounds) -> None:
    ranges = [(columns[name].min(initial=0), columns[name].max(initial=0)) for name in COLUMNS]
    if not all(least >= 0 and greatest <= bounds.largest_score for least, greatest in ranges):  # nor NaN
        least, greatest = min(least for least, _ in ranges), max(greatest for _, greatest in ranges)
        raise FormatError(f"{bounds.where} has scores from {least} to {greatest}, expected 0 to 1")


def _in_order(chunk_id: Ids, char_start: Ids, char_end: Ids) -> Ids | None:
    """The rows sorted by chunk and place; None where they are."""
    if not len(chunk_id):
        return None
    place = char_start << 32 | char_end
    earlier = np.flatnonzero(place[1:] < place[:-1])  # few but the first places of chunks
    if not np.any(chunk_id[earlier + 1] == chunk_id[earlier]):
        return None
    return np.lexsort((char_end, char_start, chunk_id))


def sorted_codes(strings: pa.ChunkedArray) -> tuple[pa.Array, Ids]:
    """The distinct strings sorted by their bytes, and of each row the position among them; none is null."""
    values, (codes,) = _shared_codes(strings)
    used = np.flatnonzero(np.bincount(codes, minlength=len(values)))
    order = used[pc.array_sort_indices(values.take(pa.array(used))).to_numpy()]
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return values.take(pa.array(order)), rank[codes]


def stable_order(codes: npt.NDArray[np.integer]) -> Ids:
    """Rows by code, equal ones as they come: 16 bits at a time, which NumPy counts."""
    order = np.argsort(codes.astype(np.uint16), kind="stable")  # the lowest 16 bits
    for shift in range(16, int(codes.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((codes >> shift).astype(np.uint16)[order], kind="stable")]
    return order


def shrunk(numbers: Column) -> Column:
    """The same numbers in the smallest unsigned type."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _compact_scores(columns: dict[str, Floats]) -> tuple[dict[str, Column], dict[str, Any]]:
    """Scores in hundredths where all are; which hundredths, and differences from what is expected, occur."""
    compact: dict[str, Column] = {}
    for name, scores in columns.items():
        hundredths = as_hundredths(scores)
        compact[name] = scores if hundredths is None else hundredths
    whole = {name: column for name, column in compact.items() if column.dtype == np.uint8}
    seen = {name: np.flatnonzero(np.bincount(column, minlength=1)).tolist() for name, column in whole.items()}
    differences = None
    if len(whole) == len(columns):
        beyond = whole["score"].astype(np.int16) - expected_score({name: whole[name] for name in SOURCES})
        differences = (np.flatnonzero(np.bincount(beyond + 256, minlength=1)) - 256).tolist()
    return compact, {"hundredths": seen, "differences": differences}


def passes(scores: dict[str, Column], thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    """Which mentions pass at least one threshold; scores are float32, or hundredths."""
    passing = []
    for source, least in thresholds.active().items():
        column, wanted = scores[source], np.float32(least)
        if column.dtype == np.uint8:
            passing.append(column >= np.searchsorted(AS_FLOAT, wanted))
        else:
            passing.append(column >= wanted)
    result: npt.NDArray[np.bool_] = np.logical_or.reduce(passing)
    return result


def _names(
    mentions: pa.Table, by_entity: Ids, entity: Ids, rows: dict[str, Column], num_entities: int
) -> pa.Table:
    """Which texts name which entities in how many chunks; rows and `entity` are sorted by entity.

    An entity's own name counts in every chunk that mentions it (default thresholds); another text where more
    than its cluster ties it to the entity.
    """
    texts, codes = _shared_codes(mentions["name"], mentions["surface"])
    name, surface = (code[by_entity] for code in codes)
    count, spread = max(1, len(texts)), int(rows["chunk"].max(initial=0)) + 1
    assert num_entities * count * spread < 1 << 62, "a piece is too large"
    nonempty = np.append(pc.not_equal(texts, "").to_numpy(zero_copy_only=False), False)  # -1: no text

    def keys(chosen: Ids, text: Column) -> Ids:
        pair: Ids = (entity[chosen] * count + text[chosen]) * spread
        return pair + rows["chunk"][chosen]

    named = np.flatnonzero(passes(rows, DEFAULT_THRESHOLDS) & nonempty[name])
    told = np.flatnonzero(passes(rows, RESOLVED) & nonempty[surface] & (surface != name))
    in_chunks = run_lengths(_united(_distinct(keys(named, name)), _distinct(keys(told, surface))) // spread)
    times = _count_names(entity, np.where(nonempty[name], name, -1), count)  # LMEnt: "" where there is none
    all_pairs = _united(in_chunks[0], times[0])
    text = all_pairs % count
    return pa.table(
        {
            "entity": (all_pairs // count).astype(np.uint32),
            "text": texts.take(pa.array(text)),
            "chunks": _placed(all_pairs, *in_chunks),
            "times": _placed(all_pairs, *times),
        }
    )


def _count_names(entity: Ids, name: Column, count: int) -> tuple[Ids, Ids]:
    """How many mentions of an entity carry a name: keys entity * count + name, sorted, and times.

    Most entities have one name, so that runs of equal rows are few.
    """
    begins = np.ones(len(entity), dtype=bool)
    begins[1:] = (entity[1:] != entity[:-1]) | (name[1:] != name[:-1])
    firsts = np.flatnonzero(begins)
    lengths = np.diff(firsts, append=len(entity))
    firsts, lengths = firsts[name[firsts] >= 0], lengths[name[firsts] >= 0]
    keys = entity[firsts] * count + name[firsts]
    order = np.argsort(keys, kind="stable")
    distinct, sizes = run_lengths(keys[order])
    starts = np.cumsum(sizes) - sizes
    return distinct, np.add.reduceat(lengths[order], starts) if len(starts) else starts


def _placed(keys: Ids, some: Ids, counts: Ids) -> npt.NDArray[np.uint32]:
    """Counts of some of the keys at their places among all, else 0."""
    result = np.zeros(len(keys), dtype=np.uint32)
    result[np.searchsorted(keys, some)] = counts
    return result


def _distinct(keys: Ids) -> Ids:
    """The distinct keys, sorted; changes the order of `keys`, which often come sorted."""
    keys = keys[_begins(keys)]
    if np.any(keys[1:] < keys[:-1]):
        keys.sort()
        keys = keys[_begins(keys)]
    return keys


def _united(some: Ids, others: Ids) -> Ids:
    """The keys in one or both of two sorted lists."""
    keys = np.concatenate([some, others])
    keys.sort(kind="stable")  # quick for two runs
    return keys[_begins(keys)]


def run_lengths(keys: Ids) -> tuple[Ids, Ids]:
    """The distinct ones of sorted keys, and how often each occurs."""
    firsts = np.flatnonzero(_begins(keys))
    return keys[firsts], np.diff(firsts, append=len(keys))


def _begins(keys: Ids) -> npt.NDArray[np.bool_]:
    """Which keys differ from the one before."""
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = keys[1:] != keys[:-1]
    return begins


def _shared_codes(*columns: pa.ChunkedArray) -> tuple[pa.Array, list[Column]]:
    """The distinct strings of some columns, and for each the codes of its rows; -1 is null.

    Only the dictionaries of the columns' chunks are compared as strings.
    """
    encoded = [
        [
            chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
            for chunk in column.chunks
        ]
        for column in columns
    ]
    dictionaries = [chunk.dictionary.cast(pa.string()) for chunks in encoded for chunk in chunks]
    if not dictionaries:
        return pa.array([], pa.string()), [np.empty(0, dtype=np.int32) for _ in columns]
    shared = pa.concat_arrays(dictionaries).dictionary_encode()
    borders = np.cumsum([len(dictionary) for dictionary in dictionaries])[:-1]
    maps = iter(np.split(shared.indices.to_numpy(), borders))
    codes = [np.concatenate([_mapped(chunk, next(maps)) for chunk in chunks]) for chunks in encoded]
    return shared.dictionary, codes


def _mapped(encoded: pa.DictionaryArray, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The rows' codes, of the codes of the dictionary; -1 is null."""
    indices = encoded.indices
    if not indices.null_count:
        mapped: npt.NDArray[np.int32] = codes[indices.to_numpy()]
        return mapped
    mapped = np.append(codes, np.int32(-1))[indices.fill_null(len(codes)).to_numpy()]
    return mapped


# Files


def piece_path(folder: Path, number: int, kind: str) -> Path:
    """A file of a piece."""
    return folder / f"{number:05}.{kind}"


def is_made(folder: Path, number: int) -> bool:
    """Whether a piece is complete: its summary comes last."""
    return piece_path(folder, number, "json").exists()


def write_piece(piece: Piece, folder: Path, number: int) -> None:
    """Write the files of a piece."""
    with piece_path(folder, number, "rows").open("wb") as file:
        for column in piece.rows.values():
            file.write(column.tobytes())
    tables = {"entities": piece.entities, "names": piece.names}
    for kind, table in {**tables, "sizes": pa.table({"size": piece.sizes})}.items():
        with pa.OSFile(str(piece_path(folder, number, kind)), "wb") as file:
            writer = pa.ipc.new_file(file, table.schema)
            writer.write_table(table.combine_chunks(), max_chunksize=None)
            writer.close()
    unfinished = piece_path(folder, number, "json.tmp")
    unfinished.write_text(json.dumps(piece.summary), encoding="utf-8")
    os.replace(unfinished, piece_path(folder, number, "json"))


def read_summary(folder: Path, number: int) -> dict[str, Any]:
    """What a piece holds."""
    summary: dict[str, Any] = json.loads(piece_path(folder, number, "json").read_text(encoding="utf-8"))
    return summary


def read_table(folder: Path, number: int, kind: str) -> pa.Table:
    """A table of a piece, memory-mapped."""
    with pa.memory_map(str(piece_path(folder, number, kind))) as file:
        return pa.ipc.open_file(file).read_all()


def read_rows(folder: Path, number: int, summary: dict[str, Any], start: int, end: int) -> dict[str, Column]:
    """Some of a piece's rows; read, not mapped, as a build looks at every piece many times."""
    rows, offset = {}, 0
    with piece_path(folder, number, "rows").open("rb") as file:
        for name, kind in summary["columns"].items():
            dtype = np.dtype(kind)
            file.seek(offset + start * dtype.itemsize)
            rows[name] = np.frombuffer(file.read((end - start) * dtype.itemsize), dtype=dtype)
            offset += summary["num_postings"] * dtype.itemsize
    return rows
