"""Batches: the rows of one update, cut into micro-batches. Reading is a slice of a mapped file, no cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from chunk_provenance import ChunkStore, DataOrder, order_rows
from olmo_trainer.config import TrainConfig

IGNORED = -100
"""The label of a position that has no target."""

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Token rows (row, seq) and the number of the document of each token (row, seq), -1 on padding."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: what a loss function sees."""

    input_ids: Int[Tensor, "row seq"]
    labels: Int[Tensor, "row seq"]
    """The token after each position, already shifted; -100 where there is no target."""
    doc_ids: Int[Tensor, "row seq"] | None
    """Each token's document, counted in its row, -1 on padding; None where every row is one document."""
    cu_seqlens: Int[Tensor, " boundary"] | None
    """CUDA only: int32 starts of the documents in the flattened batch, its length last; None likewise."""
    chunk_ids: tuple[int, ...]
    """One a row, as the order has them: negative where items are injected; empty in validation."""
    num_targets: int
    """Targets of the WHOLE update, over all its micro-batches: what a loss divides its sum by."""

    @property
    def position_ids(self) -> Int[Tensor, "row seq"]:
        """Positions that start again at every document."""
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device).expand_as(
            self.input_ids
        )
        if self.doc_ids is None:
            return positions
        starts = torch.zeros_like(self.input_ids)
        starts[:, 1:] = (self.doc_ids[:, 1:] != self.doc_ids[:, :-1]) * positions[:, 1:]
        return positions - starts.cummax(1).values


def make_labels(
    input_ids: npt.NDArray[np.int64], doc_ids: npt.NDArray[np.int32], *, cross_document_targets: bool
) -> npt.NDArray[np.int64]:
    """The next token of every position; -100 before padding, at the row's end, if asked across documents.

    >>> doc_ids = np.array([[0, 0, 1, -1]], dtype=np.int32)
    >>> make_labels(np.array([[5, 6, 7, 0]]), doc_ids, cross_document_targets=False)
    array([[   6, -100, -100, -100]])
    """
    labels = np.full_like(input_ids, IGNORED)
    real = doc_ids[:, 1:] >= 0
    if not cross_document_targets:
        real &= doc_ids[:, 1:] == doc_ids[:, :-1]
    labels[:, :-1] = np.where(real, input_ids[:, 1:], IGNORED)
    return labels


def micro_batches(
    rows: Rows,
    labels: npt.NDArray[np.int64],
    chunk_ids: npt.NDArray[np.int64],
    *,
    micro_batch_tokens: int | None,
    device: torch.device,
) -> Iterator[Batch]:
    """Cut an update into consecutive rows of up to `micro_batch_tokens` with padding, at least one each."""
    input_ids, doc_ids = rows
    num_targets = max(1, int((labels != IGNORED).sum()))
    step = len(input_ids) if micro_batch_tokens is None else max(1, micro_batch_tokens // input_ids.shape[1])
    for begin in range(0, len(input_ids), step):
        part = slice(begin, begin + step)
        yield _make_batch(input_ids[part], labels[part], doc_ids[part], chunk_ids[part], num_targets, device)


def _make_batch(
    input_ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    doc_ids: npt.NDArray[np.int32],
    chunk_ids: npt.NDArray[np.int64],
    num_targets: int,
    device: torch.device,
) -> Batch:
    """Copy the arrays to the device, without the columns that are padding in every row."""
    width = int(np.flatnonzero((doc_ids >= 0).any(0)).max(initial=0)) + 1
    input_ids, labels, doc_ids = input_ids[:, :width], labels[:, :width], doc_ids[:, :width]
    several = bool((doc_ids > 0).any())
    boundaries = torch.from_numpy(cumulative_lengths(doc_ids)) if several and device.type == "cuda" else None
    return Batch(
        input_ids=torch.from_numpy(np.ascontiguousarray(input_ids)).to(device),
        labels=torch.from_numpy(np.ascontiguousarray(labels)).to(device),
        doc_ids=torch.from_numpy(np.ascontiguousarray(doc_ids)).to(device) if several else None,
        cu_seqlens=None if boundaries is None else boundaries.to(device),
        chunk_ids=tuple(chunk_ids.tolist()),
        num_targets=num_targets,
    )


def cumulative_lengths(doc_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Starts of the documents in the flattened rows, the total last; padding counts as a document.

    >>> cumulative_lengths(np.array([[0, 0, 1], [0, -1, -1]], dtype=np.int32))
    array([0, 2, 3, 4, 6], dtype=int32)
    """
    starts = np.ones_like(doc_ids, dtype=bool)
    starts[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    return np.append(np.flatnonzero(starts), doc_ids.size).astype(np.int32)


def update_batches(
    store: ChunkStore, order: DataOrder, update: int, config: TrainConfig, device: torch.device
) -> Iterator[Batch]:
    """The micro-batches of one update: all its rows, with injected items in place, then cut.

    Targets of chunks held out of it (`masked.parquet`) are ignored.
    """
    chunk_ids = order.batch(update)
    input_ids, doc_ids = order_rows(store, order, update)
    labels = make_labels(input_ids, doc_ids, cross_document_targets=config.loss.cross_document_targets)
    labels[np.isin(chunk_ids, masked_chunks(order, update))] = IGNORED
    if not config.data.document_attention:
        doc_ids = np.minimum(doc_ids, 0)  # one document a row, padding stays -1
    return micro_batches(
        (input_ids, doc_ids), labels, chunk_ids, micro_batch_tokens=config.micro_batch_tokens, device=device
    )


def masked_chunks(order: DataOrder, update: int) -> npt.NDArray[np.int64]:
    """The chunks whose targets are ignored in an update."""
    if order.masked is None:
        return np.empty(0, dtype=np.int64)
    updates, chunks = (order.masked[name].to_numpy() for name in ("update", "chunk_id"))
    return np.asarray(chunks[updates == update], dtype=np.int64)
