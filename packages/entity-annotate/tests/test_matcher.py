"""The matcher against its slow twin: try every span, the longest first."""

import re

from hypothesis import given
from hypothesis import strategies as st

from entity_annotate.matcher import MAX_WORDS, Matcher


def slow_find(names, text):
    """Return what the matcher finds, by comparing every name at every word."""
    words = [word.span() for word in re.finditer(r"\w+", text)]
    starts = {start for start, _ in words}
    ends = {end for _, end in words}
    found = []
    position = 0
    for start in sorted(starts):
        fits = []
        for name in names:
            end = start + len(name)
            core_end = start + len(name.rstrip("".join(c for c in name if not re.match(r"\w", c))))
            if re.match(r"\w", name) and text.startswith(name, start) and core_end in ends:
                fits.append((core_end, end))
        if start >= position and fits:
            position = max(fits)[1]
            found.append((start, position))
    return found


NAMES = st.lists(
    st.sampled_from(["a", "b", "a b", "a b c", "b.", "a-b", "c", "b c.", "a.b", "c's"]), max_size=6
)


@given(NAMES, st.text("abc.-' x\n", max_size=40))
def test_the_matcher_finds_what_its_slow_twin_finds(names, text):
    assert Matcher(names).find(text) == slow_find(names, text)


def test_the_longest_name_wins_and_words_stay_whole():
    matcher = Matcher(["New York", "New York City", "York", "U.S."])
    text = "New York City, Yorkshire, York's, the U.S. and New York"
    assert [text[a:b] for a, b in matcher.find(text)] == ["New York City", "York", "U.S.", "New York"]


def test_occupied_places_are_left_out_with_the_rest_of_their_word():
    text = "two buses in York and York"
    assert Matcher(["es", "York"]).find(text, [(4, 7), (13, 17)]) == [(22, 26)]
    assert Matcher(["in York"]).find(text, [(13, 17)]) == []


def test_names_that_cannot_be_found_are_no_error():
    text = "(x) " + "w " * 20
    assert Matcher(["", "(x)", "...", "w " * MAX_WORDS + "w"]).find(text) == []
