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

from chunk_provenance.formats import FormatError, check_format, open_table, read_table

CHUNKS = pa.schema(
    [
        ("chunk_id", pa.int64()),  # the row number
        ("token_start", pa.int64()),  # in tokens.npy
        ("length", pa.int32()),  # tokens, without padding
        ("bucket", pa.int32()),  # padded length
    ]
)
SEGMENTS = pa.schema(
    [
        ("chunk_id", pa.int64()),
        ("doc_id", pa.string()),
        ("chunk_token_start", pa.int32()),
        ("chunk_token_end", pa.int32()),
        ("doc_token_start", pa.int64()),
        ("char_start", pa.int64()),  # in the document's text
        ("char_end", pa.int64()),
    ]
)
DOCUMENTS = pa.schema([(name, pa.string()) for name in ("doc_id", "title", "source", "url", "text")])
DROPPED = pa.schema(
    [
        ("doc_id", pa.string()),
        ("doc_token_start", pa.int64()),
        ("doc_token_end", pa.int64()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("num_tokens", pa.int64()),
        ("reason", pa.string()),
        ("place", pa.string()),  # file and line or row, where there is no usable document
    ]
)
MENTIONS = pa.schema(
    [
        ("chunk_id", pa.int64()),
        ("token_start", pa.int32()),  # inside the chunk
        ("token_end", pa.int32()),
        ("char_start", pa.int64()),  # inside the chunk's text
        ("char_end", pa.int64()),
        ("doc_id", pa.string()),
        ("doc_char_start", pa.int64()),
        ("doc_char_end", pa.int64()),
        ("surface", pa.string()),
        ("entity", pa.string()),
        ("name", pa.string()),
        ("score", pa.float32()),
        ("hyperlink", pa.float32()),
        ("entity_linking", pa.float32()),
        ("coref", pa.float32()),
        ("coref_cluster", pa.float32()),
        ("cluster_id", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Segment:
    """The part of one document that a chunk holds: tokens of the chunk, characters of the document."""

    doc_id: str
    chunk_token_start: int
    chunk_token_end: int
    char_start: int
    char_end: int


@dataclass(frozen=True)
class StoredDocument:
    """A document as the store keeps it; `text` is None in a store built without texts."""

    doc_id: str
    title: str | None
    source: str | None
    url: str | None
    text: str | None


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
            own = slice(first[row], last[row])
            documents = np.cumsum(self._segment_opens_document[own]) - self._segment_opens_document[own][0]
            for document, (start, end) in zip(documents, self._segment_tokens[own], strict=True):
                doc_ids[row, start:end] = document
        return input_ids, doc_ids

    def segments(self, chunk_id: int) -> list[Segment]:
        """Which documents a chunk comes from, in the order they stand in it."""
        self.check_chunk(chunk_id)
        first, last = np.searchsorted(self._segment_chunks, [chunk_id, chunk_id + 1])
        wanted = [field for field in SEGMENTS.names if field not in ("chunk_id", "doc_token_start")]
        rows = self.segment_table.slice(first, last - first).select(wanted).to_pylist()
        return [Segment(**row) for row in rows]

    def chunk_text(self, chunk_id: int) -> str:
        """The text of a chunk: the characters of its segments, one after the other.

        In a store built without texts the tokens are decoded (needs the extra `tokenize`).
        """
        self.check_chunk(chunk_id)
        if not self.has_text:
            return self.decode(chunk_id, eos=False)
        first, last = np.searchsorted(self._segment_chunks, [chunk_id, chunk_id + 1])
        rows = zip(self._segment_documents[first:last], self._segment_chars[first:last], strict=True)
        return "".join((self._documents.text(int(row)) or "")[start:end] for row, (start, end) in rows)

    def decode(self, chunk_id: int, *, eos: bool = True) -> str:
        """The tokens of a chunk as the store's tokenizer decodes them (needs the extra `tokenize`).

        With `eos`, the end tokens of documents are written out, too.
        """
        ids = self.chunk_tokens(chunk_id)
        return self.decode_tokens(ids if eos else ids[ids != self.eos_id])

    def decode_tokens(self, tokens: npt.NDArray[Any]) -> str:
        """Any tokens as the store's tokenizer decodes them (needs the extra `tokenize`)."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return text

    @property
    def has_text(self) -> bool:
        """Whether the store keeps the documents' texts."""
        return self._documents.has_text

    def document(self, doc_id: str) -> StoredDocument:
        """A document with its text; documents that were dropped whole are here, too.

        Raises:
            ValueError: the store has no document of this id.
        """
        row = self._find_document(doc_id)
        if row < 0:
            raise ValueError(f"no document {doc_id!r} in {str(self.path)!r}")
        return self._documents.read(row)

    def has_document(self, doc_id: str) -> bool:
        """Whether the store has a document of this id."""
        return self._find_document(doc_id) >= 0

    def _find_document(self, doc_id: str) -> int:
        row: int = pc.index(self._documents.doc_ids, pa.scalar(doc_id, pa.string())).as_py()
        return row

    def mentions_of(self, chunk_id: int) -> pa.Table:
        """The mentions in one chunk, in the order of their characters: rows of `mention_table`."""
        self.check_chunk(chunk_id)
        first, last = np.searchsorted(self._mention_chunks, [chunk_id, chunk_id + 1])
        return self.mention_table.slice(first, last - first)

    @cached_property
    def mention_table(self) -> pa.Table:
        """All mentions on all chunks, in chunk order; one row per (chunk, span, candidate)."""
        return read_table(self.path / "mentions.parquet", "chunk-mentions", MENTIONS.names)

    @cached_property
    def dropped_table(self) -> pa.Table:
        """What of the documents is in no chunk, and the reason."""
        return read_table(self.path / "dropped.parquet", "dropped", DROPPED.names)

    def chunks_of_document(self, doc_id: str) -> npt.NDArray[np.int64]:
        """Ids of the chunks that hold a part of a document, ascending; none if it was dropped whole."""
        hits = pc.equal(self.segment_table["doc_id"], doc_id)
        chunks: npt.NDArray[np.int64] = self.segment_table.filter(hits)["chunk_id"].to_numpy()
        return np.unique(chunks)

    @cached_property
    def segment_table(self) -> pa.Table:
        """All segments, in chunk order."""
        return read_table(self.path / "segments.parquet", "segments", SEGMENTS.names)

    @cached_property
    def _segment_chunks(self) -> npt.NDArray[np.int64]:
        chunks: npt.NDArray[np.int64] = self.segment_table["chunk_id"].to_numpy()
        return chunks

    @cached_property
    def _segment_opens_document(self) -> npt.NDArray[np.bool_]:
        """Whether a segment is of another document than the one before it, (segments,)."""
        ids = self.segment_table["doc_id"]
        changes = pc.not_equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1)))
        return np.concatenate([[True], changes.to_numpy()])[: len(ids)]

    @cached_property
    def _segment_tokens(self) -> npt.NDArray[np.int32]:
        columns = [self.segment_table[name].to_numpy() for name in ("chunk_token_start", "chunk_token_end")]
        return np.stack(columns, axis=1)  # (segments, 2)

    @cached_property
    def _segment_chars(self) -> npt.NDArray[np.int64]:
        columns = [self.segment_table[name].to_numpy() for name in ("char_start", "char_end")]
        return np.stack(columns, axis=1)  # (segments, 2)

    @cached_property
    def _segment_documents(self) -> npt.NDArray[np.int32]:
        rows: npt.NDArray[np.int32] = pc.index_in(
            self.segment_table["doc_id"].combine_chunks(), value_set=self._documents.doc_ids.combine_chunks()
        ).to_numpy()
        return rows  # (segments,) row in documents.parquet

    @cached_property
    def _mention_chunks(self) -> npt.NDArray[np.int64]:
        chunks: npt.NDArray[np.int64] = self.mention_table["chunk_id"].to_numpy()
        return chunks

    @cached_property
    def _documents(self) -> "_Documents":
        return _Documents(self.path / "documents.parquet")

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.path / "tokenizer.json"))


