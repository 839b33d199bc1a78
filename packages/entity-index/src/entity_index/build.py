"""Build an index folder from a chunk store. DuckDB sorts the mentions, on disk where they do not fit.

Python streams them on, a batch at a time. The folder appears complete or not at all.
"""

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from chunk_provenance import ChunkStore, FormatError, open_store
from entity_index.manifest import read_manifest, write_manifest
from entity_index.postings import COLUMNS, open_postings, smallest_type, write_chunk_order
from entity_index.query import DEFAULT_THRESHOLDS, SOURCES, Thresholds
from entity_index.strings import StringColumnWriter, create
from entity_index.texts import Chunk, write_texts

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

BATCH_ROWS = 1 << 18
_SCORES = ("score", *SOURCES)
_ORDER = "code, chunk_id, char_start, char_end, row"


def build_index(
    store_path: str | Path,
    index_path: str | Path,
    *,
    memory: str = "2GB",
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> bool:
    """Build the entity index of a chunk store; an index of the same store is kept as it is.

    Args:
        store_path: a chunk store.
        index_path: the folder to make; while it grows it is called `index_path` + ".tmp".
        memory: what DuckDB may use before it sorts on disk, for example "4GB".
        overwrite: replace an index that is there.
        progress: called now and then.

    Returns:
        Whether it was built (True), or was there already (False).

    Raises:
        FileExistsError: `index_path` is something else, or the index of another store.
        FormatError: the store's mentions do not fit the store.
        ValueError: `memory` is no size, or too little.
    """
    store, index_path = open_store(store_path), Path(index_path)
    if index_path.exists() and _is_current(index_path, store, overwrite=overwrite):
        return False
    unfinished = index_path.with_name(index_path.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    with ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            _write_folder(unfinished, store, memory, progress)
        except duckdb.OutOfMemoryException as error:
            raise ValueError(f"--memory {memory} is too little to sort the mentions: give more") from error
        _replace_folder(unfinished, index_path)
    return True


def _write_folder(folder: Path, store: ChunkStore, memory: str, progress: Progress) -> None:
    """Everything that an index folder holds."""
    with duckdb.connect() as database:
        _configure(database, folder, memory)
        counts = _check_mentions(database, store)
        progress("sorting mentions", 0, counts["num_postings"])
        counts["num_entities"] = _write_entities(database, folder)
        _write_postings(database, folder, counts, progress)
        _write_names(database, folder, progress)
        write_texts(folder / "text", _chunks(database, store, progress))
    shutil.rmtree(folder / "sort", ignore_errors=True)
    write_manifest(folder, _describe(store, counts))


def _is_current(index_path: Path, store: ChunkStore, *, overwrite: bool) -> bool:
    """Whether the index there is this store's; raises where it must not be touched."""
    try:
        made_from = read_manifest(index_path)["store_sha256"]
    except FileNotFoundError:
        raise FileExistsError(
            f"{str(index_path)!r} exists and is no entity index: choose another place"
        ) from None
    except FormatError:
        if not overwrite:
            raise
        return False
    if overwrite or made_from == store.sha256:
        return not overwrite
    raise FileExistsError(
        f"the entity index {str(index_path)!r} was built from another chunk store ({made_from[:12]}, "
        f"this one is {store.sha256[:12]}): build it again with --overwrite"
    )


def _configure(database: duckdb.DuckDBPyConnection, folder: Path, memory: str) -> None:
    try:
        database.execute(f"SET memory_limit = {_quoted(memory)}")
    except duckdb.Error as error:
        raise ValueError(f"--memory {memory!r} is not a size such as 4GB") from error
    database.execute(f"SET temp_directory = {_quoted(str(folder / 'sort'))}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check_mentions(database: duckdb.DuckDBPyConnection, store: ChunkStore) -> dict[str, int]:
    """Open the store's mentions as the view `mention` and refuse those that cannot be of this store."""
    path = store.path / "mentions.parquet"
    database.read_parquet(glob.escape(str(path)), file_row_number=True).create_view("stored_mention")
    columns = ", ".join(f"coalesce({name}, 0)::FLOAT AS {name}" for name in _SCORES)
    database.execute(
        f"""CREATE VIEW mention AS
        SELECT file_row_number AS row, chunk_id, char_start, char_end, surface, entity, name, {columns}
        FROM stored_mention WHERE entity IS NOT NULL"""
    )
    scores = ", ".join(_SCORES)
    (found,) = database.execute(
        f"""SELECT count(*), coalesce(min(chunk_id), 0), coalesce(max(chunk_id), -1),
        coalesce(bool_and(0 <= char_start AND char_start <= char_end AND char_end < 2147483648), true),
        coalesce(min(least({scores})), 0), coalesce(max(greatest({scores})), 0) FROM mention"""
    ).fetchall()
    num_postings, first_chunk, last_chunk, spans_fit, least, greatest = found
    if first_chunk < 0 or last_chunk >= store.num_chunks:
        raise FormatError(
            f"{str(path)!r} has mentions in chunks {first_chunk} to {last_chunk}, the store has "
            f"{store.num_chunks} chunks: build the store again"
        )
    if not spans_fit:
        raise FormatError(f"{str(path)!r} has a mention that ends before it begins, or outside a text")
    if not (least >= 0 and greatest <= 1):
        raise FormatError(f"{str(path)!r} has scores from {least} to {greatest}, expected 0 to 1")
    num_mentions = _row(database, "SELECT count(*) FROM stored_mention")[0]
    return {"num_mentions": num_mentions, "num_postings": num_postings, "num_chunks": store.num_chunks}


def _write_entities(database: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Number the entities by their sorted strings; write them with their most frequent name."""
    database.execute(
        """CREATE TABLE entity AS
        WITH counted AS (SELECT entity, count(*) AS postings FROM mention GROUP BY entity),
        named AS (
            SELECT entity, name FROM (
                SELECT entity, name, count(*) AS times FROM mention
                WHERE name <> '' GROUP BY entity, name)
            QUALIFY row_number() OVER (PARTITION BY entity ORDER BY times DESC, name) = 1)
        SELECT entity, coalesce(name, '') AS name, postings,
               (row_number() OVER (ORDER BY entity) - 1)::UINTEGER AS code
        FROM counted LEFT JOIN named USING (entity)"""
    )
    num_entities, size, names_size = _row(
        database, "SELECT count(*), sum(strlen(entity)), sum(strlen(name)) FROM entity"
    )
    entities = StringColumnWriter(folder, "entities", num_strings=num_entities, num_bytes=size)
    names = StringColumnWriter(folder, "entity_names", num_strings=num_entities, num_bytes=names_size)
    offsets = create(folder / "offsets.npy", np.int64, num_entities + 1)
    filled = 1
    for batch in _batches(database, "SELECT entity, name, postings FROM entity ORDER BY code"):
        entities.append(batch["entity"])
        names.append(batch["name"])
        offsets[filled : filled + len(batch)] = batch["postings"].to_numpy()
        filled += len(batch)
    np.cumsum(offsets, out=offsets)
    return num_entities


def _write_postings(
    database: duckdb.DuckDBPyConnection, folder: Path, counts: dict[str, int], progress: Progress
) -> None:
    """The external sort: one row per mention with an entity, by entity and chunk."""
    total, num_chunks = counts["num_postings"], counts["num_chunks"]
    types = {
        "chunk_id": smallest_type(num_chunks),
        **COLUMNS,
        "mention_row": smallest_type(counts["num_mentions"]),
    }
    files = {name: create(folder / f"{name}.npy", dtype, total) for name, dtype in types.items()}
    names = ", ".join(["chunk_id", *COLUMNS, "row AS mention_row"])
    filled = 0
    for batch in _batches(
        database, f"SELECT {names} FROM mention JOIN entity USING (entity) ORDER BY {_ORDER}"
    ):
        for name, file in files.items():
            file[filled : filled + len(batch)] = batch[name].to_numpy()
        filled += len(batch)
        progress("writing postings", filled, total)
    assert filled == total, f"{filled} of {total} postings arrived"
    write_chunk_order(folder, files["chunk_id"], num_chunks)
    footprints = create(folder / "footprints.npy", np.int64, counts["num_entities"])
    footprints[:] = open_postings(folder).count_chunks(DEFAULT_THRESHOLDS)


def _write_names(database: duckdb.DuckDBPyConnection, folder: Path, progress: Progress) -> None:
    """Which entities a string names, with the number of chunks where it does.

    An entity's own name counts in every chunk that mentions it (default thresholds); another string where
    more than its cluster ties it to the entity, so that surnames are names and pronouns are not.
    """
    passes, resolved = (
        " OR ".join(f"{source} >= {least}::FLOAT" for source, least in thresholds.active().items())
        for thresholds in (DEFAULT_THRESHOLDS, Thresholds(coref_cluster=None))
    )
    database.execute(
        f"""CREATE TABLE name AS
        WITH said AS (
            SELECT name AS text, entity, chunk_id, {passes} AS counts FROM mention WHERE name <> ''
            UNION ALL
            SELECT surface, entity, chunk_id, true FROM mention WHERE surface <> '' AND ({resolved})),
        once AS (SELECT text, entity, chunk_id, bool_or(counts) AS counts FROM said GROUP BY ALL)
        SELECT lower(text) AS key, text, code, count(*) FILTER (counts) AS chunks,
               row_number() OVER (ORDER BY key, text, code) - 1 AS id
        FROM once JOIN entity USING (entity) GROUP BY text, code"""
    )
    num_names, *sizes = _row(database, "SELECT count(*), sum(strlen(key)), sum(strlen(text)) FROM name")
    columns = {
        name: StringColumnWriter(folder, f"name_{name}s", num_strings=num_names, num_bytes=size)
        for name, size in zip(("key", "text"), sizes, strict=True)
    }
    numbers = {
        name: create(folder / f"name_{name}.npy", np.int64, num_names) for name in ("entity", "chunks")
    }
    filled = 0
    for batch in _batches(database, "SELECT key, text, code AS entity, chunks FROM name ORDER BY id"):
        for name, column in columns.items():
            column.append(batch[name])
        for name, file in numbers.items():
            file[filled : filled + len(batch)] = batch[name].to_numpy()
        filled += len(batch)
        progress("writing names", filled, num_names)
    _write_names_by_entity(database, folder, num_names)


def _write_names_by_entity(database: duckdb.DuckDBPyConnection, folder: Path, num_names: int) -> None:
    """The names of each entity, the most frequent first, as row numbers of the names."""
    num_entities = _row(database, "SELECT count(*) FROM entity")[0]
    offsets = create(folder / "names_of_offsets.npy", np.int64, num_entities + 1)
    by_entity = create(folder / "names_of.npy", np.int64, num_names)
    filled = 0
    for batch in _batches(database, "SELECT code, id FROM name ORDER BY code, chunks DESC, id"):
        by_entity[filled : filled + len(batch)] = batch["id"].to_numpy()
        entities, counts = np.unique(batch["code"].to_numpy(), return_counts=True)
        offsets[entities.astype(np.int64) + 1] += counts
        filled += len(batch)
    np.cumsum(offsets, out=offsets)


def _chunks(database: duckdb.DuckDBPyConnection, store: ChunkStore, progress: Progress) -> Iterator[Chunk]:
    """All chunks with their texts and the title of their (first) document."""
    for table in ("segments", "documents"):
        database.read_parquet(glob.escape(str(store.path / f"{table}.parquet"))).create_view(table)
    rows = _batches(
        database,
        """SELECT chunk_id, doc_id, coalesce(title, '') AS title
        FROM (SELECT chunk_id, arg_min(doc_id, chunk_token_start) AS doc_id FROM segments GROUP BY chunk_id)
        LEFT JOIN documents USING (doc_id) ORDER BY chunk_id""",
    )
    for batch in rows:
        for row in batch.to_pylist():
            yield Chunk(row["chunk_id"], store.chunk_text(row["chunk_id"]), row["doc_id"], row["title"])
        progress("indexing texts", row["chunk_id"] + 1, store.num_chunks)


def _batches(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    yield from database.sql(query).to_arrow_reader(BATCH_ROWS)


def _row(database: duckdb.DuckDBPyConnection, query: str) -> list[int]:
    """The only row of a query of counts and sums; a sum over nothing is 0."""
    (row,) = database.execute(query).fetchall()
    return [int(value or 0) for value in row]


def _describe(store: ChunkStore, counts: dict[str, int]) -> dict[str, Any]:
    return {
        **counts,
        "store_sha256": store.sha256,
        "evidence": DEFAULT_THRESHOLDS.active(),
        "engine": {"tantivy": version("tantivy")},
    }


def _replace_folder(unfinished: Path, path: Path) -> None:
    """Give the finished folder its name; an older one goes only then."""
    older = path.with_name(path.name + ".old")
    shutil.rmtree(older, ignore_errors=True)
    if path.exists():
        os.replace(path, older)
    os.replace(unfinished, path)
    shutil.rmtree(older, ignore_errors=True)
