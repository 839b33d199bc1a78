from hypothesis import given
from hypothesis import strategies as st

from entity_index.show import cut_passage


@given(st.data())
def test_a_passage_shows_its_anchors_whole(data):
    text = data.draw(st.text("ab \n", max_size=60))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    width = data.draw(st.integers(1, 40))
    passage, inside = cut_passage(text, spans, spans, width)
    shown = [passage[start:end] for start, end in inside]
    assert shown == [text[start:end].replace("\n", " ") for start, end in spans]
    assert "\n" not in passage


def test_distant_anchors_are_shown_in_pieces():
    text = "Ada wrote. " + "Nothing happened. " * 20 + "Bob came."
    spans = [(0, 3), (len(text) - 9, len(text) - 6)]
    passage, inside = cut_passage(text, spans, spans, width=40)
    assert passage == "Ada wrote. Nothing … happened. Bob came."
    assert [passage[start:end] for start, end in inside] == ["Ada", "Bob"]
