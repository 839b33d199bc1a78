"""Cross-entropy and perplexity on held-out token sets, forward passes only."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from chunk_provenance import ChunkStore, open_store
from olmo_trainer.batches import Batch, Rows, make_labels, micro_batches
from olmo_trainer.loss import sum_cross_entropy


def open_rows(name: str, path: Path, store: ChunkStore) -> list[Rows]:
    """The rows of a validation set, one entry a bucket: a chunk store, or a .npy of token rows (row, token).

    Raises:
        FileNotFoundError, ValueError: it is neither, or was made with another tokenizer.
    """
    if path.suffix == ".npy":
        return [_array_rows(name, path, store.vocab_size)]
    validation = open_store(path)
    if validation.meta["tokenizer"] != store.meta["tokenizer"]:
        raise ValueError(
            f"validation set {name!r} at {str(path)!r} was made with another tokenizer than the store"
        )
    buckets = np.unique(validation.bucket)
    return [validation.rows(np.flatnonzero(validation.bucket == bucket)) for bucket in buckets]


def _array_rows(name: str, path: Path, vocab_size: int) -> Rows:
    rows = np.load(path)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or not 0 <= rows.min() <= rows.max() < vocab_size:
        raise ValueError(
            f"validation set {name!r}: {str(path)!r} is {rows.dtype} of shape {rows.shape}, "
            f"expected integer token rows (row, token) below {vocab_size}"
        )
    return rows.astype(np.int64), np.zeros(rows.shape, dtype=np.int32)


@torch.no_grad()
def validate(
    model: PreTrainedModel, sets: dict[str, list[Rows]], *, micro_batch_tokens: int, device: torch.device
) -> dict[str, float]:
    """Mean cross-entropy (nats a token) and perplexity of each set, named as in metrics.jsonl."""
    model.train(False)
    found: dict[str, float] = {}
    for name, buckets in sets.items():
        total, num_targets = 0.0, 0
        for rows in buckets:
            for batch in _batches(rows, micro_batch_tokens, device):
                total += sum_cross_entropy(model, batch)
            num_targets += batch.num_targets
        found[f"validation/{name}/ce"] = total / num_targets
        found[f"validation/{name}/perplexity"] = math.exp(total / num_targets)
    model.train()
    return found


def _batches(rows: Rows, micro_batch_tokens: int, device: torch.device) -> Iterator[Batch]:
    labels = make_labels(*rows, cross_document_targets=False)
    no_chunks = np.empty(0, dtype=np.int64)
    return micro_batches(rows, labels, no_chunks, micro_batch_tokens=micro_batch_tokens, device=device)
