import pytest
from hypothesis import given
from hypothesis import strategies as st

from entity_index.evaluation.windows import Window, window_around

TEXT = "x" * 100 + " Ada met\n\n Charles Babbage. " + "y" * 100


def test_each_side_gets_65_characters():
    start = TEXT.index("Charles")
    window = window_around(TEXT, start, start + 7)
    assert window == Window("x" * 54 + " Ada met ", "Charles", " Babbage. " + "y" * 55)
    assert len(TEXT[start - 65 : start]) == 65
    assert window.text == "x" * 54 + " Ada met Charles Babbage. " + "y" * 55


def test_what_the_beginning_lacks_the_end_gets_and_the_other_way_round():
    assert len(window_around("a" * 300, 10, 13).text) == 133
    assert window_around("a" * 300, 10, 13).before == "a" * 10
    assert window_around("a" * 300, 290, 293).after == "a" * 7
    assert window_around("a" * 300, 290, 293).before == "a" * 123


def test_a_short_text_is_shown_whole_with_its_white_space_collapsed():
    assert window_around("\n Ada  met\tBob \n", 2, 5) == Window("", "Ada", " met Bob")
    assert window_around("Ada\n Lovelace", 0, 13) == Window("", "Ada Lovelace", "")
    assert window_around("a\n\nb", 3, 4) == Window("a ", "b", "")


def slow_window(text, start, end, width):
    """Take characters one by one, from both sides, until there are enough or none is left."""
    left, right = start, end
    budget_left, budget_right = width // 2, width - width // 2
    while budget_left and left > 0:
        left, budget_left = left - 1, budget_left - 1
    while budget_right and right < len(text):
        right, budget_right = right + 1, budget_right - 1
    while budget_left and right < len(text):
        right, budget_left = right + 1, budget_left - 1
    while budget_right and left > 0:
        left, budget_right = left - 1, budget_right - 1
    return " ".join(text[left:right].split())


@given(st.text(alphabet="ab \n", max_size=60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 40))
def test_windows_equal_those_grown_character_by_character(text, a, b, width):
    start, end = sorted((min(a, len(text)), min(b, len(text))))
    window = window_around(text, start, end, width)
    assert " ".join(window.text.split()) == slow_window(text, start, end, width)
    if not text[start:end].startswith((" ", "\n")) and not text[start:end].endswith((" ", "\n")):
        assert window.mention == " ".join(text[start:end].split())


@pytest.mark.parametrize("width", [0, 1, 7])
def test_an_odd_character_goes_to_the_right(width):
    window = window_around("a" * 50, 20, 21, width)
    assert (len(window.before), len(window.after)) == (width // 2, width - width // 2)
