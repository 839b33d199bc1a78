"""The data order of a mixture of stores: each in its share, mixed evenly, an update of chunks of one length.

Every (store, length) is a stream of its chunks: permutation after permutation, so that all come once before
any comes again, or random draws with replacement. An epoch takes `multiplier` times the stream's chunks,
spreads each stream evenly over the epoch, and cuts updates; an update never holds a chunk twice.
10.5 M chunks: some 5 s an epoch.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from chunk_provenance.bucket_checks import check_buckets
from chunk_provenance.mixtures import MixtureStore
from chunk_provenance.order import DataOrder, Ids, assemble, compute_order, shuffle_updates
from chunk_provenance.store import ChunkStore

BLOCK = 256  # ids looked at together
STREAM, SPREAD, SHUFFLE = 1, 2, 3  # first word of a seed, after the user's: one for every use


@dataclass(frozen=True)
class Trained:
    """What an order makes of one store of a mixture."""

    name: str
    chunks: int
    exposures: int
    tokens: int
    share: float
    """Of all tokens trained, padding not counted."""
    times: float
    """Exposures a chunk, on average: epochs of this store."""
    most: int
    """Exposures of the chunk that is seen most often."""


def compute_store_order(
    store: ChunkStore, *, batch_tokens: int, seed: int, epochs: int | None = None, updates: int | None = None
) -> DataOrder:
    """The order that a store or a mixture asks for, with the store's hash in it; see `compute_order`."""
    if not isinstance(store, MixtureStore):
        order = compute_order(
            store.bucket, batch_tokens=batch_tokens, seed=seed, epochs=epochs, updates=updates
        )
        return replace(order, info={**order.info, "store_sha256": store.sha256})
    order = compute_mixture_order(
        store.bucket,
        store.first_chunks,
        [part.multiplier for part in store.parts],
        batch_tokens=batch_tokens,
        seed=seed,
        epochs=epochs,
        updates=updates,
        replacement=store.replacement,
    )
    stores = [
        {
            "name": part.name,
            "sha256": part.store.sha256,
            "first_chunk": part.first_chunk,
            "num_chunks": part.store.num_chunks,
            "multiplier": part.multiplier,
        }
        for part in store.parts
    ]
    return replace(order, info={**order.info, "store_sha256": store.sha256, "stores": stores})


