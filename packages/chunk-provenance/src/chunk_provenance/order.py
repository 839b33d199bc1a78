"""The data order: which chunks each update trains on, as a pure function of (seed, epoch, bucket sizes).

Update `s` counts from 1 and consumes row `s - 1`; a checkpoint of step N has seen the rows of updates 1..N.
An update holds chunks of one bucket, `batch_tokens // bucket` of them. What is left of a bucket at the end of
an epoch opens the next one, so that every chunk is seen equally often, give or take one.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.bucket_checks import check_buckets
from chunk_provenance.csr import gather
from chunk_provenance.formats import (
    FormatError,
    begin_folder,
    check_format,
    read_table,
    replace_folder,
    write_json,
    write_table,
)
from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.injection.slots import INJECTIONS, InjectedSlots, read_slots
from chunk_provenance.reverse_index import Inverse, find_places, invert

Ids = npt.NDArray[np.int64]

MASKED = pa.schema([("update", pa.int64()), ("chunk_id", pa.int64())])
PLAN = pa.schema([("update", pa.int64()), ("chunk_id", pa.int64()), ("new_chunk_id", pa.int64())])
TABLES = {"masked": MASKED, "plan": PLAN, "injections": INJECTIONS}
"""Parquet files of an order folder, where it has them."""


@dataclass(frozen=True)
class DataOrder:
    """A recorded order. `ids[offsets[s - 1] : offsets[s]]` are the chunks of update `s`."""

    offsets: Ids  # (updates + 1,)
    ids: Ids  # (total,) >= 0 a chunk id, -(k + 1) an injected item: row k of `injections`
    epoch_starts: Ids  # (epochs,) updates done when the epoch begins
    info: dict[str, Any] = field(default_factory=dict)
    """seed, batch_tokens, store_sha256 and, for a derived order, its parent."""
    masked: pa.Table | None = None
    """Held-out chunks: columns `update`, `chunk_id`; their targets are ignored in that update."""

    plan: pa.Table | None = None
    """Of a derived order: its changed slots, `update`, `chunk_id`, `new_chunk_id` (null: held out)."""

    injections: pa.Table | None = None
    """Injected items, the chunk that each was put into and what of it fell out (FORMAT.md)."""

    @property
    def num_updates(self) -> int:
        """The number of optimiser updates the order holds."""
        return len(self.offsets) - 1

    def batch(self, update: int) -> Ids:
        """The ids of one update (1-based): held-out chunks included, injected items negative."""
        if not 1 <= update <= self.num_updates:
            raise ValueError(f"no update {update}: the order has updates 1 to {self.num_updates}")
        return self.ids[self.offsets[update - 1] : self.offsets[update]]

    def seen_by(self, step: int) -> Ids:
        """All chunk ids, repeats included, that the checkpoint of `step` was trained on."""
        self.check_step(step)
        end = self.offsets[step]
        return self.chunk_ids[:end] if self.trained is None else self.chunk_ids[:end][self.trained[:end]]

    def check_step(self, step: int) -> None:
        """Raise ValueError for a checkpoint that the order does not reach."""
        if not 0 <= step <= self.num_updates:
            raise ValueError(f"no step {step}: the order has steps 0 to {self.num_updates}")

    def epoch_of(self, update: int) -> int:
        """The epoch (1-based) that an update belongs to."""
        return int(np.searchsorted(self.epoch_starts, update - 1, side="right"))

    def steps_of(self, chunk_id: int) -> Ids:
        """The updates (1-based, ascending) that train on a chunk; empty for one never seen.

        Updates from which it is held out (`masked`), or where injected items left none of it, are not among
        them.
        """
        return self.steps_of_many(np.array([chunk_id]))[1]

    def steps_of_many(self, chunk_ids: Ids) -> tuple[Ids, Ids]:
        """The updates that train on each of many chunks, in millions a second.

        Returns:
            `offsets` (chunks + 1,) and the updates: those of chunk `i` are
            `updates[offsets[i] : offsets[i + 1]]`, 1-based, ascending. A chunk that is never seen has none.

        >>> order = DataOrder(np.array([0, 2, 4]), np.array([5, 0, 5, 1]), np.array([0]))
        >>> offsets, updates = order.steps_of_many(np.array([5, 7, 1]))
        >>> offsets.tolist(), updates.tolist()
        ([0, 2, 2, 3], [1, 2, 2])
        """
        return self.inverse.look_up(np.asarray(chunk_ids, dtype=np.int64))

    @cached_property
    def inverse(self) -> Inverse:
        """From chunk to updates, made once: 4 bytes an exposure, 8 bytes a chunk."""
        if self.trained is None:
            return invert(self.chunk_ids, self.offsets, block_starts=self.epoch_starts)
        kept = np.concatenate([[0], np.cumsum(self.trained)])[self.offsets]
        return invert(self.chunk_ids[self.trained], kept, block_starts=self.epoch_starts)

    @cached_property
    def injected(self) -> InjectedSlots | None:
        """The slots that hold injected items; None where there are none."""
        return (
            None if self.injections is None or not self.injections.num_rows else read_slots(self.injections)
        )

    @cached_property
    def chunk_ids(self) -> Ids:
        """The chunk in each slot, (total,): `ids` itself or, where items are injected, a copy in memory.

        Under an injected item it is the chunk that the item was put into, whether any of it is left or not.
        """
        if self.injected is None:
            return self.ids
        chunks = np.array(self.ids)
        chunks[self.injected.positions(self.offsets)] = self.injected.chunk_id
        return chunks

    @cached_property
    def trained(self) -> npt.NDArray[np.bool_] | None:
        """False where a slot's chunk is held out or displaced whole, (total,); None if that is nowhere."""
        gone = np.concatenate([self._held_out(), self._displaced()])
        if not len(gone):
            return None
        trained = np.ones(len(self.ids), dtype=bool)
        trained[gone] = False
        return trained

    def _held_out(self) -> Ids:
        """The positions in `ids` of held-out chunks."""
        if self.masked is None or not self.masked.num_rows:
            return np.empty(0, dtype=np.int64)
        updates, chunks = (self.masked[name].to_numpy() for name in ("update", "chunk_id"))
        places = find_places(self.ids, self.offsets, updates, chunks)
        return places[places >= 0]

    def _displaced(self) -> Ids:
        """The positions in `ids` of injected items that leave nothing of their chunk."""
        if self.injected is None:
            return np.empty(0, dtype=np.int64)
        positions: Ids = self.injected.positions(self.offsets)[self.injected.kept == 0]
        return positions


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
    if not len(buckets):
        raise ValueError("the chunk store holds no chunk: there is nothing to put into an order")
    members = {int(size): np.flatnonzero(buckets == size).astype(np.int64) for size in np.unique(buckets)}
    check_buckets({size: len(ids) for size, ids in members.items()}, batch_tokens=batch_tokens)
    leftover = {size: np.empty(0, dtype=np.int64) for size in members}

    def next_epoch(epoch: int) -> tuple[Ids, Ids]:
        return _one_epoch(members, leftover, batch_tokens=batch_tokens, seed=seed, epoch=epoch)

    return assemble(next_epoch, epochs=epochs, updates=updates, seed=seed, batch_tokens=batch_tokens)


