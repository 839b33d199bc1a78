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

from entity_index.bits import Ids, write_packed
from entity_index.pieces import read_table
from entity_index.strings import write_strings

SCHEMA = pa.schema(
    [
        ("entity", pa.int64()),
        ("text", pa.large_string()),
        ("named", pa.bool_()),
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
        """CREATE TABLE name AS SELECT text, entity, bool_or(named) AS named, sum(chunks)::BIGINT AS chunks,
        sum(times)::BIGINT AS times FROM said GROUP BY text, entity"""
    )
    names = database.sql(
        """SELECT text, entity, chunks FROM name WHERE named ORDER BY lower(text), text, entity"""
    ).to_arrow_table()
    entity, chunks = (names[column].to_numpy().astype(np.int64) for column in ("entity", "chunks"))
    by_entity = np.lexsort((-chunks, entity))
    starts = np.searchsorted(entity[by_entity], np.arange(num_entities + 1))
    numbers = {
        "name_entity": entity,
        "name_chunks": chunks,
        "names_of": by_entity,
        "names_of_starts": starts,
        "name_of": _most_said(database, names, entity, by_entity, starts),
    }
    widths = {name: write_packed(folder / f"{name}.bits", column) for name, column in numbers.items()}
    return {"strings": write_strings(folder, "names", names["text"]), "widths": widths}


def _batches(pieces: Path, codes: Sequence[Ids]) -> Iterator[pa.RecordBatch]:
    for number, of_piece in enumerate(codes):
        table = read_table(pieces, number, "names")
        entity = pa.array(of_piece[table["entity"].to_numpy()])
        yield from table.set_column(0, "entity", entity).cast(SCHEMA).to_batches()


def _most_said(
    database: duckdb.DuckDBPyConnection, names: pa.Table, entity: Ids, by_entity: Ids, starts: Ids
) -> Ids:
    """Which of its names most mentions of an entity carry, counted from 1; 0 where that is none."""
    best = database.sql(
        """SELECT entity, arg_max(text, (times, -rank)) AS text FROM (
            SELECT entity, text, times, row_number() OVER (PARTITION BY entity, times ORDER BY text) AS rank
            FROM name WHERE times > 0) GROUP BY entity"""
    ).to_arrow_table()
    wanted = np.full(len(starts) - 1, -1)
    texts = pa.chunked_array([*names["text"].chunks, *best["text"].chunks], pa.string())
    coded = texts.dictionary_encode().unify_dictionaries()
    all_codes = np.concatenate([np.empty(0, dtype=np.int64), *(part.indices for part in coded.chunks)])
    text = all_codes[: len(entity)]
    wanted[best["entity"].to_numpy()] = all_codes[len(entity) :]
    places = np.arange(len(entity)) - starts[entity[by_entity]]
    same = text[by_entity] == wanted[entity[by_entity]]
    result = np.zeros(len(starts) - 1, dtype=np.int64)
    result[entity[by_entity][same]] = places[same] + 1
    return result
