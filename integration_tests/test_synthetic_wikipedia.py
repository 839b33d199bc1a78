import bz2
from bisect import bisect
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def articles_and_facts(synthetic_wikipedia):
    rng = np.random.default_rng(3)
    entities = synthetic_wikipedia.make_entities(rng, 36)
    facts = synthetic_wikipedia.make_facts(rng, entities, 60)
    return synthetic_wikipedia.write_articles(rng, entities, facts), facts


def test_the_same_seed_writes_the_same_bytes(synthetic_wikipedia, encyclopedia, tmp_path):
    synthetic_wikipedia.write_encyclopedia(tmp_path, num_facts=60, seed=3)
    for name in ("dump.xml.bz2", "gold_mentions.parquet", "probes.parquet"):
        assert (tmp_path / name).read_bytes() == (encyclopedia / name).read_bytes()


def test_every_gold_mention_stands_where_it_says(articles_and_facts):
    articles, _ = articles_and_facts
    for article in articles:
        for start, end, _, surface, _ in article.gold:
            assert article.text[start:end] == surface


def test_a_fact_is_stated_in_as_many_sentences_as_it_says(articles_and_facts):
    articles, facts = articles_and_facts
    stated = {(fact.subject.id, fact.object.id): 0 for fact in facts}
    for article in articles:  # a statement never shares its line with another
        ends = [position for position, character in enumerate(article.text) if character == "\n"]
        lines = {}
        for start, _, entity, _, _ in article.gold:
            lines.setdefault(bisect(ends, start), set()).add(entity)
        for subject, answer in stated:
            stated[subject, answer] += sum({subject, answer} <= entities for entities in lines.values())
    expected = {}
    for fact in facts:
        pair = (fact.subject.id, fact.object.id)
        expected[pair] = expected.get(pair, 0) + fact.num_statements
    assert stated == expected


def test_statement_counts_follow_a_power_law(synthetic_wikipedia):
    counts = synthetic_wikipedia.power_law(np.random.default_rng(0), 20_000)
    assert (counts.min(), counts.max()) == (1, 64)
    for low, high in ((1, 1), (2, 3), (4, 7), (8, 15)):  # P(low..high) = log((high + 1) / low) / log(65)
        share = np.mean((counts >= low) & (counts <= high))
        assert share == pytest.approx(np.log((high + 1) / low) / np.log(65), abs=0.015)


def test_probes_offer_the_answer_and_distractors_of_its_type(encyclopedia):
    probes = pq.read_table(encyclopedia / "probes.parquet").to_pylist()
    assert len(probes) > 40
    for probe in probes:
        assert probe["prompt"].startswith(probe["subject_name"])
        assert probe["answers"][0] == probe["answer_name"]
        assert not set(probe["answers"]) & set(probe["distractors"])
        assert len(set(probe["distractors"])) == len(probe["distractors"]) <= 31


def test_the_dump_is_xml_with_articles_redirects_and_other_namespaces(encyclopedia):
    with bz2.open(encyclopedia / "dump.xml.bz2") as dump:
        pages = ElementTree.parse(dump).getroot().findall("{*}page")
    namespaces = [page.findtext("{*}ns") for page in pages]
    assert namespaces.count("1") == namespaces.count("10") == 1
    redirects = [page for page in pages if page.find("{*}redirect") is not None]
    titles = {page.findtext("{*}title") for page in pages}
    assert redirects
    assert all(page.find("{*}redirect").get("title") in titles for page in redirects)
