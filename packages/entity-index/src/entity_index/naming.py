"""Join what the pieces say of names: which texts name which entities, in how many chunks.

DuckDB adds up and sorts the strings, on disk where they do not fit. The other way round, from an entity to
its names, is a list of their numbers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from entity_index.bits import Ids, write_packed
from entity_index.pieces import read_table
from entity_index.strings import write_strings

SCHEMA = pa.schema(
    [
        ("entity", pa.int64()),
        ("text", pa.large_string()),
        ("chunks", pa.uint32()),
        ("times", pa.uint32()),
    ]
)


def join_names(
    pieces: Path,
    folder: Path,
    *,
    codes: Sequence[Ids],
    num_entities: int,
    database: duckdb.DuckDBPyConnection,
) -> dict[str, Any]:
    """Write the names.

    Args:
        pieces: where the pieces are.
        folder: the index folder.
        codes: of each piece the numbers of its entities.
        num_entities: how many entities there are.
        database: where to add up.

    Returns:
        What `meta.json` must say of them.
    """
    reader = pa.RecordBatchReader.from_batches(SCHEMA, _batches(pieces, codes))
    database.from_arrow(reader).create_view("said")
    database.execute(
        """CREATE TABLE name AS SELECT text, entity, sum(chunks)::BIGINT AS chunks,
        sum(times)::BIGINT AS times FROM said GROUP BY text, entity"""
    )
    names = database.sql(
        "SELECT text, entity, chunks, times FROM name ORDER BY lower(text), text, entity"
    ).to_arrow_table()
    entity, chunks = (names[column].to_numpy() for column in ("entity", "chunks"))
    by_entity = np.lexsort((-chunks, entity))
    starts = np.searchsorted(entity[by_entity], np.arange(num_entities + 1))
    place = np.empty(len(entity), dtype=np.int64)
    place[by_entity] = np.arange(len(entity)) - starts[entity[by_entity]]
    usual = _most_said(names)
    name_of = np.zeros(num_entities, dtype=np.int64)
    name_of[entity[usual]] = place[usual] + 1
    numbers = {
        "name_entity": entity,
        "name_chunks": chunks,
        "names_of": by_entity,
        "names_of_starts": starts,
        "name_of": name_of,
    }
    widths = {name: write_packed(folder / f"{name}.bits", column) for name, column in numbers.items()}
    return {"strings": write_strings(folder, "names", names["text"]), "widths": widths}


def _batches(pieces: Path, codes: Sequence[Ids]) -> Iterator[pa.RecordBatch]:
    for number, of_piece in enumerate(codes):
        table = read_table(pieces, number, "names")
        entity = pa.array(of_piece[table["entity"].to_numpy()])
        yield from table.set_column(0, "entity", entity).cast(SCHEMA).to_batches()


def _most_said(names: pa.Table) -> Ids:
    """Of each entity the row of the name that most of its mentions carry, of equals the first."""
    entity, times = (names[column].to_numpy() for column in ("entity", "times"))
    order = np.lexsort((-times, entity))
    order = order[times[order] > 0]
    firsts = np.flatnonzero(np.diff(entity[order], prepend=-1))
    most = np.repeat(times[order[firsts]], np.diff(firsts, append=len(order)))
    best = order[times[order] == most]
    rank = np.empty(len(best), dtype=np.int64)
    rank[pc.sort_indices(names["text"].take(pa.array(best))).to_numpy()] = np.arange(len(best))
    best = best[np.lexsort((rank, entity[best]))]
    rows: Ids = best[np.diff(entity[best], prepend=-1) != 0]
    return rows
