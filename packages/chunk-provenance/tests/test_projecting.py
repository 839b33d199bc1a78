from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.projecting import Pieces, find_tokens, project


def numbers(*values):
    return np.array(values, dtype=np.int64)


def test_a_mention_covers_all_tokens_of_a_split_character():
    # "a 東 b": the second token begins with the space, 東 ends with the third.
    char_start, char_end = numbers(0, 1, 2, 3, 4), numbers(1, 3, 3, 5, 5)
    tokens = find_tokens(char_start, char_end, mention_start=numbers(2, 0), mention_end=numbers(3, 3))
    assert [side.tolist() for side in tokens] == [[1, 0], [3, 3]]


def test_a_mention_across_a_border_is_kept_in_both_chunks():
    pieces = Pieces(
        token_start=numbers(0, 5),
        token_end=numbers(5, 9),
        char_start=numbers(0, 20),
        char_end=numbers(20, 40),
        chunk_token_start=numbers(0, 3),
        chunk_char_start=numbers(0, 11),
    )
    rows = project(
        pieces,
        token_start=numbers(6, 4),
        token_end=numbers(7, 6),
        char_start=numbers(24, 17),
        char_end=numbers(30, 25),
    )
    assert rows.mention.tolist() == [1, 1, 0]
    assert rows.piece.tolist() == [0, 1, 1]
    assert rows.token_start.tolist() == [4, 3, 4]
    assert rows.token_end.tolist() == [5, 4, 5]
    assert rows.char_start.tolist() == [17, 11, 15]
    assert rows.char_end.tolist() == [20, 16, 21]
    assert rows.clipped.tolist() == [True, True, False]


@given(st.data())
def test_projection_equals_looking_at_every_pair(data):
    """Tokens are characters here; pieces may leave gaps, as dropped tails do."""
    cuts = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=10)))
    kept = [pair for pair in pairwise(cuts) if data.draw(st.booleans())]
    starts, ends = (numbers(*(pair[side] for pair in kept)) for side in (0, 1))
    mentions = data.draw(st.lists(st.tuples(st.integers(0, 59), st.integers(1, 25)), max_size=12))
    first = numbers(*(start for start, _ in mentions))
    last = numbers(*(start + length for start, length in mentions))
    zeros = np.zeros_like(starts)
    pieces = Pieces(starts, ends, starts, ends, zeros, zeros)
    rows = project(pieces, token_start=first, token_end=last, char_start=first, char_end=last)
    expected = sorted(
        (piece, max(start, low) - low, min(start + length, high) - low, mention)
        for mention, (start, length) in enumerate(mentions)
        for piece, (low, high) in enumerate(kept)
        if max(start, low) < min(start + length, high)
    )
    found = zip(rows.piece, rows.token_start, rows.token_end, rows.mention, strict=True)
    assert sorted(tuple(map(int, row)) for row in found) == expected
    assert rows.char_start.tolist() == rows.token_start.tolist()
