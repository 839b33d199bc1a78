import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from entity_index import Mention, Thresholds
from entity_index.marking import excerpt_parts, mark_pieces, source_of

LINKED, CLUSTERED = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)


def mention(start, end, entity="Q1", score=0.5, sources=LINKED):
    return Mention(start, end, entity, score, *sources, row=0)


def pieces(text, *mentions, part=None):
    found = mark_pieces(text, mentions, Thresholds(), part)
    return [(piece.text, piece.mention and piece.mention.entity, piece.source) for piece in found]


def test_a_text_is_cut_at_its_mentions():
    she = mention(13, 16, "Q2", sources=CLUSTERED)
    assert pieces("Ada Lovelace, she", mention(0, 12), she) == [
        ("Ada Lovelace", "Q1", "hyperlink"),
        (",", None, ""),
        (" sh", "Q2", "coref_cluster"),
        ("e", None, ""),
    ]


def test_of_overlapping_mentions_the_shortest_shows_and_of_equal_ones_the_surer():
    assert pieces("the Duke of York", mention(0, 16, "Q1"), mention(12, 16, "Q2")) == [
        ("the Duke of ", "Q1", "hyperlink"),
        ("York", "Q2", "hyperlink"),
    ]
    same = mention(0, 3, "Q1", 0.2), mention(0, 3, "Q2", 0.9), mention(0, 3, "Q3", 0.4)
    assert pieces("Ada", *same) == [("Ada", "Q2", "hyperlink")]


def test_a_part_of_a_text_shows_the_parts_of_its_mentions():
    assert pieces("Ada Lovelace met", mention(0, 12), part=(4, 14)) == [
        ("Lovelace", "Q1", "hyperlink"),
        (" m", None, ""),
    ]
    assert pieces("") == []


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6))
def test_the_pieces_are_the_text_and_every_character_belongs_to_a_mention_that_covers_it(text, spans):
    spans = [tuple(sorted((min(a, len(text)), min(b, len(text))))) for a, b in spans]
    found = mark_pieces(text, [mention(*span) for span in spans], Thresholds())
    assert "".join(piece.text for piece in found) == text
    place = 0
    for piece in found:
        for character in range(place, place + len(piece.text)):
            covered = [span for span in spans if span[0] <= character < span[1]]
            shown = piece.mention and (piece.mention.char_start, piece.mention.char_end)
            assert shown in covered if covered else shown is None
            assert not covered or shown[1] - shown[0] == min(end - start for start, end in covered)
        place += len(piece.text)


def test_the_source_is_the_first_that_reaches_its_threshold_as_float32():
    almost = float(np.nextafter(np.float32(0.6), np.float32(0)))
    scores = mention(0, 1, sources=(0.0, almost, float(np.float32(0.6)), 1.0))
    assert source_of(scores, Thresholds()) == "coref"
    assert source_of(scores, Thresholds(coref=None)) == "coref_cluster"
    assert source_of(scores, Thresholds(hyperlink=None, entity_linking=0.1)) == "entity_linking"
    assert source_of(mention(0, 1, sources=(0.0,) * 4), Thresholds()) == ""


def test_a_short_text_is_shown_whole_and_a_long_one_around_its_first_mentions():
    assert excerpt_parts("short", [mention(0, 5)]) == [(0, 5)]
    text = "word " * 400
    assert excerpt_parts(text, [mention(0, 4)], margin=11) == [(0, 14)]
    assert excerpt_parts(text, [mention(500, 504), mention(510, 514)], margin=11) == [(490, 524)]
    far = [mention(place, place + 4) for place in (0, 500, 1000, 1500)]
    assert excerpt_parts(text, far, margin=11, limit=3) == [(0, 14), (490, 514), (990, 1014)]
    assert excerpt_parts("x" * 600, [mention(300, 301)], margin=11) == [(300, 301)]
    assert excerpt_parts(text, [], margin=11) == [(0, 9)]
