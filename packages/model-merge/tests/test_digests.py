import hashlib
import struct

import pytest

from model_merge.digests import BLOCK_WORDS, checksum_file, hash_file

MASK = (1 << 64) - 1


def split_mix(counter):
    z = (counter * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_checksum(content):
    """The checksum as FORMAT.md defines it, one word at a time."""
    digest = hashlib.sha256(struct.pack("<Q", len(content)))
    for start in range(0, len(content), BLOCK_WORDS * 8):
        block = content[start : start + BLOCK_WORDS * 8]
        block += b"\0" * (-len(block) % 8)
        words = struct.unpack(f"<{len(block) // 8}Q", block)
        total = sum(word * (split_mix(k + 1) | 1) for k, word in enumerate(words)) & MASK
        digest.update(struct.pack("<Q", total))
    return digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8 * BLOCK_WORDS, 8 * BLOCK_WORDS + 3])
def test_the_checksum_is_the_one_of_the_definition(tmp_path, size):
    content = (b"a merge is a weighted sum " * (size // 26 + 1))[:size]
    (tmp_path / "file").write_bytes(content)
    assert checksum_file(tmp_path / "file") == slow_checksum(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_changed_bit_and_a_zero_at_the_end_change_the_checksum(tmp_path):
    content = bytes(1000)
    variants = [content, content + b"\0", b"\x01" + content[1:], content[:-1] + b"\x80"]
    found = []
    for variant in variants:
        (tmp_path / "file").write_bytes(variant)
        found.append(checksum_file(tmp_path / "file"))
    assert len({*found}) == len(variants)
