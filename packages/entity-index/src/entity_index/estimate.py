"""What a build will take, from a sample of the source that goes the whole way: disk, memory and time."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from chunk_provenance.estimate import available_memory
from entity_index.inputs import Input, Separate
from entity_index.joining import join_pieces
from entity_index.pieces import Bounds, make_piece, write_piece
from entity_index.source import MENTIONS, ChunkBatch
from entity_index.strings import write_strings
from entity_index.texts import WRITER_MEMORY, Chunk, TextWriter

SAMPLE_ROWS, SAMPLE_CHUNKS = 1 << 16, 1 << 9
FIXED_MEMORY = 400_000_000
"""What Python, its libraries and the mapped files take."""
MEMORY_A_CHUNK = 32
PLENTY_A_CHUNK = 100_000
"""Bytes on disk; LMEnt's chunks, with 38 mentions and 1,200 characters, take 2,500."""
NAMES_SHARE = 1.5
"""With its names, an index has about so many times the bytes of its postings and entities."""


@dataclass(frozen=True)
class Estimate:
    """What the whole build will take."""

    chunks: int
    mentions: int
    parts_bytes: int
    """On disk until the index is finished, beside it."""
    index_bytes: int
    memory_bytes: int
    seconds: float


def estimate_build(source: Input, *, memory: int, threads: int) -> Estimate:
    """Index a sample in a temporary folder, and scale what it took.

    Args:
        source: what to build from.
        memory: what the build may take for the mentions at a time, in bytes.
        threads: how many it will have.
    """
    started = time.perf_counter()
    mentions, chunks, num_mentions = _sample(source)
    read = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        parts, postings, sorting = _measure_mentions(Path(folder), mentions, source)
        texts, indexing = _measure_texts(Path(folder) / "text", chunks)
    more_mentions = num_mentions / max(len(mentions), 1)
    more_chunks = source.num_chunks / max(len(chunks), 1)
    separate = isinstance(source.streams, Separate)
    reading = 0.0 if separate else read * more_chunks  # else it is quick
    return Estimate(
        chunks=source.num_chunks,
        mentions=num_mentions,
        parts_bytes=round(parts * more_mentions),
        index_bytes=round(postings * NAMES_SHARE * more_mentions + texts * more_chunks),
        memory_bytes=memory_of(source, memory),
        seconds=reading + sorting * more_mentions / (threads if separate else 1) + indexing * more_chunks,
    )


def memory_of(source: Input, memory: int) -> int:
    """Bytes that a build takes in memory, `memory` of them for the mentions."""
    return memory + FIXED_MEMORY + WRITER_MEMORY + MEMORY_A_CHUNK * source.num_chunks


def has_plenty(source: Input, folder: Path) -> bool:
    """Whether there is so much disk that nobody needs to measure what a build will take."""
    return free_bytes(folder) >= PLENTY_A_CHUNK * source.num_chunks


def free_bytes(folder: Path) -> int:
    """Of the disk on which a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(estimate: Estimate, folder: Path) -> None:
    """Refuse a build for which the disk or the memory will not do.

    Raises:
        OSError: there is too little.
    """
    needed, free = estimate.parts_bytes + estimate.index_bytes, free_bytes(folder)
    if needed > free:
        raise OSError(
            f"the build needs about {needed / 1e9:,.1f} GB of disk in {str(folder)!r} (the index and, until "
            f"it is finished, its parts), {free / 1e9:,.1f} GB are free"
        )
    check_memory(estimate.memory_bytes)


def check_memory(needed: int) -> None:
    """Refuse a build that needs more memory than there is."""
    available = available_memory()
    if available is not None and needed > available:
        raise OSError(
            f"the build needs about {needed / 1e9:,.1f} GB of memory, {available / 1e9:,.1f} GB are "
            "available: give it less with --memory"
        )


def _sample(source: Input) -> tuple[pa.Table, list[Chunk], int]:
    """The first mentions, the first chunks, and about how many mentions there are."""
    if isinstance(source.streams, Separate):
        tables = source.streams.stream_mentions(piece_rows=SAMPLE_ROWS, first_row=0)
        chunks = list(islice(source.streams.stream_chunks(0), SAMPLE_CHUNKS))
        return next(tables, MENTIONS.empty_table()), chunks, source.streams.num_mentions
    batches = list(_until(source.streams, SAMPLE_CHUNKS))
    mentions = pa.concat_tables([MENTIONS.empty_table(), *(batch.mentions for batch in batches)])
    chunks = [chunk for batch in batches for chunk in chunks_of(batch)]
    return mentions, chunks, round(len(mentions) * source.num_chunks / max(len(chunks), 1))


def _until(stream: Callable[[int], Iterator[ChunkBatch]], num_chunks: int) -> Iterator[ChunkBatch]:
    for batch in stream(0):
        yield batch
        if int(batch.chunk_ids[-1]) >= num_chunks:
            return


def chunks_of(batch: ChunkBatch) -> Iterator[Chunk]:
    """The chunks of a batch."""
    rows = zip(batch.chunk_ids.tolist(), batch.texts, batch.doc_ids, batch.titles, strict=True)
    return (Chunk(*row) for row in rows)


def _measure_mentions(folder: Path, mentions: pa.Table, source: Input) -> tuple[int, int, float]:
    """Bytes of the parts and of the postings, and seconds."""
    (folder / "pieces").mkdir()
    (folder / "index").mkdir()
    started = time.perf_counter()
    bounds = Bounds(source.mentions_name, source.num_chunks, source.largest_score)
    write_piece(make_piece(mentions, bounds), folder / "pieces", 0)
    last = int(mentions["chunk_id"][-1].as_py()) if len(mentions) else 0
    _, entities, _ = join_pieces(
        folder / "pieces",
        folder / "index",
        num_pieces=1,
        num_chunks=last + 1,
        threads=1,
        run_rows=SAMPLE_ROWS,
        progress=lambda done, total: None,
    )
    write_strings(folder / "index", "entities", entities)
    return size_of(folder / "pieces"), size_of(folder / "index"), time.perf_counter() - started


def _measure_texts(folder: Path, chunks: list[Chunk]) -> tuple[int, float]:
    """Bytes of the text index, and seconds."""
    started = time.perf_counter()
    with TextWriter(folder) as writer:
        for chunk in chunks:
            writer.add(chunk)
    return size_of(folder), time.perf_counter() - started


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())
