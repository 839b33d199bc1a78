"""Questions to a data order: how often and how long ago a chunk was seen, where epochs begin.

A checkpoint of step N has seen the updates 1 to N. Held-out (masked) chunks are not seen.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chunk_provenance.order import DataOrder, Ids
from chunk_provenance.reverse_index import distinct


@dataclass(frozen=True)
class Seen:
    """What a checkpoint has seen of some chunks, (chunks,) each."""

    step: int
    exposures: Ids
    last_update: Ids
    """The latest update that trained on the chunk; 0 where there is none yet."""

    @property
    def steps_since(self) -> Ids:
        """Updates done since the last exposure, 0 for one in the last update; -1 where there is none."""
        return np.where(self.exposures > 0, self.step - self.last_update, -1)


@dataclass(frozen=True)
class Epoch:
    """One epoch of an order; its checkpoint is that of step `last_update`."""

    epoch: int
    first_update: int
    last_update: int
    updates: int
    exposures: int
    chunks: int
    """Distinct ones."""


def seen_at(order: DataOrder, chunk_ids: Ids, step: int) -> Seen:
    """How often each chunk had been trained on by the checkpoint of `step`, and when last.

    >>> order = DataOrder(np.array([0, 2, 4, 5]), np.array([5, 0, 5, 1, 0]), np.array([0]))
    >>> seen = seen_at(order, np.array([5, 1, 9]), 3)
    >>> seen.exposures.tolist(), seen.last_update.tolist(), seen.steps_since.tolist()
    ([2, 1, 0], [2, 2, 0], [1, 1, -1])
    """
    order.check_step(step)
    offsets, updates = order.steps_of_many(chunk_ids)
    so_far = np.concatenate([[0], np.cumsum(updates <= step)])
    exposures = so_far[offsets[1:]] - so_far[offsets[:-1]]
    padded = np.concatenate([updates, [0]])
    last = np.where(exposures > 0, padded[offsets[:-1] + exposures - 1], 0)
    return Seen(step, exposures, last)


def epochs_of(order: DataOrder) -> list[Epoch]:
    """Where each epoch begins and ends, and how much it trained on."""
    bounds = [*order.epoch_starts.tolist(), order.num_updates]
    epochs = []
    for number, (first, last) in enumerate(pairwise(bounds), start=1):
        part = slice(order.offsets[first], order.offsets[last])
        ids = order.chunk_ids[part] if order.trained is None else order.chunk_ids[part][order.trained[part]]
        chunks = ids[ids >= 0]
        epochs.append(Epoch(number, first + 1, last, last - first, len(chunks), len(distinct(chunks))))
    return epochs


def lment_readme_rows(order: DataOrder, updates: Ids) -> tuple[Ids, Ids]:
    """Epoch (from 1) and row of that epoch's `batch_indices.npy` (from 0) that updates consumed.

    The README of LMEnt prints this row and calls it the step. Update `s` of the first epoch consumed row
    `s - 1`; a checkpoint N has seen the rows below N, not up to N: whoever compares `row <= N` counts one
    update too many.

    >>> order = DataOrder(np.arange(7), np.arange(6), np.array([0, 3]))
    >>> [values.tolist() for values in lment_readme_rows(order, np.array([1, 3, 4]))]
    [[1, 1, 2], [0, 2, 0]]
    """
    updates = np.asarray(updates, dtype=np.int64)
    if updates.size and not 1 <= updates.min() <= updates.max() <= order.num_updates:
        raise ValueError(f"the order has updates 1 to {order.num_updates}, asked for {updates.tolist()[:8]}")
    starts = np.union1d([0], order.epoch_starts).astype(np.int64)
    epoch = np.searchsorted(starts, updates - 1, side="right")
    return epoch, updates - 1 - starts[epoch - 1]


def held_out_of(order: DataOrder, chunk_id: int) -> Ids:
    """The updates (ascending) that hold a chunk without training on it."""
    if order.masked is None:
        return np.empty(0, dtype=np.int64)
    updates, chunks = (order.masked[name].to_numpy() for name in ("update", "chunk_id"))
    return np.unique(updates[chunks == chunk_id])
