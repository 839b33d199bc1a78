"""The linker and coreference on real articles with human gold: Elevant's wiki-fair."""

import json

import pytest

from entity_annotate.coref import SimpleCoref
from entity_annotate.lexicon import Lexicon, count_occurrences
from entity_annotate.linker import LexiconLinker
from entity_annotate.merge import merge_evidence
from entity_annotate.records import Document, Failure, Mention
from entity_annotate.titles import without_qualifier
from entity_annotate.wikitext import Link


def read_articles(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_qid(entity: str) -> bool:
    return entity[0] == "Q" and entity[1:].isdigit()


def qids_of(articles) -> dict[str, str]:
    """Return the QID of each title, where the gold labels on its links or its own name give one."""
    qids: dict[str, str] = {}
    for article in articles:
        labels = {tuple(label["span"]): label["entity_id"] for label in article["labels"]}
        named = [(tuple(span), title) for span, title in article.get("hyperlinks", [])]
        named += [(tuple(span), article["title"]) for span in article.get("title_synonyms", [])]
        name = without_qualifier(article["title"])
        named += [(span, article["title"]) for span in labels if article["text"][slice(*span)] == name]
        for span, title in named:
            if is_qid(labels.get(span, "?")):
                qids.setdefault(title, labels[span])
    return qids


def to_document(article, qids) -> Document:
    links = [
        Link(start, end, title, entity=qids.get(title, "title:" + title))
        for (start, end), title in article.get("hyperlinks", [])
        if start < end
    ]
    names = [article["text"][start:end] for start, end in article.get("title_synonyms", [])]
    entity = qids.get(article["title"], "title:" + article["title"])
    return Document(article["id"], article["text"], article["title"], links, entity, names)


def gold_of(article) -> tuple[set, set]:
    """Return the gold mentions of the evaluated part, and those that count neither for nor against."""
    gold, neutral = set(), set()
    for label in article["labels"]:
        inside = is_qid(label["entity_id"]) and not label.get("optional") and label.get("parent") is None
        (gold if inside else neutral).add((*label["span"], label["entity_id"]))
    return within(article, gold), neutral


def within(article, mentions) -> set:
    low, high = article["evaluation_span"]
    return {mention for mention in mentions if low <= mention[0] and mention[1] <= high}


def annotate(articles):
    """Yield each article with its evidence; the lexicon is learned from these articles alone."""
    qids = qids_of(articles)
    docs = [to_document(article, qids) for article in articles]
    lexicon = Lexicon()
    for doc in docs:
        lexicon.add_document(doc)
    lexicon.occurrences.update(count_occurrences(docs, lexicon.counting_matcher()))
    linked = LexiconLinker(lexicon).link(docs)
    assert not any(isinstance(mentions, Failure) for mentions in linked)
    resolved = SimpleCoref(lexicon).resolve(docs, linked)
    for article, doc, mentions, clusters in zip(articles, docs, linked, resolved, strict=True):
        links = [Mention(link.char_start, link.char_end, link.entity, 1.0) for link in doc.links]
        yield article, merge_evidence(doc.text, links, mentions, clusters)


def score(annotated, passes) -> tuple[float, float, float]:
    right = answers = total = 0
    for article, evidence in annotated:
        gold, neutral = gold_of(article)
        found = (
            within(article, {(e.char_start, e.char_end, e.entity) for e in evidence if passes(e)}) - neutral
        )
        right += len(found & gold)
        answers += len(found)
        total += len(gold)
    precision, recall = right / answers, right / total
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_repeats_and_coreference_find_more_than_the_links_alone(shared_data):
    annotated = list(annotate(read_articles(shared_data / "entity_linking/elevant-wiki-fair.jsonl")))
    links = score(annotated, lambda e: e.hyperlink >= 1)
    linker = score(annotated, lambda e: e.hyperlink >= 1 or e.entity_linking >= 0.6)
    everything = score(
        annotated,
        lambda e: e.hyperlink >= 1 or e.entity_linking >= 0.6 or e.coref >= 0.6 or e.coref_cluster >= 0.6,
    )
    # precision, recall, F1 as in the README; a change of the linker that moves them is worth a look
    assert links == pytest.approx((0.768, 0.303, 0.434), abs=0.001)
    assert linker == pytest.approx((0.730, 0.393, 0.511), abs=0.01)
    assert everything == pytest.approx((0.651, 0.438, 0.524), abs=0.01)
    assert links[2] < linker[2] < everything[2]
