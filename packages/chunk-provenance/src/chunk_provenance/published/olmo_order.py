"""OLMo's and OLMo-core's data order: `global_indices*.npy`, the instances in the order they are trained on.

A chunk id is the number of an instance: of the stretches of `sequence_length` tokens into which OLMo cuts its
token files, one file after the other in the order of the run's configuration. The file is plain uint32
without a header. Update `s` takes the instances (s - 1) * B to s * B; what does not fill an update is unused.

How the two trainers make it differs in one number: both shuffle with PCG64(seed + epoch), where OLMo counts
the epochs from 0 and OLMo-core from 1. As it is a sum, epoch 2 of seed 0 is epoch 1 of seed 1.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chunk_provenance.order import DataOrder
from chunk_provenance.published.npy_files import Integers, has_header, map_npy, map_plain

EPOCH = re.compile(r"epoch_?(\d+)")


def order_of_rows(epochs: Sequence[Integers], *, batch_size: int, updates: int | None = None) -> DataOrder:
    """The order that takes `batch_size` ids after another from each epoch's ids, for `updates` at most."""
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size} must be at least 1")
    counts = [len(ids) // batch_size for ids in epochs]
    total = sum(counts) if updates is None else updates
    if total > sum(counts):
        raise ValueError(
            f"the file has {sum(counts):,} updates of {batch_size:,}, --updates asks for {total:,}"
        )
    starts = np.cumsum([0, *counts])
    ids = np.empty(total * batch_size, dtype=np.int64)
    for begin, count, of_epoch in zip(starts.tolist(), counts, epochs, strict=False):
        here = min(count, max(total - begin, 0)) * batch_size
        ids[begin * batch_size :][:here] = of_epoch[:here]
    offsets = np.arange(total + 1) * batch_size
    return DataOrder(offsets, ids, starts[:-1][starts[:-1] < max(total, 1)])


def find_global_indices(folder: Path) -> list[Path]:
    """OLMo's files in a folder or its `train_data`, by epoch; empty if there are none."""
    for place in (folder, folder / "train_data"):
        if files := list(place.glob("global_indices*.npy")):
            return sorted(files, key=lambda file: (_epoch_of(file), file.name))
    return []


def _epoch_of(file: Path) -> int:
    found = EPOCH.search(file.name)
    return int(found.group(1)) if found else 0


def read_olmo_order(files: Sequence[Path], *, batch_size: int, updates: int | None = None) -> DataOrder:
    """The order of a run whose epochs are these files, in updates of `batch_size` instances.

    Memory: 8 bytes an instance of the updates that are read.

    Raises:
        FileNotFoundError: a file is missing.
        FormatError: a file is no array of integers.
    """
    order = order_of_rows(
        [read_global_indices(file) for file in files], batch_size=batch_size, updates=updates
    )
    order.info.update(kind="olmo", epochs=len(files), batch_size=batch_size)
    return order


def read_global_indices(path: Path) -> Integers:
    """The numbers of a file, memory-mapped: plain uint32, or a real `.npy` of integers."""
    if path.is_file() and has_header(path):
        return map_npy(path, dimensions=1)
    return map_plain(path, dtype="<u4")


def compute_olmo_order(
    num_instances: int,
    *,
    batch_size: int,
    seed: int,
    epochs: int = 1,
    first_epoch: int = 1,
    instances_together: int = 1,
    updates: int | None = None,
) -> DataOrder:
    """The order that OLMo-core trains in, without its file.

    Args:
        num_instances: of the dataset.
        batch_size: instances of an update: tokens of an update / sequence length.
        seed: of the data loader.
        epochs: how many.
        first_epoch: 1 in OLMo-core, 0 in OLMo.
        instances_together: so many consecutive instances stay together (`max_target_sequence_length` /
            sequence length).
        updates: at most.

    >>> compute_olmo_order(5, batch_size=2, seed=0).ids.tolist()
    [4, 0, 1, 2]
    """
    parts = [
        _shuffled(num_instances, seed + epoch, instances_together)
        for epoch in range(first_epoch, first_epoch + epochs)
    ]
    order = order_of_rows(parts, batch_size=batch_size, updates=updates)
    order.info.update(
        kind="olmo-core" if first_epoch else "olmo", seed=seed, epochs=epochs, batch_size=batch_size
    )
    return order


def _shuffled(num_instances: int, seed: int, together: int) -> Integers:
    groups = np.arange(num_instances // together, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed)).shuffle(groups)
    return (groups[:, None].astype(np.int64) * together + np.arange(together)).reshape(-1)
