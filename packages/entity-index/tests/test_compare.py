from entity_index import Entity, Query
from entity_index.compare import compare_with_names


def test_the_name_misses_aliases_and_pronouns_and_finds_namesakes(make_index, row):
    texts = [
        "Ada Lovelace wrote.",
        "Ada Lovelace\u2019s notes.",
        "The Countess wrote.",
        "She wrote.",
        "Ada Lovelace is a ship.",
        "Ada Lovelace?",
    ]
    name = "Ada Lovelace (countess)"
    index = make_index(
        texts,
        [
            row(0, 0, 12, "Q1", name=name, hyperlink=1.0),
            row(1, 0, 12, "Q1", name=name, hyperlink=1.0),
            row(2, 4, 12, "Q1", name=name, entity_linking=0.8),
            row(3, 0, 3, "Q1", name=name, coref_cluster=0.9),
            row(4, 0, 12, "Q2", name="Ada (ship)", hyperlink=1.0),
        ],
    )
    found = compare_with_names(index, "Q1")
    assert (found.name, found.total) == ("Ada Lovelace", 4)
    canonical, extended = found.canonical, found.extended
    assert (canonical.found, canonical.agreed, canonical.missed, canonical.extra) == (4, 2, 2, 2)
    assert extended.names == ("Ada Lovelace", name, "Countess")
    assert (extended.found, extended.agreed, extended.missed, extended.extra) == (5, 3, 1, 2)
    assert found.missed_surfaces == {"Countess": 1, "She": 1}
    assert found.extra_meanings == {"Ada (ship) (Q2)": 1, "no mention": 1}
    assert [hit.chunk_id for hit in found.missed_hits] == [3, 2]
    assert [hit.chunk_id for hit in found.extra_hits] == [4, 5]
    assert index.search(Query(Entity("Q1"))).total == found.total
