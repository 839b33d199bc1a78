import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import (
    DataOrder,
    FormatError,
    inject,
    injected_items,
    load_order,
    make_injection_plan,
    order_rows,
    read_injection_plan,
    save_order,
    slot_chunks,
    slot_tokens,
    write_injection_plan,
)
from chunk_provenance.injection.plan_file import hash_tokens

PAD = 9999


@dataclasses.dataclass
class Store:
    """What of a chunk store an injection looks at; a chunk is given as its documents, lists of tokens."""

    chunks: list
    bucket: np.ndarray
    sha256: str = "s"
    vocab_size: int = 10_000
    pad_id: int = PAD

    @property
    def num_chunks(self):
        return len(self.chunks)

    @property
    def length(self):
        return np.array([sum(map(len, chunk)) for chunk in self.chunks], dtype=np.int32)

    def rows(self, chunk_ids):
        """Padded rows and the documents of their tokens, a token at a time."""
        width = int(self.bucket[chunk_ids[0]])
        tokens = [[t for document in self.chunks[c] for t in document] for c in chunk_ids]
        documents = [[d for d, document in enumerate(self.chunks[c]) for _ in document] for c in chunk_ids]
        return (
            np.array([row + [PAD] * (width - len(row)) for row in tokens], dtype=np.int64),
            np.array([row + [-1] * (width - len(row)) for row in documents], dtype=np.int32),
        )


def rows_slowly(store, order, plan, update):
    """The twin: the rows of an update put together from lists, one row after the other."""
    input_ids, doc_ids = [], []
    for row, chunk in enumerate(order.batch(update).tolist()):
        items = [item for item in plan.to_pylist() if (item["update"], item["row"]) == (update, row)]
        documents = [list(document) for document in store.chunks[chunk]]
        injected = [item["tokens"] for item in items]
        room = int(store.bucket[chunk]) - sum(map(len, injected))
        placement = items[0]["placement"] if items else None
        while placement and sum(map(len, documents)) > room:
            (last := documents[-1]).pop()
            documents = documents if last else documents[:-1]
        parts = {
            None: documents,
            "prepend": [*injected, *documents],
            "append_doc": [*documents, *injected],
            "replace": injected,
        }[placement]
        padding = int(store.bucket[chunk]) - sum(map(len, parts))
        input_ids.append([token for part in parts for token in part] + [PAD] * padding)
        doc_ids.append([number for number, part in enumerate(parts) for _ in part] + [-1] * padding)
    return input_ids, doc_ids


@st.composite
def injected_orders(draw):
    """An order of updates of one width each, a store for it, and a plan that fits."""
    widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    chunks, buckets, batches = [], [], []
    for width in widths:
        batch = []
        for _ in range(draw(st.integers(1, 3))):
            length = draw(st.integers(1, width))
            cuts = sorted(draw(st.sets(st.integers(1, length))) - {length})
            tokens = [100 * len(chunks) + place for place in range(length)]
            bounds = [0, *cuts, length]
            batch.append(len(chunks))
            chunks.append([tokens[a:b] for a, b in itertools.pairwise(bounds)])
            buckets.append(width)
        batches.append(batch)
    rows = []
    for update, batch in enumerate(batches, start=1):
        for row in sorted(draw(st.sets(st.integers(0, len(batch) - 1)))):
            placement = draw(st.sampled_from(["prepend", "replace", "append_doc"]))
            room = widths[update - 1]
            while room and (length := draw(st.integers(0, room))):
                room -= length
                name = f"f/{len(rows)}"
                tokens = [5000 + 10 * len(rows) + place for place in range(length)]
                rows.append(
                    {"update": update, "row": row, "placement": placement, "item_id": name, "tokens": tokens}
                )
    flat = np.array([chunk for batch in batches for chunk in batch], dtype=np.int64)
    order = DataOrder(np.cumsum([0, *map(len, batches)]), flat, np.array([0]))
    return Store(chunks, np.array(buckets)), order, make_injection_plan(rows)


@given(injected_orders())
def test_rows_with_items_are_those_put_together_a_row_at_a_time(made):
    store, order, plan = made
    changed = inject(order, plan, store) if plan.num_rows else order
    tokens = []
    for update in range(1, order.num_updates + 1):
        input_ids, doc_ids = order_rows(store, changed, update)
        slow = rows_slowly(store, order, plan, update)
        assert (input_ids.tolist(), doc_ids.tolist()) == slow
        tokens += [sum(document >= 0 for document in row) for row in slow[1]]
        items = [item["item_id"] for item in plan.to_pylist() if item["update"] == update]
        assert injected_items(changed, update) == tuple(items)
    assert slot_chunks(changed).tolist() == order.ids.tolist()
    assert slot_tokens(store, changed).tolist() == tokens


