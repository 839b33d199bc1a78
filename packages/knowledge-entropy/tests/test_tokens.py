import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from knowledge_entropy.tokens import (
    batches,
    block_borders,
    from_rows,
    read_jsonl,
    read_npy,
    read_store,
    require_rows,
)


def rows_of(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


@pytest.fixture
def store(tmp_path):
    """A chunk store of three chunks, [0 1], [2 3 4] and [5], and an order over it that repeats one."""
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "tokens.npy", np.arange(6, dtype="<u4"))
    chunks = {"chunk_id": [0, 1, 2], "token_start": [0, 2, 5], "length": [2, 3, 1]}
    pq.write_table(pa.table(chunks), folder / "chunks.parquet")
    (folder / "meta.json").write_text(json.dumps({"format": "chunk-store", "version": 1}), encoding="utf-8")
    order = tmp_path / "order"
    order.mkdir()
    (order / "order.json").write_text(json.dumps({"format": "data-order", "version": 1}), encoding="utf-8")
    np.save(order / "offsets.npy", np.array([0, 2, 4, 6]))
    np.save(order / "ids.npy", np.array([2, -1, 0, 2, 1, 0]))
    return folder, order


def test_the_first_rows_of_an_order_come_with_the_step_that_has_seen_them(store):
    tokens = read_store(store[0], order=store[1], rows=4)
    assert rows_of(tokens) == [[5], [0, 1], [5], [2, 3, 4]]
    assert tokens.seen_at.tolist() == [1, 2, 1, 3]
    assert (tokens.first_seen_step, tokens.first(3).first_seen_step) == (3, 2)


def test_a_store_gives_its_first_chunks(store):
    tokens = read_store(store[0], rows=2)
    assert rows_of(tokens) == [[0, 1], [2, 3, 4]]
    assert tokens.first_seen_step is None
    with pytest.raises(ValueError, match="4 rows are asked for, there are 3"):
        require_rows(read_store(store[0], rows=4), 4)


def test_an_order_of_another_store_and_unknown_versions_are_refused(store):
    np.save(store[1] / "ids.npy", np.array([2, 3, 0, 2, 1, 0]))
    with pytest.raises(ValueError, match=r"names chunk 3, the store .* has 3"):
        read_store(store[0], order=store[1])
    (store[1] / "order.json").write_text('{"format": "data-order", "version": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match="'data-order' version 2"):
        read_store(store[0], order=store[1])
    with pytest.raises(FileNotFoundError, match="is no chunk-store"):
        read_store(store[1])


def test_padding_at_the_end_of_array_rows_is_left_out(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[4, 1, 5, 1], [6, 7, 8, 9]], dtype=np.uint16))
    assert rows_of(read_npy(tmp_path / "a.npy", pad_id=1)) == [[4, 1, 5], [6, 7, 8, 9]]
    assert rows_of(read_npy(tmp_path / "a.npy", rows=1)) == [[4, 1, 5, 1]]
    np.save(tmp_path / "f.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected integers, row by token"):
        read_npy(tmp_path / "f.npy")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"no plain \.npy array"):
        read_npy(tmp_path / "o.npy")


def test_text_and_ids_are_read_from_json_lines(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a b a"}\n{"input_ids": [1, 1, 1, 1]}\n', encoding="utf-8")
    tokens = read_jsonl(path, tokenizer=tmp_path / "tokenizer.json", max_length=2)
    assert rows_of(tokens) == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match="give --tokenizer"):
        read_jsonl(path)
    path.write_text('[{"id": 0, "text": "b"}]', encoding="utf-8")
    assert rows_of(read_jsonl(path, tokenizer=tmp_path / "tokenizer.json")) == [[1]]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is no JSON lines"):
        read_jsonl(path)


def test_batches_hold_every_row_once_and_keep_to_their_size():
    tokens = from_rows([[1] * n for n in (5, 1, 3, 9, 2)], source="rows")
    found = list(batches(tokens, (0, 5), max_tokens=6))
    assert [batch.mask.sum(1).tolist() for batch in found] == [[1, 2], [3], [5], [9]]
    assert all(batch.mask.size <= 6 or len(batch.mask) == 1 for batch in found)


@pytest.mark.parametrize("count", [1, 2, 7, 31, 32, 33, 100])
def test_the_first_blocks_are_the_blocks_of_the_first_rows(count):
    borders = block_borders(count, 32)
    assert [row for start, end in borders for row in range(start, end)] == list(range(count))
    for blocks in range(1, len(borders) + 1):
        assert block_borders(borders[blocks - 1][1], blocks) == borders[:blocks]


def test_the_hash_knows_where_rows_end():
    one, two, three = (
        from_rows(rows, source="x").sha256 for rows in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2], [3]])
    )
    assert one == three != two


@pytest.mark.parametrize(("rows", "words"), [([], "no rows"), ([[1], []], "row 1 has no"), ([[-1]], "id -1")])
def test_unusable_rows_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        from_rows(rows, source="x")


def test_held_out_rows_are_no_token_sets(store):
    # Update 1 trains chunks 2 and an injected item, update 2 chunks 0 and 2, update 3 chunks 1 and 0.
    held_out = pa.table({"update": [1, 2], "chunk_id": [2, 0]})
    pq.write_table(held_out, store[1] / "masked.parquet")
    tokens = read_store(store[0], order=store[1], rows=2)
    assert rows_of(tokens) == [[5], [2, 3, 4]]
    assert tokens.seen_at.tolist() == [2, 3]
    assert rows_of(read_store(store[0], order=store[1])) == [[5], [2, 3, 4], [0, 1]]
