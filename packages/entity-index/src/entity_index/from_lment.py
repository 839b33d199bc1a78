"""What LMEnt published as a source of an index: chunks with texts and mentions, streamed, never unpacked.

The texts are decoded from `part-k-00000.npy`, the mentions and titles come from `part-k-00000.csv.gz`, read
once. A mention belongs to the chunk that holds all of it, as in LMEnt's own index. About 45 MB of the
unpacked CSV a second.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance import FormatError
from chunk_provenance.documents import Rejected
from chunk_provenance.hashing import hash_text
from chunk_provenance.published.lment_dataset import LMEntDataset, open_lment
from chunk_provenance.published.lment_documents import LMEntDocument, chunk_entities, stream_documents
from chunk_provenance.published.lment_store import mention_rows
from chunk_provenance.tokenizing import Encoded, TextEncoder, load_encoder
from entity_index.inputs import LARGEST_PUBLISHED, Input
from entity_index.source import MENTIONS, ChunkBatch, ChunkSource

BATCH_TOKENS = 1 << 18


@dataclass(frozen=True)
class Published:
    """The opened dataset, and what has been found amiss while it was read."""

    dataset: LMEntDataset
    encoder: TextEncoder
    found: Counter[str] = field(default_factory=Counter)

    @property
    def sha256(self) -> str:
        """A hash of the chunks, of what the CSV files are called and weigh, and of the tokenizer."""
        files = [shard.csv for shard in self.dataset.shards]
        listed = [f"{file.name} {file.stat().st_size}" for file in files if file is not None]
        return hash_text("\n".join([self.dataset.sha256, *listed, hash_text(self.encoder.content)]))


@dataclass(frozen=True)
class _Placed:
    """A document with the place of its tokens in its shard."""

    document: LMEntDocument
    token_start: int


def open_published(folder: str | Path, tokenizer: str | Path) -> Published:
    """Open LMEnt's dataset as downloaded, and the tokenizer of its models.

    Raises:
        FileNotFoundError: there is no such dataset, or a shard has no CSV.
        FormatError: a file is cut off, or files contradict each other.
    """
    dataset = open_lment(folder)
    for shard in dataset.shards:
        if shard.csv is None:
            raise FileNotFoundError(f"no {shard.name}.csv.gz in {str(folder)!r}: it holds the mentions")
    return Published(dataset, load_encoder(Path(tokenizer)))


def lment_source(published: Published) -> ChunkSource:
    """As a source of any backend."""
    dataset = published.dataset

    def stream() -> Iterator[ChunkBatch]:
        published.found.clear()  # it may be read more than once
        return stream_batches(published)

    return ChunkSource(str(dataset.path), published.sha256, dataset.num_chunks, stream)


def lment_input(published: Published) -> Input:
    """As a source of the embedded index, which goes on from any chunk."""
    dataset = published.dataset
    return Input(
        mentions_name=repr(str(dataset.path)),
        sha256=published.sha256,
        num_chunks=dataset.num_chunks,
        streams=lambda first_chunk: stream_batches(published, first_chunk=first_chunk),
        largest_score=LARGEST_PUBLISHED,
    )


def stream_batches(
    published: Published, *, first_chunk: int = 0, batch_tokens: int = BATCH_TOKENS
) -> Iterator[ChunkBatch]:
    """All chunks in the order of their ids, from the shard on that holds `first_chunk`.

    Rows of mentions count from the first chunk of the stream.

    Raises:
        FormatError: the tokens are not of the tokenizer, or the CSV files not those of the chunks.
    """
    first_row = 0
    for documents in _batches(_documents(published, first_chunk), batch_tokens):
        batch = _make_batch(published, documents, first_row)
        first_row += len(batch.mentions)
        yield batch


def describe_found(found: Counter[str]) -> list[str]:
    """What was amiss, in sentences; nothing where nothing was."""
    sentences = {
        "bad_lines": "lines of the CSV could not be used: their documents have no title and no mentions",
        "documents_without_line": "documents have no usable line of the CSV",
        "other_offsets": "documents have other offsets in the CSV than their tokens: no mentions",
    }
    return [f"{found[name]:,} {words}" for name, words in sentences.items() if found[name]]


def _documents(published: Published, first_chunk: int) -> Iterator[_Placed]:
    """The documents of the shards from the one that holds a chunk on; those without chunks are left out."""
    dataset = published.dataset
    for number, shard in enumerate(dataset.shards):
        if dataset.first_chunks[number + 1] <= first_chunk:
            continue
        alone = replace(dataset, shards=(shard,), first_chunks=dataset.first_chunks[number : number + 2])
        token_start = 0
        for document in stream_documents(alone, eos_id=published.encoder.eos_id):
            if isinstance(document, Rejected):
                published.found["bad_lines"] += 1
                continue
            published.found["documents_without_line"] += document.row is None
            if len(document.chunks):
                yield _Placed(document, token_start)
            token_start += len(document.tokens)


def _batches(documents: Iterator[_Placed], batch_tokens: int) -> Iterator[list[_Placed]]:
    batch: list[_Placed] = []
    size = 0
    for placed in documents:
        batch.append(placed)
        size += len(placed.document.tokens)
        if size >= batch_tokens:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _make_batch(published: Published, batch: Sequence[_Placed], first_row: int) -> ChunkBatch:
    documents = [placed.document for placed in batch]
    texts, encoded = _decode(published.encoder, documents)
    owners = [number for number, document in enumerate(documents) for _ in document.chunks]
    starts = np.array([placed.token_start for placed in batch])[owners]
    lengths = np.array([len(document.tokens) for document in documents])[owners]
    chunk_texts: list[str] = []
    rows: list[dict[str, Any]] = []
    for document, text, char_start, char_end in zip(documents, texts, *_spans(encoded), strict=True):
        begins, ends = char_start[document.chunks[:, 0]], char_end[document.chunks[:, 1] - 1]
        chunk_texts += [text[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        if document.row is None:
            continue
        offsets = np.stack([char_start[:-1], char_end[:-1]], axis=1)
        if np.array_equal(offsets, document.row.char_offsets):
            rows += _mention_rows(document)
        else:
            published.found["other_offsets"] += 1
    return ChunkBatch(
        chunk_ids=documents[0].first_chunk + np.arange(len(owners)),
        texts=chunk_texts,
        doc_ids=[documents[owner].doc_id for owner in owners],
        titles=[documents[owner].title or "" for owner in owners],
        doc_sources=[documents[owner].source for owner in owners],
        doc_token_start=starts,
        doc_token_end=starts + lengths,
        mentions=_table(rows, first_row),
    )


def _decode(encoder: TextEncoder, documents: Sequence[LMEntDocument]) -> tuple[list[str], Encoded]:
    ids = np.concatenate([document.tokens for document in documents])
    bounds = np.cumsum([0, *(len(document.tokens) for document in documents)])
    try:
        return encoder.decode(ids, bounds)
    except ValueError as error:
        raise FormatError(
            f"the tokens of the documents {documents[0].doc_id!r} to {documents[-1].doc_id!r} are not of "
            f"this tokenizer ({error}): give the one of the dataset"
        ) from None


def _spans(encoded: Encoded) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]:
    """Of each document, the first character of every token, and one past its last."""
    borders = encoded.doc_bounds[1:-1]
    return np.split(encoded.char_start, borders), np.split(encoded.char_end, borders)


def _mention_rows(document: LMEntDocument) -> list[dict[str, Any]]:
    """The rows of a document's chunks, in the order of their chunk and place."""
    return [
        {"chunk_id": chunk.chunk_id, **row}
        for chunk in chunk_entities(document)
        for entity in sorted(chunk.entities, key=lambda entity: (entity["char_start"], entity["char_end"]))
        if entity["char_start"] < entity["char_end"]
        for row in mention_rows(document.doc_id, entity)
    ]


def _table(rows: list[dict[str, Any]], first_row: int) -> pa.Table:
    names = [name for name in MENTIONS.names if name != "row"]
    columns = {name: pa.array([row.get(name) for row in rows], MENTIONS.field(name).type) for name in names}
    return pa.table({"row": pa.array(range(first_row, first_row + len(rows)), pa.int64()), **columns})
