"""An index of a mixture of stores has the chunk and document ids of the mixture."""

import pytest

from chunk_provenance import open_store, write_mixture
from entity_index import Entity, Phrase, Query, build_index, open_index


@pytest.fixture
def mixture(make_store, row, tmp_path):
    for name, texts, mentions in [
        ("books", ["Ada wrote.", "Bob."], [row(0, 0, 3, "Q1", name="Ada", hyperlink=1.0)]),
        ("web", ["Ada met Bob."], [row(0, 8, 11, "Q2", coref=0.7), row(0, 0, 3, "Q1", coref=0.9)]),
    ]:
        make_store(texts, mentions).path.rename(tmp_path / name)
    write_mixture(tmp_path / "mix", [f"{tmp_path / 'books'}=2x", f"{tmp_path / 'web'}=1x"])
    return open_store(tmp_path / "mix")


def test_chunks_of_all_stores_are_found_by_the_ids_of_the_mixture(mixture, tmp_path):
    build_index(mixture.path, tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.store_sha256 == mixture.sha256
    assert index.chunk_ids(Entity("Q1")).tolist() == [0, 2]
    assert index.chunk_ids(Phrase("ada met")).tolist() == [2]
    assert [index.chunk(i).text for i in range(3)] == [mixture.chunk_text(i) for i in range(3)]
    assert [index.chunk(i).doc_id for i in range(3)] == ["books:d0", "books:d1", "web:d0"]
    rows = mixture.mention_table.to_pylist()
    for chunk_id in range(3):
        for mention in index.mentions_of(chunk_id):
            row = rows[mention.row]
            assert (row["chunk_id"], row["char_start"], row["entity"]) == (
                chunk_id,
                mention.char_start,
                mention.entity,
            )
    assert index.search(Query(Entity("Q1") & Entity("Q2"))).total == 1


def test_a_changed_mixture_is_another_store(mixture, tmp_path):
    build_index(mixture.path, tmp_path / "index")
    with pytest.raises(FileExistsError, match="was built from another chunk store"):
        build_index(tmp_path / "books", tmp_path / "index")
