import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError
from entity_index import Entity, NameMatch, Phrase, Query, Thresholds, build_index, name_phrases, open_index


def test_an_unknown_entity_is_in_no_chunk(make_index, row):
    index = make_index(["Ada"], [row(0, 0, 3, "Q1", hyperlink=1.0)])
    for unknown in ("Q", "Q10", "", "Q\ud800"):
        assert index.search(Query(Entity(unknown))).total == 0
        assert index.co_occurring(unknown) == index.names_of(unknown) == []
        assert index.name_of(unknown) is None
    assert index.search(Query(~Entity("Q0"))).total == 1


def test_a_store_without_chunks_answers_everything_with_nothing(make_index):
    index = make_index([])
    assert index.search(Query(Entity("Q1") | Phrase("Ada") | ~Phrase("Bob"))).total == 0
    assert index.names("Ada") == index.names("", prefix=True) == []
    assert len(index.chunk_counts()) == 0
    with pytest.raises(ValueError, match="no chunk 0 in"):
        index.mentions_of(0)


def test_a_store_without_mentions_still_finds_phrases(make_index):
    index = make_index(["Ada wrote.", "Bob wrote."])
    assert index.chunk_ids(Phrase("ada wrote")).tolist() == [0]
    assert index.chunk_ids(~Entity("Q1")).tolist() == [0, 1]


def test_a_mention_without_entity_is_counted_and_left_out(make_index, row):
    index = make_index(["Ada"], [row(0, 0, 3, None), row(0, 0, 3, "Q1", hyperlink=1.0)])
    assert [mention.entity for mention in index.mentions_of(0)] == ["Q1"]
    assert (index.meta["num_mentions"], index.meta["num_postings"]) == (2, 1)


def test_a_missing_score_counts_as_zero(make_index, row):
    index = make_index(["Ada"], [row(0, 0, 3, "Q1", hyperlink=1.0, coref=None, score=None)])
    assert [(hit.score, hit.mentions[0].coref) for hit in index.search(Query(Entity("Q1"))).hits] == [
        (0.0, 0.0)
    ]


def test_any_string_can_be_an_entity(make_index, row):
    odd = [
        "it's",
        'say "hi"',
        "a\nb",
        "%_*?[x]",
        "",
        " ",
        "\u00e9",
        "e\u0301",
        "\U0001f600",
        "Q\x001",
        "Q",
        "Q1",
    ]
    index = make_index(
        ["Ada"] * len(odd), [row(i, 0, 3, entity, hyperlink=1.0) for i, entity in enumerate(odd)]
    )
    assert [index.chunk_ids(Entity(entity)).tolist() for entity in odd] == [[i] for i in range(len(odd))]
    assert list(index.entities) == sorted(odd)


def test_phrases_with_punctuation_apostrophes_and_other_scripts(make_index):
    texts = [
        "Ada Lovelace\u2019s notes",
        "Ada Lovelace's notes",
        "Ada Lovelace, notes",
        "\u00c9cole d'\u00e9t\u00e9",
        "東京タワー",
    ]
    index = make_index(texts)
    found = {
        "ada lovelace": [2],
        "Ada Lovelace's": [1],
        "ada lovelace\u2019s notes": [0],
        "(ada) lovelace notes": [2],
        "\u00e9cole": [3],
        "d'\u00e9t\u00e9": [3],
        "東京": [4],
        "京東": [],
    }
    assert {text: index.chunk_ids(Phrase(text)).tolist() for text in found} == found
    assert index.chunk_ids(name_phrases(["Ada Lovelace"])).tolist() == [0, 1, 2]


def test_a_very_long_phrase_is_found(make_index):
    text = " ".join(f"word{i}" for i in range(3000)) + " " + "x" * 5000
    index = make_index([text, "word1"])
    assert index.chunk_ids(Phrase(text)).tolist() == [0]
    assert index.chunk_ids(Phrase(text + " more")).tolist() == []
    assert index.search(Query(Phrase(text))).hits[0].phrases == ((0, len(text)),)


