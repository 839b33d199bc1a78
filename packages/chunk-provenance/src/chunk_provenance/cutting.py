"""Cut the documents of a batch into chunks of their own, and write down what is left out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from chunk_provenance.batch import Batch, Segments
from chunk_provenance.end_tokens import close_documents
from chunk_provenance.lment.chunking import NO_BUCKET, TAIL, chunk_documents
from chunk_provenance.packing import Positions, Unbreakable, pack_buckets


@dataclass(frozen=True)
class Cut:
    """Chunks, and runs of tokens that are in no chunk; positions in the batch, ascending."""

    start: Positions  # (chunks,)
    end: Positions
    lost_start: Positions  # (losses,)
    lost_end: Positions
    lost_reason: list[str]


def cut_documents(
    batch: Batch,
    mentions: Unbreakable,
    *,
    kind: Literal["buckets", "lment"],
    min_length: int,
    max_length: int,
    tails: Literal["keep", "drop"],
    eos: Literal["end", "last"],
    first_chunk: int,
) -> tuple[Segments, pa.Table]:
    """Segments of the chunks, and rows of `dropped.parquet`.

    Args:
        batch: the documents.
        mentions: their tokens that belong to mentions.
        kind: `buckets` is the rule of packing.py, `lment` that of lment/chunking.py.
        min_length: the smallest bucket.
        max_length: the largest bucket.
        tails: what `buckets` does with ends of documents shorter than `min_length`.
        eos: see end_tokens.py.
        first_chunk: id of the batch's first chunk.
    """
    if kind == "lment":
        cut = _cut_by_lment(batch, mentions, min_length, max_length)
    else:
        cut = _cut_by_buckets(batch, mentions, min_length, max_length, drop=tails == "drop")
    lost_start, lost_end = cut.lost_start, cut.lost_end
    if eos == "end":
        nothing = np.zeros_like(cut.start)
        chunk_ids = first_chunk + np.arange(len(cut.start))
        segments = Segments(cut.start, cut.end, chunk_ids, nothing, nothing)
    else:
        parts, moved = close_documents(cut.start, cut.end, batch.doc_bounds)
        chars = np.append(0, batch.count_chars(parts.start, parts.end)[:-1])[: len(parts.start)]
        chars_before = np.where(parts.chunk_token_start > 0, chars, 0)
        segments = Segments(
            parts.start, parts.end, first_chunk + parts.chunk, parts.chunk_token_start, chars_before
        )
        back = np.isin(batch.documents_at(lost_start), moved)
        lost_start, lost_end = lost_start - back, lost_end - back
    return segments, batch.dropped_rows(lost_start, lost_end, cut.lost_reason)


def _cut_by_buckets(
    batch: Batch, mentions: Unbreakable, min_length: int, max_length: int, *, drop: bool
) -> Cut:
    start, end = pack_buckets(
        batch.doc_bounds,
        mentions=mentions,
        words=batch.words,
        characters=batch.characters,
        min_length=min_length,
        max_length=max_length,
    )
    short = batch.is_short_tail(start, end, min_length) & drop
    return Cut(start[~short], end[~short], start[short], end[short], [TAIL] * int(short.sum()))


def _cut_by_lment(batch: Batch, mentions: Unbreakable, min_length: int, max_length: int) -> Cut:
    found = chunk_documents(
        batch.doc_bounds[:-1],
        batch.doc_bounds[1:],
        mentions=mentions,
        min_length=min_length,
        max_length=max_length,
    )
    reasons = found.reasons()
    dropped = np.array([reason != NO_BUCKET for reason in reasons], dtype=bool)
    left = [reason for reason in reasons if reason != NO_BUCKET]
    return Cut(found.start, found.end, found.lost_start[dropped], found.lost_end[dropped], left)
