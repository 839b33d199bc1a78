"""What became of the text: tokens per bucket, padding, what was dropped and why."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from chunk_provenance.store import ChunkStore


def count_retention(store: ChunkStore, *, batch_tokens: int | None = None) -> dict[str, Any]:
    """Chunks, tokens and padding of each bucket, and the documents and tokens that are in no chunk.

    Returns:
        `buckets` (one dict a bucket, ascending), `kept` and `dropped` (one dict a reason) and `documents`.
    """
    dropped = _count_dropped(store)
    num_tokens = len(store.tokens) + sum(row["tokens"] for row in dropped)
    buckets = [
        _count_bucket(store, size, num_tokens, batch_tokens) for size in np.unique(store.bucket).tolist()
    ]
    with_chunk = pc.count_distinct(store.segment_table["doc_id"]).as_py()
    return {
        "buckets": buckets,
        "kept": {"tokens": len(store.tokens), "share": len(store.tokens) / num_tokens},
        "dropped": dropped,
        "documents": {
            "stored": store.meta["num_documents"],
            "without_any_chunk": store.meta["num_documents"] - with_chunk,
        },
        "mentions": store.meta.get("mentions", {}),
    }


def _count_bucket(store: ChunkStore, size: int, num_tokens: int, batch_tokens: int | None) -> dict[str, Any]:
    lengths = store.length[store.bucket == size]
    tokens, positions = int(lengths.sum()), size * len(lengths)
    row = {
        "length": size,
        "chunks": len(lengths),
        "tokens": tokens,
        "share": tokens / num_tokens,
        "padding": 1 - tokens / positions,
    }
    return row if batch_tokens is None else {**row, "updates_per_epoch": positions / batch_tokens}


def _count_dropped(store: ChunkStore) -> list[dict[str, Any]]:
    """Rows and tokens of each reason, most tokens first."""
    groups = store.dropped_table.group_by("reason").aggregate(
        [("num_tokens", "sum"), ("num_tokens", "count")]
    )
    rows = [
        {"reason": row["reason"], "times": row["num_tokens_count"], "tokens": row["num_tokens_sum"]}
        for row in groups.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row["tokens"], row["reason"]))
