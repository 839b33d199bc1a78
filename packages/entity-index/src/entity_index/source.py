"""Chunks with their texts and mentions, as one stream in the order of their ids: what an index is built from.

A source may be larger than memory; it is read a batch of chunks at a time, and may be read more than once.
"""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance import ChunkStore, FormatError, MixtureStore, open_store
from entity_index.query import SOURCES
from entity_index.reading import count_mentions, parts_of

CHUNKS_A_BATCH = 1000
LARGEST_SCORE_OF_LMENT = 100.0
"""Its coverage of a mention by a candidate may be above 1, and a score with it."""
SCORES = ("score", *SOURCES)
MENTIONS = pa.schema(
    [
        ("row", pa.int64()),  # number of the row in the source's mentions, from 0
        ("chunk_id", pa.int64()),
        ("char_start", pa.int64()),  # in the chunk's text
        ("char_end", pa.int64()),
        ("surface", pa.string()),
        ("entity", pa.string()),  # null for a mention without candidates
        ("name", pa.string()),
        *((score, pa.float32()) for score in SCORES),  # a missing one is 0
    ]
)
"""A row for each candidate of each mention. Sorted by chunk; rows of one span follow one another."""


@dataclass(frozen=True)
class ChunkBatch:
    """Chunks that follow one another; the first batch of a stream begins with chunk 0."""

    chunk_ids: npt.NDArray[np.int64]  # (chunks,)
    texts: list[str]
    doc_ids: list[str]
    """Of each chunk's (first) document."""
    titles: list[str]
    """Empty where the document has none; so are `doc_sources`."""
    doc_sources: list[str]
    doc_token_start: npt.NDArray[np.int64]  # (chunks,) the document's tokens among all of its shard or store
    doc_token_end: npt.NDArray[np.int64]  # (chunks,)
    mentions: pa.Table
    """Those of these chunks, as in `MENTIONS`."""


@dataclass(frozen=True)
class ChunkSource:
    """Something to build an index from."""

    name: str
    """What to call it in a message: its path."""
    sha256: str
    num_chunks: int
    stream: Callable[[], Iterator[ChunkBatch]]
    num_mentions: int | None = None
    """How many there are, about; None where nobody can tell without reading all."""
    text_bytes: int | None = None
    """Of all texts, about."""


def store_source(path: str | Path) -> ChunkSource:
    """A chunk store or a mixture of stores, opened.

    Raises:
        FileNotFoundError: it is no chunk store.
        FormatError: it is one of a version that is not read here.
    """
    store = open_store(path)
    parts = parts_of(store)
    sizes = [_text_bytes(part.path) for part in parts]
    return ChunkSource(
        name=str(path),
        sha256=store.sha256,
        num_chunks=store.num_chunks,
        stream=lambda: stream_chunks(store),
        num_mentions=count_mentions(parts),
        text_bytes=sum(size for size in sizes if size is not None) if None not in sizes else None,
    )


def _text_bytes(folder: Path) -> int | None:
    """Size of the documents' texts, by the end of their file; None in a store without texts."""
    metadata = pq.read_metadata(folder / "documents.parquet")
    names = metadata.schema.to_arrow_schema().names
    if "text" not in names:
        return None
    column = names.index("text")
    groups = range(metadata.num_row_groups)
    return sum(int(metadata.row_group(group).column(column).total_uncompressed_size) for group in groups)


def stream_chunks(store: ChunkStore, *, chunks_a_batch: int = CHUNKS_A_BATCH) -> Iterator[ChunkBatch]:
    """All chunks of a store, or of the stores of a mixture.

    Raises:
        FormatError: the store's mentions do not fit the store.
    """
    if not isinstance(store, MixtureStore):
        yield from _stream_store(store, chunks_a_batch)
        return
    first_row = 0
    for part in store.parts:
        rows = 0
        for batch in _stream_store(part.store, chunks_a_batch):
            yield _moved(batch, part.first_chunk, first_row, f"{part.name}:")
            rows += batch.mentions.num_rows
        first_row += rows


def _moved(batch: ChunkBatch, first_chunk: int, first_row: int, prefix: str) -> ChunkBatch:
    """A batch of one store as a part of a mixture."""
    mentions = batch.mentions
    for name, first in ("row", first_row), ("chunk_id", first_chunk):
        column = pc.add(mentions[name], first)
        mentions = mentions.set_column(mentions.schema.get_field_index(name), name, column)
    doc_ids = [prefix + doc_id for doc_id in batch.doc_ids]
    return replace(batch, chunk_ids=batch.chunk_ids + first_chunk, doc_ids=doc_ids, mentions=mentions)


