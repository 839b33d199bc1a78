"""The mentions of a chunk store, or of a mixture of stores, as a stream of tables of whole chunks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance import ChunkStore, FormatError, MixtureStore
from entity_index.pieces import NEEDED, STRINGS


class Part(NamedTuple):
    """A chunk store that is, or is part of, what an index is made from."""

    path: Path
    first_chunk: int
    """The id of its chunk 0."""
    prefix: str
    """Of its documents' ids."""


def parts_of(store: ChunkStore) -> list[Part]:
    """The stores of a mixture, or the one store."""
    if isinstance(store, MixtureStore):
        return [Part(part.store.path, part.first_chunk, f"{part.name}:") for part in store.parts]
    return [Part(store.path, 0, "")]


def count_mentions(parts: Sequence[Part]) -> int:
    """How many mentions there are, by the ends of their files."""
    return sum(_open(part.path).metadata.num_rows for part in parts)


def stream_mentions(parts: Sequence[Part], *, piece_rows: int, first_row: int = 0) -> Iterator[pa.Table]:
    """The mentions in order, in tables of `piece_rows` rows or about half of that, which end with a chunk.

    A table ends with a batch of the file, if it can: a string that stands in two batches costs twice. With
    `first_row`, the mentions before it are left out.
    """
    waiting: list[pa.Table] = []
    for batch in _batches(parts, first_row, piece_rows):
        waiting.append(batch)
        if sum(map(len, waiting)) < piece_rows // 2:
            continue
        table = pa.concat_tables(waiting)
        if end := _start_of_last_chunk(table["chunk_id"]):
            yield table.slice(0, end)
        waiting = [_plain(table.slice(end))]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)


def _start_of_last_chunk(chunk_id: pa.ChunkedArray) -> int:
    chunks = chunk_id.to_numpy()
    others = np.flatnonzero(chunks != chunks[-1])
    return int(others[-1]) + 1 if len(others) else 0


def _plain(rows: pa.Table) -> pa.Table:
    """The same few rows with dictionaries that have nothing else in them."""
    for name in STRINGS:
        place = rows.schema.get_field_index(name)
        encoded = rows[name].cast(pa.string()).dictionary_encode()
        rows = rows.set_column(place, name, encoded)
    return rows


def _batches(parts: Sequence[Part], first_row: int, rows: int) -> Iterator[pa.Table]:
    for path, first_chunk, _ in parts:
        file = _open(path)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        groups = list(range(len(sizes)))
        while groups and first_row >= sizes[groups[0]]:
            first_row -= sizes[groups.pop(0)]
        if not groups:
            continue
        # one thread: several take twice the processor's time, which the pieces need
        batches = file.iter_batches(rows, row_groups=groups, columns=list(NEEDED), use_threads=False)
        for batch in batches:
            table = pa.table(batch).slice(first_row)
            first_row = max(0, first_row - len(batch))
            if len(table):
                chunk_id = pc.add(table["chunk_id"], first_chunk)
                yield table.set_column(table.schema.get_field_index("chunk_id"), "chunk_id", chunk_id)


def _open(path: Path) -> pq.ParquetFile:
    """The file of a store's mentions, its strings as numbers with a dictionary."""
    file = path / "mentions.parquet"
    opened = pq.ParquetFile(file, read_dictionary=list(STRINGS), pre_buffer=True)
    if missing := [name for name in NEEDED if name not in opened.schema_arrow.names]:
        raise FormatError(f"{str(file)!r} lacks the columns {missing}: build the store again")
    return opened
