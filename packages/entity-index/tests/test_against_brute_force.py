"""Every answer of the index equals the one found by reading everything."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entity_index import All, AnyOf, Entity, Not, Phrase, Query, Thresholds

WORDS = ["Ada", "ada", "ADA", "Ada's", "met", "Bob", "a", "b-c", "1,024", "x.", '"', "...", "O'Neil"]
ENTITIES = ["Q1", "Q2", "Q10", "title:O'Neil", 'odd "\n%_*', "", None]
SCORES = ("hyperlink", "entity_linking", "coref", "coref_cluster", "score")
LEVELS = [0.0, 0.3, np.nextafter(np.float32(0.6), np.float32(0)), 0.6, 0.61, 1.0]

thresholds = st.builds(
    Thresholds,
    hyperlink=st.sampled_from([1.0, 0.5]),
    entity_linking=st.sampled_from([0.6, 0.3, None]),
    coref=st.sampled_from([0.6, 0.0, None]),
    coref_cluster=st.sampled_from([0.6, None]),
)
entities = st.builds(Entity, st.sampled_from([*ENTITIES[:-1], "unknown"]), thresholds)
phrases = st.builds(
    Phrase,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
    .map(" ".join)
    .filter(lambda text: any(map(str.isalnum, text))),
    case_sensitive=st.booleans(),
)
conditions = st.recursive(
    entities | phrases,
    lambda parts: (
        st.builds(Not, parts)
        | st.lists(parts, min_size=1, max_size=3).map(lambda many: All(*many))
        | st.lists(parts, min_size=1, max_size=3).map(lambda many: AnyOf(*many))
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module", params=[0, 1, 2, 3, "two decimals", "frequent", "in every chunk"])
def corpus(request, tmp_path_factory, build_pair, row):
    """A random corpus: its index and its slow twin. The first one has no mention.

    In the last two, entities count as frequent that are in few chunks.
    """
    seed = request.param if isinstance(request.param, int) else 4
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(0, 12))) for _ in range(30)]
    mentions = [random_mention(rng, texts, row) for _ in range(80 * seed)]
    if request.param != seed:
        for mention in mentions:
            mention.update({name: round(mention[name], 2) for name in SCORES})
    if request.param == "in every chunk":
        mentions += [row(chunk, 0, 0, "Q1", coref=1.0) for chunk in range(30)]
    with pytest.MonkeyPatch.context() as patch:
        if request.param in ("frequent", "in every chunk"):
            for name, value in {"FREQUENT": 4, "SAMPLE": 3, "LISTED_FROM": 6, "LISTED": 4}.items():
                patch.setattr(f"entity_index.postings.{name}", value)
                patch.setattr(f"entity_index.runs.{name}", value)
        yield build_pair(tmp_path_factory.mktemp("corpus"), texts, mentions)


def random_mention(rng, texts, row):
    chunk_id = int(rng.integers(25))  # the last chunks have none
    start, end = sorted(rng.integers(0, len(texts[chunk_id]) + 1, size=2).tolist())
    scores = {name: float(rng.choice(LEVELS)) for name in SCORES}
    entity = ENTITIES[rng.integers(len(ENTITIES))]
    return row(chunk_id, start, end, entity, name=rng.choice(["Ada", "Bob", None]), **scores)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=conditions, limit=st.sampled_from([0, 1, 3, 10, None]))
def test_totals_order_scores_and_places_are_equal(corpus, where, limit):
    index, slow = corpus
    query = Query(where, limit)
    result = index.search(query)
    found = [(hit.chunk_id, hit.score, hit.mentions, hit.phrases) for hit in result.hits]
    assert (result.total, found) == slow.search(query)
    assert index.chunk_ids(where).tolist() == sorted(slow.scores(where))
    assert index.count(where) == result.total


@settings(max_examples=20, deadline=None)
@given(thresholds=thresholds)
def test_counts_of_all_entities_are_equal(corpus, thresholds):
    index, slow = corpus
    known = sorted({row["entity"] for row in slow.rows} - {None})
    counts = index.chunk_counts(thresholds)
    assert list(index.entities) == known
    assert counts.tolist() == [len(slow.scores(Entity(entity, thresholds))) for entity in known]


def test_mentions_and_entities_of_every_chunk_are_equal(corpus):
    index, slow = corpus
    for chunk_id in range(len(slow.texts)):
        rows = [
            (i, row)
            for i, row in enumerate(slow.rows)
            if row["chunk_id"] == chunk_id and row["entity"] is not None
        ]
        assert index.mentions_of(chunk_id) == tuple(sorted(slow.as_mention(i, row) for i, row in rows))
        evident = {row["entity"] for _, row in rows if slow.passes(row, Thresholds())}
        assert index.entities_of(chunk_id) == sorted(evident)
        assert index.chunk(chunk_id).text == slow.texts[chunk_id]


def test_co_occurring_entities_are_equal(corpus):
    index, slow = corpus
    for entity in index.entities:
        chunks = set(slow.scores(Entity(entity)))
        shared = {
            other: len(chunks & set(slow.scores(Entity(other))))
            for other in index.entities
            if other != entity
        }
        expected = sorted(
            ((count, other) for other, count in shared.items() if count), key=lambda x: (-x[0], x[1])
        )
        found = index.co_occurring(entity, limit=None)
        assert [(match.chunks, match.entity) for match in found] == expected


def test_names_and_their_footprints_are_equal(corpus):
    index, slow = corpus
    own = Thresholds(coref_cluster=None)
    footprints = {}
    for row in slow.rows:
        if row["entity"] is None:
            continue
        if row["name"]:
            chunks = footprints.setdefault((row["name"], row["entity"]), set())
            if slow.passes(row, Thresholds()):
                chunks.add(row["chunk_id"])
        if row["surface"] and slow.passes(row, own):
            footprints.setdefault((row["surface"], row["entity"]), set()).add(row["chunk_id"])
    for text in ["ada", "Bob", "ADA", "met bob", "nobody"]:
        best = {}
        for (name, entity), chunks in footprints.items():
            if name.lower() == text.lower():
                best[entity] = max(best.get(entity, 0), len(chunks))
        expected = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        assert [(match.entity, match.chunks) for match in index.names(text, limit=None)] == expected
    for entity in index.entities:
        expected = sorted(len(chunks) for (_, other), chunks in footprints.items() if other == entity)
        assert sorted(match.chunks for match in index.names_of(entity)) == expected
