"""The chunks' texts and the phrase search over them, kept by tantivy in the folder `text`.

Words are cut by `words.py` and handed over separated by spaces, so that tantivy adds no rule of its own: once
as they are written, once in lower case, with their positions.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tantivy

from entity_index.query import Phrase
from entity_index.words import lower_case, spaced_words

WRITER_MEMORY = 128_000_000
CHUNKS_A_COMMIT = 1 << 18
"""A build that is killed loses at most so many."""


@dataclass(frozen=True)
class Chunk:
    """A chunk's text and the (first) document it comes from."""

    chunk_id: int
    text: str
    doc_id: str
    title: str
    """Empty where the document has none."""


class TextWriter:
    """Indexes chunks for phrase search, in order; what a stopped build has committed is kept.

    About 20,000 chunks of 1,000 characters in 2 s.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        index = tantivy.Index(_schema(), path=str(folder), reuse=True)
        self.num_chunks = int(index.searcher().num_docs)
        """How many chunks are in it: those with smaller ids."""
        self._writer = index.writer(heap_size=WRITER_MEMORY, num_threads=1)

    def add(self, chunk: Chunk) -> None:
        """Index the next chunk."""
        assert chunk.chunk_id == self.num_chunks, "chunks come in order, without gaps"
        self._writer.add_document(_document(chunk))
        self.num_chunks += 1
        if self.num_chunks % CHUNKS_A_COMMIT == 0:
            self._writer.commit()

    def __enter__(self) -> "TextWriter":
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is there; an unfinished build has use for it."""
        self._writer.commit()
        self._writer.wait_merging_threads()
        for file in self._folder.iterdir():
            file.chmod((self._folder / ".tantivy-meta.lock").stat().st_mode)  # some are for the owner only


def _document(chunk: Chunk) -> tantivy.Document:
    cased = spaced_words(chunk.text)
    document = tantivy.Document()
    document.add_unsigned("chunk_id", chunk.chunk_id)
    document.add_text("cased", cased)
    document.add_text("lower", lower_case(cased))
    for field in ("text", "doc_id", "title"):
        document.add_bytes(field, getattr(chunk, field).encode())
    return document


class Texts:
    """An opened text index."""

    def __init__(self, folder: Path) -> None:
        """Open the folder `write_texts` made; its files are memory-mapped."""
        self._schema = _schema()
        self._searcher = _open_searcher(folder)

    def chunks_with(self, phrase: Phrase) -> npt.NDArray[np.int64]:
        """Ids of the chunks that hold a phrase, ascending."""
        query = self._phrase_query(phrase)
        total = self._count(query)
        if not total:
            return np.empty(0, dtype=np.int64)
        found = self._searcher.search(query, limit=total, order_by_field="chunk_id", order=tantivy.Order.Asc)
        return np.fromiter((chunk_id for chunk_id, _ in found.hits), dtype=np.int64, count=total)

    def count(self, phrase: Phrase) -> int:
        """In how many chunks a phrase stands."""
        return self._count(self._phrase_query(phrase))

    def chunk(self, chunk_id: int) -> Chunk:
        """One chunk with its text."""
        query = tantivy.Query.term_query(self._schema, "chunk_id", chunk_id)
        (_, address), *_ = self._searcher.search(query, limit=1).hits
        document = self._searcher.doc(address)
        text, doc_id, title = (bytes(document[name][0]).decode() for name in ("text", "doc_id", "title"))
        return Chunk(chunk_id, text, doc_id, title)

    def _count(self, query: tantivy.Query) -> int:
        found: Any = self._searcher.search(query, limit=1, count=True)  # its types leave `count` out
        return int(found.count)

    def _phrase_query(self, phrase: Phrase) -> tantivy.Query:
        text = spaced_words(phrase.text)
        field, text = ("cased", text) if phrase.case_sensitive else ("lower", lower_case(text))
        wanted: list[str | tuple[int, str]] = list(text.split(" "))
        if len(wanted) == 1:
            return tantivy.Query.term_query(self._schema, field, wanted[0])
        return tantivy.Query.phrase_query(self._schema, field, wanted)


def _open_searcher(folder: Path) -> tantivy.Searcher:
    """tantivy locks a file even to read. Where that is forbidden, it gets a folder of links for a moment."""
    if os.access(folder / ".tantivy-meta.lock", os.W_OK):
        return tantivy.Index.open(str(folder)).searcher()
    with tempfile.TemporaryDirectory() as links:
        for file in folder.resolve().iterdir():
            if file.suffix != ".lock":
                (Path(links) / file.name).symlink_to(file)
        return tantivy.Index.open(links).searcher()


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("chunk_id", indexed=True, fast=True)
    builder.add_text_field("cased", tokenizer_name="whitespace")
    builder.add_text_field("lower", tokenizer_name="whitespace")
    for name in ("text", "doc_id", "title"):
        builder.add_bytes_field(name, stored=True)
    return builder.build()