def _stream_store(store: ChunkStore, chunks_a_batch: int) -> Iterator[ChunkBatch]:
    mentions = _MentionReader(store)
    with duckdb.connect() as database:
        for batch in _documents_of_chunks(database, store, chunks_a_batch):
            chunk_ids = batch["chunk_id"].to_numpy()
            yield ChunkBatch(
                chunk_ids=chunk_ids,
                texts=[store.chunk_text(chunk_id) for chunk_id in chunk_ids.tolist()],
                doc_ids=batch["doc_id"].to_pylist(),
                titles=batch["title"].to_pylist(),
                doc_sources=batch["source"].to_pylist(),
                doc_token_start=batch["doc_start"].to_numpy(),
                doc_token_end=batch["doc_end"].to_numpy(),
                mentions=mentions.before(int(chunk_ids[-1]) + 1),
            )
    mentions.check_end()


def _documents_of_chunks(
    database: duckdb.DuckDBPyConnection, store: ChunkStore, rows: int
) -> Iterator[pa.RecordBatch]:
    """Each chunk with its (first) document, and the tokens which that has in the store."""
    for table in ("chunks", "segments", "documents"):
        database.read_parquet(glob.escape(str(store.path / f"{table}.parquet"))).create_view(table)
    reader = database.sql(
        """WITH range AS (
            SELECT doc_id, min(token_start + chunk_token_start) AS doc_start,
                   max(token_start + chunk_token_end) AS doc_end
            FROM segments JOIN chunks USING (chunk_id) GROUP BY doc_id),
        first AS (
            SELECT chunk_id, arg_min(doc_id, chunk_token_start) AS doc_id FROM segments GROUP BY chunk_id)
        SELECT chunk_id, doc_id, coalesce(title, '') AS title, coalesce(source, '') AS source,
               doc_start::BIGINT AS doc_start, doc_end::BIGINT AS doc_end
        FROM first JOIN range USING (doc_id) LEFT JOIN documents USING (doc_id) ORDER BY chunk_id"""
    ).to_arrow_reader(rows)
    for batch in reader:  # DuckDB's own batches are of 2,048 rows or more
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


class _MentionReader:
    """The mentions of a store, once through, a range of chunks at a time."""

    def __init__(self, store: ChunkStore) -> None:
        self._path, self._num_chunks = store.path / "mentions.parquet", store.num_chunks
        columns = [name for name in MENTIONS.names if name != "row"]
        self._batches = pq.ParquetFile(self._path).iter_batches(1 << 16, columns=columns)
        self._read = MENTIONS.empty_table()  # read, and not handed out yet
        self._rows, self._last_chunk = 0, 0
        self._largest_score = LARGEST_SCORE_OF_LMENT if "lment" in store.meta else 1.0

    def before(self, chunk_id: int) -> pa.Table:
        """The mentions in chunks before this one that were not handed out yet."""
        parts = []
        while True:
            chunks = self._read["chunk_id"].to_numpy()
            count = int(np.searchsorted(chunks, chunk_id))
            parts.append(self._read.slice(0, count))
            self._read = self._read.slice(count)
            if self._read.num_rows or not self._read_more():
                return pa.concat_tables(parts)

    def check_end(self) -> None:
        """Refuse mentions in chunks that are not there."""
        self._check(not self._read.num_rows and not self._read_more(), self._beyond)

    def _read_more(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        table = pa.table(batch)
        scores = {score: pc.fill_null(table[score].cast(pa.float32()), 0.0) for score in SCORES}
        rows = pa.array(np.arange(self._rows, self._rows + len(table)))
        others = {name: table[name] for name in table.column_names if name not in SCORES}
        self._read = pa.table({"row": rows, **others, **scores}).select(MENTIONS.names).cast(MENTIONS)
        self._rows += len(table)
        self._check_batch(self._read)
        return True

    def _check_batch(self, table: pa.Table) -> None:
        chunks, starts, ends = (table[name].to_numpy() for name in ("chunk_id", "char_start", "char_end"))
        ascending = np.all(np.diff(chunks, prepend=self._last_chunk) >= 0)
        self._check(bool(ascending), "is not in the order of the chunks")
        self._last_chunk = int(chunks[-1]) if len(chunks) else self._last_chunk
        self._check(self._last_chunk < self._num_chunks, self._beyond)
        spans_fit = np.all((starts >= 0) & (starts <= ends) & (ends < 1 << 31))
        self._check(bool(spans_fit), "has a mention that ends before it begins, or outside a text")
        for score in SCORES:
            values = table[score].to_numpy()
            in_range = np.all((values >= 0) & (values <= self._largest_score))
            self._check(bool(in_range), f"has scores outside 0 to {self._largest_score:.0f} ({score})")

    @property
    def _beyond(self) -> str:
        return f"has mentions in chunks that the store, of {self._num_chunks:,} chunks, does not have"

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise FormatError(f"{str(self._path)!r} {otherwise}: build the store again")
