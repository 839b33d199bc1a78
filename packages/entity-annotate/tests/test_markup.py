"""The scanners of the cleaner against slow twins that look again and again."""

import re

from hypothesis import given
from hypothesis import strategies as st

from entity_annotate.markup import (
    drop_files,
    drop_opaque,
    drop_tables,
    drop_templates,
    link_end,
    link_ends,
    protect,
    restore,
)
from entity_annotate.namespaces import DEFAULT_NAMESPACES
from entity_annotate.wikitext import clean_page


def slow_drop_templates(text: str) -> str:
    """Drop the innermost template until there is none."""
    while (shorter := re.sub(r"\{\{(?:(?!\{\{|\}\}).)*\}\}", "", text, count=1)) != text:
        text = shorter
    return text


@given(st.lists(st.sampled_from(["{{", "}}", "a", " b "]), max_size=20).map("|".join))
def test_templates_are_dropped_as_from_the_inside_out(text):
    assert drop_templates(text) == slow_drop_templates(text)


@given(st.text("a[]{}|'<>=*#:;_&-! \n"))
def test_protected_text_shows_no_markup_and_comes_back(text):
    hidden = protect(text)
    assert not set(hidden) & set("[]{}|'<>=*#:;_&-!")
    assert restore(hidden) == text


def test_a_table_left_open_by_a_template_loses_its_rows():
    assert drop_tables("\n{| class=x\n| cell\n|}\n| stray [[row]]\n|}\nText") == "\n\nText"


def test_tables_nest_and_a_list_item_may_hold_one():
    assert drop_tables("\nA\n: {|\n|\n{|\n| b\n|}\n|}\nC") == "\nA\n\nC"


def test_a_file_takes_its_caption_with_it_and_an_open_one_stays():
    text = "a [[File:x.jpg|[[b]] and [http://c d]]] e [[image:y|[[z]]"
    assert drop_files(text, DEFAULT_NAMESPACES) == "a  e [[image:y|[[z]]"


@given(st.lists(st.sampled_from(["[[", "]]", "]", "[", "c"]), max_size=20).map("".join))
def test_where_links_end_is_the_same_for_all_at_once_as_for_each(text):
    openings = [match.start() for match in re.finditer(r"\[\[|\]\]", text) if match[0] == "[["]
    assert {start: link_end(text, start + 2) for start in openings} == {
        start: link_ends(text).get(start) for start in openings
    }


def test_unbalanced_markup_takes_no_more_than_linear_time():
    for token in (
        "[[File:a|",
        "{{",
        "}}",
        "<ref>",
        "<nowiki>",
        "\n{|",
        "[[a|",
        "({{x}}; ",
        "[http://x ",
        "'''a",
    ):
        clean_page(token * 20_000)  # minutes, if each were compared with each


def test_of_comments_and_tags_the_one_that_opens_first_wins():
    assert drop_opaque("a<!-- <ref> -->b<ref><!-- </ref>c") == "abc"
    assert drop_opaque("a<math>x</math >b<gallery>c") == "abc"
