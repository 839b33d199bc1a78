"""LMEnt's data order: `batch_indices[_epoch_e].npy`, one row of chunk ids per update.

Row `s` (from 0) of epoch `e` is trained at update (e - 1) * S + s + 1, where S = 109,672 is the number of
updates of an epoch: the trainer counts before it trains, and the checkpoint `stepN` has seen N rows. LMEnt's
README prints the row's number, one less; `lment_readme_step` and `update_of_readme_step` translate.

The epochs of a longer run are shuffled anew, each has a file of its own.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chunk_provenance.order import DataOrder
from chunk_provenance.published.object_arrays import read_rows

LMENT_UPDATES_PER_EPOCH = 109_672
EPOCH = re.compile(r"batch_indices_epoch_(\d+)\.npy")


def lment_readme_step(update: int, *, updates_per_epoch: int = LMENT_UPDATES_PER_EPOCH) -> int:
    """The step that the loop in LMEnt's README prints for an update: its row in its epoch's file, from 0.

    A checkpoint `stepN` of the first epoch has seen the README's steps below N, not the one of number N.

    >>> lment_readme_step(16_619), lment_readme_step(109_673)
    (16618, 0)
    """
    if update < 1:
        raise ValueError(f"no update {update}: they count from 1")
    return (update - 1) % updates_per_epoch


def update_of_readme_step(
    step: int, *, epoch: int = 1, updates_per_epoch: int = LMENT_UPDATES_PER_EPOCH
) -> int:
    """The update, from 1, at which the row that LMEnt's README calls `step` is trained in an epoch, from 1.

    The checkpoint of this number is the first that has seen it.

    >>> update_of_readme_step(16_618), update_of_readme_step(0, epoch=2)
    (16619, 109673)
    """
    if not 0 <= step < updates_per_epoch or epoch < 1:
        raise ValueError(
            f"no step {step} in epoch {epoch}: steps count from 0 to {updates_per_epoch - 1}, epochs from 1"
        )
    return (epoch - 1) * updates_per_epoch + step + 1


def find_batch_indices(folder: Path) -> list[Path]:
    """The files of LMEnt's epochs in a folder or its `dataset-cache`, in order; empty if there are none.

    Raises:
        ValueError: an epoch in between is missing.
    """
    for place in (folder, folder / "dataset-cache"):
        of_epoch = {
            int(found.group(1)): file
            for file in place.glob("batch_indices_epoch_*.npy")
            if (found := EPOCH.fullmatch(file.name))
        }
        if of_epoch:
            if missing := sorted(set(range(1, max(of_epoch) + 1)) - set(of_epoch)):
                raise ValueError(
                    f"{str(place)!r} lacks batch_indices_epoch_{missing[0]}.npy: the later epochs' updates "
                    "cannot be counted without it"
                )
            return [of_epoch[epoch] for epoch in sorted(of_epoch)]
        if (place / "batch_indices.npy").is_file():
            return [place / "batch_indices.npy"]
    return []


def read_lment_order(files: Sequence[Path]) -> DataOrder:
    """The order of a run whose epochs are these files, one after the other.

    Raises:
        FileNotFoundError: a file is missing.
        FormatError: a file is cut off or holds anything but rows of integers.
    """
    found = {file: read_rows(file) for file in dict.fromkeys(files)}  # one may be repeated
    epochs = [found[file] for file in files]
    counts = np.cumsum([0] + [len(offsets) - 1 for offsets, _ in epochs])
    sizes = np.cumsum([0] + [len(ids) for _, ids in epochs])
    offsets = [part[1:] + begin for (part, _), begin in zip(epochs, sizes, strict=False)]
    ids = epochs[0][1] if len(epochs) == 1 else np.concatenate([ids for _, ids in epochs])
    info = {"kind": "lment", "epochs": len(files)}
    return DataOrder(np.concatenate([np.zeros(1, np.int64), *offsets]), ids, counts[:-1], info)
