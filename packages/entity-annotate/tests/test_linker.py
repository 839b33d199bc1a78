"""The lexicon linker: what the document says, then what the corpus says, and how sure."""

import pytest

from entity_annotate.lexicon import Lexicon, count_occurrences, main_gender
from entity_annotate.linker import LOCAL, NEAR, LexiconLinker, is_proper
from entity_annotate.records import Document, Failure, Mention
from entity_annotate.wikitext import Link


def document(number: int, text: str, links=(), **about) -> Document:
    """Return a document whose links are given as (label, entity), each at the label's first place."""
    spans = [(text.index(label), label, entity) for label, entity in links]
    found = [Link(start, start + len(label), label, entity=entity) for start, label, entity in spans]
    return Document(str(number), text, links=found, **about)


def linker(*docs: Document) -> LexiconLinker:
    lexicon = Lexicon()
    for doc in docs:
        lexicon.add_document(doc)
    lexicon.occurrences.update(count_occurrences(docs, lexicon.counting_matcher()))
    return LexiconLinker(lexicon)


def linked(linker: LexiconLinker, doc: Document) -> list[tuple[str, str, float]]:
    (mentions,) = linker.link([doc])
    return [(doc.text[m.char_start : m.char_end], m.entity, round(m.score, 3)) for m in mentions]


def test_a_name_that_the_document_links_is_the_same_entity_later():
    doc = document(1, "Paris is big. I like Paris, and Paris's food.", [("Paris", "Q90")])
    assert linked(linker(doc), doc) == [("Paris", "Q90", LOCAL), ("Paris", "Q90", LOCAL)]


def test_a_page_s_title_and_bold_names_are_its_subject():
    doc = document(
        1, "Mercury is hot. Hermes too.", title="Mercury (planet)", entity="Q308", names=["Hermes"]
    )
    assert linked(linker(doc), doc) == [("Mercury", "Q308", LOCAL), ("Hermes", "Q308", LOCAL)]


def test_a_document_s_own_link_decides_between_namesakes():
    planet = document(1, "Mercury orbits.", title="Mercury (planet)", entity="Q308")
    god = document(2, "Mercury flies.", title="Mercury (god)", entity="Q1150")
    here = document(3, "The god of trade. Mercury ran.", [("god of trade", "Q1150")])
    neither = document(4, "Mercury rose.")
    found = linker(planet, god, here)
    assert linked(found, here)[0] == ("Mercury", "Q1150", NEAR)
    assert all(score < 0.6 for _, _, score in linked(found, neither))
    assert {entity for _, entity, _ in linked(found, neither)} == {"Q308", "Q1150"}


def test_an_unambiguous_name_seen_often_is_trusted_and_one_seen_once_is_not():
    corpus = [document(n, "Ada Lovelace and Bob Once met.", [("Ada Lovelace", "Q7259")]) for n in range(3)]
    once = document(9, "Bob Once.", [("Bob Once", "Q2")])
    found = linker(*corpus, once)
    doc = document(10, "Ada Lovelace met Bob Once.")
    assert linked(found, doc) == [("Ada Lovelace", "Q7259", 0.75), ("Bob Once", "Q2", 0.5)]


def test_a_common_word_that_somebody_linked_once_is_not_a_mention():
    text = "the state is a state of a state " * 20
    corpus = document(1, text, [("state", "Q7275")])
    assert linked(linker(corpus), document(2, "a state")) == []


def test_links_are_not_linked_again_and_hyphenated_parts_are_left_alone():
    doc = document(1, "York. New-York is not York-like; York is.", [("York", "Q42462")])
    assert [m.char_start for m in linker(doc).link([doc])[0]] == [33]


def test_names_in_other_writing_systems_and_beyond_the_basic_plane_keep_their_offsets():
    doc = document(1, "\U0001d538 Ελλάδα \U0001d538 Ελλάδα", [("Ελλάδα", "Q41")])
    assert linker(doc).link([doc]) == [[Mention(11, 17, "Q41", LOCAL)]]


def test_a_document_whose_links_are_out_of_place_fails_alone():
    good, bad = (
        document(1, "Paris, Paris", [("Paris", "Q90")]),
        Document("2", "x", links=[Link(0, 5, "Y", entity="Q1")]),
    )
    found = linker(good).link([bad, good])
    assert found[0] == Failure("offset_mismatch", "span [0, 5) is not inside a text of 1 characters")
    assert found[1] == [Mention(7, 12, "Q90", LOCAL)]


def test_an_empty_lexicon_finds_nothing():
    assert LexiconLinker(Lexicon()).link([document(1, "Paris"), document(2, "")]) == [[], []]


def test_proper_names_are_capitalised_in_every_main_word():
    assert [is_proper(s) for s in ("Ada", "Duke of York", "Duke of the york", "state", "3M")] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_a_page_s_pronouns_tell_its_gender():
    assert main_gender("Ada wrote. She coded. He read her notes.") == "she"
    assert main_gender("The firm is old. It sells its cars.") == "it"
    assert main_gender("She and he met.") == "she"
    assert main_gender("She met him, his dog, his cat and him.") is None
    assert main_gender("Nothing of the kind.") is None


def test_aliases_are_vouched_for_and_the_most_used_comes_first():
    lexicon = Lexicon()
    texts = ["Ada ran.", "Ada sat.", "AL lay."]
    for number, text in enumerate(texts):
        lexicon.add_document(document(number, text, [(text.split()[0], "Q7259")]))
    lexicon.add_name("Lady Lovelace", "Q7259")
    assert lexicon.aliases() == {"Q7259": ["Ada", "Lady Lovelace"]}


def test_a_common_word_that_begins_a_sentence_is_no_name():
    magazine = [document(n, "Time wrote this.", [("Time", "Q43297")]) for n in range(6)]
    clocks = [document(n, "In time, at that time, by the time. Time flies.") for n in range(10, 14)]
    found = linker(*magazine, *clocks)
    assert found.lexicon.is_common_word("Time")
    assert all(score < 0.6 for _, _, score in linked(found, clocks[0]))
    assert linked(linker(*magazine), document(20, "Time flies.")) == [
        ("Time", "Q43297", pytest.approx(6 / 7, abs=1e-3))
    ]
