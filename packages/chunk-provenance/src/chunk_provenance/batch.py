"""A batch of encoded documents laid end to end, and the rows of a chunk store that follow from cutting it.

Token positions count from the batch's start. Characters do, too: each document is given one more than it has,
for its end token, so that both ascend over the whole batch and every look-up is one `searchsorted`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.documents import Document
from chunk_provenance.hashing import hash_text
from chunk_provenance.mentions import MentionFile
from chunk_provenance.packing import Positions, Unbreakable, merge_spans
from chunk_provenance.projecting import Pieces, find_tokens, project
from chunk_provenance.tokenizing import Encoded

WORD_CHARACTERS = np.array([*(chr(code).isalnum() for code in range(0x0E00)), False])
"""Letters and digits up to the Indic scripts; of the scripts beyond, most write words without spaces."""

COPIED = [
    "surface",
    "entity",
    "name",
    "score",
    "hyperlink",
    "entity_linking",
    "coref",
    "coref_cluster",
    "cluster_id",
]


@dataclass(frozen=True)
class Segments:
    """Kept parts of documents, ascending, each inside one document and one chunk."""

    token_start: Positions  # (segments,) in the batch
    token_end: Positions
    chunk_id: Positions
    chunk_token_start: Positions  # where the segment begins inside its chunk
    chunk_char_start: Positions


@dataclass(frozen=True)
class FoundMentions:
    """The mentions of a batch: rows of the mentions file, and where they are."""

    table: pa.Table
    document: Positions  # (mentions,) number in the batch
    char_start: Positions  # (mentions,) in the batch
    char_end: Positions
    token_start: Positions
    token_end: Positions
    out_of_range: int
    """Rows left out because their span is empty or ends behind the text."""


class Batch:
    """Documents and their tokens."""

    def __init__(self, documents: list[Document], encoded: Encoded) -> None:
        """Documents and what `TextEncoder.encode` made of their texts."""
        self.documents = documents
        self.encoded = encoded
        self.doc_bounds = encoded.doc_bounds
        self.doc_chars = np.array([len(document.text) for document in documents])
        self.first_chars = np.cumsum(self.doc_chars + 1) - self.doc_chars - 1  # (documents,) in the batch
        shift = np.repeat(self.first_chars, np.diff(encoded.doc_bounds))
        self.char_start = encoded.char_start + shift  # (tokens,) in the batch
        self.char_end = encoded.char_end + shift

    def find_mentions(self, mentions: MentionFile) -> FoundMentions:
        """The mentions of these documents.

        Raises:
            ValueError: mentions that were made for another text of the same document.
        """
        table, owner = mentions.rows_of([document.doc_id for document in self.documents])
        self._check_texts(table, owner)
        char_start, char_end = table["char_start"].to_numpy(), table["char_end"].to_numpy()
        valid = (char_start >= 0) & (char_start < char_end) & (char_end <= self.doc_chars[owner])
        table, owner = table.filter(valid), owner[valid]
        char_start = char_start[valid] + self.first_chars[owner]
        char_end = char_end[valid] + self.first_chars[owner]
        token_start, token_end = find_tokens(
            self.char_start, self.char_end, mention_start=char_start, mention_end=char_end
        )
        left_out = int(np.count_nonzero(~valid))
        return FoundMentions(table, owner, char_start, char_end, token_start, token_end, left_out)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return len(self.encoded.ids)

    @cached_property
    def characters(self) -> Unbreakable:
        """Runs of tokens that share a character."""
        shared = np.flatnonzero(self.char_start[1:] < self.char_end[:-1])  # token i and i + 1
        return merge_spans(shared, shared + 2)

    @cached_property
    def words(self) -> Unbreakable:
        """Runs of tokens that make up a word, in scripts that part words by spaces."""
        # One character of separation a document, as in `first_chars`.
        text = "".join(document.text + "\n" for document in self.documents)
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        of_word = WORD_CHARACTERS[np.minimum(codes, len(WORD_CHARACTERS) - 1)]
        border = self.char_end[:-1]  # (tokens - 1,) the character after each token
        inside = of_word[border] & of_word[border - 1] & (self.char_start[1:] == border)
        joined = np.flatnonzero(inside)  # token i and i + 1
        return merge_spans(joined, joined + 2)

    def documents_at(self, positions: Positions) -> Positions:
        """The numbers of the documents that hold these token positions."""
        document: Positions = np.searchsorted(self.doc_bounds[1:], positions, side="right")
        return document

    def count_chars(self, token_start: Positions, token_end: Positions) -> Positions:
        """Characters that runs of tokens cover."""
        chars: Positions = self.char_end[token_end - 1] - self.char_start[token_start]
        return chars

    def is_short_tail(
        self, token_start: Positions, token_end: Positions, min_length: int
    ) -> npt.NDArray[np.bool_]:
        """Which runs of tokens end a document and are shorter than the smallest bucket."""
        return np.isin(token_end, self.doc_bounds) & (token_end - token_start < min_length)

    def tokens_of(self, segments: Segments) -> npt.NDArray[np.uint32]:
        """The segments' tokens, one after the other."""
        if len(segments.token_start) == 0:
            return self.encoded.ids[:0]
        gaps = segments.token_start - np.concatenate([[0], segments.token_end[:-1]])
        lengths = segments.token_end - segments.token_start
        kept = np.repeat(np.tile([False, True], len(gaps)), np.stack([gaps, lengths], axis=1).ravel())
        return np.asarray(self.encoded.ids[: len(kept)][kept])

    def segment_rows(self, segments: Segments) -> pa.Table:
        """Rows of `segments.parquet`."""
        start, end = segments.token_start, segments.token_end
        return pa.table(
            {
                "chunk_id": segments.chunk_id,
                "chunk_token_start": segments.chunk_token_start,
                "chunk_token_end": segments.chunk_token_start + end - start,
                **self._ranges(start, end),
            }
        )

    def dropped_rows(self, start: Positions, end: Positions, reasons: list[str]) -> pa.Table:
        """Rows of `dropped.parquet` for runs of tokens."""
        return pa.table(
            {
                **self._ranges(start, end),
                "doc_token_end": end - self.doc_bounds[self.documents_at(start)],
                "num_tokens": end - start,
                "reason": pa.array(reasons, pa.string()),
                "place": pa.nulls(len(start), pa.string()),
            }
        )

    def document_rows(self, *, with_text: bool) -> pa.Table:
        """Rows of `documents.parquet`."""
        columns = {
            name: [getattr(d, name) for d in self.documents] for name in ("doc_id", "title", "source", "url")
        }
        if with_text:
            columns["text"] = [document.text for document in self.documents]
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})

    def project_mentions(self, found: FoundMentions, segments: Segments) -> tuple[pa.Table, dict[str, int]]:
        """Rows of `mentions.parquet`, and what became of the mentions."""
        pieces = Pieces(
            token_start=segments.token_start,
            token_end=segments.token_end,
            char_start=self.char_start[segments.token_start],
            char_end=self.char_end[segments.token_end - 1],
            chunk_token_start=segments.chunk_token_start,
            chunk_char_start=segments.chunk_char_start,
        )
        rows = project(
            pieces,
            token_start=found.token_start,
            token_end=found.token_end,
            char_start=found.char_start,
            char_end=found.char_end,
        )
        in_chunks = len(np.unique(rows.mention))
        counts = {
            "in_chunks": in_chunks,
            "cut_by_a_border": len(np.unique(rows.mention[rows.clipped])),
            "in_dropped_text": found.table.num_rows - in_chunks,
            "out_of_range": found.out_of_range,
        }
        copied = found.table.select(["doc_id", "char_start", "char_end", *COPIED]).take(rows.mention)
        names = ["doc_id", "doc_char_start", "doc_char_end", *COPIED]
        table = pa.table(
            {
                "chunk_id": segments.chunk_id[rows.piece],
                "token_start": rows.token_start,
                "token_end": rows.token_end,
                "char_start": rows.char_start,
                "char_end": rows.char_end,
                **dict(zip(names, copied.columns, strict=True)),
            }
        )
        return table, counts

    def _ranges(self, start: Positions, end: Positions) -> dict[str, pa.Array]:
        """Document, first token and characters of runs of tokens that each lie inside one document."""
        document = self.documents_at(start)
        ids = pa.array([d.doc_id for d in self.documents], pa.string())
        return {
            "doc_id": ids.take(pa.array(document)),
            "doc_token_start": pa.array(start - self.doc_bounds[document]),
            "char_start": pa.array(self.encoded.char_start[start]),
            "char_end": pa.array(self.encoded.char_end[end - 1]),
        }

    def _check_texts(self, table: pa.Table, owner: Positions) -> None:
        """Refuse mentions whose `text_sha256` is not that of their document."""
        if table["text_sha256"].null_count == table.num_rows:
            return
        mentioned = np.unique(owner)
        hashes = pa.array([hash_text(self.documents[i].text) for i in mentioned], pa.string())
        expected = hashes.take(pa.array(np.searchsorted(mentioned, owner)))
        differs = pc.fill_null(pc.not_equal(table["text_sha256"].combine_chunks(), expected), False)
        if (row := pc.index(differs, True).as_py()) >= 0:
            document = self.documents[owner[row]].doc_id
            raise ValueError(
                f"the mentions of document {document!r} were made for another text (its sha256 is "
                f"{expected[row].as_py()[:12]}, theirs {str(table['text_sha256'][row])[:12]}): "
                "annotate it again"
            )
