"""LMEnt's chunking rule against its own output (golden/README.md) and against its loop written out."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.lment import chunk_documents, find_documents
from chunk_provenance.lment.chunking import LONG_MENTION, NO_BUCKET, TAIL, WHOLE_DOCUMENT
from chunk_provenance.packing import merge_spans

GOLDEN = np.load(Path(__file__).parent / "golden" / "lment_data" / "vsl" / "kas_vsl.npz")
PLAIN = np.load(Path(__file__).parent / "golden" / "lment_data" / "vsl" / "plain_vsl_chunks.npz")


def chunk_slowly(documents, spans, *, min_length, max_length):
    """The rule one token at a time: chunks, and what is lost with its reason."""
    chunks, lost = [], []
    for start, stop in documents:
        cur, rest = start, stop - start
        while rest > 0:
            pieces = [max_length] * (rest // max_length)
            pieces += [1 << k for k in range(max_length.bit_length())[::-1] if rest % max_length & 1 << k]
            for piece in pieces:
                if piece < min_length:
                    lost.append((cur, stop, WHOLE_DOCUMENT if cur == start else TAIL))
                    rest = 0
                    break
                end = cur + piece
                while any(a < end < b for a, b in spans):
                    end -= 1
                if end == cur:
                    if rest <= max_length:
                        chunks.append((cur, stop))
                    else:
                        lost.append((cur, stop, LONG_MENTION))
                    rest = 0
                    break
                chunks.append((cur, end))
                rest -= end - cur
                short = end - cur < piece
                cur = end
                if short:
                    break
    lost += [(a, b, NO_BUCKET) for a, b in chunks if b - a <= min_length // 2]
    return chunks, sorted(lost)


def as_lists(found):
    chunks = list(zip(found.start.tolist(), found.end.tolist(), strict=True))
    return chunks, list(zip(found.lost_start.tolist(), found.lost_end.tolist(), found.reasons(), strict=True))


def chunk(lengths, spans=(), *, min_length=4, max_length=16):
    """Documents of some lengths, end to end."""
    bounds = np.cumsum([0, *lengths])
    starts, ends = np.array(list(spans) or [(0, 0)]).T
    limits = {"min_length": min_length, "max_length": max_length}
    return as_lists(chunk_documents(bounds[:-1], bounds[1:], mentions=merge_spans(starts, ends), **limits))


def golden_part(part):
    """Documents of a golden file, and the token spans of its mentions in the file."""
    documents = GOLDEN["docs"][GOLDEN["docs"][:, 0] == part][:, 2:]
    entities = GOLDEN["entities"][GOLDEN["entities"][:, 0] == part]
    starts = documents[entities[:, 1], 0]
    return documents, merge_spans(starts + entities[:, 2], starts + entities[:, 3])


@pytest.mark.parametrize("part", [0, 1])
def test_all_golden_chunks_are_found(part):
    documents, mentions = golden_part(part)
    found = chunk_documents(*documents.T, mentions=mentions, min_length=8, max_length=64)
    expected = GOLDEN["chunks"][GOLDEN["chunks"][:, 0] == part]
    assert np.array_equal(np.stack([found.start, found.end]), expected[:, 1:3].T)


def test_seven_golden_chunks_have_no_bucket_and_are_recorded():
    reasons = []
    for part in (0, 1):
        documents, mentions = golden_part(part)
        found = chunk_documents(*documents.T, mentions=mentions, min_length=8, max_length=64)
        reasons += found.reasons()
    assert reasons.count(NO_BUCKET) == 7


@pytest.mark.parametrize("part", [0, 1])
def test_without_mentions_all_golden_chunks_of_the_plain_rule_are_found(part):
    none = merge_spans(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    documents = find_documents(GOLDEN[f"tokens_part{part}"], eos_id=1)
    assert np.array_equal(np.stack(documents), golden_part(part)[0].T)
    found = chunk_documents(*documents, mentions=none, min_length=8, max_length=64)
    assert np.array_equal(np.stack([found.start, found.end], axis=1), PLAIN[f"part{part}"])


@st.composite
def corpora(draw):
    """Lengths of documents, and mentions that each lie inside one of them."""
    lengths = draw(st.lists(st.integers(0, 90), max_size=6))
    spans = []
    for length, stop in zip(lengths, np.cumsum(lengths).tolist(), strict=True):
        for _ in range(draw(st.integers(0, 6)) if length else 0):
            start = draw(st.integers(0, length - 1))
            size = draw(st.integers(1, 30))
            spans.append((stop - length + start, stop - length + min(length, start + size)))
    return lengths, draw(st.permutations(spans))


@given(corpora(), st.sampled_from([(1, 1), (1, 8), (4, 4), (4, 16), (2, 32), (8, 64)]))
def test_chunks_and_losses_equal_those_of_the_loop(corpus, limits):
    lengths, spans = corpus
    min_length, max_length = limits
    bounds = np.cumsum([0, *lengths]).tolist()
    documents = list(pairwise(bounds))
    expected = chunk_slowly(documents, spans, min_length=min_length, max_length=max_length)
    assert chunk(lengths, spans, min_length=min_length, max_length=max_length) == expected


@given(corpora())
def test_every_token_is_in_one_chunk_or_lost_once(corpus):
    lengths, spans = corpus
    chunks, lost = chunk(lengths, spans)
    runs = chunks + [(start, end) for start, end, reason in lost if reason != NO_BUCKET]
    assert sorted(token for run in runs for token in range(*run)) == list(range(sum(lengths)))


def test_each_loss_has_its_reason():
    assert chunk([3]) == ([], [(0, 3, WHOLE_DOCUMENT)])
    assert chunk([4 + 3]) == ([(0, 4)], [(4, 7, TAIL)])
    assert chunk([40], [(0, 30)]) == ([], [(0, 40, LONG_MENTION)])
    assert chunk([30], [(16, 30)]) == ([(0, 16), (16, 30)], [])  # what fits becomes one chunk of any length
    assert chunk([10], [(1, 9)]) == ([(0, 1), (1, 9)], [(0, 1, NO_BUCKET), (9, 10, TAIL)])


def test_tokens_after_the_last_end_token_are_refused():
    with pytest.raises(ValueError, match="the last 1 of 3 tokens are not followed by the end token 9"):
        find_documents(np.array([1, 9, 1], dtype=np.uint32), eos_id=9)
    assert [ends.tolist() for ends in find_documents(np.array([], dtype=np.uint32), eos_id=9)] == [[], []]


def test_limits_that_are_no_powers_of_two_are_refused():
    with pytest.raises(ValueError, match="must be powers of two"):
        chunk([10], min_length=3)
