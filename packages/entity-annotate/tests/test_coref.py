"""Simple coreference: who a surname or a pronoun means, and when it abstains."""

import pytest

from entity_annotate.coref import SimpleCoref, name_parts
from entity_annotate.lexicon import Lexicon
from entity_annotate.records import Document, Mention
from entity_annotate.wikitext import Link

GENDERS = {"Q7259": "she", "Q46633": "he", "Q937": "he", "Q84": "it", "Q7251": "he"}


def resolve(text: str, named: dict[str, str], *, subject: str | None = None, title: str | None = None):
    """Return the clusters as texts; `named` says which entity each name is, wherever it stands."""
    mentions = []
    for name, entity in named.items():
        start = text.find(name)
        while start >= 0:
            mentions.append(Mention(start, start + len(name), entity, 0.95))
            start = text.find(name, start + 1)
    doc = Document("1", text, title=title, entity=subject)
    (clusters,) = SimpleCoref(Lexicon(genders=GENDERS)).resolve([doc], [sorted(mentions)])
    return [[text[slice(*span)] for span in cluster] for cluster in clusters]


ADA = {"Ada Lovelace": "Q7259"}
BOTH = ADA | {"Charles Babbage": "Q46633"}


@pytest.mark.parametrize(
    ("text", "named", "clusters"),
    [
        ("Ada Lovelace wrote. She coded her notes.", ADA, [["Ada Lovelace", "She", "her"]]),
        (
            "Ada Lovelace wrote. Lovelace coded. Ada's notes stayed.",
            ADA,
            [["Ada Lovelace", "Lovelace", "Ada"]],
        ),
        ("Ada Lovelace\u2019s notes. Lovelace\u2019s friend.", ADA, [["Ada Lovelace", "Lovelace"]]),
        ("Ada Lovelace wrote. He coded.", ADA, []),
        ("Ada Lovelace wrote the Lovelace Report.", ADA, []),
        (
            "Ada Lovelace met Charles Babbage. He spoke, she wrote.",
            BOTH,
            [["Ada Lovelace", "she"], ["Charles Babbage", "He"]],
        ),
        ("Charles Babbage left. Ada Lovelace spent her life here.", BOTH, [["Ada Lovelace", "her"]]),
        ("Ada Lovelace wrote.\n\nShe is unknown here.", ADA, []),
        ("London is large. Its river is the Thames.", {"London": "Q84"}, [["London", "Its"]]),
        ("London is large. It is a city.", {"London": "Q84"}, [["London", "It"]]),
        ("London is large. It is likely that it rains.", {"London": "Q84"}, []),
        ("", {}, []),
    ],
)
def test_names_and_pronouns_are_resolved_by_what_the_text_says(text, named, clusters):
    assert resolve(text, named) == clusters


def test_a_pronoun_without_a_nearer_antecedent_means_the_subject_of_the_page():
    text = "Ada Lovelace wrote.\n\nAfter the war she coded."
    assert resolve(text, ADA, subject="Q7259", title="Ada Lovelace") == [["Ada Lovelace", "she"]]


def test_the_subject_s_surname_is_known_from_the_title():
    text = "Lovelace wrote. Babbage did not."
    assert resolve(text, {}, subject="Q7259", title="Ada Lovelace") == []  # one mention is no cluster
    text = "Lovelace wrote. Later Lovelace coded."
    assert resolve(text, {}, subject="Q7259", title="Ada Lovelace") == [["Lovelace", "Lovelace"]]


def test_a_shared_surname_means_whoever_was_named_last():
    named = {"Albert Einstein": "Q937", "Alan Einstein": "Q7251"}
    text = "Albert Einstein spoke. Einstein left. Alan Einstein came. Einstein sat."
    assert resolve(text, named) == [["Albert Einstein", "Einstein"], ["Alan Einstein", "Einstein"]]


def test_a_heading_is_no_name():
    assert resolve("Ada Lovelace wrote.\n\nLovelace\n\nEnd.", ADA) == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Ada Lovelace", {"Ada", "Lovelace"}),
        ("Ludwig van Beethoven", {"Ludwig", "Beethoven"}),
        ("Sir Isaac Newton", {"Isaac", "Newton"}),
        ("A. Lovelace", {"Lovelace"}),
        ("Martin Luther King Jr.", {"Martin"}),
        ("University of Oxford", set()),
        ("Ada", set()),
        ("the big apple", set()),
        ("", set()),
    ],
)
def test_the_parts_of_a_name_that_may_stand_alone(name, parts):
    assert name_parts(name) == parts


def test_a_link_that_leads_to_no_entity_is_not_taken_for_a_name():
    text = "Ada Lovelace wrote. Ada is a name."
    doc = Document("1", text, links=[Link(20, 23, "Ada (given name)")])
    found = SimpleCoref(Lexicon(genders=GENDERS)).resolve([doc], [[Mention(0, 12, "Q7259", 0.95)]])
    assert found == [[]]
