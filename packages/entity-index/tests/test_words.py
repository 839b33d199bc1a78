import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entity_index.words import phrase_spans, word_spans, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ... -- !", []),
        ("Ada's", ["Ada's"]),
        ("Ada\u2019s", ["Ada\u2019s"]),
        ("'Ada'", ["Ada"]),
        ("don''t", ["don", "t"]),
        ("well-known", ["well", "known"]),
        ("U.S.A. e.g. x.5", ["U.S.A", "e.g", "x", "5"]),
        ("1,024.5 3,x 4.", ["1,024.5", "3", "x", "4"]),
        ("snake_case a1b2 _x _ __", ["snake_case", "a1b2", "_x"]),
        ("cafe\u0301 nai\u0308ve", ["cafe\u0301", "nai\u0308ve"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京は", ["東", "京", "は"]),
        ("カタカナ", ["カタカナ"]),
        ("Go\u200bogle", ["Go", "ogle"]),
        ("a" * 600, ["a" * 255, "a" * 255, "a" * 90]),
    ],
)
def test_text_is_cut_into_words(text, expected):
    assert words(text) == expected


@given(st.text(max_size=50))
def test_spans_are_ordered_and_hold_the_words(text):
    spans = word_spans(text)
    assert [text[start:end] for start, end in spans] == words(text)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert not any(character.isspace() for word in words(text) for character in word)


@given(st.text(st.characters(max_codepoint=127), max_size=50))
def test_the_pattern_for_ascii_cuts_as_the_one_for_all_texts(text):
    assert [*words(text), "\u00e9"] == words(text + " \u00e9")


def test_phrases_are_found_wherever_they_begin():
    assert phrase_spans("a a a", "a a") == [(0, 3), (2, 5)]
    assert phrase_spans("Ada, Lovelace; ADA lovelace", "ada lovelace") == [(0, 13), (15, 27)]
    assert phrase_spans("Ada, Lovelace; ADA lovelace", "Ada Lovelace", case_sensitive=True) == [(0, 13)]
    assert phrase_spans("short", "longer than the text") == []
