"""The data order: which chunks each update trains on, as a pure function of (seed, epoch, bucket sizes).

Update `s` counts from 1 and consumes row `s - 1`; a checkpoint of step N has seen the rows of updates 1..N.
An update holds chunks of one bucket, `batch_tokens // bucket` of them. What is left of a bucket at the end of
an epoch opens the next one, so that every chunk is seen equally often, give or take one.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.formats import (
    FormatError,
    begin_folder,
    check_format,
    read_table,
    replace_folder,
    write_json,
    write_table,
)

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DataOrder:
    """A recorded order. `ids[offsets[s - 1] : offsets[s]]` are the chunks of update `s`."""

    offsets: Ids  # (updates + 1,)
    ids: Ids  # (total,) >= 0 a chunk id, -(k + 1) row k of the injection plan
    epoch_starts: Ids  # (epochs,) updates done when the epoch begins
    info: dict[str, Any] = field(default_factory=dict)
    """seed, batch_tokens, store_sha256 and, for a derived order, its parent."""
    masked: pa.Table | None = None
    """Held-out chunks: columns `update`, `chunk_id`; their targets are ignored in that update."""

    @property
    def num_updates(self) -> int:
        """The number of optimiser updates the order holds."""
        return len(self.offsets) - 1

    def batch(self, update: int) -> Ids:
        """The chunk ids of one update (1-based)."""
        if not 1 <= update <= self.num_updates:
            raise ValueError(f"no update {update}: the order has updates 1 to {self.num_updates}")
        return self.ids[self.offsets[update - 1] : self.offsets[update]]

    def seen_by(self, step: int) -> Ids:
        """All chunk ids, repeats included, that the checkpoint of `step` was trained on."""
        if not 0 <= step <= self.num_updates:
            raise ValueError(f"no step {step}: the order has steps 0 to {self.num_updates}")
        return self.ids[: self.offsets[step]]

    def epoch_of(self, update: int) -> int:
        """The epoch (1-based) that an update belongs to."""
        return int(np.searchsorted(self.epoch_starts, update - 1, side="right"))

    def steps_of(self, chunk_id: int) -> Ids:
        """The updates (1-based, ascending) that train on a chunk; empty for one never seen."""
        bits = self.num_updates.bit_length()
        first, last = np.searchsorted(self._inverse, [chunk_id << bits, (chunk_id + 1) << bits])
        return self._inverse[first:last] & ((1 << bits) - 1)

    @cached_property
    def _inverse(self) -> Ids:
        """Ids in the upper, updates in the lower bits, ascending: one sort of plain numbers."""
        updates = np.repeat(np.arange(1, self.num_updates + 1), np.diff(self.offsets))
        return np.sort((self.ids << self.num_updates.bit_length()) | updates)


def batch_digest(chunk_ids: Ids) -> str:
    """Sixteen hex digits that identify a batch: the start of the sha256 of its ids as little-endian int64.

    >>> batch_digest(np.array([3, 1, 2]))
    '7c4cec7a82e1aa57'
    """
    return hashlib.sha256(np.ascontiguousarray(chunk_ids, dtype="<i8").tobytes()).hexdigest()[:16]


def compute_order(
    buckets: npt.NDArray[np.int32],
    *,
    batch_tokens: int,
    seed: int,
    epochs: int | None = None,
    updates: int | None = None,
) -> DataOrder:
    """The order for chunks of the given padded lengths, for a number of epochs or of updates.

    Args:
        buckets: padded length of every chunk, (chunks,).
        batch_tokens: tokens of an update, padding included; a multiple of every bucket.
        seed: each (seed, epoch, bucket) has a random stream of its own.
        epochs: how often every chunk is seen (exactly one of `epochs` and `updates`).
        updates: stop after this many updates, within an epoch if need be.

    Raises:
        ValueError: a bucket has too few chunks to ever fill an update, or does not divide `batch_tokens`.
    """
    if (epochs is None) == (updates is None):
        raise ValueError("give either epochs or updates")
    members = {int(size): np.flatnonzero(buckets == size).astype(np.int64) for size in np.unique(buckets)}
    check_buckets({size: len(ids) for size, ids in members.items()}, batch_tokens=batch_tokens)
    batches: list[Ids] = []
    epoch_starts: list[int] = []
    leftover = {size: np.empty(0, dtype=np.int64) for size in members}
    while len(epoch_starts) < epochs if epochs is not None else len(batches) < (updates or 0):
        epoch = len(epoch_starts)
        epoch_starts.append(len(batches))
        of_epoch: list[Ids] = []
        for size, ids in members.items():
            stream = _continue_stream(leftover[size], ids, np.random.default_rng([seed, epoch, size]))
            rows = batch_tokens // size
            full = len(stream) // rows * rows
            of_epoch.extend(stream[:full].reshape(-1, rows))
            leftover[size] = stream[full:]
        shuffled = np.random.default_rng([seed, epoch, 0]).permutation(len(of_epoch))
        batches.extend(of_epoch[i] for i in shuffled)
    batches = batches[:updates]
    offsets = np.cumsum([0] + [len(batch) for batch in batches], dtype=np.int64)
    ids = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    starts = np.array(epoch_starts, dtype=np.int64)
    asked = {"epochs": epochs} if epochs is not None else {"updates": updates}
    return DataOrder(offsets, ids, starts, {"seed": seed, "batch_tokens": batch_tokens, **asked})


def _continue_stream(leftover: Ids, ids: Ids, rng: np.random.Generator) -> Ids:
    """What an epoch left over, then a new permutation in which those same chunks come last.

    So no update can hold a chunk twice: a bucket has at least as many chunks as an update takes.
    """
    permuted = rng.permutation(ids)
    late = np.isin(permuted, leftover)
    return np.concatenate([leftover, permuted[~late], permuted[late]])


def check_buckets(sizes: dict[int, int], *, batch_tokens: int) -> None:
    """Refuse buckets (padded length -> number of chunks) that can never be trained at `batch_tokens`."""
    if batch_tokens < 1:
        raise ValueError(f"--batch-tokens {batch_tokens} must be at least the largest chunk length")
    if uneven := [size for size in sizes if batch_tokens % size]:
        raise ValueError(f"--batch-tokens {batch_tokens} is not a multiple of the chunk lengths {uneven}")
    short = _short_buckets(sizes, batch_tokens)
    if not short:
        return
    found = ", ".join(
        f"length {size}: {count} chunk{'s' * (count > 1)}, an update takes {batch_tokens // size}"
        for size, count in short.items()
    )
    raise ValueError(
        f"with --batch-tokens {batch_tokens} some chunks could never be trained ({found}): "
        + ", or ".join(_sizes_that_work(sizes, batch_tokens))
    )


def _short_buckets(sizes: dict[int, int], batch_tokens: int) -> dict[int, int]:
    return {size: count for size, count in sizes.items() if count < batch_tokens // size}


def _sizes_that_work(sizes: dict[int, int], batch_tokens: int) -> list[str]:
    """What to change so that every bucket fills an update."""
    ascending, largest = sorted(sizes), max(sizes)
    lower = [
        f"--max-length {limit}"
        for limit in ascending[-2::-1]
        if largest in _short_buckets(sizes, batch_tokens)
        and not _short_buckets(_merge_buckets(sizes, max_length=limit), batch_tokens)
    ]
    raised = [
        f"--min-length {limit}"
        for limit in ascending[1:]
        if not _short_buckets(_merge_buckets(sizes, min_length=limit), batch_tokens)
    ]
    limits = [*lower[:1], *raised[:1]]
    advice = [f"build the store with {' or '.join(limits)}"] if limits else []
    if fitting := min(size * count for size, count in sizes.items()) // largest * largest:
        advice.append(f"use --batch-tokens {fitting} or a smaller multiple of {largest}")
    return advice or ["build the store with a smaller --max-length"]


def _merge_buckets(
    sizes: dict[int, int], *, min_length: int = 0, max_length: int | None = None
) -> dict[int, int]:
    """About how many chunks the buckets would have with other limits."""
    merged: dict[int, int] = {}
    for size, count in sizes.items():
        limit = size if max_length is None else min(size, max_length)
        new = max(min_length, limit)
        merged[new] = merged.get(new, 0) + count * (size // limit)
    return merged


def check_store(order: DataOrder, store_sha256: str) -> None:
    """Refuse an order that was made for another chunk store."""
    recorded = order.info.get("store_sha256")
    if recorded is not None and recorded != store_sha256:
        raise FormatError(
            f"the data order belongs to the chunk store {recorded[:12]}, this one is {store_sha256[:12]}: "
            "make the order again with 'chunk-provenance order'"
        )


def save_order(order: DataOrder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write an order folder: `order.json`, `offsets.npy`, `ids.npy`, `masked.parquet` where there is one.

    The folder appears complete or not at all. Raises FileExistsError if `path` exists, unless it is a data
    order and may be overwritten.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "order.json").is_file()):
        raise FileExistsError(f"{str(path)!r} exists: remove it or choose another place for the data order")
    unfinished = begin_folder(path)
    np.save(unfinished / "offsets.npy", order.offsets, allow_pickle=False)
    np.save(unfinished / "ids.npy", order.ids, allow_pickle=False)
    if order.masked is not None:
        write_table(order.masked, unfinished / "masked.parquet", "masked")
    header = {"format": "data-order", "version": 1, "num_updates": order.num_updates}
    write_json(
        {**order.info, **header, "epoch_starts": order.epoch_starts.tolist()}, unfinished / "order.json"
    )
    replace_folder(unfinished, path)


def load_order(path: str | Path) -> DataOrder:
    """Open an order folder; the ids are memory-mapped.

    Raises:
        FileNotFoundError: `path` is no order folder.
        FormatError: it has another format or version, or its files disagree.
    """
    path = Path(path)
    if not (path / "order.json").is_file():
        raise FileNotFoundError(f"no data order at {str(path)!r}: 'chunk-provenance order' makes one")
    info = json.loads((path / "order.json").read_text(encoding="utf-8"))
    check_format(path, info.pop("format", None), info.pop("version", None), "data-order")
    offsets = np.load(path / "offsets.npy")
    ids = np.load(path / "ids.npy", mmap_mode="r")
    if len(offsets) != info.pop("num_updates") + 1 or offsets[-1] != len(ids):
        raise FormatError(f"{str(path)!r} is damaged: offsets.npy, ids.npy and order.json disagree")
    epoch_starts = np.array(info.pop("epoch_starts"), dtype=np.int64)
    masked_file = path / "masked.parquet"
    masked = read_table(masked_file, "masked", ["update", "chunk_id"]) if masked_file.exists() else None
    return DataOrder(offsets, ids, epoch_starts, info, masked)
