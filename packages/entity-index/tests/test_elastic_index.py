"""Every answer of a real server equals the one of the embedded index, which the slow twin checks."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entity_index import All, AnyOf, Entity, Not, Phrase, Query, Thresholds

WORDS = [
    "Ada",
    "ada",
    "ADA",
    "Ada's",
    "met",
    "Bob",
    "a",
    "b-c",
    "1,024",
    "é",
    "東京",
    "😀",
    '"',
    "<em>",
    "O'Neil",
]
ENTITIES = ["Q1", "Q2", "Q10", "title:O'Neil", 'odd "\n%_*', "", "Ünï", None]
LEVELS = [0.0, 0.1, 0.3, np.nextafter(np.float32(0.6), np.float32(0)), 0.6, 0.61, 1 / 3, 1.0]

pytestmark = pytest.mark.slow

thresholds = st.builds(
    Thresholds,
    hyperlink=st.sampled_from([1.0, 0.5]),
    entity_linking=st.sampled_from([0.6, 0.3, None]),
    coref=st.sampled_from([0.6, 0.0, None]),
    coref_cluster=st.sampled_from([0.6, None]),
)
entities = st.builds(Entity, st.sampled_from([*ENTITIES[:-1], "unknown", "Q\ud800"]), thresholds)
phrases = st.builds(
    Phrase,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
    .map(" ".join)
    .filter(lambda text: any(map(str.isalnum, text))),
    case_sensitive=st.booleans(),
)


def combined(parts, **sizes):
    many = st.lists(parts, min_size=1, max_size=4)
    return st.recursive(
        parts,
        lambda some: (
            st.builds(Not, some)
            | many.flatmap(lambda first: st.just(All(*first)))
            | st.lists(some, min_size=1, max_size=4).map(lambda first: All(*first))
            | st.lists(some, min_size=1, max_size=4).map(lambda first: AnyOf(*first))
        ),
        **sizes,
    )


conditions = combined(entities | phrases, max_leaves=6)
strings = combined(phrases, max_leaves=4)


@pytest.fixture(scope="module", params=[0, 1, 2, 3])
def corpus(request, tmp_path_factory, elastic_pair, row):
    """A random corpus in both backends. The first one has no mention, the last one many of few scores."""
    rng = np.random.default_rng(request.param)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(0, 12))) for _ in range(30)]
    levels = LEVELS if request.param < 3 else [0.0, 0.6]
    mentions = [random_mention(rng, texts, row, levels) for _ in range(150 * request.param)]
    return elastic_pair(tmp_path_factory.mktemp("corpus"), texts, mentions)


def random_mention(rng, texts, row, levels):
    """Few spans, so that many have several candidates, of which some are the same entity."""
    chunk_id = int(rng.integers(25)) if rng.random() < 0.9 else 0  # the last chunks have none, the first many
    start, end = sorted((rng.integers(0, 5, size=2) * len(texts[chunk_id]) // 4).tolist())
    sources = ("hyperlink", "entity_linking", "coref", "coref_cluster", "score")
    scores = {source: float(rng.choice(levels)) for source in sources}
    entity = ENTITIES[rng.integers(len(ENTITIES))]
    name = ["Ada", "ADA", "Bob", "Ada's \u00c9", "", None][rng.integers(6)]
    return row(chunk_id, start, end, entity, name=name, **scores)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=conditions, limit=st.sampled_from([0, 1, 3, 10, None]))
def test_totals_order_scores_and_places_are_equal(corpus, where, limit):
    embedded, elastic = corpus
    expected, found = (index.search(Query(where, limit)) for index in corpus)
    if has_entity(where):
        assert found == expected
    assert found.total == expected.total
    assert elastic.chunk_ids(where).tolist() == embedded.chunk_ids(where).tolist()
    assert elastic.count(where) == embedded.count(where)


def has_entity(where):
    """Whether entities rank the hits: else BM25 does."""
    if isinstance(where, Entity):
        return True
    return isinstance(where, All | AnyOf) and any(map(has_entity, where.parts))


@settings(max_examples=60, deadline=None)
@given(where=strings)
def test_hits_of_strings_are_equal_as_sets_with_their_places(corpus, where):
    expected, found = (
        {hit.chunk_id: hit.phrases for hit in index.search(Query(where, None)).hits} for index in corpus
    )
    assert found == expected


@settings(max_examples=15, deadline=None)
@given(thresholds=thresholds)
def test_counts_of_all_entities_are_equal(corpus, thresholds):
    embedded, elastic = corpus
    assert list(elastic.entities) == list(embedded.entities)
    assert elastic.chunk_counts(thresholds).tolist() == embedded.chunk_counts(thresholds).tolist()


def test_every_chunk_is_equal(corpus):
    embedded, elastic = corpus
    assert elastic.num_chunks == embedded.num_chunks == 30
    for chunk_id in range(30):
        for ask in ("chunk", "mentions_of", "entities_of"):
            assert getattr(elastic, ask)(chunk_id) == getattr(embedded, ask)(chunk_id)
        wanted = Thresholds(coref=None, hyperlink=0.5)
        assert elastic.mentions_of(chunk_id, wanted) == embedded.mentions_of(chunk_id, wanted)


@pytest.mark.parametrize("limit", [None, 2])
def test_names_and_co_occurring_entities_are_equal(corpus, limit):
    embedded, elastic = corpus
    for entity in [*embedded.entities, "unknown", "Q\ud800"]:
        assert elastic.co_occurring(entity, limit=limit) == embedded.co_occurring(entity, limit=limit)
        assert elastic.names_of(entity) == embedded.names_of(entity)
        assert elastic.name_of(entity) == embedded.name_of(entity)
    for text in ["ada", "ADA'S É", "met bob", "nobody", "", "é", "東京", '"', "\ud800", "x" * 300]:
        assert elastic.names(text, limit=limit) == embedded.names(text, limit=limit)
        assert elastic.names(text, prefix=True, limit=limit) == embedded.names(text, prefix=True, limit=limit)
