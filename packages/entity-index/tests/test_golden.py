"""The index in golden/index was written by version 0.1.0; later versions must read it and mean the same."""

from pathlib import Path

import pytest

from entity_index import Entity, EntityCount, Hit, Mention, Phrase, Query, build_index, open_index
from entity_index.manifest import KINDS

GOLDEN = Path(__file__).parent / "golden" / "index"
TEXTS = ["Ada Lovelace met Babbage.", "She wrote to him.", "Babbage\u2019s engine."]


@pytest.fixture
def mentions(row):
    return [
        row(0, 0, 12, "Q7259", name="Ada Lovelace", hyperlink=1.0),
        row(0, 17, 24, "Q46633", name="Charles Babbage", entity_linking=0.75, coref=0.5),
        row(1, 0, 3, "Q7259", name="Ada Lovelace", coref_cluster=0.625),
        row(1, 13, 16, None),
        row(2, 0, 7, "Q46633", name="Charles Babbage", entity_linking=0.5),
    ]


def test_the_golden_index_still_means_the_same():
    index = open_index(GOLDEN)
    first = Mention(0, 12, "Q7259", 1.0, 1.0, 0.0, 0.0, 0.0, row=0)
    second = Mention(0, 3, "Q7259", 0.625, 0.0, 0.0, 0.0, 0.625, row=2)
    found = index.search(Query(Entity("Q7259")))
    assert (found.total, found.hits) == (2, (Hit(0, 1.0, (first,)), Hit(1, 0.625, (second,))))
    assert index.search(Query(Phrase("babbage\u2019s ENGINE"))).hits == (Hit(2, 0.0, (), ((0, 16),)),)
    assert index.co_occurring("Q7259") == [EntityCount("Q46633", "Charles Babbage", 1)]
    assert [(match.entity, match.chunks) for match in index.names("charles babbage")] == [("Q46633", 1)]
    chunk = index.chunk(0)
    assert (chunk.text, chunk.title, chunk.doc_id) == (TEXTS[0], "Meeting", "d0")


def test_the_same_store_still_gives_the_golden_columns(write_store_of, mentions, tmp_path):
    write_store_of(tmp_path / "store", TEXTS, mentions, ["Meeting", None, None])
    build_index(tmp_path / "store", tmp_path / "index")
    columns, golden = (
        {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in KINDS}
        for folder in (tmp_path / "index", GOLDEN)
    )
    assert columns == golden
