"""Make an ordinary chunk store of LMEnt's dataset, with its chunk ids, in memory that does not grow with it.

The texts are decoded from the tokens; the CSV gives ids, titles and mentions. A mention is kept in the chunk
that holds all of it, as LMEnt's index has it. What LMEnt left out of its chunks is listed with the reason,
and so is every line of the CSV that could not be used.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from chunk_provenance.batch import COPIED, Batch, FoundMentions, Segments
from chunk_provenance.build import rejected_row
from chunk_provenance.documents import DUPLICATE, Document, Rejected
from chunk_provenance.formats import FormatError
from chunk_provenance.hashing import hash_text
from chunk_provenance.packing import Positions
from chunk_provenance.projecting import find_tokens
from chunk_provenance.published.lment_dataset import LMEntDataset, padded_lengths
from chunk_provenance.published.lment_documents import LMEntDocument, stream_documents
from chunk_provenance.store import MENTIONS
from chunk_provenance.store_writer import StoreWriter
from chunk_provenance.tokenizing import TextEncoder

BATCH_TOKENS = 1 << 19
SHORT_TAIL = "a tail that LMEnt cuts off: shorter than its smallest bucket"
REST = "left out by LMEnt behind a mention that no chunk border may cut"
OTHER_OFFSETS = "the offsets in the CSV are not those of the tokens: its mentions are left out"
SOURCES = {
    "hyperlink": "hyperlinks",
    "entity_linking": "entity_linking",
    "coref": "coref",
    "coref_cluster": "coref_cluster",
}
FOUND = pa.schema(
    [("doc_id", pa.string()), ("char_start", pa.int64()), ("char_end", pa.int64())]
    + [MENTIONS.field(name) for name in COPIED]
)


def import_lment(
    dataset: LMEntDataset,
    store: str | Path,
    *,
    encoder: TextEncoder,
    min_length: int = 64,
    with_text: bool = True,
    overwrite: bool = False,
    inputs: dict[str, Any] | None = None,
    documents: Iterable[LMEntDocument | Rejected] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> None:
    """Write the chunk store; it appears complete or not at all.

    Args:
        dataset: from `open_lment`.
        store: the folder to make.
        encoder: LMEnt's tokenizer.
        min_length: LMEnt's smallest padded length; chunks of half of it or less are never trained on.
        with_text: keep the documents' texts in the store.
        overwrite: replace a chunk store that is there.
        inputs: what the store is made from, for `meta.json`.
        documents: `stream_documents` of the dataset, where the caller watches it.
        batch_tokens: about how many tokens to hold in memory; the result does not depend on it.

    Raises:
        FileNotFoundError: a shard has no CSV.
        FormatError: a CSV is cut off or another dataset's, or the tokens are not of this tokenizer.
        FileExistsError: `store` exists.
    """
    if documents is None:
        documents = stream_documents(dataset, eos_id=encoder.eos_id)
    with StoreWriter(store, with_text=with_text, overwrite=overwrite) as writer:
        part = _Import(writer, encoder, min_length, with_text)
        for batch in _batches(part.note_rejected(documents), batch_tokens):
            part.add(batch)
        if writer.num_chunks != dataset.num_chunks:
            raise FormatError(
                f"{str(dataset.path)!r} has {dataset.num_chunks:,} chunks, its documents hold "
                f"{writer.num_chunks:,} of them: the CSV files are not those of the chunks"
            )
        part.seal({"inputs": inputs, "lment": {"sha256": dataset.sha256, **part.counts}})


def _batches(documents: Iterable[LMEntDocument], batch_tokens: int) -> Iterator[list[LMEntDocument]]:
    batch: list[LMEntDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.tokens)
        if size >= batch_tokens:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Import:
    """The store being written, and what has been counted so far."""

    def __init__(self, writer: StoreWriter, encoder: TextEncoder, min_length: int, with_text: bool) -> None:
        self.writer, self.encoder, self.min_length, self.with_text = writer, encoder, min_length, with_text
        self.counts: Counter[str] = Counter(
            dict.fromkeys(["never_trained", "documents_without_line", "bad_lines", "other_offsets"], 0)
        )
        self.mention_counts: Counter[str] = Counter()
        self._seen: set[str] = set()

    def note_rejected(self, documents: Iterable[LMEntDocument | Rejected]) -> Iterator[LMEntDocument]:
        """The documents; lines that are none go to `dropped.parquet` on the way."""
        for document in documents:
            if isinstance(document, Rejected):
                self.counts["bad_lines"] += 1
                self.writer.append(dropped=rejected_row(document))
            else:
                self.counts["documents_without_line"] += document.row is None
                yield document

    def add(self, documents: list[LMEntDocument]) -> None:
        """Decode and write some documents."""
        batch = self._decode(documents)
        segments = _segments(batch, documents)
        lengths = segments.token_end - segments.token_start
        starts = self.writer.num_tokens + np.cumsum(lengths) - lengths
        chunks = {"chunk_id": segments.chunk_id, "token_start": starts, "length": lengths}
        self.counts["never_trained"] += int(np.count_nonzero(lengths <= self.min_length // 2))
        rows, counts = batch.project_mentions(self._find_mentions(batch, documents), segments)
        self.mention_counts.update(counts)
        self.writer.append(
            tokens=batch.tokens_of(segments),
            chunks=pa.table({**chunks, "bucket": padded_lengths(lengths.astype(np.int32))}),
            segments=batch.segment_rows(segments),
            documents=batch.document_rows(with_text=self.with_text),
            mentions=rows.filter(pa.array(_is_whole(rows))),
        )
        self.writer.append(dropped=batch.dropped_rows(*_left_out(batch, segments, self.min_length)))

    def seal(self, meta: dict[str, Any]) -> None:
        """Finish the store."""
        tokenizer = {
            "eos_id": self.encoder.eos_id,
            "pad_id": self.encoder.pad_id,
            "vocab_size": self.encoder.vocab_size,
            "sha256": hash_text(self.encoder.content),
        }
        # LMEnt keeps a mention in the chunk that holds all of it.
        self.mention_counts["in_chunks"] -= self.mention_counts["cut_by_a_border"]
        meta = {**meta, "tokenizer": tokenizer, "mentions": dict(self.mention_counts)}
        self.writer.seal(tokenizer_json=self.encoder.content, meta=meta)

    def _decode(self, documents: list[LMEntDocument]) -> Batch:
        ids = np.concatenate([document.tokens for document in documents])
        bounds = np.cumsum([0] + [len(document.tokens) for document in documents])
        try:
            texts, encoded = self.encoder.decode(ids, bounds)
        except ValueError as error:
            raise FormatError(
                f"the tokens of the documents {documents[0].doc_id!r} to {documents[-1].doc_id!r} are not of "
                f"this tokenizer ({error}): give the one of the dataset"
            ) from None
        named = zip(documents, texts, strict=True)
        return Batch([Document(self._new_id(d), text, d.title, d.source) for d, text in named], encoded)

    def _new_id(self, document: LMEntDocument) -> str:
        """The document's id; one that another document has gets its first chunk added, and is listed."""
        doc_id = document.doc_id
        if doc_id in self._seen:
            rejected = Rejected(f"{document.source}, chunk {document.first_chunk}", DUPLICATE, doc_id)
            self.counts["bad_lines"] += 1
            self.writer.append(dropped=rejected_row(rejected))
            doc_id = f"{doc_id}:{document.first_chunk}"
        self._seen.add(doc_id)
        return doc_id

    def _find_mentions(self, batch: Batch, documents: list[LMEntDocument]) -> FoundMentions:
        owners: list[int] = []
        rows: list[dict[str, Any]] = []
        for number, (start, document) in enumerate(zip(batch.doc_bounds.tolist(), documents, strict=False)):
            if document.row is None:
                continue
            stop = start + len(document.row.char_offsets)
            spans = [batch.encoded.char_start[start:stop], batch.encoded.char_end[start:stop]]
            if not np.array_equal(np.stack(spans, axis=1), document.row.char_offsets):
                self._note_other_offsets(document)
                continue
            doc_id = batch.documents[number].doc_id
            found = [row for entity in document.row.entities for row in mention_rows(doc_id, entity)]
            owners += [number] * len(found)
            rows += found
        return _place_mentions(
            batch, pa.Table.from_pylist(rows, schema=FOUND), np.array(owners, dtype=np.int64)
        )

    def _note_other_offsets(self, document: LMEntDocument) -> None:
        self.counts["other_offsets"] += 1
        place = f"{document.source}, chunk {document.first_chunk}"
        self.writer.append(dropped=rejected_row(Rejected(place, OTHER_OFFSETS, document.doc_id)))


