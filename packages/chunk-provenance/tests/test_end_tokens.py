"""Closing documents against the rule written out for one document after the other."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.end_tokens import close_documents


def close_slowly(chunks, bounds):
    parts, moved = [], []
    for number, (first, stop) in enumerate(pairwise(bounds)):
        own = [i for i, (start, _) in enumerate(chunks) if first <= start < stop]
        for i in own:
            start, end = chunks[i]
            if i == own[-1] and end < stop:
                moved.append(number)
                parts += [(start, end - 1, i, 0)] if end - start > 1 else []
                parts.append((stop - 1, stop, i, end - 1 - start))
            else:
                parts.append((start, end, i, 0))
    return parts, moved


@st.composite
def cut_documents(draw):
    """Documents that are cut into chunks from their start on, up to anywhere."""
    bounds, chunks = [0], []
    for length in draw(st.lists(st.integers(1, 12), max_size=5)):
        cuts = sorted(draw(st.sets(st.integers(1, length), max_size=4)))
        chunks += [(bounds[-1] + start, bounds[-1] + end) for start, end in pairwise([0, *cuts])]
        bounds.append(bounds[-1] + length)
    return bounds, chunks


@given(cut_documents())
def test_every_cut_document_is_closed_as_one_by_one(case):
    bounds, chunks = case
    start, end = np.array(chunks, dtype=np.int64).reshape(-1, 2).T
    parts, moved = close_documents(start, end, np.array(bounds))
    columns = (parts.start, parts.end, parts.chunk, parts.chunk_token_start)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert (found, moved.tolist()) == close_slowly(chunks, bounds)
