"""The stream of chunks that indices are built from."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError, open_store, write_mixture
from entity_index.source import MENTIONS, store_source, stream_chunks


def test_a_stream_holds_every_chunk_and_every_mention_once_and_in_order(make_store, row):
    texts = [f"chunk {i}" for i in range(7)]
    mentions = [row(i, 0, 5, f"Q{k}", entity_linking=0.25) for i in (0, 1, 1, 4, 6) for k in range(3)]
    mentions += [row(2, 6, 7, None)]
    store = make_store(texts, mentions, [f"title {i}" for i in range(7)])
    for size in (1, 2, 3, 7, 100):
        batches = list(stream_chunks(store, chunks_a_batch=size))
        assert [len(batch.texts) for batch in batches] == [min(size, 7 - i) for i in range(0, 7, size)]
        assert np.concatenate([batch.chunk_ids for batch in batches]).tolist() == list(range(7))
        assert [text for batch in batches for text in batch.texts] == texts
        assert [doc for batch in batches for doc in batch.doc_ids] == [f"d{i}" for i in range(7)]
        assert [title for batch in batches for title in batch.titles] == [f"title {i}" for i in range(7)]
        assert np.concatenate([batch.doc_token_start for batch in batches]).tolist() == list(range(7))
        assert np.concatenate([batch.doc_token_end for batch in batches]).tolist() == list(range(1, 8))
        for batch in batches:
            assert set(batch.mentions["chunk_id"].to_pylist()) <= set(batch.chunk_ids.tolist())
        found = pa.concat_tables([batch.mentions for batch in batches])
        assert found.schema == MENTIONS
        assert found["row"].to_pylist() == list(range(16))
        others = [name for name in MENTIONS.names if name != "row"]
        assert found.select(others).equals(store.mention_table.select(others))


def test_a_store_of_many_mentions_is_read_through(make_store, row):
    store = make_store(["a b"] * 3, [row(i % 3, 0, 1, "Q1") for i in range(200_000)])
    (batch,) = store_source(store.path).stream()
    assert batch.mentions["row"].to_numpy().tolist() == list(range(200_000))
    assert batch.mentions["chunk_id"].to_numpy().tolist() == [0] * 66667 + [1] * 66667 + [2] * 66666


def test_a_mixture_is_the_stream_of_its_stores_one_after_the_other(make_store, row, tmp_path):
    first = make_store(["a", "b"], [row(1, 0, 1, "Q1"), row(1, 0, 1, "Q2")], ["A", "B"])
    second = make_store(["c"], [row(0, 0, 1, "Q3")], ["C"])
    write_mixture(tmp_path / "mixture", [f"{first.path}=1x", f"{second.path}=1x"])
    source = store_source(tmp_path / "mixture")
    batches = list(source.stream())
    assert np.concatenate([batch.chunk_ids for batch in batches]).tolist() == [0, 1, 2]
    names = [path.name for path in (first.path, second.path)]
    assert [doc for batch in batches for doc in batch.doc_ids] == [
        f"{names[0]}:d0",
        f"{names[0]}:d1",
        f"{names[1]}:d0",
    ]
    found = pa.concat_tables([batch.mentions for batch in batches])
    assert found.select(["row", "chunk_id", "entity"]).to_pylist() == [
        {"row": 0, "chunk_id": 1, "entity": "Q1"},
        {"row": 1, "chunk_id": 1, "entity": "Q2"},
        {"row": 2, "chunk_id": 2, "entity": "Q3"},
    ]
    assert found.schema == MENTIONS
    assert (source.num_chunks, source.num_mentions) == (3, 3)


def test_a_source_tells_its_size(make_store, row):
    source = store_source(make_store(["ä" * 1000] * 5, [row(0, 0, 1, "Q1")] * 3).path)
    assert source.num_mentions == 3
    assert source.text_bytes is not None
    assert 2000 <= source.text_bytes <= 11_000  # equal texts are kept once


def test_an_empty_store_gives_an_empty_stream(make_store):
    assert list(stream_chunks(make_store([]))) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk_id": [0, 2]}, "in chunks that the store, of 2 chunks, does not have"),
        ({"chunk_id": [1, 0]}, "not in the order of the chunks"),
        ({"chunk_id": [-1, 0]}, "not in the order of the chunks"),
        ({"char_end": [-1, 1]}, "ends before it begins"),
        ({"coref": [0.0, 1.5]}, r"scores outside 0 to 1 \(coref\)"),
        ({"score": [float("nan"), 1.0]}, r"scores outside 0 to 1 \(score\)"),
    ],
)
def test_mentions_that_cannot_be_of_the_store_are_refused(make_store, row, changed, message):
    store = make_store(["one", "two"], [row(0, 0, 1, "Q1"), row(1, 0, 1, "Q1")])
    path = store.path / "mentions.parquet"
    table = pq.read_table(path)
    for name, values in changed.items():
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)
    with pytest.raises(FormatError, match=message):
        list(stream_chunks(open_store(store.path)))
