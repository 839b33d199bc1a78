"""The hash by which LMEnt's code names its cache folder `dataset-<fingerprint>`."""

import hashlib
from collections.abc import Iterable


def fingerprint(
    files: Iterable[tuple[str, int]], *, min_length: int, max_length: int, pad_id: int, eos_id: int
) -> str:
    """The fingerprint of token files: of limits, special tokens, file names and sizes, and of nothing else.

    Args:
        files: name without folder and size in bytes of each token file, in the order of their paths.
        min_length: the smallest bucket.
        max_length: the largest bucket.
        pad_id: the token rows are padded with.
        eos_id: the token after the end of a document.

    It covers neither contents nor mentions nor the curriculum: equal fingerprints do not mean equal chunks.

    >>> fingerprint([("part-0-00000.npy", 4096)], min_length=64, max_length=2048, pad_id=0, eos_id=1)[:8]
    'b47a5730'
    """
    settings = {
        "min_sequence_length": min_length,
        "max_sequence_length": max_length,
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "dtype": "<class 'numpy.uint32'>",
    }
    digest = hashlib.sha256(",".join(f"{name}={value}" for name, value in settings.items()).encode())
    for name, size in files:
        digest.update(f"name={name},size={size}".encode())
    return digest.hexdigest()
