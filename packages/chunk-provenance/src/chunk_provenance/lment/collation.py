"""Rows of a batch as LMEnt's collator makes them, and the part of a batch that a rank gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chunk_provenance.order import Ids

IGNORED = -100
"""The label of a position that is not trained on."""


@dataclass(frozen=True)
class CollatedBatch:
    """Chunks as rows of one width."""

    input_ids: npt.NDArray[np.int64]  # (chunks, width)
    attention_mask: npt.NDArray[np.float32]  # (chunks, width), 0 on padding
    labels: npt.NDArray[np.int64]  # (chunks, width - 1), the next token or IGNORED


def rank_slice(batch: Ids, *, rank: int, world_size: int) -> Ids:
    """The chunks of a batch that one of several ranks trains on: a run of it, all runs equally long.

    >>> rank_slice(np.array([5, 3, 8, 1]), rank=1, world_size=2).tolist()
    [8, 1]
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"no rank {rank}: {world_size} ranks count from 0")
    if len(batch) % world_size:
        raise ValueError(f"a batch of {len(batch)} chunks cannot be shared by {world_size} ranks")
    size = len(batch) // world_size
    return batch[rank * size : (rank + 1) * size]


def collate(chunks: Sequence[npt.NDArray[np.integer]], *, pad_id: int, batch_tokens: int) -> CollatedBatch:
    """Pad chunks on the right to one width and shift the labels left.

    Args:
        chunks: their tokens.
        pad_id: the token to pad with.
        batch_tokens: tokens of the batch (of the rank's part of it), padding included.

    Raises:
        ValueError: the rows do not add up to `batch_tokens`; LMEnt's loader stops here, too.

    >>> collate([np.array([7, 8, 9]), np.array([5])], pad_id=0, batch_tokens=8).labels.tolist()
    [[8, 9, -100], [-100, -100, -100]]
    """
    width = max(-(-batch_tokens // len(chunks)), *(len(chunk) for chunk in chunks))
    if width * len(chunks) != batch_tokens:
        raise ValueError(
            f"{len(chunks)} chunks padded to {width} tokens are {width * len(chunks)} tokens, "
            f"the batch should have {batch_tokens}"
        )
    input_ids = np.full((len(chunks), width), pad_id, dtype=np.int64)
    mask = np.zeros(input_ids.shape, dtype=np.float32)
    for row, chunk in enumerate(chunks):
        input_ids[row, : len(chunk)] = chunk
        mask[row, : len(chunk)] = 1
    return CollatedBatch(input_ids, mask, np.where(mask[:, 1:] == 0, IGNORED, input_ids[:, 1:]))
