import hashlib
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model_merge.digests import BLOCK_WORDS, TensorSums, checksum_file, hash_file, sum_words

MASK = (1 << 64) - 1


def split_mix(counter):
    z = (counter * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_sum(content):
    """The sum as FORMAT.md defines it, one word at a time."""
    content += b"\0" * (-len(content) % 8)
    total = 0
    for place, (word,) in enumerate(struct.iter_unpack("<Q", content)):
        block, inside = divmod(place, 1 << 15)
        total += word * (split_mix(inside + 1) | 1) * (split_mix((1 << 32) + block + 1) | 1)
    return total & MASK


def text(size):
    return (b"a merge is a weighted sum " * (size // 26 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8 * BLOCK_WORDS, 16 * BLOCK_WORDS + 3])
def test_the_sum_of_a_tensor_is_the_one_of_the_definition(size):
    assert sum_words(np.frombuffer(text(size), dtype=np.uint8)) == slow_sum(text(size))


def test_the_checksum_of_a_file_is_the_one_of_the_definition(tmp_path, write_safetensors):
    tensors = {
        "a": np.arange(70_000),
        "b": np.ones(3, dtype=np.int8),
        "empty": np.zeros((0,), dtype=np.float32),
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)
    content = path.read_bytes()
    header = content[: 8 + struct.unpack("<Q", content[:8])[0]]
    digest = hashlib.sha256(header)
    for tensor in tensors.values():
        digest.update(struct.pack("<Q", slow_sum(tensor.tobytes())))
    assert checksum_file(path) == digest.hexdigest()
    assert checksum_file(path, {"a": slow_sum(tensors["a"].tobytes())}) == digest.hexdigest()
    assert hash_file(path) == hashlib.sha256(content).hexdigest()


def test_parts_in_any_order_give_the_sum_of_the_whole():
    file, content = Path("f"), text(3 * 8 * BLOCK_WORDS + 5)
    sums = TensorSums({(file, "w"): len(content)})
    cuts = [0, 8, 8 * BLOCK_WORDS - 16, 16 * BLOCK_WORDS + 80, len(content)]
    for start, stop in reversed(list(pairwise(cuts))):
        assert sums.of_file(file) == {}
        sums.add(file, "w", start, np.frombuffer(content[start:stop], dtype=np.uint8))
    assert sums.of_file(file) == {"w": slow_sum(content)}


def test_a_part_that_cuts_a_word_leaves_the_tensor_uncounted():
    file = Path("f")
    sums = TensorSums({(file, "w"): 16})
    sums.add(file, "w", 0, np.zeros(12, dtype=np.uint8))
    sums.add(file, "w", 12, np.zeros(4, dtype=np.uint8))
    assert sums.of_file(file) == {}


def test_a_changed_bit_changes_the_sum():
    content = bytearray(1000)
    found = {slow_sum(bytes(content))}
    for place in (0, 7, 500, 999):
        content[place] = 0x80
        found.add(sum_words(np.frombuffer(bytes(content), dtype=np.uint8)))
    assert len(found) == 5