STORE = Store([[[1, 2], [3, 4, 5]], [[6, 7, 8, 9, 10, 11]], [[12]], [[13, 14]]], np.array([8, 8, 8, 2]))
ORDER = DataOrder(
    np.array([0, 2, 4, 5]),
    np.array([0, 1, 2, 0, 3]),
    np.array([0]),
    {"store_sha256": "s", "plan_sha256": "old"},
    pa.table({"update": [2], "chunk_id": [2]}),
)


def item(update, row, tokens, placement="prepend", item_id="7/0", **more):
    return {
        "update": update,
        "row": row,
        "placement": placement,
        "item_id": item_id,
        "tokens": tokens,
        **more,
    }


PLAN = make_injection_plan(
    [
        item(3, 0, [50, 51], "append_doc", "8/0"),
        item(1, 1, [20, 21, 22], item_id="7/1", text="a text", entities=["Q1", "Q2"]),
        item(1, 0, [30], "replace", "9/0"),
        item(1, 1, [40], item_id="7/2"),
    ]
)


def test_an_order_says_which_chunk_an_item_came_to_and_what_fell_out():
    changed = inject(ORDER, PLAN, STORE, parent_sha256="p")
    assert changed.ids.tolist() == [-1, -2, 2, 0, -4]
    assert ORDER.ids.tolist() == [0, 1, 2, 0, 3]
    wanted = ["update", "row", "item_id", "chunk_id", "displaced", "kept"]
    assert [tuple(row.values()) for row in changed.injections.select(wanted).to_pylist()] == [
        (1, 0, "9/0", 0, 5, 0),
        (1, 1, "7/1", 1, 2, 4),
        (1, 1, "7/2", 1, 0, 0),
        (3, 0, "8/0", 3, 2, 0),
    ]
    assert changed.info == {"store_sha256": "s", "parent_sha256": "p"}
    input_ids, doc_ids = order_rows(STORE, changed, 1)
    assert input_ids.tolist() == [[30] + [PAD] * 7, [20, 21, 22, 40, 6, 7, 8, 9]]
    assert doc_ids.tolist() == [[0] + [-1] * 7, [0, 0, 0, 1, 2, 2, 2, 2]]
    assert slot_tokens(STORE, changed).tolist() == [1, 8, 0, 5, 2]  # chunk 2 is held out of update 2
    assert (injected_items(changed, 1), injected_items(changed, 2)) == (("9/0", "7/1", "7/2"), ())
    # Chunk 0 is displaced whole in update 1, chunk 3 in update 3; of chunk 1 something is left.
    assert [changed.steps_of(chunk).tolist() for chunk in range(4)] == [[2], [1], [], []]
    assert changed.seen_by(3).tolist() == [1, 0]


def test_an_injected_order_is_written_and_read_back_equal_with_the_same_bytes(tmp_path):
    changed = inject(ORDER, PLAN, STORE)
    for name in ("a", "b"):
        save_order(changed, tmp_path / name)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    read = load_order(tmp_path / "a")
    assert read.injections.equals(changed.injections)
    assert (read.ids.tolist(), read.masked.to_pylist()) == (changed.ids.tolist(), ORDER.masked.to_pylist())
    assert sorted(read.info) == ["injections_sha256", "store_sha256"]
    assert order_rows(STORE, read, 3)[0].tolist() == [[50, 51]]


def test_an_order_whose_ids_and_injections_disagree_is_refused(tmp_path):
    changed = inject(ORDER, PLAN, STORE)
    for name, wrong in (
        ("ids", dataclasses.replace(changed, ids=ORDER.ids)),
        ("rows", dataclasses.replace(changed, injections=changed.injections.slice(1))),
        ("end", dataclasses.replace(changed, offsets=ORDER.offsets[:-1], ids=changed.ids[:4])),
    ):
        save_order(wrong, tmp_path / name)
        with pytest.raises(FormatError, match=r"damaged: ids.npy and injections.parquet disagree"):
            load_order(tmp_path / name)


