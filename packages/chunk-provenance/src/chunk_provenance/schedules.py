"""Decide when a model meets an entity: all chunks of a group in a burst, or spread over a window of updates.

Every exposure of the group swaps places with a chunk of the same padded length in the update nearest to the
one it should come at, so that each chunk is still trained on as often as before, and updates keep their
lengths. Cost: a tenth of a millisecond an exposure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from chunk_provenance.chunk_lists import ChunkList
from chunk_provenance.injection.rows import update_chunks
from chunk_provenance.interventions import check_no_item, make_plan
from chunk_provenance.order import DataOrder, Ids


@dataclass(frozen=True)
class Scheduled:
    """A plan, and how well it does what was asked."""

    plan: pa.Table
    exposures: int
    farthest: int
    """The largest distance, in updates, between where an exposure should come and where it comes."""


def plan_schedule(
    order: DataOrder,
    chunks: ChunkList,
    *,
    interval: int | None,
    window: tuple[int, int],
    parts: int = 1,
    seed: int = 0,
    lengths: Ids | None = None,
) -> Scheduled:
    """Bring the exposures of every group to a burst, or to random updates, of a window.

    Args:
        order: the order to change.
        chunks: the chunks, in groups (facts or entities) that share no chunk.
        interval: updates from one exposure of a group to the next, from a random first one; None: all at
            random updates, each in another one.
        window: first update and the one after the last.
        parts: cut the window into so many equal ones, and deal the groups to them.
        seed: of everything random.
        lengths: padded length of every update, (updates,); how many chunks it holds, where not given.

    Raises:
        ValueError: groups share a chunk, are not in the order, or do not fit into the window.
    """
    _check_groups(chunks)
    rng = np.random.default_rng(seed)
    places = _Places(order, np.diff(order.offsets) if lengths is None else lengths, chunks.distinct)
    bounds = np.linspace(window[0], window[1], parts + 1).round().astype(int)
    exposures = farthest = 0
    for dealt, group in enumerate(rng.permutation(len(chunks.names))):
        first, end = bounds[dealt % parts], bounds[dealt % parts + 1]
        ids = chunks.chunk_ids[chunks.group == group]
        offsets, updates = order.steps_of_many(ids)
        slots = np.column_stack([updates, np.repeat(ids, np.diff(offsets))])
        if order.injections is not None:
            for update, chunk_id in slots.tolist():
                check_no_item(order, update, chunk_id)
        what = f"group {chunks.names[group]!r}" if chunks.names[group] else "the chunks"
        asked = _aim(len(slots), int(first), int(end), interval, rng, what)
        used: set[int] = set()
        for (update, chunk_id), target in zip(rng.permutation(slots).tolist(), asked.tolist(), strict=True):
            got = places.move(update, chunk_id, target, (int(first), int(end)), used, rng)
            used.add(got)
            farthest = max(farthest, abs(got - target))
        exposures += len(slots)
    return Scheduled(places.plan(), exposures, farthest)


def _check_groups(chunks: ChunkList) -> None:
    ids, counts = np.unique(chunks.chunk_ids, return_counts=True)
    if (counts > 1).any():
        chunk_id = ids[np.argmax(counts > 1)]
        names = [chunks.names[group] for group in chunks.group[chunks.chunk_ids == chunk_id]]
        raise ValueError(
            f"chunk {chunk_id} belongs to the groups {names[:4]}: it cannot follow two schedules"
        )


def _aim(
    exposures: int, first: int, end: int, interval: int | None, rng: np.random.Generator, what: str
) -> Ids:
    """The updates at which a group should come, ascending."""
    if not exposures:
        raise ValueError(f"{what} is not trained on in the order: there is nothing to schedule")
    needed = exposures if interval is None else (exposures - 1) * interval + 1
    if needed > end - first:
        raise ValueError(
            f"{what} has {exposures} exposures, which need {needed} updates; its window, {first}-{end - 1}, "
            f"has {end - first}"
        )
    if interval is None:
        return np.sort(first + rng.choice(end - first, exposures, replace=False))
    start = int(rng.integers(first, end - needed + 1))
    return start + interval * np.arange(exposures)


class _Places:
    """The order's batches while chunks move; only those that change are copied."""

    def __init__(self, order: DataOrder, lengths: Ids, scheduled: Ids) -> None:
        self._order, self._lengths = order, lengths
        self._scheduled = np.zeros(int(scheduled[-1]) + 2, dtype=bool)  # the last one for all others
        self._scheduled[scheduled] = True
        self._of_length = {int(size): np.flatnonzero(lengths == size) + 1 for size in np.unique(lengths)}
        self._batches: dict[int, Ids] = {}
        self._fixed: dict[int, set[int]] = {}  # update -> positions that have changed already

    def move(
        self,
        update: int,
        chunk_id: int,
        target: int,
        window: tuple[int, int],
        used: set[int],
        rng: np.random.Generator,
    ) -> int:
        """Swap an exposure into the nearest update of its length that can take it; returns that update."""
        for candidate in self._nearest(self._lengths[update - 1], target, window):
            if candidate in used:
                continue
            if candidate == update:
                return update
            if np.isin(chunk_id, self._batch(candidate)):
                continue
            position = self._give_way(candidate, self._batch(update), rng)
            if position is not None:
                self._swap(update, chunk_id, candidate, position)
                return candidate
        raise ValueError(
            f"no update from {window[0]} to {window[1] - 1} can take chunk {chunk_id} of update {update}: "
            "none of its length is left, give a wider window"
        )

    def _nearest(self, length: int, target: int, window: tuple[int, int]) -> Iterator[int]:
        """Updates of one length in a window, nearest first, the earlier of two first."""
        updates = self._of_length[int(length)]
        low, right, high = np.searchsorted(updates, [window[0], target, window[1]]).tolist()
        right = min(max(right, low), high)
        left = right - 1
        while left >= low or right < high:
            before = left >= low and (right == high or target - updates[left] <= updates[right] - target)
            yield int(updates[left if before else right])
            left, right = left - before, right + (not before)

    def _batch(self, update: int) -> Ids:
        return self._batches.get(update, update_chunks(self._order, update))

    def _give_way(self, update: int, other: Ids, rng: np.random.Generator) -> int | None:
        """A random position whose chunk can leave the update for the other one."""
        batch = self._batch(update)
        scheduled = self._scheduled[np.clip(batch, -1, len(self._scheduled) - 1)]
        free = ~scheduled & ~np.isin(batch, other) & (self._order.batch(update) >= 0)
        free[list(self._fixed.get(update, ()))] = False
        if self._order.trained is not None:
            start = self._order.offsets[update - 1]
            free &= self._order.trained[start : start + len(batch)]
        positions = np.flatnonzero(free)
        return int(rng.choice(positions)) if len(positions) else None

    def _swap(self, update: int, chunk_id: int, other: int, position: int) -> None:
        for changed in (update, other):
            self._batches.setdefault(changed, np.array(update_chunks(self._order, changed)))
        mine = int(np.flatnonzero(self._batches[update] == chunk_id)[0])
        self._batches[update][mine] = self._batches[other][position]
        self._batches[other][position] = chunk_id
        self._fixed.setdefault(update, set()).add(mine)
        self._fixed.setdefault(other, set()).add(position)

    def plan(self) -> pa.Table:
        """All slots that differ from the order's."""
        rows = []
        for update, batch in self._batches.items():
            before = update_chunks(self._order, update)
            rows += [(update, int(before[i]), int(batch[i])) for i in np.flatnonzero(batch != before)]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return make_plan(columns[:, 0], columns[:, 1], columns[:, 2])
