"""Random numbers that depend on their place alone: by seed, tensor, model and element index.

Any part of the stream can be drawn by itself, so a random merge is the same for every chunk size, thread
count and order of tensors. Philox 4x64 with ten rounds (Salmon et al. 2011), as NumPy implements it; about
1.5 ns an element.
"""

import hashlib

import numpy as np
import numpy.typing as npt

PER_COUNT = 8  # 32-bit numbers for one value of the counter


def uniform_bits(key: int, start: int, length: int) -> npt.NDArray[np.uint32]:
    """Elements `[start, start + length)` of the stream of `key`.

    >>> whole = uniform_bits(7, 0, 20)
    >>> bool((uniform_bits(7, 13, 5) == whole[13:18]).all())
    True
    """
    first = start // PER_COUNT
    num_counts = -(-(start + length) // PER_COUNT) - first
    # NumPy raises the counter before it draws: begin one before.
    counter = (first - 1) % (1 << 256)
    raw = np.random.Philox(key=key, counter=counter).random_raw(num_counts * PER_COUNT // 2)
    bits = np.ascontiguousarray(raw).astype("<u8", copy=False).view("<u4")
    return bits[start - first * PER_COUNT :][:length]


def stream_key(seed: int, tensor: str, model: int) -> int:
    """The key of one model's stream for one tensor.

    `model` is its position among the models of the method (the base not counted), so that paths do not
    matter.
    """
    digest = hashlib.sha256(f"{seed}\n{tensor}\n{model}".encode()).digest()
    return int.from_bytes(digest[:16], "little")


def bernoulli(key: int, start: int, length: int, probability: float) -> npt.NDArray[np.bool_]:
    """True with `probability` (to 2^-32) at each place of the stream of `key`."""
    if probability >= 1:
        return np.ones(length, np.bool_)
    return uniform_bits(key, start, length) < np.uint32(min(round(probability * 2**32), 2**32 - 1))
