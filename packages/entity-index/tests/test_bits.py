import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_index.bits import MARKS, Bitmap, Packed, PackedWriter, pack, width_of, write_packed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bits")


@settings(deadline=None)
@given(
    width=st.sampled_from([0, 1, 3, 7, 8, 9, 31, 33, 56, 57]),
    lengths=st.lists(st.integers(0, 30), max_size=5),
    seed=st.integers(0, 99),
)
def test_numbers_are_read_as_written_however_they_came(folder, width, lengths, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 1 << width, size=length, dtype=np.uint64) for length in lengths]
    with PackedWriter(folder / "x.bits", width) as writer:
        for part in parts:
            writer.append(part)
    numbers = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    packed = Packed(folder / "x.bits", width)
    assert packed.part(0, len(numbers)).tolist() == numbers.tolist()
    assert [packed[i] for i in range(len(numbers))] == numbers.tolist()
    shuffled = rng.permutation(len(numbers))
    assert packed.at(shuffled).tolist() == numbers[shuffled].tolist()
    assert (folder / "x.bits").stat().st_size == -(-len(numbers) * width // 8) + 16


def test_the_bits_are_where_the_format_says():
    numbers = [5, 0, 7, 1, 6]
    bits = "".join(f"{number:03b}"[::-1] for number in numbers)  # lowest bit first
    expected = int(bits[::-1], 2).to_bytes(2, "little")
    assert pack(np.array(numbers, dtype=np.uint64), 3) == expected


def test_a_width_is_what_the_largest_number_needs(folder):
    assert [width_of(number) for number in (0, 1, 2, 3, 4, 1 << 40)] == [0, 1, 2, 2, 3, 41]
    assert write_packed(folder / "y.bits", np.array([3, 8, 1])) == 4
    assert write_packed(folder / "y.bits", np.empty(0, dtype=np.int64)) == 0


@settings(deadline=None)
@given(gaps=st.lists(st.sampled_from([1, 1, 2, 5, 127, 128, 129, 300]), min_size=1, max_size=300))
def test_ones_are_found_by_their_rank(folder, gaps):
    places = np.cumsum([0, *gaps])
    bits = np.zeros(places[-1] + 1, dtype=np.uint8)
    bits[places] = 1
    write_packed(folder / "z.bits", bits)
    blocks = np.add.reduceat(bits, np.arange(0, len(bits), MARKS), dtype=np.uint32)
    bitmap = Bitmap(folder / "z.bits", np.cumsum(blocks, dtype=np.uint32) - blocks)
    assert bitmap.place_of(np.arange(len(places))).tolist() == places.tolist()
    assert [bitmap.run_length(int(place)) for place in places[:-1]] == gaps
    start, end = places[len(places) // 3], places[-1]
    assert bitmap.flags(start, end).tolist() == bits[start:end].tolist()
