"""Build a chunk store: documents and mentions in, tokens that know where they come from out.

Documents come encoded, in batches of about a million characters (encoding.py), and are cut and written batch
by batch, so memory does not grow with the corpus (but for the ids seen: about 100 bytes a document).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.batch import Batch, FoundMentions, Segments
from chunk_provenance.cutting import cut_documents
from chunk_provenance.documents import DUPLICATE, Rejected
from chunk_provenance.encoding import EncodedBatch
from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.mentions import MentionFile
from chunk_provenance.packing import (
    Positions,
    bucket_of,
    check_lengths,
    merge_spans,
    pack_fixed,
)
from chunk_provenance.store import DROPPED
from chunk_provenance.store_writer import StoreWriter
from chunk_provenance.tokenizing import TextEncoder

NO_SPANS = merge_spans(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Packing:
    """How documents are cut; see packing.py."""

    kind: Literal["buckets", "fixed", "lment"] = "buckets"
    min_length: int = 16
    max_length: int = 256
    tails: Literal["keep", "drop"] = "keep"
    """Of `buckets`; LMEnt's rule always drops them."""
    eos: Literal["end", "last"] = "end"
    """See end_tokens.py."""

    def check(self) -> None:
        """Refuse settings that contradict each other."""
        if self.kind != "fixed":
            check_lengths(self.min_length, self.max_length)
            return
        if self.max_length < 2:
            raise ValueError(f"--max-length {self.max_length} is too short for a chunk")
        if self.tails == "drop":
            raise ValueError(
                "--tails drop has no meaning with --packing fixed: only the last chunk of all can be short, "
                "it is padded"
            )
        if self.eos == "last":
            raise ValueError("--eos last has no meaning with --packing fixed: no document's end is dropped")


