"""LMEnt's buckets: which chunks are trained at which padded length, and how many of them an epoch takes.

A chunk's bucket is the next power of two from its length, if that is one of the buckets. A chunk shorter than
that has no bucket and is never trained. An epoch takes of a bucket only as many updates as its curriculum can
share out evenly; the rest of its chunks, other ones every epoch, is not trained in that epoch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.packing import Positions, check_lengths

ChunkIds = npt.NDArray[np.uint32]


def instance_lengths(start: Positions, end: Positions, *, max_length: int) -> npt.NDArray[np.unsignedinteger]:
    """Lengths of the chunks in the type of `instance-lengths.npy`: the smallest that holds `max_length - 1`.

    Raises:
        ValueError: `max_length` itself does not fit that type, so upstream stores the longest chunks as 0.

    >>> instance_lengths(np.array([0, 64]), np.array([64, 2112]), max_length=2048)
    array([  64, 2048], dtype=uint16)
    """
    dtype = np.min_scalar_type(max_length - 1)
    if max_length > np.iinfo(dtype).max:
        raise ValueError(
            f"LMEnt's code cannot have a maximum length of {max_length}: it stores lengths as {dtype}, "
            f"where {max_length} becomes 0, and then has no chunk in its longest bucket; "
            f"take {max_length // 2} or {max_length * 2}"
        )
    lengths: npt.NDArray[np.unsignedinteger] = (end - start).astype(dtype)
    return lengths


def bucket_lengths(min_length: int, max_length: int) -> list[int]:
    """All padded lengths between the limits.

    >>> bucket_lengths(64, 512)
    [64, 128, 256, 512]
    """
    check_lengths(min_length, max_length)
    return [1 << k for k in range(min_length.bit_length() - 1, max_length.bit_length())]


def find_buckets(
    lengths: npt.NDArray[np.integer], *, min_length: int, max_length: int
) -> npt.NDArray[np.int32]:
    """The padded length of each chunk; 0 for one that has no bucket.

    >>> find_buckets(np.array([4, 5, 8, 9, 64]), min_length=8, max_length=64).tolist()
    [0, 8, 8, 16, 64]
    """
    sizes = np.array([0, *bucket_lengths(min_length, max_length)], dtype=np.int32)
    limits = np.concatenate([[min_length // 2], sizes[1:]])
    return sizes[np.searchsorted(limits, lengths, side="left")]


def bucket_members(
    buckets: npt.NDArray[np.int32], *, min_length: int, max_length: int
) -> dict[int, ChunkIds]:
    """Chunk ids of every bucket, ascending, as in `bucket{L}-indices.npy`.

    Raises:
        ValueError: a bucket is empty; LMEnt's code crashes on it.
    """
    members = {
        size: np.flatnonzero(buckets == size).astype(np.uint32)
        for size in bucket_lengths(min_length, max_length)
    }
    if empty := [size for size, ids in members.items() if not len(ids)]:
        raise ValueError(
            f"no chunk belongs to the bucket{'s' * (len(empty) > 1)} of {_list(empty)}, and a curriculum "
            f"needs all buckets from {min_length} to {max_length}: build the store with other limits"
        )
    return members


def count_retained(
    members: Mapping[int, ChunkIds], batches: Mapping[int, int], *, batch_tokens: int
) -> list[dict[str, Any]]:
    """What an epoch trains of every bucket: chunks, updates, and chunks left out."""
    rows = []
    for size, ids in members.items():
        per_update = batch_tokens // size
        trained = batches[size] * per_update
        rows.append(
            {
                "length": size,
                "chunks": len(ids),
                "chunks_per_update": per_update,
                "updates": batches[size],
                "trained": trained,
                "left_out": len(ids) - trained,
            }
        )
    return rows


def check_retained(retained: list[dict[str, Any]], *, batch_tokens: int) -> None:
    """Refuse buckets that an epoch never trains."""
    if vanished := [row for row in retained if not row["updates"]]:
        found = "; ".join(
            f"length {row['length']}: {row['chunks']:,} chunks, an update takes {row['chunks_per_update']:,}"
            for row in vanished
        )
        raise ValueError(
            f"with --batch-tokens {batch_tokens} some chunks would never be trained, because every cycle "
            f"needs an update of every length ({found}): take smaller --batch-tokens, fewer --cycles, or "
            "build the store with other limits"
        )


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
