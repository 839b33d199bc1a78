"""Titles, redirects, disambiguation pages and ids."""

import pytest

from entity_annotate.titles import (
    Redirects,
    entity_of,
    is_disambiguation,
    normalize_title,
    read_qids,
    redirect_target,
    split_fragment,
    without_qualifier,
)


@pytest.mark.parametrize(
    ("title", "canonical"),
    [
        ("ada_lovelace", "Ada lovelace"),
        ("  ada  __  lovelace ", "Ada lovelace"),
        ("AT&amp;T", "AT&T"),
        ("Caf%C3%A9", "Café"),
        ("100%", "100%"),
        ("éa", "Éa"),
        ("ßa", "SSa"),
        ("日本", "日本"),
        ("A\u00a0b", "A b"),
        ("", ""),
    ],
)
def test_a_title_has_one_canonical_form(title, canonical):
    assert normalize_title(title) == canonical


def test_redirects_are_followed_to_the_end():
    redirects = Redirects({"A": "B", "B": "C", "C": "D"})
    assert [redirects.resolve(title) for title in "ABCDE"] == ["D", "D", "D", "D", "E"]


def test_a_cycle_of_redirects_leads_nowhere():
    redirects = Redirects({"A": "B", "B": "C", "C": "B", "X": "X"})
    assert [redirects.resolve(title) for title in "ABCX"] == ["A", "B", "C", "X"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("#REDIRECT [[Ada]]", "Ada"),
        ("#redirect: [[Ada#Life|x]] {{R}}", "Ada#Life"),
        ("  #WEITERLEITUNG [[Ada]]", "Ada"),
        ("#転送 [[Ada]]", "Ada"),
        ("# a list item\n# [[Ada]]", None),
        ("Text #REDIRECT [[Ada]]", None),
        ("#REDIRECT nowhere", None),
        ("", None),
    ],
)
def test_a_redirect_is_known_by_its_text_too(text, target):
    assert redirect_target(text) == target


@pytest.mark.parametrize(
    "wikitext",
    [
        "{{disambig}}",
        "{{Disambiguation|geo}}",
        "x {{ HNDIS |Ada}}",
        "{{surname}}",
        "__DISAMBIG__",
        "{{Begriffsklärung}}",
    ],
)
def test_disambiguation_pages_are_known_by_template_or_magic_word(wikitext):
    assert is_disambiguation(wikitext)


@pytest.mark.parametrize(
    "wikitext", ["", "disambig", "{{disambig needed}}", "{{Infobox person|name=surname}}", "{{dablink|x}}"]
)
def test_other_pages_are_articles(wikitext):
    assert not is_disambiguation(wikitext)


def test_names_lose_their_qualifier_and_links_their_section():
    assert without_qualifier("Mercury (planet)") == "Mercury"
    assert without_qualifier("(What's the Story)") == "(What's the Story)"
    assert split_fragment("Paris#The history") == ("Paris", "The history")


def test_an_entity_is_a_qid_or_a_title():
    assert entity_of("Ada Lovelace", {"Ada Lovelace": "Q7259"}) == "Q7259"
    assert entity_of("Ada Lovelace", {}) == "title:Ada_Lovelace"


def test_qids_are_read_from_a_table(tmp_path):
    path = tmp_path / "qids.tsv"
    path.write_text('ada_Lovelace\tQ7259\n\n"Heroes"\tQ1\n', encoding="utf-8")
    assert read_qids(path) == {"Ada Lovelace": "Q7259", '"Heroes"': "Q1"}


@pytest.mark.parametrize("line", ["Ada Lovelace Q7259", "Ada\tLovelace", "Ada\tQ0", "a\tb\tQ1"])
def test_a_wrong_line_of_the_table_is_named(tmp_path, line):
    path = tmp_path / "qids.tsv"
    path.write_text("London\tQ84\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2 of .*expected a title, a tab and a QID"):
        read_qids(path)
