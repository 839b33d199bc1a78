"""The chunk store: training rows that remember their documents. Opening it maps the tokens, copies nothing.

A chunk is a run of tokens trained on as one row, right-padded to its bucket. Its segments say which tokens of
which document it holds (one segment for a chunk that never crosses a document). The folder: FORMAT.md.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.formats import FormatError, check_format, read_table

CHUNK_COLUMNS = ["chunk_id", "token_start", "length", "bucket"]
SEGMENT_COLUMNS = [
    "chunk_id",
    "doc_id",
    "chunk_token_start",
    "chunk_token_end",
    "doc_token_start",
    "char_start",
    "char_end",
]
DOCUMENT_COLUMNS = ["doc_id", "title", "source", "url"]


@dataclass(frozen=True)
class Segment:
    """The part of one document that a chunk holds: tokens of the chunk, characters of the document."""

    doc_id: str
    chunk_token_start: int
    chunk_token_end: int
    char_start: int
    char_end: int


@dataclass(frozen=True)
class ChunkStore:
    """An opened chunk store; make one with `open_store`."""

    path: Path
    meta: dict[str, Any]
    sha256: str
    """Hash of `meta.json`, which itself holds the hashes of all other files."""
    tokens: npt.NDArray[np.uint32]  # (tokens,) memory-mapped
    token_start: npt.NDArray[np.int64]  # (chunks,)
    length: npt.NDArray[np.int32]  # (chunks,) tokens without padding
    bucket: npt.NDArray[np.int32]  # (chunks,) padded length

    @property
    def num_chunks(self) -> int:
        """How many chunks the store holds; chunk ids are 0 to this number minus one."""
        return len(self.length)

    @property
    def pad_id(self) -> int:
        """The token that fills a row up to its bucket."""
        return int(self.meta["tokenizer"]["pad_id"])

    @property
    def eos_id(self) -> int:
        """The token after the end of a document."""
        return int(self.meta["tokenizer"]["eos_id"])

    @property
    def vocab_size(self) -> int:
        """The number of token ids the tokenizer can give."""
        return int(self.meta["tokenizer"]["vocab_size"])

    def chunk_tokens(self, chunk_id: int) -> npt.NDArray[np.uint32]:
        """The tokens of one chunk, without padding, as a view of the mapped file."""
        self.check_chunk(chunk_id)
        start = self.token_start[chunk_id]
        return self.tokens[start : start + self.length[chunk_id]]

    def check_chunk(self, chunk_id: int) -> None:
        """Raise ValueError for a chunk id that the store does not have."""
        if not 0 <= chunk_id < self.num_chunks:
            raise ValueError(f"no chunk {chunk_id} in {str(self.path)!r}: it has 0 to {self.num_chunks - 1}")

    def rows(self, chunk_ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Padded token rows and the number of the document each token belongs to, for chunks of one bucket.

        Returns:
            `input_ids` (chunks, bucket), padded with `pad_id`, and `doc_ids` (chunks, bucket), counted from 0
            in each row, -1 on padding.
        """
        input_ids = np.full((len(chunk_ids), int(self.bucket[chunk_ids].max())), self.pad_id, dtype=np.int64)
        doc_ids = np.full(input_ids.shape, -1, dtype=np.int32)
        first, last = np.searchsorted(self._segment_chunks, [chunk_ids, chunk_ids + 1])
        for row, chunk_id in enumerate(chunk_ids):
            input_ids[row, : self.length[chunk_id]] = self.chunk_tokens(int(chunk_id))
            for document, segment in enumerate(range(first[row], last[row])):
                start, end = self._segment_tokens[segment]
                doc_ids[row, start:end] = document
        return input_ids, doc_ids

    def segments(self, chunk_id: int) -> list[Segment]:
        """Which documents a chunk comes from, in the order they stand in it."""
        self.check_chunk(chunk_id)
        first, last = np.searchsorted(self._segment_chunks, [chunk_id, chunk_id + 1])
        wanted = [field for field in SEGMENT_COLUMNS if field not in ("chunk_id", "doc_token_start")]
        rows = self.segment_table.slice(first, last - first).select(wanted).to_pylist()
        return [Segment(**row) for row in rows]

    def chunks_of_document(self, doc_id: str) -> npt.NDArray[np.int64]:
        """Ids of the chunks that hold a part of a document, ascending; none if it was dropped whole."""
        hits = pc.equal(self.segment_table["doc_id"], doc_id)
        chunks: npt.NDArray[np.int64] = self.segment_table.filter(hits)["chunk_id"].to_numpy()
        return np.unique(chunks)

    @cached_property
    def segment_table(self) -> pa.Table:
        """All segments, in chunk order."""
        return read_table(self.path / "segments.parquet", "segments", SEGMENT_COLUMNS)

    @cached_property
    def _segment_chunks(self) -> npt.NDArray[np.int64]:
        chunks: npt.NDArray[np.int64] = self.segment_table["chunk_id"].to_numpy()
        return chunks

    @cached_property
    def _segment_tokens(self) -> npt.NDArray[np.int32]:
        columns = [self.segment_table[name].to_numpy() for name in ("chunk_token_start", "chunk_token_end")]
        return np.stack(columns, axis=1)  # (segments, 2)


def open_store(path: str | Path) -> ChunkStore:
    """Open a chunk store folder.

    Raises:
        FileNotFoundError: `path` is no chunk store.
        FormatError: it is one of a version this release does not read.
    """
    path = Path(path)
    if not (path / "meta.json").is_file():
        raise FileNotFoundError(f"no chunk store at {str(path)!r}: 'chunk-provenance build' makes one")
    content = (path / "meta.json").read_bytes()
    meta = json.loads(content)
    check_format(path, meta.get("format"), meta.get("version"), "chunk-store")
    chunks = read_table(path / "chunks.parquet", "chunks", CHUNK_COLUMNS)
    tokens = np.load(path / "tokens.npy", mmap_mode="r")
    if chunks.num_rows != meta["num_chunks"] or len(tokens) != meta["num_tokens"]:
        raise FormatError(
            f"{str(path)!r} holds {chunks.num_rows} chunks and {len(tokens)} tokens, its meta.json says "
            f"{meta['num_chunks']} and {meta['num_tokens']}: build it again"
        )
    columns = {name: chunks[name].to_numpy() for name in CHUNK_COLUMNS[1:]}
    return ChunkStore(path, meta, hashlib.sha256(content).hexdigest(), tokens, **columns)