def assemble(
    next_epoch: Callable[[int], tuple[Ids, Ids]], *, epochs: int | None, updates: int | None, **info: Any
) -> DataOrder:
    """The order whose epoch e = 0, 1, ... has the ids, and numbers of ids an update, of `next_epoch(e)`.

    It ends after so many epochs or, within one if need be, after so many updates.
    """
    parts: list[Ids] = []
    lengths: list[Ids] = []
    epoch_starts: list[int] = []
    done = 0
    while len(epoch_starts) < epochs if epochs is not None else done < (updates or 0):
        part, counts = next_epoch(len(epoch_starts))
        epoch_starts.append(done)
        parts.append(part)
        lengths.append(counts)
        done += len(counts)
    every = np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)
    offsets = every if updates is None else every[: updates + 1]
    ids = np.concatenate([np.empty(0, dtype=np.int64), *parts])[: offsets[-1]]
    asked = {"epochs": epochs} if epochs is not None else {"updates": updates}
    return DataOrder(offsets, ids, np.array(epoch_starts, dtype=np.int64), {**info, **asked})


def _one_epoch(
    members: dict[int, Ids], leftover: dict[int, Ids], *, batch_tokens: int, seed: int, epoch: int
) -> tuple[Ids, Ids]:
    """The ids of an epoch's updates and how many each has; `leftover` becomes that of the epoch's end."""
    streams: dict[int, Ids] = {}
    for size, ids in members.items():
        rows = batch_tokens // size
        stream = _continue_stream(leftover[size], ids, np.random.default_rng([seed, epoch, size]))
        full = len(stream) // rows * rows
        streams[size], leftover[size] = stream[:full], stream[full:]
    return shuffle_updates(streams, batch_tokens=batch_tokens, rng=np.random.default_rng([seed, epoch, 0]))


