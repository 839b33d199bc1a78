"""LMEnt's documents with their chunks, as one stream over all shards, in the order of the chunk ids.

Every token of the shards belongs to exactly one document of the stream. Where the CSV has no usable line for
a stretch of tokens, it is cut at the end tokens into documents without title and mentions, named by shard and
token: a broken line costs its annotations, which is said, and no chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.documents import Rejected
from chunk_provenance.formats import FormatError
from chunk_provenance.published.lment_csv import LMEntRow, read_lment_csv
from chunk_provenance.published.lment_dataset import LMEntDataset, LMEntShard

LMENT_EOS = 100257


@dataclass(frozen=True)
class LMEntDocument:
    """A document, its tokens and the borders of its chunks."""

    doc_id: str
    title: str | None
    source: str
    tokens: npt.NDArray[np.uint32]  # (tokens,) its end token included
    first_chunk: int
    """Id of its first chunk; the others follow."""
    chunks: npt.NDArray[np.int64]  # (chunks, 2) first token of each and one past its last, in the document
    row: LMEntRow | None
    """Its line of the CSV; None where there is no usable one."""


@dataclass(frozen=True)
class LMEntChunkEntities:
    """The mentions that lie wholly in one chunk, and the chunk's characters in its document."""

    chunk_id: int
    char_start: int
    char_end: int
    entities: list[dict[str, Any]]
    """As published, `char_start` and `char_end` counted from the chunk's first character."""


def stream_documents(
    dataset: LMEntDataset, *, eos_id: int = LMENT_EOS, metadata: bool = True
) -> Iterator[LMEntDocument | Rejected]:
    """All documents, and the lines that are none as `Rejected`, while the CSV files are read.

    Without `metadata` no CSV file is touched: every document is as one whose line is missing.

    Raises:
        FileNotFoundError: a shard has no CSV.
        FormatError: a CSV cannot be unpacked to its end, or its documents are not those of the chunks.
    """
    for number, shard in enumerate(dataset.shards):
        if not metadata:
            yield from _Tiles(shard, int(dataset.first_chunks[number]), eos_id).without_row(len(shard.tokens))
            continue
        if shard.csv is None:
            raise FileNotFoundError(
                f"no {shard.name}.csv.gz in {str(dataset.path)!r}: it holds the documents"
            )
        yield from _stream_shard(shard, int(dataset.first_chunks[number]), eos_id)


def _stream_shard(shard: LMEntShard, first_chunk: int, eos_id: int) -> Iterator[LMEntDocument | Rejected]:
    assert shard.csv is not None
    tiles = _Tiles(shard, first_chunk, eos_id)
    for row in read_lment_csv(shard.csv):
        if isinstance(row, Rejected):
            yield row
        elif row.token_end > len(shard.tokens):
            yield Rejected(f"{shard.csv.name}, id {row.doc_id}", "tokens beyond its shard", row.doc_id)
        elif row.token_start < tiles.position:
            yield Rejected(f"{shard.csv.name}, id {row.doc_id}", "tokens of an earlier document", row.doc_id)
        else:
            yield from tiles.without_row(row.token_start)
            yield tiles.next(row.token_end, row)
    yield from tiles.without_row(len(shard.tokens))


class _Tiles:
    """The documents of a shard, one after the other without gaps."""

    def __init__(self, shard: LMEntShard, first_chunk: int, eos_id: int) -> None:
        self.position = 0
        self._shard, self._first_chunk, self._eos_id = shard, first_chunk, eos_id
        self._starts = shard.borders[:, 0].astype(np.int64)
        self._chunk = 0  # the first one that is not yet in a document

    def without_row(self, end: int) -> Iterator[LMEntDocument]:
        """The stretch up to the next line, cut behind each end token."""
        found = np.flatnonzero(self._shard.tokens[self.position : end] == self._eos_id) + 1
        for stop in [*(self.position + found).tolist(), end]:
            if stop > self.position:
                yield self.next(stop, None)

    def next(self, end: int, row: LMEntRow | None) -> LMEntDocument:
        """The document from here to `end`."""
        shard, start, first = self._shard, self.position, self._chunk
        beyond = first + int(np.searchsorted(self._starts[first : first + end - start], end))
        chunks = shard.borders[first:beyond].astype(np.int64) - start
        if len(chunks) and chunks[-1, 1] > end - start:
            raise FormatError(
                f"{str(shard.csv)!r} says that a document is at the tokens {start:,} to {end:,}, chunk "
                f"{self._first_chunk + beyond - 1} crosses its end: these are not the documents of the chunks"
            )
        self.position, self._chunk = end, beyond
        return LMEntDocument(
            doc_id=f"{shard.name}:{start}" if row is None else row.doc_id,
            title=None if row is None else row.title,
            source=shard.name if row is None else row.source,
            tokens=shard.tokens[start:end],
            first_chunk=self._first_chunk + first,
            chunks=chunks,
            row=row,
        )


def chunk_entities(document: LMEntDocument) -> list[LMEntChunkEntities]:
    """The mentions of each chunk as LMEnt's data loader gives them: those wholly inside its characters."""
    if document.row is None or not len(document.row.char_offsets):
        return []
    offsets, found = document.row.char_offsets, []
    for number, (start, end) in enumerate(document.chunks.tolist()):
        begin = int(offsets[min(start, len(offsets) - 1), 0])
        stop = int(offsets[min(end, len(offsets)) - 1, 1])
        inside = [
            {**entity, "char_start": entity["char_start"] - begin, "char_end": entity["char_end"] - begin}
            for entity in document.row.entities
            if begin <= entity["char_start"] and entity["char_end"] <= stop
        ]
        found.append(LMEntChunkEntities(document.first_chunk + number, begin, stop, inside))
    return found
