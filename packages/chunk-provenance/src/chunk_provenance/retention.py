"""What became of the text: tokens per bucket, padding, what was dropped and why."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from chunk_provenance.sections import section
from chunk_provenance.store import ChunkStore

MENTION_FATES = ("in_chunks", "cut_by_a_border", "in_dropped_text", "out_of_range", "of_documents_not_stored")


def count_retention(store: ChunkStore, *, batch_tokens: int | None = None) -> dict[str, Any]:
    """Chunks, tokens and padding of each bucket, and the documents and tokens that are in no chunk.

    Returns:
        `buckets` (one dict a bucket, ascending), `kept` and `dropped` (one dict a reason), `documents`, and
        `without_end_token`: documents in chunks, of which none holds the end token.
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
        "without_end_token": with_chunk - _count_end_tokens(store),
        "mentions": _count_mentions(store),
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


def _count_end_tokens(store: ChunkStore) -> int:
    """Segments that end in the end token; a document has at most one."""
    ends = store.segment_table["chunk_token_end"].to_numpy()
    starts = store.token_start[store.segment_table["chunk_id"].to_numpy()]
    return int(np.count_nonzero(store.tokens[starts + ends - 1] == store.eos_id))


def _count_mentions(store: ChunkStore) -> dict[str, int]:
    """What became of the rows of the mentions file; empty for a store without mentions."""
    counts: dict[str, int] = store.meta.get("mentions", {})
    unknown = store.meta.get("mentions_of_other_documents")
    if unknown is not None:
        counts = {**counts, "of_documents_not_stored": unknown["rows"]}
    return {name: counts[name] for name in MENTION_FATES if name in counts}


def _count_dropped(store: ChunkStore) -> list[dict[str, Any]]:
    """Documents and tokens of each reason, most tokens first; a document has one row of a reason."""
    groups = store.dropped_table.group_by("reason").aggregate(
        [("num_tokens", "sum"), ("num_tokens", "count")]
    )
    rows = [
        {"reason": row["reason"], "documents": row["num_tokens_count"], "tokens": row["num_tokens_sum"]}
        for row in groups.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row["tokens"], row["reason"]))


def retention_tables(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of a build, with numbers as words: `title`, `columns` and `rows` each."""
    mentions = [[name.replace("_", " "), f"{count:,}"] for name, count in counts["mentions"].items()]
    tables = [_bucket_table(counts["buckets"]), _fate_table(counts)]
    return [*tables, _table("Mentions", ["what", "rows"], mentions)] if mentions else tables


def retention_section(counts: dict[str, Any], *, command: str) -> dict[str, Any]:
    """The tables of a build as a report section."""
    chunks = sum(row["chunks"] for row in counts["buckets"])
    positions = sum(row["chunks"] * row["length"] for row in counts["buckets"])
    padding = 1 - counts["kept"]["tokens"] / positions if positions else 0.0
    summary = (
        f"{counts['documents']['stored']:,} documents became {chunks:,} chunks, the rows a model is trained "
        f"on. They hold {counts['kept']['share']:.2%} of the documents' tokens; {padding:.2%} of the trained "
        "positions are padding."
    )
    return section("Chunks", command=command, summary=summary, tables=retention_tables(counts))


def _bucket_table(buckets: list[dict[str, Any]]) -> dict[str, Any]:
    columns = ["padded to", "chunks", "tokens", "share", "padding"]
    rows = []
    for bucket in buckets:
        numbers = [f"{bucket[name]:,}" for name in ("length", "chunks", "tokens")]
        rows.append([*numbers, f"{bucket['share']:.1%}", f"{bucket['padding']:.1%}"])
    if buckets and "updates_per_epoch" in buckets[0]:
        columns.append("updates per epoch")
        for row, bucket in zip(rows, buckets, strict=True):
            row.append(f"{bucket['updates_per_epoch']:,.1f}")
    return _table("Chunks by length", columns, rows)


def _fate_table(counts: dict[str, Any]) -> dict[str, Any]:
    documents = counts["documents"]
    rows = [["kept", f"{documents['stored']:,}", f"{counts['kept']['tokens']:,}"]]
    for row in counts["dropped"]:
        rows.append([f"dropped: {row['reason']}", f"{row['documents']:,}", f"{row['tokens']:,}"])
    rows.append(["of the kept, in no chunk at all", f"{documents['without_any_chunk']:,}", ""])
    if counts["without_end_token"]:
        rows.append(["of the kept, without their end token", f"{counts['without_end_token']:,}", ""])
    return _table("What became of the text", ["what", "documents", "tokens"], rows)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    return {"title": title, "columns": columns, "rows": rows}
