"""Data orders of the branches and of the joint models: both see the same chunks.

A unit's budget is a list of chunks: its own, shuffled, again and again until the updates of a branch are full
(the paper's "upsampling" of small units). A joint model of k units gets the k lists together, shuffled: k
times the updates, and chunk by chunk what its branches saw. All name chunks of one store.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chunk_provenance import ChunkStore, DataOrder, save_order

Ids = npt.NDArray[np.int64]


def unit_of_chunk(store: ChunkStore, unit_of_document: dict[str, int]) -> Ids:
    """The unit of every chunk, (chunks,); -1 for one that crosses two units or is short."""
    segments = store.segment_table.select(["chunk_id", "doc_id"])
    units = np.array([unit_of_document[doc_id] for doc_id in segments["doc_id"].to_pylist()], dtype=np.int64)
    chunk_ids = segments["chunk_id"].to_numpy()
    low, high = (np.full(store.num_chunks, fill, dtype=np.int64) for fill in (len(units), -1))
    np.minimum.at(low, chunk_ids, units)
    np.maximum.at(high, chunk_ids, units)
    return np.where((low == high) & (store.length == store.bucket), low, -1)


def budget(chunks: Ids, num_chunks: int, *, rows: int, seed: int, unit: int) -> Ids:
    """A unit's chunks in an order of their own, repeated up to `num_chunks`; (num_chunks,)."""
    if len(chunks) < rows:
        raise ValueError(f"a unit has {len(chunks)} chunks, an update takes {rows}: make its units larger")
    passes = -(-num_chunks // len(chunks))
    shuffled = [np.random.default_rng([seed, unit, turn]).permutation(chunks) for turn in range(passes)]
    return np.concatenate(shuffled)[:num_chunks]


def joint_order(budgets: Sequence[Ids], *, rows: int, seed: int, units: Sequence[int]) -> DataOrder:
    """The order of a model of these units: their budgets, mixed; no chunk twice in an update."""
    ids = np.random.default_rng([seed, *units]).permutation(np.concatenate(budgets))
    ids = spread(ids.reshape(-1, rows))
    offsets = np.arange(0, ids.size + 1, rows, dtype=np.int64)
    info = {"seed": seed, "units": list(units)}
    return DataOrder(offsets, ids.reshape(-1), np.zeros(1, dtype=np.int64), info)


def spread(batches: Ids) -> Ids:
    """Exchange what stands twice in an update with the first update that has neither; (updates, rows)."""
    batches = batches.copy()
    for update, batch in enumerate(batches):
        for row in range(len(batch)):
            if batch[row] in batch[:row]:
                _exchange(batches, update, row)
    return batches


def _exchange(batches: Ids, update: int, row: int) -> None:
    chunk = batches[update, row]
    for other in range(len(batches)):
        for place, candidate in enumerate(batches[other]):
            if chunk not in batches[other] and candidate not in batches[update]:
                batches[update, row], batches[other, place] = candidate, chunk
                return


def record(order: DataOrder, store: ChunkStore, path: Path) -> None:
    """Save an order once."""
    if not (path / "order.json").is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        order.info["store_sha256"] = store.sha256
        save_order(order, path)
