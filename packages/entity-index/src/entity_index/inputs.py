"""What an index is built from: mentions as a stream of tables, and chunks with their texts."""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import duckdb
import pyarrow as pa

from chunk_provenance import ChunkStore, MixtureStore
from entity_index.reading import count_mentions, parts_of, stream_mentions
from entity_index.source import ChunkBatch
from entity_index.texts import Chunk

CHUNKS_A_BATCH = 1 << 12
LARGEST_PUBLISHED = 100.0
"""LMEnt's coverage of a mention by a candidate may be above 1."""


class MentionStream(Protocol):
    """Reads the mentions in tables of whole chunks."""

    def __call__(self, *, piece_rows: int, first_row: int) -> Iterator[pa.Table]:
        """Tables of about `piece_rows` rows, without the first rows."""
        ...


@dataclass(frozen=True)
class Separate:
    """Mentions and texts that are read one after the other."""

    num_mentions: int
    stream_mentions: MentionStream
    stream_chunks: Callable[[int], Iterator[Chunk]]
    """Chunks with their texts, from a chunk id on."""


@dataclass(frozen=True)
class Input:
    """An opened source of an index."""

    mentions_name: str
    """What messages call its mentions."""
    sha256: str
    num_chunks: int
    streams: Separate | Callable[[int], Iterator[ChunkBatch]]
    """How to read it; what can only be read in one go gives batches, from the chunk id or before it."""
    largest_score: float = 1.0


def store_input(store: ChunkStore) -> Input:
    """A chunk store or a mixture."""
    parts = parts_of(store)
    name = repr(str(store.path / "mentions.parquet" if len(parts) == 1 else store.path))
    return Input(
        mentions_name=name,
        sha256=store.sha256,
        num_chunks=store.num_chunks,
        streams=Separate(
            count_mentions(parts),
            lambda *, piece_rows, first_row: stream_mentions(
                parts, piece_rows=piece_rows, first_row=first_row
            ),
            lambda first_chunk: _chunks(store, first_chunk),
        ),
        largest_score=LARGEST_PUBLISHED if _is_published(store) else 1.0,
    )


def _chunks(store: ChunkStore, first_chunk: int) -> Iterator[Chunk]:
    """Chunks with their texts and the title of their (first) document."""
    for path, first_of_part, prefix in parts_of(store):
        with duckdb.connect() as database:
            for table in ("segments", "documents"):
                file = glob.escape(str(path / f"{table}.parquet"))
                database.read_parquet(file).create_view(table)
            rows = database.sql(
                f"""SELECT chunk_id + {first_of_part} AS chunk_id, doc_id, coalesce(title, '') AS title
                FROM (SELECT chunk_id, arg_min(doc_id, chunk_token_start) AS doc_id FROM segments
                      WHERE chunk_id >= {first_chunk - first_of_part} GROUP BY chunk_id)
                LEFT JOIN documents USING (doc_id) ORDER BY chunk_id"""
            )
            for batch in rows.to_arrow_reader(CHUNKS_A_BATCH):
                for row in batch.to_pylist():
                    chunk_id = row["chunk_id"]
                    yield Chunk(chunk_id, store.chunk_text(chunk_id), prefix + row["doc_id"], row["title"])


def _is_published(store: ChunkStore) -> bool:
    """Whether it, or a store in it, was made of what LMEnt published."""
    stores = [part.store for part in store.parts] if isinstance(store, MixtureStore) else [store]
    return any("lment" in part.meta for part in stores)
