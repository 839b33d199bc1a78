import numpy as np
import pytest

from entity_index import All, AnyOf, Entity, Not, Phrase, Query, Thresholds, name_phrases, searchable_aliases


def test_operators_build_the_clauses():
    a, b = Entity("Q1"), Phrase("two words")
    assert (a & b, a | b, ~a) == (All(a, b), AnyOf(a, b), Not(a))


def test_queries_are_values():
    make = lambda: Query(Entity("Q1", Thresholds(coref=None)) & ~Phrase("x", case_sensitive=True), limit=None)  # noqa: E731
    assert make() == make()
    assert len({make(), make()}) == 1


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_range_of_scores_is_refused(least):
    with pytest.raises(ValueError, match=r"threshold coref = .* is outside \[0, 1\]"):
        Thresholds(coref=least)


def test_thresholds_that_leave_out_every_source_are_refused():
    with pytest.raises(ValueError, match="at least one source needs a threshold"):
        Thresholds(None, None, None, None)


@pytest.mark.parametrize("text", ["", "  ", "...", "\u2014"])
def test_a_phrase_without_words_is_refused(text):
    with pytest.raises(ValueError, match="has no words to search for"):
        Phrase(text)


def test_an_empty_combination_and_a_negative_limit_are_refused():
    with pytest.raises(ValueError, match="at least one entity or phrase"):
        AnyOf()
    with pytest.raises(ValueError, match="limit -1 is negative"):
        Query(Entity("Q1"), limit=-1)


def test_a_name_is_searched_with_both_apostrophes():
    texts = [part.text for part in name_phrases(["Ada", "Ada", "Bob"]).parts]
    assert texts == ["Ada", "Ada's", "Ada\u2019s", "Bob", "Bob's", "Bob\u2019s"]


def test_short_aliases_are_left_out_but_for_four_countries():
    names = ["US", "USA", "UK", "UAE", "UN", "Ada", "Adas", "us", "\u2020\u2020\u2020\u2020"]
    assert searchable_aliases(names) == ["US", "USA", "UK", "UAE", "Adas"]


def test_scores_are_compared_as_float32(make_index, row):
    below = float(np.nextafter(np.float32(0.6), np.float32(0)))
    scores = [0.6, below, float(np.float32(0.6))]
    index = make_index(["Ada"] * 3, [row(i, 0, 3, "Q1", coref=score) for i, score in enumerate(scores)])
    assert index.chunk_ids(Entity("Q1")).tolist() == [0, 2]