def compute_mixture_order(
    buckets: npt.NDArray[np.int32],
    first_chunks: Ids,
    multipliers: Sequence[float],
    *,
    batch_tokens: int,
    seed: int,
    epochs: int | None = None,
    updates: int | None = None,
    replacement: bool = False,
) -> DataOrder:
    """The order of chunks of several stores, for a number of epochs of the mixture or of updates.

    Args:
        buckets: padded length of every chunk, store after store, (chunks,).
        first_chunks: where each store's chunks begin and the last one's end, (stores + 1,).
        multipliers: exposures of a store's chunks in an epoch of the mixture, on average.
        batch_tokens: tokens of an update, padding included; a multiple of every bucket.
        seed: of all streams.
        epochs: how many (exactly one of `epochs` and `updates`).
        updates: stop after this many.
        replacement: draw chunks at random each time, instead of all of a store before any comes again.

    Raises:
        ValueError: a length has too few chunks to fill an update, or one would stand twice in it.
    """
    if (epochs is None) == (updates is None):
        raise ValueError("give either epochs or updates")
    sizes = {
        int(size): int(count) for size, count in zip(*np.unique(buckets, return_counts=True), strict=True)
    }
    check_buckets(sizes, batch_tokens=batch_tokens)
    streams = {
        size: [
            _Stream(ids, times, seed=[seed, STREAM, store, size], replacement=replacement)
            for store, (ids, times) in enumerate(
                zip(_members(buckets, first_chunks, size), multipliers, strict=True)
            )
        ]
        for size in sizes
    }
    leftover = {size: np.empty(0, dtype=np.int64) for size in sizes}

    def next_epoch(epoch: int) -> tuple[Ids, Ids]:
        full = {
            size: _cut(streams[size], leftover, size, batch_tokens // size, [seed, SPREAD, epoch, size])
            for size in sizes
        }
        rng = np.random.default_rng([seed, SHUFFLE, epoch])
        return shuffle_updates(full, batch_tokens=batch_tokens, rng=rng)

    order = assemble(
        next_epoch,
        epochs=epochs,
        updates=updates,
        seed=seed,
        batch_tokens=batch_tokens,
        replacement=replacement,
    )
    if epochs is not None:
        _check_all_trained(order, [batch_tokens // size for size in sizes], epochs)
    return order


def _members(buckets: npt.NDArray[np.int32], first_chunks: Ids, size: int) -> list[Ids]:
    """The chunks of one length, by store."""
    ids = np.flatnonzero(buckets == size).astype(np.int64)
    return np.split(ids, np.searchsorted(ids, first_chunks[1:-1]))


class _Stream:
    """The chunks of one store and length, for ever."""

    def __init__(self, ids: Ids, times: float, *, seed: list[int], replacement: bool) -> None:
        self._ids, self._times, self._seed, self._replacement = ids, times, seed, replacement
        self._waiting = np.empty(0, dtype=np.int64)
        self._passes = self._epochs = 0

    def next_epoch(self) -> Ids:
        """An epoch's chunks: `times` each; what is not whole goes over to the next epoch."""
        begin, end = (
            round(epoch * self._times * len(self._ids)) for epoch in (self._epochs, self._epochs + 1)
        )
        self._epochs += 1
        if self._replacement:
            rng = np.random.default_rng([*self._seed, self._epochs])
            return self._ids[rng.integers(0, max(len(self._ids), 1), end - begin)]
        parts = [self._waiting]
        while sum(map(len, parts)) < end - begin:
            parts.append(np.random.default_rng([*self._seed, self._passes]).permutation(self._ids))
            self._passes += 1
        stream = np.concatenate(parts)
        self._waiting = stream[end - begin :]
        return stream[: end - begin]


def _cut(streams: list[_Stream], leftover: dict[int, Ids], size: int, rows: int, seed: list[int]) -> Ids:
    """The chunks of an epoch's updates of one length, after what the epoch before left of it."""
    new = spread([stream.next_epoch() for stream in streams], np.random.default_rng(seed))
    updates, leftover[size] = separate(np.concatenate([leftover[size], new]), rows)
    if len(leftover[size]) >= max(2 * rows, len(new) // 2):
        ids, counts = np.unique(leftover[size], return_counts=True)
        raise ValueError(
            f"chunks of the padded length {size} repeat too often to fill updates of {rows} different ones "
            f"(chunk {ids[np.argmax(counts)]} waits {counts.max()} times): lower the weight of its store"
        )
    return updates


def spread(streams: Sequence[Ids], rng: np.random.Generator) -> Ids:
    """One stream in which each of several is spread evenly, with a little chance, and keeps its order.

    >>> mixed = spread([np.arange(6), np.array([7, 8])], np.random.default_rng(0))
    >>> [place // 4 for place in np.flatnonzero(mixed >= 7).tolist()]  # one in each half
    [0, 1]
    """
    places = [(np.arange(len(stream)) + rng.random(len(stream))) / max(len(stream), 1) for stream in streams]
    return np.concatenate(streams)[np.argsort(np.concatenate(places), kind="stable")]


def separate(stream: Ids, rows: int) -> tuple[Ids, Ids]:
    """Updates of `rows` different ids each, and what is left over.

    Where an id comes again in an update, it changes places with the next one of the stream that is not in it.

    >>> [part.tolist() for part in separate(np.array([4, 4, 1, 4, 2, 3, 1]), 3)]
    [[4, 2, 1, 4, 1, 3], [4]]
    """
    stream = stream.copy()
    full = len(stream) // rows
    ordered = np.sort(stream[: full * rows].reshape(-1, rows), axis=1)
    waiting = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)).tolist()
    while waiting:  # a heap: ascending numbers are one
        update = heapq.heappop(waiting)
        batch = stream[update * rows : (update + 1) * rows]
        for row in np.setdiff1d(np.arange(rows), np.unique(batch, return_index=True)[1]).tolist():
            place = _next_other(stream, (update + 1) * rows, batch)
            if place is None:
                return stream[: update * rows], stream[update * rows :]
            batch[row], stream[place] = stream[place], batch[row]
            if place // rows < full:
                heapq.heappush(waiting, place // rows)
    return stream[: full * rows], stream[full * rows :]


def _next_other(stream: Ids, begin: int, batch: Ids) -> int | None:
    """The first place from `begin` on whose id is not in the batch."""
    for part in range(begin, len(stream), BLOCK):
        others = ~np.isin(stream[part : part + BLOCK], batch)
        if others.any():
            return part + int(np.argmax(others))
    return None


def _check_all_trained(order: DataOrder, rows: Sequence[int], epochs: int) -> None:
    if never := sorted(set(rows) - set(np.unique(np.diff(order.offsets)).tolist())):
        raise ValueError(
            f"in {epochs} epochs of the mixture, the lengths of which an update takes {never} chunks never "
            "fill one: take more epochs, larger weights, or a smaller --batch-tokens"
        )


def count_trained(order: DataOrder, store: MixtureStore) -> list[Trained]:
    """What the order makes of each store."""
    seen = np.bincount(order.seen_by(order.num_updates), minlength=store.num_chunks)
    tokens = seen * store.length
    total = int(tokens.sum())
    found = []
    for part in store.parts:
        mine = slice(part.first_chunk, part.first_chunk + part.store.num_chunks)
        exposures = int(seen[mine].sum())
        trained = int(tokens[mine].sum())
        times = exposures / part.store.num_chunks
        most = int(seen[mine].max())
        found.append(
            Trained(part.name, part.store.num_chunks, exposures, trained, trained / total, times, most)
        )
    return found


def trained_table(stores: Sequence[Trained]) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows of a table of what an order makes of the stores."""
    rows = [
        [
            store.name,
            f"{store.exposures:,}",
            f"{store.tokens:,}",
            f"{store.share:.1%}",
            f"{store.times:.2f}",
            f"{store.most:,}",
        ]
        for store in stores
    ]
    return "Trained on", ["store", "exposures", "tokens", "share", "times a chunk", "at most"], rows
