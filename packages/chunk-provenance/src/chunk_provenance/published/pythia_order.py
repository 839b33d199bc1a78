"""Pythia's and GPT-NeoX's data order: the rows of a shuffled file, or Megatron's index maps.

Two ways to say the same, and two meanings of a chunk id:

* Of the pre-shuffled data (`document.bin`, `document.idx`) row `i` is the i-th sequence trained on. A chunk
  id is that row; update `s` trains on rows (s - 1) * 1024 to s * 1024. Pythia has 143,000 updates.
* Of the index maps (`*_doc_idx.npy`, `*_sample_idx.npy`, `*_shuffle_idx.npy`) the last says which sample
  comes at which position. A chunk id is the number of the sample, a row of `*_sample_idx.npy`. All epochs are
  shuffled together: a repeated text is a sample of another number, and there is one "epoch".
"""

import re
from pathlib import Path

import numpy as np

from chunk_provenance.formats import FormatError
from chunk_provenance.order import DataOrder
from chunk_provenance.published.npy_files import Integers, map_npy
from chunk_provenance.published.olmo_order import order_of_rows

PYTHIA_UPDATES = 143_000
PYTHIA_BATCH_SIZE = 1024
INDEX_MAGIC = b"MMIDIDX\x00\x00"
MAPS = ("doc_idx", "sample_idx", "shuffle_idx")
WANTED_SAMPLES = re.compile(r"_(\d+)ns_")


def pythia_row_order(
    *, updates: int = PYTHIA_UPDATES, batch_size: int = PYTHIA_BATCH_SIZE, num_rows: int | None = None
) -> DataOrder:
    """The order of the pre-shuffled data: rows as they come.

    Args:
        updates: how many.
        batch_size: rows of an update.
        num_rows: refuse more updates than there are rows for.

    >>> pythia_row_order(updates=2, batch_size=3).batch(2).tolist()
    [3, 4, 5]
    """
    if num_rows is not None and updates * batch_size > num_rows:
        raise ValueError(
            f"the file has {num_rows // batch_size:,} updates of {batch_size:,}, "
            f"--updates asks for {updates:,}"
        )
    ids = np.arange(updates * batch_size)
    info = {"kind": "pythia", "rows": "pre-shuffled", "batch_size": batch_size}
    return DataOrder(np.arange(updates + 1) * batch_size, ids, np.zeros(1, np.int64), info)


def read_sequence_count(path: Path) -> int:
    """How many sequences a Megatron `.idx` file says its `.bin` holds.

    Raises:
        FormatError: it is no such file, or is cut off.
    """
    with path.open("rb") as file:
        header = file.read(34)
    if len(header) < 34 or not header.startswith(INDEX_MAGIC):
        raise FormatError(f"{str(path)!r} is no index of a Megatron dataset, or it is cut off")
    count = int.from_bytes(header[18:26], "little")
    if path.stat().st_size < 34 + 12 * count:  # a 4-byte size and an 8-byte place each
        raise FormatError(
            f"{str(path)!r} says it has {count:,} sequences and is too short for that: it is cut off"
        )
    return count


def is_index_map(path: Path) -> bool:
    """Whether a file's name is that of one of Megatron's three maps."""
    return path.name.endswith(tuple(f"_{name}.npy" for name in MAPS))


def find_index_maps(folder: Path) -> list[Path]:
    """The shuffle maps of training data in a folder."""
    return sorted(
        file for file in folder.glob("*_shuffle_idx.npy") if not re.search("_(valid|test)_", file.name)
    )


def read_pythia_maps(path: Path, *, batch_size: int, updates: int | None = None) -> DataOrder:
    """The order that index maps say; `path` is any of the three, whose names differ in the ending only.

    Where the name says how many samples were asked for (`_146432000ns_`) and `updates` is not given, it stops
    there: the maps hold whole epochs.

    Raises:
        FileNotFoundError: there is no shuffle map.
        FormatError: a map is no array of integers, or the maps contradict each other.
    """
    stem = re.sub(rf"_({'|'.join(MAPS)})\.npy$", "", path.name)
    shuffle_file = path.with_name(f"{stem}_shuffle_idx.npy")
    if not shuffle_file.is_file():
        raise FileNotFoundError(f"no {shuffle_file.name!r} beside {str(path)!r}: it holds the order")
    shuffle = map_npy(shuffle_file, dimensions=1)
    _check_samples(path.with_name(f"{stem}_sample_idx.npy"), shuffle)
    wanted = WANTED_SAMPLES.search(shuffle_file.name)
    if updates is None and wanted:
        updates = min(int(wanted.group(1)), len(shuffle)) // batch_size
    order = order_of_rows([shuffle], batch_size=batch_size, updates=updates)
    order.info.update(kind="pythia", rows="index maps", batch_size=batch_size)
    return order


def _check_samples(path: Path, shuffle: Integers) -> None:
    """Compare with the sample map, where it is there: it has one row more than there are samples."""
    if not path.is_file():
        return
    samples = map_npy(path, dimensions=2)
    if samples.shape[1] != 2 or abs(len(samples) - 1 - len(shuffle)) > 1:
        raise FormatError(
            f"{str(path)!r} has shape {samples.shape}, the shuffle map beside it {len(shuffle):,} samples: "
            "they belong to different runs"
        )