def test_everything_that_is_wrong_with_a_plan_is_said_at_once():
    rows = [
        item(1, 0, [1] * 5, item_id="long/0"),
        item(1, 0, [2] * 4, item_id="long/1"),
        item(1, 1, [3], "prepend", "two/0"),
        item(1, 1, [3], "replace", "two/1"),
        item(1, 2, [4], item_id="row/0"),
        item(2, 0, [5], item_id="held/0"),
        item(2, 1, [10_000], item_id="vocabulary/0"),
        item(4, 0, [6], item_id="update/0"),
    ]
    with pytest.raises(ValueError, match="the plan does not fit the order, 6 problems:") as refused:
        inject(ORDER, make_injection_plan(rows), STORE)
    assert str(refused.value).split("\n  ")[1:] == [
        "update 1 row 0 (long/0, long/1): 9 tokens, the row has 8",
        "update 1 row 1 (two/0, two/1): placements ['prepend', 'replace'] in one row, a row has one",
        "update 1 row 2 (row/0): the update has rows 0 to 1",
        "update 2 row 0 (held/0): the row's chunk 2 is held out, its slot stays",
        "update 2 row 1 (vocabulary/0): token 10000, the store's tokenizer has 0 to 9999",
        "update 4 row 0 (update/0): the order has updates 1 to 3",
    ]


def test_an_order_of_a_larger_store_is_refused():
    order = DataOrder(np.array([0, 1]), np.array([4]), np.array([0]))
    with pytest.raises(ValueError, match=r"update 1 row 0 \(7/0\): the chunk 4, the store has 4 chunks"):
        inject(order, make_injection_plan([item(1, 0, [1])]), STORE)


def test_an_order_with_items_takes_no_second_plan_and_no_plan_is_empty():
    with pytest.raises(ValueError, match="has injected items already: put all of them into one plan"):
        inject(inject(ORDER, PLAN, STORE), PLAN, STORE)
    with pytest.raises(ValueError, match="holds no item"):
        inject(ORDER, PLAN.slice(0, 0), STORE)
    with pytest.raises(FormatError, match="belongs to the chunk store s"):
        inject(ORDER, PLAN, dataclasses.replace(STORE, sha256="other"))


def test_a_plan_is_written_and_read_back_equal(tmp_path):
    write_injection_plan(PLAN, tmp_path / "plan.parquet", schedule="{}")
    read = read_injection_plan(tmp_path / "plan.parquet")
    assert read.equals(PLAN)
    assert read.schema.metadata == {b"schedule": b"{}"}
    assert [(row["update"], row["row"], row["item_id"]) for row in read.to_pylist()] == [
        (1, 0, "9/0"),
        (1, 1, "7/1"),
        (1, 1, "7/2"),
        (3, 0, "8/0"),
    ]
    assert read["sha256"][0].as_py() == hash_tokens([30])


def test_a_plan_by_hand_may_leave_out_texts_entities_and_hashes(tmp_path):
    lines = [
        '{"update": 3, "row": 0, "placement": "replace", "item_id": "b/0", "tokens": [4]}',
        '{"update": 1, "row": 1, "placement": "prepend", "item_id": "a/1", "tokens": [1, 2]}',
        '{"update": 1, "row": 1, "placement": "prepend", "item_id": "a/0", "tokens": [3]}',
    ]
    (tmp_path / "plan.jsonl").write_text("\n".join(lines), encoding="utf-8")
    read = read_injection_plan(tmp_path / "plan.jsonl")
    assert read.equals(
        make_injection_plan(
            [
                item(1, 1, [1, 2], "prepend", "a/1"),
                item(1, 1, [3], "prepend", "a/0"),
                item(3, 0, [4], "replace", "b/0"),
            ]
        )
    )


def test_all_impossible_rows_of_a_plan_are_listed(tmp_path):
    lines = [
        '{"update": 0, "row": -1, "placement": "append", "item_id": "", "tokens": []}',
        '{"update": 1, "row": 0, "placement": "replace", "item_id": "b/0", "tokens": [4], "sha256": "no"}',
        '{"update": 1, "row": 1, "placement": "replace", "item_id": "c/0", "tokens": [4, null]}',
    ]
    (tmp_path / "plan.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(FormatError, match="is no injection plan, 7 problems:") as refused:
        read_injection_plan(tmp_path / "plan.jsonl")
    assert str(refused.value).split("\n  ")[1:] == [
        "row 1 (): update 0, updates count from 1",
        "row 1 (): row -1 of its update, rows count from 0",
        "row 1 (): placement 'append', expected one of ['prepend', 'replace', 'append_doc']",
        "row 1 (): its item_id is empty",
        "row 1 (): it has no tokens",
        "row 2 (b/0): its sha256 is not that of its tokens, the file was changed or damaged",
        "row 3 (c/0): a token or an entity is null",
    ]
