"""Open any data order: an own folder, or what LMEnt, OLMo and Pythia published, recognised by its content.

run/order                                our own order folder
batch_indices.npy, LMEnt-Dataset/        LMEnt: one epoch, or all epochs whose files are there
vsl-grow-p2-8-cycle/                     LMEnt: what its data loader keeps
global_indices.npy                       OLMo, OLMo-core (the batch size must be said)
*_indexmap_*_shuffle_idx.npy             Pythia, GPT-NeoX: index maps
document.idx                             Pythia: the pre-shuffled rows
pythia:143000                            Pythia's pre-shuffled rows, no file at all
olmo-core:INSTANCES:SEED                 computed as OLMo-core does, no file either; olmo: as OLMo does
"""

from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError
from chunk_provenance.order import DataOrder, load_order
from chunk_provenance.published.lment_order import find_batch_indices, read_lment_order
from chunk_provenance.published.lment_vsl import compose_lment_order, find_batch_orders
from chunk_provenance.published.npy_files import MAGIC
from chunk_provenance.published.olmo_order import (
    compute_olmo_order,
    find_global_indices,
    read_olmo_order,
)
from chunk_provenance.published.pythia_order import (
    INDEX_MAGIC,
    PYTHIA_BATCH_SIZE,
    PYTHIA_UPDATES,
    find_index_maps,
    is_index_map,
    pythia_row_order,
    read_pythia_maps,
    read_sequence_count,
)

Kind = Literal["own", "lment", "olmo", "olmo-core", "pythia"]
COMPUTED: dict[str, Kind] = {"pythia:": "pythia", "olmo-core:": "olmo-core", "olmo:": "olmo"}


def open_order(
    path: str | Path,
    *,
    kind: Kind | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    updates: int | None = None,
) -> DataOrder:
    """Open a data order, own or published.

    Args:
        path: an order folder, a published file, a folder of such, or words as above for no file at all.
        kind: what it is, where content and name do not say.
        batch_size: instances of an update; OLMo's files need it, Pythia's is 1024.
        epochs: LMEnt and OLMo: so many epochs, of a folder the first ones, of a single file that file again
            and again.
        updates: OLMo and Pythia: only so many updates; memory is 8 bytes for each id of these.

    Raises:
        FileNotFoundError: there is nothing.
        FormatError: it is damaged, or a chunk id is negative or twice in one epoch.
        ValueError: it is not clear what it is, or an option has no meaning for it.
    """
    path = Path(path)
    found = kind or recognise(path)
    _check_options(found, batch_size=batch_size, epochs=epochs, updates=updates)
    if found == "own":
        return load_order(path)
    files = published_files(path, found)
    if epochs is not None and files:
        files = _take_epochs(files, epochs, path)
    if found == "lment":
        composed = files[0].name.startswith("global_batch_indices")
        order = compose_lment_order(files) if composed else read_lment_order(files)
    elif found in ("olmo", "olmo-core"):
        order = _open_olmo(path, files, batch_size, epochs=epochs, updates=updates)
    else:
        order = _open_pythia(path, files, batch_size or PYTHIA_BATCH_SIZE, updates)
    check_ids(order, str(path))
    return order


def recognise(path: Path) -> Kind:
    """What a path is, by its content first and its name where the content could be several things."""
    if computed := _computed_kind(path):
        return computed
    if not path.exists():
        raise FileNotFoundError(f"no data order at {str(path)!r}: 'chunk-provenance order' makes one")
    if path.is_dir():
        return _recognise_folder(path)
    with path.open("rb") as file:
        head = file.read(len(INDEX_MAGIC))
    if head == INDEX_MAGIC or is_index_map(path):
        return "pythia"
    if path.name.startswith("global_indices"):
        return "olmo"
    if head.startswith(MAGIC) or path.name.startswith("global_batch_indices"):
        return "lment"
    raise ValueError(
        f"{str(path)!r} does not show whose data order it is: say --kind olmo (plain uint32) or pythia"
    )


def _recognise_folder(path: Path) -> Kind:
    if (path / "order.json").is_file():
        return "own"
    if find_batch_indices(path) or find_batch_orders(path):
        return "lment"
    if find_global_indices(path):
        return "olmo"
    if find_index_maps(path) or (path / "document.idx").is_file():
        return "pythia"
    raise FileNotFoundError(
        f"no data order at {str(path)!r}: it has no order.json, batch_indices*.npy, global_indices*.npy, "
        "global_batch_indices_*.npy, *_shuffle_idx.npy or document.idx"
    )


def order_files(path: str | Path) -> list[Path]:
    """The files that an order, own or published, is read from; none for a computed one."""
    kind = recognise(Path(path))
    if kind == "own":
        return sorted(file for file in Path(path).iterdir() if file.is_file())
    return published_files(Path(path), kind)


