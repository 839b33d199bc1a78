from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.packing import bucket_of, check_lengths, merge_spans, pack_buckets, pack_fixed


def spans(*pairs):
    starts, ends = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return merge_spans(starts, ends)


def pack(doc_lengths, *, mentions=(), words=(), characters=(), min_length=4, max_length=16):
    starts, ends = pack_buckets(
        np.cumsum([0, *doc_lengths]),
        mentions=spans(*mentions),
        words=spans(*words),
        characters=spans(*characters),
        min_length=min_length,
        max_length=max_length,
    )
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def pack_slowly(doc_lengths, *, mentions, words, characters, min_length, max_length):
    """The rule of packing.py, one document and one token at a time."""

    def breaks(position, runs):
        return any(start < position < end for start, end in runs)

    def bucket(length):
        size = min_length
        while size < length:
            size *= 2
        return size

    chunks, stop = [], 0
    for length in doc_lengths:
        at, stop = stop, stop + length
        while at < stop:
            rest = stop - at
            if rest >= max_length:
                wanted = max_length
            elif rest >= 0.75 * bucket(rest) or bucket(rest) <= 2 * min_length:
                wanted = rest
            else:
                wanted = bucket(rest) // 2
            for runs in ([*mentions, *words, *characters], [*mentions, *characters], characters, []):
                allowed = [end for end in range(at + 1, stop + 1) if not breaks(end, runs)]
                before = [end for end in allowed if end <= at + wanted]
                after = [end for end in allowed if at + wanted <= end <= at + max_length]
                if before or after:
                    end = (before[-1:] or after)[0]
                    break
            chunks.append((at, end))
            at = end
    return chunks


@st.composite
def corpora(draw):
    """Document lengths, and mentions, words and split characters that each lie inside one document."""
    lengths = draw(st.lists(st.integers(0, 70), max_size=6))
    bounds = np.cumsum([0, *lengths]).tolist()
    inside = [(start, end) for start, end in pairwise(bounds) if end > start]

    def runs(most, count):
        found = []
        for _ in range(draw(st.integers(0, count)) if inside else 0):
            low, high = draw(st.sampled_from(inside))
            start = draw(st.integers(low, high - 1))
            found.append((start, min(high, start + draw(st.integers(1, most)))))
        return found

    return lengths, {"mentions": runs(30, 8), "words": runs(20, 8), "characters": runs(3, 4)}


@given(corpora())
def test_packing_equals_its_slow_twin(corpus):
    lengths, runs = corpus
    limits = {"min_length": 4, "max_length": 16}
    fast = pack(lengths, **runs, **limits)
    assert fast == pack_slowly(lengths, **runs, **limits)


@given(corpora(), st.sampled_from([(1, 1), (1, 8), (4, 4), (2, 32), (64, 64)]))
def test_each_token_is_in_exactly_one_chunk_of_its_document(corpus, limits):
    lengths, runs = corpus
    min_length, max_length = limits
    chunks = pack(lengths, **runs, min_length=min_length, max_length=max_length)
    assert [token for start, end in chunks for token in range(start, end)] == list(range(sum(lengths)))
    bounds = np.cumsum([0, *lengths])
    for start, end in chunks:
        assert np.searchsorted(bounds, start, side="right") == np.searchsorted(bounds, end, side="left")
        size = bucket_of(np.array([end - start]), min_length=min_length, max_length=max_length)[0]
        assert end - start <= size <= max_length


@given(corpora())
def test_no_border_falls_inside_a_mention_that_fits_a_chunk(corpus):
    lengths, runs = corpus
    unbroken = spans(*runs["mentions"], *runs["characters"])
    borders = {end for _, end in pack(lengths, **runs)}
    for start, end in zip(unbroken.starts.tolist(), unbroken.ends.tolist(), strict=True):
        if end - start <= 16:
            assert not borders & set(range(start + 1, end))


def test_a_chunk_is_padded_unless_a_cut_would_save_a_quarter_of_its_bucket():
    assert pack([12]) == [(0, 12)]  # 3/4 of 16
    assert pack([11]) == [(0, 8), (8, 11)]  # 8 + 4 positions instead of 16
    assert pack([5]) == [(0, 5)]  # 8 positions, as 4 + 4
    assert pack([3]) == [(0, 3)]
    assert pack([37]) == [(0, 16), (16, 32), (32, 37)]


def test_a_border_moves_left_of_a_mention():
    assert pack([32], mentions=[(14, 18)]) == [(0, 14), (14, 30), (30, 32)]


def test_a_border_moves_right_where_a_mention_starts_the_chunk():
    assert pack([11], mentions=[(0, 10)]) == [(0, 10), (10, 11)]


def test_a_mention_longer_than_the_largest_bucket_is_cut_between_characters():
    assert pack([40], mentions=[(0, 30)], characters=[(14, 17)])[:2] == [(0, 14), (14, 30)]


def test_a_word_too_long_for_a_chunk_is_cut_and_the_mention_in_it_is_not():
    assert pack([40], words=[(0, 30)], mentions=[(15, 18)])[:2] == [(0, 15), (15, 31)]


def test_touching_mentions_may_be_parted_and_overlapping_ones_not():
    touching, overlapping = spans((0, 4), (4, 8)), spans((0, 5), (4, 8))
    assert touching.left(np.array([3, 4, 5])).tolist() == [0, 4, 4]
    assert overlapping.left(np.array([3, 4, 8])).tolist() == [0, 0, 8]
    assert overlapping.right(np.array([0, 1, 8])).tolist() == [0, 8, 8]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 30))
def test_fixed_packing_equals_counting_tokens_one_by_one(lengths, length, offset):
    bounds = np.cumsum([0, *lengths])
    starts, ends, chunk_ids = pack_fixed(bounds, offset=offset, length=length)
    owners = [
        (document, (i + offset) // length)
        for document, n in enumerate(lengths)
        for i in range(int(bounds[document]), int(bounds[document]) + n)
    ]
    found = [
        (int(np.searchsorted(bounds, start, side="right")) - 1, chunk)
        for start, end, chunk in zip(starts, ends, chunk_ids, strict=True)
        for _ in range(start, end)
    ]
    assert found == owners
    assert len(set(found)) == len(starts)  # no segment is split without need


def test_lengths_that_are_no_powers_of_two_or_cross_are_refused():
    with pytest.raises(ValueError, match=r"--min-length 12 .* must be powers of two"):
        check_lengths(12, 256)
    with pytest.raises(ValueError, match="--min-length 64 is larger than --max-length 32"):
        check_lengths(64, 32)
