import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunk_provenance.tokenizing import TextEncoder, load_encoder, tile, train_tokenizer

TEXTS = ["Ada met Bob in 東京 — twice.", "naïve  spaces\n\n and\ttabs 🙂🙂", "x", " leading"]


@pytest.fixture(scope="module")
def content():
    return train_tokenizer(TEXTS, vocab_size=280)


def encode_slowly(encoder, text):
    """(token, characters it covers) of one document, from the tokenizer's own offsets."""
    encoding = encoder._tokenizer.encode(text, add_special_tokens=False)
    return [*zip(encoding.ids, encoding.offsets, strict=True), (encoder.eos_id, (len(text), len(text)))]


def rows(encoded):
    spans = zip(encoded.char_start.tolist(), encoded.char_end.tolist(), strict=True)
    return list(zip(encoded.ids.tolist(), spans, strict=True))


def test_training_is_deterministic_and_has_the_special_tokens(content):
    assert train_tokenizer(TEXTS, vocab_size=280) == content
    encoder = TextEncoder(content)
    assert (encoder.eos_id, encoder.pad_id, encoder.vocab_size) == (0, 1, 280)
    with pytest.raises(ValueError, match="256 bytes and 2 special tokens need 258"):
        train_tokenizer(TEXTS, vocab_size=100)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
@settings(max_examples=50)
def test_characters_from_byte_lengths_equal_the_tokenizers_own_offsets(content, texts):
    encoder = TextEncoder(content)
    encoded = encoder.encode(texts)
    assert encoder._byte_lengths is not None
    for text, start, end in zip(texts, encoded.doc_bounds, encoded.doc_bounds[1:], strict=False):
        own = encode_slowly(encoder, text)
        assert rows(encoded)[start:end] == own
        assert rows(encoded)[end - 1] == (encoder.eos_id, (len(text), len(text)))


def test_every_document_gets_one_end_token_and_special_words_stay_words(content):
    encoder = TextEncoder(content)
    encoded = encoder.encode(["a<|endoftext|>b", "c"])
    assert encoded.ids.tolist().count(encoder.eos_id) == 2
    assert encoded.ids[encoded.doc_bounds[1:] - 1].tolist() == [0, 0]
    assert encoder._tokenizer.decode(encoded.ids[: encoded.doc_bounds[1] - 1].tolist()) == "a<|endoftext|>b"


def test_a_split_character_is_covered_by_all_its_tokens(content):
    encoder = TextEncoder(content)
    encoded = encoder.encode(["龍"])  # three bytes that the training never saw together
    assert rows(encoded)[:-1] == [(token, (0, 1)) for token in encoded.ids[:3].tolist()]


def with_parts(content, **parts):
    return TextEncoder(json.dumps({**json.loads(content), **parts}))


def test_truncation_and_padding_of_the_tokenizers_file_are_switched_off(content):
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 1, "pad_type_id": 0, "pad_token": "<|padding|>"}
    encoder = with_parts(content, truncation=truncation, padding=padding)
    assert rows(encoder.encode(TEXTS)) == rows(TextEncoder(content).encode(TEXTS))


def test_texts_that_a_normalizer_changes_still_cover_all_characters(content):
    encoder = with_parts(content, normalizer={"type": "NFC"})
    text = "e\u0301te\u0301 end"  # two characters that become one
    encoded = encoder.encode([text, "plain"])
    first, last = encoded.doc_bounds[:2]
    assert encoded.char_start[first] == 0
    assert encoded.char_end[last - 1] == len(text)
    assert np.all(encoded.char_start[first + 1 : last] <= encoded.char_end[first : last - 1])
    assert rows(encoded)[last:] == rows(encoder.encode(["plain"]))


def test_tokenizers_that_are_not_byte_level_use_their_own_offsets():
    vocab = {"<|endoftext|>": 0, "[UNK]": 1, "Ada": 2, "met": 3}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }
    encoded = TextEncoder(json.dumps(spec)).encode([" Ada  met Bob "])
    assert rows(encoded) == [(2, (0, 4)), (3, (4, 9)), (1, (9, 14)), (0, (14, 14))]


def test_gaps_in_offsets_belong_to_the_next_token():
    start, end = tile(np.array([[1, 3], [4, 5], [4, 5]]), 8)
    assert start.tolist() == [0, 3, 4, 8]
    assert end.tolist() == [3, 5, 8, 8]


def test_files_that_are_no_tokenizers_are_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_encoder(path)
    for wrong in ("{", "[]", "{}", '{"model": {}}'):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match="the tokenizer's file is no"):
            load_encoder(path)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"none of the end tokens \['</s>'\].*special tokens are \['<\|endof"
    ):
        load_encoder(path, eos_token="</s>")


def find_shared():
    beside = next(
        (parent / "shared" for parent in Path(__file__).parents if (parent / "shared").is_dir()), None
    )
    return Path(os.environ.get("SHARED_DATA", beside or "shared"))


@pytest.mark.parametrize("name", ["allenai_dolma2.json", "gpt-neox-20b.json"])
def test_published_tokenizers_cover_real_text_character_by_character(name):
    path = find_shared() / "data" / "tokenizers" / name
    if not path.is_file():
        pytest.skip(f"needs the tokenizer {path}: set SHARED_DATA")
    encoder = load_encoder(path)
    text = (find_shared() / "data" / "text" / "wikitext-2-valid.txt").read_text(encoding="utf-8")[:200_000]
    text += " 東京 ṭ 🙂 "
    fast, slow = encoder.encode([text]), encoder._encode_with_offsets([text])
    for column in ("ids", "char_start", "char_end"):
        assert np.array_equal(getattr(fast, column), getattr(slow, column))
    assert fast.char_end[-1] == len(text)