def published_files(path: Path, kind: Kind) -> list[Path]:
    """The files that a published order is read from: one, or one an epoch; none for a computed one."""
    if _computed_kind(path):
        return []
    if not path.is_dir():
        return [path]
    if kind == "lment":
        files = find_batch_indices(path) or find_batch_orders(path)
    elif kind in ("olmo", "olmo-core"):
        files = find_global_indices(path)
    else:
        files = find_index_maps(path) or [path / "document.idx"]
        if len(files) > 1:
            raise ValueError(
                f"{str(path)!r} has {len(files)} shuffle maps, e.g. {files[0].name!r}: name one of them"
            )
    if not files:
        raise FileNotFoundError(f"{str(path)!r} holds no {kind} order")
    return files


def _take_epochs(files: list[Path], epochs: int, path: Path) -> list[Path]:
    if len(files) == 1:
        return files * epochs
    if epochs > len(files):
        raise ValueError(f"{str(path)!r} has {len(files)} epochs, --epochs asks for {epochs}")
    return files[:epochs]


def _computed_kind(path: Path) -> Kind | None:
    """The kind of order that the words ask for, where they name no file."""
    return next((kind for start, kind in COMPUTED.items() if str(path).startswith(start)), None)


def _open_olmo(
    path: Path, files: list[Path], batch_size: int | None, *, epochs: int | None, updates: int | None
) -> DataOrder:
    if batch_size is None:
        raise ValueError(
            f"{str(path)!r} does not say how many instances an update takes: give --batch-size, "
            "the tokens of an update / the sequence length (chunk-provenance import order)"
        )
    if files:
        return read_olmo_order(files, batch_size=batch_size, updates=updates)
    name, *numbers = str(path).split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{str(path)!r}: expected {name}:INSTANCES:SEED, e.g. {name}:1000000:0")
    return compute_olmo_order(
        int(numbers[0]),
        batch_size=batch_size,
        seed=int(numbers[1]),
        epochs=epochs or 1,
        first_epoch=1 if name == "olmo-core" else 0,
        updates=updates,
    )


def _open_pythia(path: Path, files: list[Path], batch_size: int, updates: int | None) -> DataOrder:
    if not files:
        words = str(path).removeprefix("pythia:")
        if not words.isdecimal():
            raise ValueError(f"{str(path)!r}: expected 'pythia:' and a number of updates, e.g. pythia:143000")
        return pythia_row_order(updates=updates or int(words), batch_size=batch_size)
    if is_index_map(files[0]):
        return read_pythia_maps(files[0], batch_size=batch_size, updates=updates)
    rows = read_sequence_count(files[0])
    wanted = updates or min(PYTHIA_UPDATES, rows // batch_size)
    return pythia_row_order(updates=wanted, batch_size=batch_size, num_rows=rows)


def _check_options(kind: Kind, **given: int | None) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"--kind {kind!r} is none of {list(get_args(Kind))}")
    allowed = {
        "own": [],
        "lment": ["epochs"],
        "olmo": ["batch_size", "epochs", "updates"],
        "olmo-core": ["batch_size", "epochs", "updates"],
        "pythia": ["batch_size", "updates"],
    }[kind]
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise ValueError(f"--{name.replace('_', '-')} has no meaning for an order of kind {kind!r}")
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")


def check_ids(order: DataOrder, where: str, *, num_chunks: int | None = None) -> None:
    """Refuse chunk ids that a dataset does not have, and ids that come twice in an epoch.

    Raises:
        FormatError: naming the first such id and its update.
    """
    bounds = order.offsets[np.append(order.epoch_starts, order.num_updates)]
    for epoch, (begin, end) in enumerate(pairwise(bounds), start=1):
        ids = order.ids[begin:end]
        if not len(ids):
            continue
        wrong = ids < 0 if num_chunks is None else (ids < 0) | (ids >= num_chunks)
        if wrong.any():
            place = int(begin + np.argmax(wrong))
            have = "ids count from 0" if num_chunks is None else f"the dataset has {num_chunks:,} chunks"
            raise FormatError(
                f"{where!r} update {_update_of(order, place)} has the chunk id {order.ids[place]}: {have}"
            )
        if (twice := _first_repeated(ids)) is not None:
            first, second = (_update_of(order, int(begin + p)) for p in np.flatnonzero(ids == twice)[:2])
            raise FormatError(
                f"{where!r} has the chunk {twice} twice in epoch {epoch}, in the updates {first} and {second}"
            )


def _update_of(order: DataOrder, place: int) -> int:
    return int(np.searchsorted(order.offsets, place, side="right"))


def _first_repeated(ids: npt.NDArray[np.int64]) -> int | None:
    """An id that occurs more than once, if any; a table of flags where ids are dense, else a sort."""
    largest = int(ids.max())
    if largest < 8 * len(ids) + 1000:
        seen = np.zeros(largest + 1, dtype=bool)
        seen[ids] = True
        if int(np.count_nonzero(seen)) == len(ids):
            return None
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if len(repeated) else None
