"""A curriculum's order for a chunk store, and an account of what it leaves out.

For a store built with `--packing lment` the order is the one that LMEnt's code computes: chunks without a
bucket and buckets that give no update vanish from training, and `warnings_of` says so. For any other store a
bucket that would vanish is refused, and every chunk has a bucket.
"""

from dataclasses import replace
from typing import Any

from chunk_provenance.lment.buckets import bucket_members, check_retained, count_retained, find_buckets
from chunk_provenance.lment.curriculum import Curriculum, compute_curriculum_order, count_batches
from chunk_provenance.order import DataOrder
from chunk_provenance.store import ChunkStore


def order_store(
    store: ChunkStore,
    curriculum: Curriculum,
    *,
    batch_tokens: int,
    seed: int,
    epochs: int | None = None,
    updates: int | None = None,
) -> DataOrder:
    """The order of a store's chunks; see `compute_curriculum_order`.

    Its `info` has `retained`: what an epoch trains of each bucket; `without_bucket`: chunks never trained.

    Raises:
        ValueError: the store's chunks cannot be ordered so.
    """
    packing: dict[str, Any] = (store.meta.get("inputs") or {}).get("packing") or {}
    as_published = packing.get("kind") == "lment"
    if not store.num_chunks:
        raise ValueError(f"{str(store.path)!r} has no chunks: nothing would be trained")
    limits = {
        "min_length": int(packing.get("min_length") or store.bucket.min()),
        "max_length": int(packing.get("max_length") or store.bucket.max()),
    }
    if packing.get("kind") == "fixed" or limits["min_length"] == limits["max_length"]:
        raise ValueError("--curriculum orders chunks by their lengths, and these all have one: leave it out")
    buckets = find_buckets(store.length, **limits) if as_published else store.bucket
    members = bucket_members(buckets, **limits)
    sizes = {size: len(ids) for size, ids in members.items()}
    batches = count_batches(sizes, curriculum, batch_tokens=batch_tokens)
    retained = count_retained(members, batches, batch_tokens=batch_tokens)
    if not as_published:
        check_retained(retained, batch_tokens=batch_tokens)
    order = compute_curriculum_order(
        members, curriculum, batch_tokens=batch_tokens, seed=seed, epochs=epochs, updates=updates
    )
    account = {"retained": retained, "without_bucket": store.num_chunks - sum(sizes.values())}
    return replace(order, info={**order.info, **account, "store_sha256": store.sha256})


def retained_table(info: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the account of an epoch."""
    columns = ["padded to", "chunks", "in an update", "updates", "trained", "left out"]
    names = ["length", "chunks", "chunks_per_update", "updates", "trained", "left_out"]
    rows = [[f"{row[name]:,}" for name in names] for row in info["retained"]]
    if lost := info["without_bucket"]:
        rows.append(["no bucket", f"{lost:,}", "0", "0", "0", f"{lost:,}"])
    return columns, rows


def warnings_of(info: dict[str, Any]) -> list[str]:
    """What vanishes from training, in sentences."""
    sentences = []
    if lost := info["without_bucket"]:
        sentences.append(f"{lost:,} chunks have no bucket and are never trained, as in LMEnt")
    sentences += [
        f"none of the {row['chunks']:,} chunks of length {row['length']} is ever trained, as in LMEnt: they "
        f"are too few for an update of {row['chunks_per_update']:,} in every cycle"
        for row in info["retained"]
        if not row["updates"]
    ]
    return sentences
