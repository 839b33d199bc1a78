"""Pages, fact sets and evaluations from a real server equal those of the embedded index."""

import asyncio
import json

import numpy as np
import pytest

from entity_index import Thresholds
from entity_index.annotate import Lookup, added_columns, annotate_rows
from entity_index.evaluation.methods import methods_of
from entity_index.evaluation.running import evaluate_retrieval
from entity_index.serve_app import make_app

pytestmark = pytest.mark.slow
NAMES = ["Ada Lovelace", "Babbage", "Mary Somerville", "the Analytical Engine", "Countess"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, elastic_pair, row):
    """Forty chunks of names, with mentions of most of them."""
    rng = np.random.default_rng(0)
    texts, mentions = [], []
    for chunk_id in range(40):
        text = ""
        for number in rng.integers(0, len(NAMES), size=rng.integers(1, 6)).tolist():
            start = len(text)
            text += NAMES[number] + " met "
            if rng.random() < 0.8:
                scores = {
                    "hyperlink": float(rng.random() < 0.5),
                    "entity_linking": round(float(rng.random()), 2),
                }
                entity, name = f"Q{number + 10 * (rng.random() < 0.2)}", NAMES[number]
                mentions.append(
                    row(
                        chunk_id,
                        start,
                        start + len(name),
                        entity,
                        name=name,
                        score=max(scores.values()),
                        **scores,
                    )
                )
        texts.append(text + "<b>&")
    return elastic_pair(tmp_path_factory.mktemp("commands"), texts, mentions)


def read_page(app, address):
    """Status and text of an answer."""
    path, _, query = address.partition("?")
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "root_path": ""}
    scope |= {"headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1"}
    sent, said = [], [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return said.pop() if said else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


def test_every_page_is_the_same(pair):
    apps = [make_app(index, title="x") for index in pair]
    for address, status in (
        ("/", 200),
        ("/?q=Ada+Lovelace", 200),
        ("/?q=Q1&entity_linking=0.9", 200),
        ("/?q=Q0&also=Q1&page=2", 200),
        ("/?q=Nobody", 404),
        ("/chunk/3", 200),
        ("/together?q=Q2", 200),
        ("/suggest?q=a", 200),
        ("/?q=Q0&coref=3", 400),
    ):
        expected, found = (read_page(app, address) for app in apps)
        assert found == expected, address
        assert found[0] == status


def test_facts_get_the_same_chunks(pair):
    rows = [{"s": s, "a": a} for s in ["Q0", "babbage", "nobody", "Q12"] for a in ["Q1", "Countess", None]]
    results = []
    for index in pair:
        (facts,) = annotate_rows([rows], Lookup(index, Thresholds()), subject=["s"], answer=["a"])
        results.append({name: column.to_pylist() for name, column in added_columns(facts).items()})
    assert results[1] == results[0]
    assert any(results[0]["shared_chunks"])


class EvenChunks:
    """A judge that likes chunks with an even number."""

    def judge(self, questions):
        return [question.chunk_id % 2 == 0 for question in questions]


def test_an_evaluation_draws_and_judges_the_same(pair):
    expected, found = (
        evaluate_retrieval(index, EvenChunks(), methods_of(Thresholds()), size=8, seed=3) for index in pair
    )
    assert [entity.entity for entity in found.entities] == [entity.entity for entity in expected.entities]
    for mine, other in zip(found.entities, expected.entities, strict=True):
        for method, judged in mine.methods.items():
            if method.startswith("entity"):
                assert judged == other.methods[method], json.dumps([mine.entity, method])
            else:  # by BM25 there: the same chunks, in another order
                assert judged.found == other.methods[method].found
                assert set(judged.chunk_ids) == set(other.methods[method].chunk_ids)
                assert judged.num_right == other.methods[method].num_right
