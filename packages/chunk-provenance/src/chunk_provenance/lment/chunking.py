"""LMEnt's rule for cutting documents into chunks, with a record of all that it leaves out.

With `rest` tokens of a document to go, the next chunk is `max_length` tokens, or the largest power of two
in `rest`. A border inside a mention moves left to the mention's start. A document ends where that power of
two is below `min_length` (the tail is dropped), or where the border cannot move because a mention begins
there: then the rest becomes one chunk of any length if it fits `max_length`, else it is dropped. So chunks
never overlap or cross documents, end tokens of most documents are dropped with the tails, and a chunk that
a border shortened to half of `min_length` or less has a chunk id but no bucket, and is never trained.

Without mentions it is the plain variable-length rule of OLMo-core. All documents are cut at once, a chunk of
each a round: a tenth of a second for 24 million tokens with a mention every nine (benchmarks/lment_scale.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chunk_provenance.packing import Positions, Unbreakable, check_lengths

TAIL = "shorter than the smallest bucket"
WHOLE_DOCUMENT = "whole document shorter than the smallest bucket"
LONG_MENTION = "a mention too long for a chunk, and all behind it"
NO_BUCKET = "in a chunk of half the smallest bucket or less, which has no bucket"
REASONS = (TAIL, WHOLE_DOCUMENT, LONG_MENTION, NO_BUCKET)


@dataclass(frozen=True)
class Chunking:
    """Chunks, and the tokens that are never trained on; both ascend.

    The tokens of `lost` with reason `NO_BUCKET` are those of a chunk; all others are in no chunk.
    """

    start: Positions  # (chunks,)
    end: Positions
    lost_start: Positions  # (losses,)
    lost_end: Positions
    lost_reason: npt.NDArray[np.int8]  # number in REASONS

    def reasons(self) -> list[str]:
        """The reason of each loss, in words."""
        return [REASONS[number] for number in self.lost_reason]


def chunk_documents(
    doc_start: Positions,
    doc_end: Positions,
    *,
    mentions: Unbreakable,
    min_length: int,
    max_length: int,
) -> Chunking:
    """Cut documents as LMEnt's `bucket_documents_kas` does.

    Args:
        doc_start: first token of each document, ascending, (documents,).
        doc_end: one past its last token, the end token included.
        mentions: token spans of mentions in the same positions, each inside one document; see `merge_spans`.
        min_length: the smallest bucket.
        max_length: the largest bucket.

    The border at 64 moves left of the mention, and what is left is cut anew:

    >>> from chunk_provenance.packing import merge_spans
    >>> found = chunk_documents(np.array([0]), np.array([100]), mentions=merge_spans(np.array([60]),
    ...                         np.array([66])), min_length=8, max_length=64)
    >>> found.start.tolist(), found.end.tolist()
    ([0, 60, 92], [60, 92, 100])
    """
    check_lengths(min_length, max_length)
    powers = 1 << np.arange(max_length.bit_length())
    at, stop, whole = doc_start, doc_end, np.ones(len(doc_start), dtype=bool)
    chunks, lost = [_no_spans()], [(*_no_spans(), np.empty(0, dtype=np.int8))]
    while (going := at < stop).any():  # one round takes one chunk off every document that has tokens left
        at, stop, whole = at[going], stop[going], whole[going]
        rest = stop - at
        wanted = powers[np.searchsorted(powers, rest, side="right") - 1]
        border = mentions.left(at + wanted)
        tail = wanted < min_length
        stuck = ~tail & (border <= at)
        cut = np.where(stuck, stop, border)
        lost_rest = tail | (stuck & (rest > max_length))
        reason = np.where(tail, np.where(whole, 1, 0), 2).astype(np.int8)
        lost.append((at[lost_rest], stop[lost_rest], reason[lost_rest]))
        chunks.append((at[~lost_rest], cut[~lost_rest]))
        at, whole = np.where(lost_rest, stop, cut), np.zeros(len(at), dtype=bool)
    start, end = (np.sort(np.concatenate([pair[side] for pair in chunks])) for side in (0, 1))
    untrained = end - start <= min_length // 2
    lost.append((start[untrained], end[untrained], np.full(untrained.sum(), 3, dtype=np.int8)))
    lost_start, lost_end, lost_reason = (np.concatenate([row[side] for row in lost]) for side in range(3))
    order = np.argsort(lost_start, kind="stable")
    return Chunking(start, end, lost_start[order], lost_end[order], lost_reason[order])


def find_documents(tokens: npt.NDArray[np.unsignedinteger], *, eos_id: int) -> tuple[Positions, Positions]:
    """Starts and ends of the documents in a stream of tokens, where every document ends in the end token.

    Raises:
        ValueError: the last document has no end token.

    >>> find_documents(np.array([5, 1, 7, 8, 1], dtype=np.uint32), eos_id=1)
    (array([0, 2]), array([2, 5]))
    """
    end = np.flatnonzero(tokens == eos_id).astype(np.int64) + 1
    closed = int(end[-1]) if len(end) else 0
    if closed != len(tokens):
        raise ValueError(
            f"the last {len(tokens) - closed:,} of {len(tokens):,} tokens are not followed by the end token "
            f"{eos_id}: the file is cut off, or its end token is another"
        )
    return np.concatenate([[0], end[:-1]]).astype(np.int64)[: len(end)], end


def _no_spans() -> tuple[Positions, Positions]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
