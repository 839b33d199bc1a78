"""A published order made an own one: where it came from, and whether it belongs to a dataset."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError
from chunk_provenance.hashing import hash_file
from chunk_provenance.order import DataOrder
from chunk_provenance.published.lment_dataset import LMEntDataset, padded_lengths
from chunk_provenance.published.opening import Kind, check_ids, open_order, published_files, recognise
from chunk_provenance.store import ChunkStore

FINGERPRINT = re.compile(r"dataset-([0-9a-f]{64})")


def order_with_sources(path: str | Path, *, kind: Kind | None = None, **options: int | None) -> DataOrder:
    """Open a published order (`open_order`), with names and sha256 of its files in `info["sources"]`.

    Raises:
        ValueError: it is an own order already.
    """
    found = kind or recognise(Path(path))
    if found == "own":
        raise ValueError(f"{str(path)!r} is an own data order already, there is nothing to import")
    order = open_order(path, kind=found, **options)
    files = published_files(Path(path), found)[: len(order.epoch_starts)]
    sources: list[dict[str, Any]] = [{"name": file.name, "sha256": hash_file(file)} for file in files]
    return replace(order, info={**order.info, "sources": sources or [{"name": str(path)}]})


def check_belongs(order: DataOrder, dataset: ChunkStore | LMEntDataset, path: Path) -> DataOrder:
    """The order with the dataset's hash in its `info`; one that cannot be the dataset's is refused.

    Args:
        order: a published order.
        dataset: the chunk store or LMEnt dataset that it should belong to.
        path: where the order was read: LMEnt's loader keeps it in a folder named by a hash of the dataset.

    Raises:
        FormatError: an id is out of range, an update mixes padded lengths, or the hashes differ.
    """
    where = str(path)
    check_ids(order, where, num_chunks=dataset.num_chunks)
    if isinstance(dataset, LMEntDataset):
        _check_fingerprint(dataset, path)
        _check_lengths(order, padded_lengths(dataset.lengths), where)
        return replace(order, info={**order.info, "lment_sha256": dataset.sha256})
    _check_lengths(order, dataset.bucket, where)
    info = {**order.info, "store_sha256": dataset.sha256}
    recorded, found = order.info.get("lment_sha256"), dataset.meta.get("lment", {}).get("sha256")
    if recorded and found and recorded != found:
        raise FormatError(
            f"{where!r} is of the LMEnt dataset {recorded[:12]}, the chunk store of {found[:12]}"
        )
    return replace(order, info=info)


def _check_fingerprint(dataset: LMEntDataset, path: Path) -> None:
    names = [found.group(1) for part in path.absolute().parts if (found := FINGERPRINT.fullmatch(part))]
    own = dataset.fingerprint()
    if names and names[-1] != own:
        raise FormatError(
            f"{str(path)!r} is of the dataset {names[-1][:12]}, {str(dataset.path)!r} is {own[:12]}: its "
            "token files have other names or sizes"
        )


def _check_lengths(order: DataOrder, lengths: npt.NDArray[np.int32], where: str) -> None:
    """All chunks of an update are padded to one length."""
    bounds = [*order.epoch_starts.tolist(), order.num_updates]
    for first, last in pairwise(bounds):
        offsets = order.offsets[first : last + 1]
        found = lengths[order.ids[offsets[0] : offsets[-1]]]
        begins = (offsets[:-1] - offsets[0])[np.diff(offsets) > 0]
        differ = np.flatnonzero(found != np.repeat(found[begins], np.diff(offsets)[np.diff(offsets) > 0]))
        if len(differ):
            update = int(np.searchsorted(offsets, offsets[0] + differ[0], side="right")) + first
            of_update = np.unique(lengths[order.batch(update)]).tolist()
            raise FormatError(
                f"{where!r} update {update} has chunks of the padded lengths {of_update}, an update has one: "
                "it is an order of another dataset"
            )
