"""Encoded documents on their way from the tokenizer to the chunk store, in memory or in part files.

Encoding takes nearly all the time of a build and every piece of the input can be encoded by itself, so pieces
are what processes and machines share out, and what a build that was killed need not do again. A part file is
an Arrow file (`00012.arrow`, one record batch for every million characters) and appears when it is whole.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.documents import Document, Rejected, count_lines, name_place, read_piece
from chunk_provenance.formats import FormatError, write_json
from chunk_provenance.places import exists, local_copy, publish, scratch_folder
from chunk_provenance.sources import Piece
from chunk_provenance.tokenizing import Encoded, TextEncoder

BATCH_CHARS = 1 << 20

SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("number", pa.int64()),  # of its line in the piece, or of its row in the source
        ("reason", pa.string()),  # why it is no document; null for a document
        ("ids", pa.list_(pa.uint32())),
        ("char_start", pa.list_(pa.int32())),
        ("char_end", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class EncodedBatch:
    """Documents with their tokens, and what stood between them that is no document."""

    documents: list[Document]
    places: list[str]  # where each document stands
    encoded: Encoded
    rejected: list[Rejected]

    def select(self, kept: npt.NDArray[np.bool_]) -> "EncodedBatch":
        """The chosen documents, without what was rejected."""
        encoded = self.encoded
        lengths = np.diff(encoded.doc_bounds)
        tokens = np.repeat(kept, lengths)
        bounds = np.concatenate([[0], np.cumsum(lengths[kept])])
        return EncodedBatch(
            [document for document, keep in zip(self.documents, kept, strict=True) if keep],
            [place for place, keep in zip(self.places, kept, strict=True) if keep],
            Encoded(encoded.ids[tokens], encoded.char_start[tokens], encoded.char_end[tokens], bounds),
            [],
        )


def encode_documents(
    documents: Iterable[Document | Rejected], encoder: TextEncoder, *, batch_chars: int = BATCH_CHARS
) -> Iterator[EncodedBatch]:
    """Documents in batches of about `batch_chars` characters, encoded."""
    for batch in _gather(((0, document) for document in documents), batch_chars):
        found = [document for _, document in batch if isinstance(document, Document)]
        rejected = [document for _, document in batch if isinstance(document, Rejected)]
        places = [f"document {document.doc_id}" for document in found]
        yield EncodedBatch(found, places, encoder.encode([d.text for d in found]), rejected)


def encode_piece(
    piece: Piece, encoder: TextEncoder, columns: Mapping[str, str], where: str, *, first_of_source: bool
) -> int:
    """Encode a piece into the part file `where`.arrow, with `where`.json beside it when that is done.

    Returns:
        The number of characters.
    """
    characters = 0
    with scratch_folder(where) as folder:
        file = folder / "part"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
            for batch in _gather(read_piece(piece, columns), BATCH_CHARS):
                rows = _encode_rows(batch, encoder)
                characters += sum(len(d.text) for _, d in batch if isinstance(d, Document))
                writer.write_batch(rows)
        note = {
            "lines": count_lines(piece) if piece.by_bytes else 0,
            "fingerprint": piece.source.fingerprint() if first_of_source else None,
        }
        write_json(note, folder / "note")
        publish(file, f"{where}.arrow")
        publish(folder / "note", f"{where}.json")
    return characters


def is_encoded(where: str) -> bool:
    """Whether a part file is there."""
    return exists(f"{where}.json")


def read_note(where: str) -> dict[str, Any]:
    """What stands beside a part file: its number of lines, and the fingerprint of the source it begins."""
    with local_copy(f"{where}.json") as file:
        note: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return note


def read_part(piece: Piece, where: str, *, lines_before: int) -> Iterator[EncodedBatch]:
    """The batches of a part file.

    Raises:
        FormatError: the file is damaged.
    """
    with local_copy(f"{where}.arrow") as file, pa.memory_map(str(file)) as source:
        try:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield _decode_rows(reader.get_batch(number), piece, lines_before)
        except pa.ArrowInvalid as error:
            raise FormatError(f"{where}.arrow is damaged ({error}): remove it and build again") from error


def _gather(
    documents: Iterable[tuple[int, Document | Rejected]], batch_chars: int
) -> Iterator[list[tuple[int, Document | Rejected]]]:
    batch: list[tuple[int, Document | Rejected]] = []
    size = 0
    for number, document in documents:
        batch.append((number, document))
        size += len(document.text) if isinstance(document, Document) else 100
        if size >= batch_chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_rows(batch: list[tuple[int, Document | Rejected]], encoder: TextEncoder) -> pa.RecordBatch:
    """Rows of a part file: documents and what is none, in their order."""
    texts = [document.text for _, document in batch if isinstance(document, Document)]
    encoded = encoder.encode(texts)
    lengths = np.zeros(len(batch), dtype=np.int32)
    lengths[[isinstance(document, Document) for _, document in batch]] = np.diff(encoded.doc_bounds)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = [
        [getattr(document, name, None) for _, document in batch]
        for name in ("doc_id", "title", "source", "url", "text")
    ]
    columns += [[number for number, _ in batch], [getattr(d, "reason", None) for _, d in batch]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=False)]
    for values, kind in (
        (encoded.ids, pa.uint32()),
        (encoded.char_start, pa.int32()),
        (encoded.char_end, pa.int32()),
    ):
        arrays.append(pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind)))
    return pa.record_batch(arrays, schema=SCHEMA)


def _decode_rows(rows: pa.RecordBatch, piece: Piece, lines_before: int) -> EncodedBatch:
    used = rows["reason"].is_null().to_numpy(zero_copy_only=False)
    bounds = rows["ids"].offsets.to_numpy()
    lengths = np.diff(bounds)[used]
    ids, start, end = (rows[name].values.to_numpy() for name in ("ids", "char_start", "char_end"))
    encoded = Encoded(
        ids, start.astype(np.int64), end.astype(np.int64), np.concatenate([[0], np.cumsum(lengths)])
    )
    numbers = rows["number"].to_numpy() + lines_before
    places = [name_place(piece.source, int(number)) for number in numbers]
    columns = [rows[name].to_pylist() for name in ("doc_id", "text", "title", "source", "url", "reason")]
    documents, kept, rejected = [], [], []
    for place, doc_id, text, title, source, url, reason in zip(places, *columns, strict=True):
        if reason is None:
            documents.append(Document(doc_id, text, title, source, url))
            kept.append(place)
        else:
            rejected.append(replace(Rejected("", reason, doc_id), place=place))
    return EncodedBatch(documents, kept, encoded, rejected)