class _Documents:
    """documents.parquet, read a row group at a time: the corpus may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._file = open_table(path, "stored-documents", DOCUMENTS.names[:-1])
        self.has_text = "text" in self._file.schema_arrow.names
        self.doc_ids = self._file.read(columns=["doc_id"])["doc_id"]
        groups = self._file.metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])
        self._group: tuple[int, pa.Table] | None = None
        self._text: tuple[int, str | None] | None = None

    def read(self, row: int) -> StoredDocument:
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        if self._group is None or self._group[0] != group:
            self._group = group, self._file.read_row_group(group)
        columns = self._group[1].slice(row - int(self._group_starts[group]), 1).to_pylist()[0]
        return StoredDocument(**{name: columns.get(name) for name in DOCUMENTS.names})

    def text(self, row: int) -> str | None:
        if self._text is None or self._text[0] != row:
            self._text = row, self.read(row).text
        return self._text[1]


def open_store(path: str | Path) -> ChunkStore:
    """Open a chunk store folder, or a mixture of stores.

    Raises:
        FileNotFoundError: `path` is no chunk store.
        FormatError: it is one of a version this release does not read.
    """
    path = Path(path)
    if (path / "mixture.json").is_file():
        from chunk_provenance.mixtures import open_mixture

        return open_mixture(path)
    if not (path / "meta.json").is_file():
        raise FileNotFoundError(f"no chunk store at {str(path)!r}: 'chunk-provenance build' makes one")
    content = (path / "meta.json").read_bytes()
    meta = json.loads(content)
    check_format(path, meta.get("format"), meta.get("version"), "chunk-store")
    chunks = read_table(path / "chunks.parquet", "chunks", CHUNKS.names)
    tokens = np.load(path / "tokens.npy", mmap_mode="r")
    if chunks.num_rows != meta["num_chunks"] or len(tokens) != meta["num_tokens"]:
        raise FormatError(
            f"{str(path)!r} holds {chunks.num_rows} chunks and {len(tokens)} tokens, its meta.json says "
            f"{meta['num_chunks']} and {meta['num_tokens']}: build it again"
        )
    columns = {name: chunks[name].to_numpy() for name in CHUNKS.names[1:]}
    return ChunkStore(path, meta, hashlib.sha256(content).hexdigest(), tokens, **columns)
