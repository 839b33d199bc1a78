"""LMEnt's batches, token spans and chunk mentions against its own output."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.lment import collate, find_token_spans, spans_in_chunk
from chunk_provenance.projecting import find_tokens

FOLDER = Path(__file__).parent / "golden" / "lment_data"
GOLDEN = np.load(FOLDER / "vsl" / "kas_vsl.npz")
RECORD = json.loads((FOLDER / "vsl" / "kas_vsl.json").read_text(encoding="utf-8"))
TEXTS = json.loads((FOLDER / "tokenize" / "tokenize.json").read_text(encoding="utf-8"))


def chunk_tokens(chunk):
    part, start, end, _ = GOLDEN["chunks"][chunk]
    return GOLDEN[f"tokens_part{part}"][start:end]


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 10])
def test_golden_batches_are_collated_alike(batch):
    chunks = [chunk_tokens(chunk) for chunk in RECORD["batch_indices"]["1"][batch]]
    found = collate(chunks, pad_id=0, batch_tokens=128)
    for name in ("input_ids", "attention_mask", "labels"):
        expected = GOLDEN[f"batch{batch}_{name}"]
        assert getattr(found, name).dtype == expected.dtype
        assert np.array_equal(getattr(found, name), expected)


def test_rows_that_do_not_fill_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"2 chunks padded to 5 tokens are 10 tokens, .* should have 8"):
        collate([np.arange(5), np.arange(3)], pad_id=0, batch_tokens=8)


@pytest.mark.parametrize("text", TEXTS, ids=["latin", "plain", "japanese"])
def test_golden_token_spans_are_found_and_failures_foretold(text):
    offsets, mentions = np.array(text["offsets"]), text["entities"]
    spans = {f"mention_{side}": np.array([m[f"char_{side}"] for m in mentions]) for side in ("start", "end")}
    found = find_token_spans(*offsets.T, **spans)
    assert found.found.all()
    assert found.cut_short.tolist() == ["assertion" in mention for mention in mentions]
    for i, mention in enumerate(mentions):
        if "assertion" not in mention:
            assert (found.start[i], found.end[i]) == (mention["tok_start"], mention["tok_end"])


@pytest.mark.parametrize("text", TEXTS, ids=["latin", "plain", "japanese"])
def test_the_native_rule_gives_every_golden_mention_all_its_tokens(text):
    offsets, mentions = np.array(text["offsets"]), text["entities"]
    spans = {f"mention_{side}": np.array([m[f"char_{side}"] for m in mentions]) for side in ("start", "end")}
    first, beyond = find_tokens(*offsets.T, **spans)
    for mention, start, end in zip(mentions, first.tolist(), beyond.tolist(), strict=True):
        covered = {i for s, e in offsets[start:end].tolist() for i in range(s, e)}
        assert covered >= set(range(mention["char_start"], mention["char_end"]))
        assert end == len(offsets) or offsets[end][0] >= mention["char_end"]  # no token of it is left out


def spans_slowly(offsets, mention):
    """The rule as it stands, over all tokens."""
    char_start, char_end = mention
    start = next((i for i, (s, e) in enumerate(offsets) if s <= char_start < e), None)
    end = next((i + 1 for i, (s, e) in enumerate(offsets) if s < char_end <= e), None)
    return (start, end) if start is not None and end is not None else None


@st.composite
def tokenized(draw):
    """Ascending offsets with gaps and split characters, and mentions that may lie anywhere."""
    offsets, at = [], 0
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.integers(0, 2))
        size = draw(st.integers(1, 3))
        offsets += [(at, at + size)] * draw(st.sampled_from([1, 1, 2 if size == 1 else 1]))
        at += size
    starts = draw(st.lists(st.integers(0, 20), min_size=1, max_size=6))
    return offsets, [(start, start + draw(st.integers(1, 6))) for start in starts]


@given(tokenized())
def test_token_spans_equal_those_of_a_search_through_all_tokens(case):
    offsets, mentions = case
    spans = dict(zip(("mention_start", "mention_end"), np.array(mentions).T, strict=True))
    found = find_token_spans(*np.array(offsets, dtype=np.int64).reshape(-1, 2).T, **spans)
    expected = [spans_slowly(offsets, mention) for mention in mentions]
    assert found.found.tolist() == [pair is not None for pair in expected]
    assert list(zip(found.start.tolist(), found.end.tolist(), strict=True)) == [
        pair or (-1, -1) for pair in expected
    ]


def test_golden_chunks_have_the_mentions_upstream_gives_them():
    """Token i of the golden texts stands for " i", its offset includes the space."""
    for metadata in RECORD["chunk_metadata_first60"]:
        part, start, end, number = GOLDEN["chunks"][metadata["_chunk_id"]]
        _, document, doc_start, doc_end = GOLDEN["docs"][number]
        tokens = GOLDEN[f"tokens_part{part}"][doc_start : doc_end - 1]
        char_end = np.cumsum([len(f" {token}") for token in tokens])
        entities = GOLDEN["entities"]
        own = entities[(entities[:, 0] == part) & (entities[:, 1] == document)]
        kept, char_starts, char_ends = spans_in_chunk(
            np.append(0, char_end[:-1]),
            char_end,
            token_start=start - doc_start,
            token_end=end - doc_start,
            mention_start=own[:, 4],
            mention_end=own[:, 5],
        )
        expected = [
            (m["tok_start"], m["tok_end"], m["char_start"], m["char_end"]) for m in metadata["entities"]
        ]
        found = np.column_stack([own[kept, 2:4], char_starts, char_ends])
        assert list(map(tuple, found.tolist())) == expected
        assert (metadata["start"], metadata["end"], metadata["_len"]) == (doc_start, doc_end, end - start)