def test_names_are_ranked_by_the_chunks_they_name(make_index, row):
    mentions = [row(i, 0, 10, "Q61", name="Washington, D.C.", hyperlink=1.0) for i in range(3)]
    mentions += [row(3, 0, 10, "Q23", name="George Washington", entity_linking=0.9)]
    mentions += [row(4, 0, 2, "Q23", name="George Washington", coref_cluster=0.9)]
    mentions += [row(5, 0, 10, "Q9", name="Washington", coref=0.1)]
    index = make_index(["Washington won."] * 4 + ["He won.", "Washington won."], mentions)
    assert index.names("WASHINGTON") == [
        NameMatch("Q61", "Washington, D.C.", 3, "Washington"),
        NameMatch("Q23", "George Washington", 1, "Washington"),
        NameMatch("Q9", "Washington", 0, "Washington"),
    ]
    assert [match.entity for match in index.names("wash", prefix=True, limit=2)] == ["Q61", "Q23"]
    assert index.names("he") == []  # a pronoun is no name
    assert [(match.text, match.chunks) for match in index.names_of("Q23")] == [
        ("George Washington", 2),
        ("Washington", 1),
    ]
    assert [int(count) for count in index.chunk_counts()] == [2, 3, 0]


def test_an_empty_name_is_no_name_however_often_it_stands_there(make_index, row):
    mentions = [row(i, 0, 3, "Q1", name="Ada" if i == 2 else "", hyperlink=1.0) for i in range(3)]
    assert make_index(["She"] * 3, mentions).name_of("Q1") == "Ada"


def test_names_in_other_scripts_are_found_in_any_case(make_index, row):
    names = ["\u0130stanbul", "ΟΔΟΣ", "Straße", "ÉCOLE"]
    index = make_index(
        ["text"] * 4, [row(i, 0, 4, f"Q{i}", name=name, hyperlink=1.0) for i, name in enumerate(names)]
    )
    asked = ["istanbul", "οδοσ", "STRAßE", "école"]
    assert [[match.text for match in index.names(text)] for text in asked] == [[name] for name in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_id": 7}, "mentions in chunks 7 to 7, the store has 1 chunks"),
        ({"chunk_id": -1}, "mentions in chunks -1 to -1"),
        ({"coref": 1.5}, "scores from 0.0 to 1.5, expected 0 to 1"),
        ({"score": float("nan")}, "expected 0 to 1"),
        ({"char_start": 3, "char_end": 2}, "ends before it begins"),
    ],
)
def test_mentions_that_do_not_fit_the_store_are_refused(make_store, row, tmp_path, change, message):
    store = make_store(["Ada"], [row(0, 0, 3, "Q1", hyperlink=1.0)])
    table = pq.read_table(store.path / "mentions.parquet")
    for name, value in change.items():
        column = pa.array([value], table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, store.path / "mentions.parquet")
    with pytest.raises(FormatError, match=message):
        build_index(store.path, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_with_wildcards_in_its_name_works(make_store, row, tmp_path):
    store = make_store(["Ada"], [row(0, 0, 3, "Q1", hyperlink=1.0)])
    odd = store.path.rename(tmp_path / "a [b] 'c'")
    build_index(odd, tmp_path / "i [x] 'y'")
    assert open_index(tmp_path / "i [x] 'y'").count(Entity("Q1")) == 1


def test_many_blocks_give_the_same_answers_as_one(make_index, row, monkeypatch):
    rng = np.random.default_rng(0)
    mentions = [
        row(int(rng.integers(9)), 0, 1, f"Q{rng.integers(5)}", coref=float(rng.choice([0.5, 1.0])))
        for _ in range(200)
    ]
    index = make_index(["text"] * 9, mentions)
    others = Thresholds(coref=0.5)

    def answers():
        found = index.search(Query(Entity("Q1", others), limit=None))
        return (
            index.chunk_counts().tolist(),
            index.chunk_counts(others).tolist(),
            found,
            index.co_occurring("Q1", others),
        )

    whole = answers()
    monkeypatch.setattr("entity_index.postings.BLOCK", 7)
    monkeypatch.setattr("entity_index.index.CHUNKS_AT_ONCE", 2)
    assert answers() == whole