def build_store(
    path: str | Path,
    batches: Iterable[EncodedBatch],
    *,
    encoder: TextEncoder,
    packing: Packing,
    mentions: MentionFile | None = None,
    with_text: bool = True,
    validation_fraction: float = 0.0,
    inputs: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a chunk store, and another one inside it (`validation`) where a fraction is held back for that.

    Args:
        path: the folder to make; it appears complete or not at all.
        batches: from `encode_documents` or `read_part`; of documents with the same id the first one is kept.
        encoder: the tokenizer.
        packing: how documents are cut.
        mentions: who is mentioned where.
        with_text: keep the documents' texts in the store.
        validation_fraction: share of documents, chosen by a hash of their id, that go to `path/validation`.
        inputs: what the store is made from, for `meta.json`; see `differences`.
        overwrite: replace a chunk store at `path`.

    Raises:
        FileExistsError: `path` exists.
        ValueError: no usable document, settings that contradict each other, or mentions of another text.
    """
    packing.check()
    with ExitStack() as unfinished:
        writer = unfinished.enter_context(StoreWriter(path, with_text=with_text, overwrite=overwrite))
        training = _Part(writer, encoder, packing, with_text)
        validation = None
        if validation_fraction:
            inside = StoreWriter(writer.folder / "validation", with_text=with_text)
            validation = _Part(unfinished.enter_context(inside), encoder, packing, with_text)
        seen: set[str] = set()
        for batch in batches:
            new = np.array([_is_new(document.doc_id, seen) for document in batch.documents], dtype=bool)
            training.reject([*batch.rejected, *_duplicates(batch, new)])
            held_back = np.array(
                [bool(validation) and is_held_back(d.doc_id, validation_fraction) for d in batch.documents],
                dtype=bool,
            )
            training.add(batch.select(new & ~held_back), mentions)
            if validation is not None:
                validation.add(batch.select(new & held_back), mentions)
        meta: dict[str, Any] = {"inputs": inputs}
        if validation is not None:
            _check_shares(training, validation, validation_fraction)
            meta["validation_meta_sha256"] = validation.seal(meta)
        if mentions is not None:
            rows, examples = mentions.unclaimed()
            meta["mentions_of_other_documents"] = {"rows": rows, "examples": examples}
        if writer.num_documents == 0:
            raise ValueError(describe_reasons(training.rejected))
        training.seal(meta)


def is_held_back(doc_id: str, fraction: float) -> bool:
    """Whether a document belongs to the validation set: a fixed property of its id.

    >>> sum(is_held_back(str(i), 0.1) for i in range(1000))
    106
    """
    digest = hashlib.sha256(doc_id.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What two records of inputs differ in, as sentences' ends.

    >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    ['b.c is 2, not 3']
    """
    ends = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            ends += [f"{key}.{end}" for end in differences(old, new)]
        elif old != new:
            ends.append(f"{key} is {_short(old)}, not {_short(new)}")
    return ends


def _short(value: Any) -> str:
    words = json.dumps(value, ensure_ascii=False)
    return words if len(words) <= 40 else words[:37] + "..."


def _is_new(doc_id: str, seen: set[str]) -> bool:
    """Whether an id comes for the first time."""
    before = len(seen)
    seen.add(doc_id)
    return len(seen) > before


def _duplicates(batch: EncodedBatch, new: npt.NDArray[np.bool_]) -> list[Rejected]:
    return [
        Rejected(batch.places[i], DUPLICATE, batch.documents[i].doc_id) for i in np.flatnonzero(~new).tolist()
    ]


class _Part:
    """One store being built: what has been written so far, and where the next batch continues."""

    def __init__(self, writer: StoreWriter, encoder: TextEncoder, packing: Packing, with_text: bool) -> None:
        self.writer = writer
        self.encoder = encoder
        self.packing = packing
        self.with_text = with_text
        self.mention_counts: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._open_chars = 0  # fixed packing: characters in the chunk that the next batch continues

    def reject(self, rejected: list[Rejected]) -> None:
        """Write down what is no usable document."""
        for document in rejected:
            self.rejected[document.reason] += 1
            self.writer.append(dropped=rejected_row(document))

    def add(self, encoded: EncodedBatch, mentions: MentionFile | None) -> None:
        """Cut and write some documents."""
        if not encoded.documents:
            return
        batch = Batch(encoded.documents, encoded.encoded)
        found = None if mentions is None else batch.find_mentions(mentions)
        segments = (
            self._cut_fixed(batch) if self.packing.kind == "fixed" else self._cut_documents(batch, found)
        )
        if found is not None:
            rows, counts = batch.project_mentions(found, segments)
            self.writer.append(mentions=rows)
            self.mention_counts.update(counts)
        self.writer.append(chunks=self._chunk_rows(segments))
        self.writer.append(
            tokens=batch.tokens_of(segments),
            segments=batch.segment_rows(segments),
            documents=batch.document_rows(with_text=self.with_text),
        )

    def seal(self, meta: dict[str, Any]) -> str:
        """Finish the store; the hash of its `meta.json`."""
        if self.packing.kind == "fixed":
            self.writer.append(chunks=self._last_fixed_chunk())
        tokenizer = {
            "eos_id": self.encoder.eos_id,
            "pad_id": self.encoder.pad_id,
            "vocab_size": self.encoder.vocab_size,
            "sha256": hash_text(self.encoder.content),
        }
        meta = {**meta, "tokenizer": tokenizer, "mentions": dict(self.mention_counts)}
        self.writer.seal(tokenizer_json=self.encoder.content, meta=meta)
        return hash_file(self.writer.path / "meta.json")

    def _cut_documents(self, batch: Batch, found: FoundMentions | None) -> Segments:
        """Chunks of one document each. What is to be dropped is written down and left out."""
        mentions = NO_SPANS if found is None else merge_spans(found.token_start, found.token_end)
        segments, dropped = cut_documents(
            batch, mentions, **asdict(self.packing), first_chunk=self.writer.num_chunks
        )
        self.writer.append(dropped=dropped)
        return segments

    def _cut_fixed(self, batch: Batch) -> Segments:
        """Segments of the stream of all documents; an earlier batch may have begun the first chunk."""
        offset, length = self.writer.num_tokens, self.packing.max_length
        starts, ends, chunk_ids = pack_fixed(batch.doc_bounds, offset=offset, length=length)
        chars = batch.count_chars(starts, ends)
        before = self._open_chars + np.cumsum(chars) - chars
        opens_chunk = np.append(offset % length == 0, chunk_ids[1:] != chunk_ids[:-1])
        chunk_start = np.maximum.accumulate(np.where(opens_chunk, before, 0))
        filled = (offset + batch.num_tokens) % length == 0
        self._open_chars = 0 if filled else int(before[-1] + chars[-1] - chunk_start[-1])
        return Segments(starts, ends, chunk_ids, starts + offset - chunk_ids * length, before - chunk_start)

    def _chunk_rows(self, segments: Segments) -> pa.Table:
        """The chunks that a batch completes; called before its tokens are written."""
        first_token = self.writer.num_tokens
        lengths = segments.token_end - segments.token_start
        if self.packing.kind == "fixed":
            size = self.packing.max_length
            chunk_ids = np.arange(first_token // size, (first_token + lengths.sum()) // size)
            return _chunk_table(chunk_ids, chunk_ids * size, np.full_like(chunk_ids, size), size)
        limits = {"min_length": self.packing.min_length, "max_length": self.packing.max_length}
        chunk_ids, first = np.unique(segments.chunk_id, return_index=True)
        lengths = np.add.reduceat(lengths, first) if len(first) else lengths
        token_starts = first_token + np.cumsum(lengths) - lengths
        return _chunk_table(chunk_ids, token_starts, lengths, bucket_of(lengths, **limits))

    def _last_fixed_chunk(self) -> pa.Table:
        """The chunk that the last document leaves unfilled, if any."""
        size = self.packing.max_length
        chunk_ids = np.arange(self.writer.num_tokens // size, -(-self.writer.num_tokens // size))
        return _chunk_table(chunk_ids, chunk_ids * size, self.writer.num_tokens - chunk_ids * size, size)


def _chunk_table(chunk_ids: Positions, token_starts: Positions, lengths: Positions, bucket: Any) -> pa.Table:
    columns = {"chunk_id": chunk_ids, "token_start": token_starts, "length": lengths}
    return pa.table({**columns, "bucket": np.broadcast_to(bucket, lengths.shape)})


def _check_shares(training: _Part, validation: _Part, fraction: float) -> None:
    """Refuse a fraction that leaves one of the two without documents."""
    trained, held_back = training.writer.num_documents, validation.writer.num_documents
    if (trained == 0) != (held_back == 0):
        share = "leaves none to train on" if trained == 0 else "chooses none"
        raise ValueError(f"--validation-fraction {fraction} of {trained + held_back} documents {share}")


def describe_reasons(rejected: Counter[str]) -> str:
    """Why no document is left, in words."""
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in rejected.most_common())
    return f"there is no usable document ({reasons or 'the input is empty'})"


def rejected_row(rejected: Rejected) -> pa.Table:
    """A row of `dropped.parquet` for a document that could not be used."""
    nothing = dict.fromkeys(("doc_token_start", "doc_token_end", "char_start", "char_end", "num_tokens"), 0)
    row = {"doc_id": rejected.doc_id, **nothing, "reason": rejected.reason, "place": rejected.place}
    return pa.Table.from_pylist([row], schema=DROPPED)