def shuffle_updates(
    streams: dict[int, Ids], *, batch_tokens: int, rng: np.random.Generator
) -> tuple[Ids, Ids]:
    """Cut each bucket's ids into updates, bucket by bucket, and permute the updates of all buckets.

    Returns:
        The ids, update after update, and the number of ids of each update.
    """
    rows = [np.full(len(ids) * size // batch_tokens, batch_tokens // size) for size, ids in streams.items()]
    lengths = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    shuffled = rng.permutation(len(lengths))
    _, position = gather(np.concatenate([[0], np.cumsum(lengths)]), shuffled)
    flat = np.concatenate([np.empty(0, dtype=np.int64), *streams.values()])
    return flat[position], lengths[shuffled]


def _continue_stream(leftover: Ids, ids: Ids, rng: np.random.Generator) -> Ids:
    """What an epoch left over, then a new permutation in which those same chunks come last.

    So no update can hold a chunk twice: a bucket has at least as many chunks as an update takes.
    """
    permuted = rng.permutation(ids)
    if not len(leftover):
        return permuted
    late = np.isin(permuted, leftover)
    return np.concatenate([leftover, permuted[~late], permuted[late]])


def check_store(order: DataOrder, store_sha256: str) -> None:
    """Refuse an order that was made for another chunk store."""
    recorded = order.info.get("store_sha256")
    if recorded is not None and recorded != store_sha256:
        raise FormatError(
            f"the data order belongs to the chunk store {recorded[:12]}, this one is {store_sha256[:12]}: "
            "make the order again with 'chunk-provenance order'"
        )


def save_order(order: DataOrder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write an order folder: `order.json`, `offsets.npy`, `ids.npy`; masked, plan and injections if any.

    The folder appears complete or not at all. Raises FileExistsError if `path` exists, unless it is a data
    order and may be overwritten.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "order.json").is_file()):
        raise FileExistsError(f"{str(path)!r} exists: remove it or choose another place for the data order")
    unfinished = begin_folder(path)
    np.save(unfinished / "offsets.npy", order.offsets, allow_pickle=False)
    np.save(unfinished / "ids.npy", order.ids, allow_pickle=False)
    for name, schema in TABLES.items():
        if (table := getattr(order, name)) is not None:
            write_table(table.select(schema.names).cast(schema), unfinished / f"{name}.parquet", name)
    header: dict[str, Any] = {"format": "data-order", "version": 1, "num_updates": order.num_updates}
    for name in ("plan", "injections"):
        if getattr(order, name) is not None:
            header[f"{name}_sha256"] = hash_file(unfinished / f"{name}.parquet")
    write_json(
        {**order.info, **header, "epoch_starts": order.epoch_starts.tolist()}, unfinished / "order.json"
    )
    replace_folder(unfinished, path)


def hash_order(path: str | Path) -> str:
    """Identifies a data order: hex sha256 over the hex hashes of its files, in the order of their names."""
    digests = [hash_file(file) for file in sorted(Path(path).iterdir()) if file.is_file()]
    return hash_text("".join(digests))


def load_order(path: str | Path) -> DataOrder:
    """Open an order folder; the ids are memory-mapped.

    Raises:
        FileNotFoundError: `path` is no order folder.
        FormatError: it has another format or version, a file is cut off or of another type, or they disagree.
            Whether the ids are right, `check_order` says: that reads all of them.
    """
    path = Path(path)
    if not (path / "order.json").is_file():
        raise FileNotFoundError(f"no data order at {str(path)!r}: 'chunk-provenance order' makes one")
    info = _read_header(path)
    offsets = _read_integers(path / "offsets.npy", mmap_mode=None)
    ids = _read_integers(path / "ids.npy", mmap_mode="r")
    if len(offsets) != info.pop("num_updates") + 1 or offsets[-1] != len(ids):
        raise FormatError(f"{str(path)!r} is damaged: offsets.npy, ids.npy and order.json disagree")
    epoch_starts = np.array(info.pop("epoch_starts"), dtype=np.int64)
    _check_boundaries(path, offsets, epoch_starts)
    tables = {
        name: read_table(path / f"{name}.parquet", name, schema.names)
        if (path / f"{name}.parquet").exists()
        else None
        for name, schema in TABLES.items()
    }
    order = DataOrder(offsets, ids, epoch_starts, info, **tables)
    _check_injected(path, order)
    return order


def _check_injected(path: Path, order: DataOrder) -> None:
    """Refuse injections that are not where `ids` says; looks at their slots only."""
    if (slots := order.injected) is None:
        return
    outside = (slots.update < 1) | (slots.update > order.num_updates) | (slots.row < 0)
    inside = ~outside
    sizes = np.diff(order.offsets)
    outside[inside] = slots.row[inside] >= sizes[slots.update[inside] - 1]
    if not outside.any() and np.array_equal(order.ids[slots.positions(order.offsets)], slots.ids):
        return
    raise FormatError(f"{str(path)!r} is damaged: ids.npy and injections.parquet disagree")


def _read_header(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / "order.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path / 'order.json')!r} is no JSON: {error}") from error
    if not isinstance(info, dict):
        raise FormatError(f"{str(path / 'order.json')!r} holds a {type(info).__name__}, expected an object")
    check_format(path, info.pop("format", None), info.pop("version", None), "data-order")
    if missing := [name for name in ("num_updates", "epoch_starts") if name not in info]:
        raise FormatError(f"{str(path / 'order.json')!r} lacks {missing}: make the order again")
    return info


def _read_integers(file: Path, *, mmap_mode: Literal["r"] | None) -> Ids:
    try:
        values = np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{str(file)!r} is cut off or no .npy file of numbers: {error}") from error
    if values.dtype != np.int64 or values.ndim != 1:
        raise FormatError(
            f"{str(file)!r} is {values.dtype} of shape {values.shape}, a data order has int64 in one row"
        )
    return np.asarray(values)


def _check_boundaries(path: Path, offsets: Ids, epoch_starts: Ids) -> None:
    if offsets[0] != 0 or np.any(np.diff(offsets) < 1):
        update = 1 + int(np.argmax(np.diff(offsets) < 1))
        raise FormatError(f"{str(path)!r} is damaged: update {update} in offsets.npy holds no chunk")
    if len(epoch_starts) and (
        epoch_starts[0] != 0 or np.any(np.diff(epoch_starts) < 0) or epoch_starts[-1] >= len(offsets)
    ):
        raise FormatError(
            f"{str(path)!r} is damaged: the epoch_starts {epoch_starts.tolist()[:8]} do not ascend from 0 "
            f"inside the {len(offsets) - 1} updates"
        )
