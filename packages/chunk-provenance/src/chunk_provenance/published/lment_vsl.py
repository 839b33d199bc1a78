"""LMEnt's data order put together from the files its data loader keeps, in a folder `vsl-grow-p2-8-cycle`.

`instance_indices_bucket{L}_epoch{e}_seed{s}.npy` holds the shuffled chunk ids of the chunks of padded length
L; every `batch tokens / L` of them are a batch. Batches are numbered bucket by bucket, shortest first, and
`global_batch_indices_bz{tokens}_epoch{e}_seed{s}.npy` says in which order they are trained. So many batches
of a bucket are used as are a multiple of the cycles in the folder's name; in a `balanced` one, of the fewest.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chunk_provenance.csr import gather
from chunk_provenance.formats import FormatError
from chunk_provenance.order import DataOrder
from chunk_provenance.published.npy_files import map_plain

Ids = npt.NDArray[np.int64]
BATCHES = re.compile(r"global_batch_indices_bz(\d+)_epoch(\d+)_seed(\d+)\.npy")
CYCLES = re.compile(r"-(\d+)-cycle")


def find_batch_orders(folder: Path) -> list[Path]:
    """The batch orders of a folder, one an epoch, ascending; empty if there are none.

    Raises:
        ValueError: they are of several batch sizes or seeds, or an epoch is missing.
    """
    found = sorted(
        (tuple(map(int, name.groups())), file)
        for file in folder.glob("global_batch_indices_*.npy")
        if (name := BATCHES.fullmatch(file.name))
    )
    if len(runs := {(tokens, seed) for (tokens, _, seed), _ in found}) > 1:
        raise ValueError(
            f"{str(folder)!r} has orders of several (batch size, seed) {sorted(runs)}: keep those of one"
        )
    epochs = [epoch for (_, epoch, _), _ in found]
    if epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"{str(folder)!r} has the epochs {epochs}, expected all from 1 on")
    return [file for _, file in found]


def compose_lment_order(files: list[Path]) -> DataOrder:
    """The order of these epochs (`global_batch_indices_*.npy`), with the buckets' files beside them.

    Raises:
        FormatError: a file is cut off, or the batches are not those of the buckets.
    """
    epochs = [_compose_epoch(file) for file in files]
    lengths = np.concatenate([part for part, _ in epochs])
    starts = np.cumsum([0] + [len(part) for part, _ in epochs])[:-1]
    info = {"kind": "lment", "epochs": len(files)}
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return DataOrder(offsets, np.concatenate([ids for _, ids in epochs]), starts, info)


def _compose_epoch(file: Path) -> tuple[Ids, Ids]:
    """Lengths of the updates of an epoch and their chunk ids."""
    name = BATCHES.fullmatch(file.name)
    if name is None:
        raise ValueError(f"{str(file)!r} is not named as global_batch_indices_bz32768_epoch1_seed0.npy is")
    tokens, epoch, seed = map(int, name.groups())
    buckets = _read_buckets(file.parent, f"_epoch{epoch}_seed{seed}.npy")
    sizes = {length: tokens // length for length in buckets}  # chunks of a batch
    counts = _count_batches({length: len(ids) // sizes[length] for length, ids in buckets.items()}, file)
    order = map_plain(file, dtype="<u4").astype(np.int64)
    if not np.array_equal(np.sort(order), np.arange(sum(counts.values()))):
        raise FormatError(
            f"{str(file)!r} orders {len(order):,} batches, the buckets beside it give "
            f"{sum(counts.values()):,}: {counts}"
        )
    used = [buckets[length][: counts[length] * sizes[length]] for length in buckets]
    rows = np.repeat([sizes[length] for length in buckets], [counts[length] for length in buckets])
    position = gather(np.concatenate([[0], np.cumsum(rows)]), order)[1]
    return rows[order], np.concatenate(used).astype(np.int64)[position]


def _read_buckets(folder: Path, ending: str) -> dict[int, npt.NDArray[np.integer]]:
    files = {
        int(file.name.removeprefix("instance_indices_bucket").removesuffix(ending)): file
        for file in folder.glob(f"instance_indices_bucket*{ending}")
    }
    if not files:
        raise FileNotFoundError(
            f"no instance_indices_bucket*{ending} in {str(folder)!r}: they hold the chunk ids"
        )
    return {length: map_plain(files[length], dtype="<u4") for length in sorted(files)}


def _count_batches(available: dict[int, int], file: Path) -> dict[int, int]:
    """How many batches of each bucket are used."""
    found = CYCLES.search(file.parent.name)
    cycles = int(found.group(1)) if found else 1
    counts = {length: count // cycles * cycles for length, count in available.items()}
    if file.parent.name.endswith("-balanced"):
        return dict.fromkeys(counts, min(counts.values()))
    return counts
