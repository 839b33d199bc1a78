import numpy as np

from entity_index import Entity, Phrase, Query, Thresholds


def ids(result):
    return [hit.chunk_id for hit in result.hits]


def test_an_entity_is_found_in_the_chunks_that_mention_it_best_first(make_index, row):
    texts = ["Ada wrote.", "Nobody wrote.", "She was Ada.", "Ada and Ada."]
    mentions = [
        row(0, 0, 3, "Q1", hyperlink=1.0),
        row(2, 0, 3, "Q1", coref_cluster=0.7),
        row(2, 8, 11, "Q1", entity_linking=0.9),
        row(3, 0, 3, "Q1", hyperlink=1.0),
        row(3, 8, 11, "Q1", entity_linking=0.5),
    ]
    result = make_index(texts, mentions).search(Query(Entity("Q1")))
    assert (result.total, ids(result)) == (3, [0, 3, 2])
    assert [hit.score for hit in result.hits] == [1.0, 1.0, float(np.float32(0.9))]
    assert [(m.char_start, m.char_end, m.row) for m in result.hits[2].mentions] == [(0, 3, 1), (8, 11, 2)]
    assert [(m.char_start, m.char_end) for m in result.hits[1].mentions] == [(0, 3)]


def test_the_limit_cuts_the_hits_and_not_the_total(make_index, row):
    index = make_index(["Ada"] * 5, [row(i, 0, 3, "Q1", hyperlink=1.0) for i in range(5)])
    for limit, expected in [(0, []), (2, [0, 1]), (5, [0, 1, 2, 3, 4]), (None, [0, 1, 2, 3, 4])]:
        result = index.search(Query(Entity("Q1"), limit=limit))
        assert (result.total, ids(result)) == (5, expected)


def test_one_candidate_must_carry_the_entity_and_pass(make_index, row):
    mentions = [row(0, 0, 3, "Q1", entity_linking=0.3), row(0, 0, 3, "Q2", entity_linking=0.9)]
    index = make_index(["Ada"], mentions)
    assert [index.count(Entity(entity)) for entity in ("Q1", "Q2")] == [0, 1]
    assert index.count(Entity("Q1", Thresholds(entity_linking=0.3))) == 1


def test_an_entity_and_a_word(make_index, row):
    texts = ["Ada met Babbage.", "Ada met nobody.", "Babbage alone."]
    index = make_index(texts, [row(0, 0, 3, "Q1", hyperlink=1.0), row(1, 0, 3, "Q1", hyperlink=1.0)])
    assert ids(index.search(Query(Entity("Q1") & Phrase("babbage")))) == [0]
    assert ids(index.search(Query(Entity("Q1") | Phrase("babbage")))) == [0, 1, 2]
    assert ids(index.search(Query(~Entity("Q1")))) == [2]
    assert index.search(Query(Entity("Q1") & Phrase("BABBAGE"))).hits[0].phrases == ((8, 15),)
    assert index.count(Phrase("BABBAGE", case_sensitive=True)) == 0