def mention_rows(doc_id: str, entity: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per candidate of a published mention, best first; one without entity where it has none."""
    place = {
        "doc_id": doc_id,
        "char_start": entity["char_start"],
        "char_end": entity["char_end"],
        "surface": entity["text_mention"],
    }
    rows = [
        {
            **place,
            "entity": candidate["qid"],
            "name": candidate.get("name") or None,
            "score": candidate["aggregated_score"],
            **{ours: candidate["scores_by_source"].get(theirs, 0.0) for ours, theirs in SOURCES.items()},
        }
        for candidate in entity["candidates"]
    ]
    return sorted(rows, key=lambda row: (-row["score"], row["entity"] or "")) or [place]


def _place_mentions(batch: Batch, table: pa.Table, owner: Positions) -> FoundMentions:
    """Where the rows are in the batch; those outside their text are left out and counted."""
    char_start, char_end = table["char_start"].to_numpy(), table["char_end"].to_numpy()
    valid = (char_start >= 0) & (char_start < char_end) & (char_end <= batch.doc_chars[owner])
    table, owner = table.filter(pa.array(valid)), owner[valid]
    char_start, char_end = (part[valid] + batch.first_chars[owner] for part in (char_start, char_end))
    tokens = find_tokens(batch.char_start, batch.char_end, mention_start=char_start, mention_end=char_end)
    return FoundMentions(table, owner, char_start, char_end, *tokens, int(np.count_nonzero(~valid)))


def _segments(batch: Batch, documents: list[LMEntDocument]) -> Segments:
    """LMEnt's chunks, one segment each."""
    starts = batch.doc_bounds[:-1]
    placed = [d.chunks + start for d, start in zip(documents, starts.tolist(), strict=True)]
    borders = np.concatenate([np.empty((0, 2), dtype=np.int64), *placed])
    ids = [np.arange(d.first_chunk, d.first_chunk + len(d.chunks)) for d in documents]
    nothing = np.zeros(len(borders), dtype=np.int64)
    return Segments(borders[:, 0], borders[:, 1], np.concatenate(ids), nothing, nothing)


def _left_out(batch: Batch, segments: Segments, min_length: int) -> tuple[Positions, Positions, list[str]]:
    """Runs of tokens that are in no chunk, and why."""
    starts = np.sort(np.concatenate([batch.doc_bounds[:-1], segments.token_end]))
    ends = np.sort(np.concatenate([batch.doc_bounds[1:], segments.token_start]))
    starts, ends = starts[starts < ends], ends[starts < ends]
    return starts, ends, np.where(ends - starts < min_length, SHORT_TAIL, REST).tolist()


def _is_whole(rows: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which mentions lie wholly in their chunk."""
    names = ("char_start", "char_end", "doc_char_start", "doc_char_end")
    start, end, doc_start, doc_end = (rows[name].to_numpy() for name in names)
    whole: np.ndarray[Any, np.dtype[np.bool_]] = end - start == doc_end - doc_start
    return whole
