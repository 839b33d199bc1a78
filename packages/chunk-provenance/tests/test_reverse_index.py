import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import DataOrder
from chunk_provenance.order_questions import lment_readme_rows


def look_up_slowly(order):
    """The published way: one walk over the batches, a dictionary from chunk to updates."""
    masked = set()
    if order.masked is not None:
        masked = set(zip(*(order.masked[name].to_pylist() for name in ("update", "chunk_id")), strict=True))
    found = {}
    for update in range(1, order.num_updates + 1):
        for chunk in order.batch(update).tolist():
            if (update, chunk) not in masked:
                found.setdefault(chunk, []).append(update)
    return found


@st.composite
def orders(draw):
    """Updates of one to four distinct ids, which are dense, far apart or negative."""
    ids = draw(st.sampled_from([st.integers(0, 9), st.integers(-9, 9), st.integers(0, 1 << 40)]))
    batches = draw(st.lists(st.lists(ids, min_size=1, max_size=4, unique=True), max_size=12))
    offsets = np.cumsum([0, *map(len, batches)])
    starts = draw(st.lists(st.integers(0, max(0, len(batches) - 1)), max_size=2))
    pairs = [(update, chunk) for update, batch in enumerate(batches, start=1) for chunk in batch]
    masked = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    table = pa.table({"update": [u for u, _ in masked], "chunk_id": [c for _, c in masked]})
    flat = np.array([chunk for batch in batches for chunk in batch], dtype=np.int64)
    return DataOrder(offsets, flat, np.array(sorted({0, *starts})), masked=table if masked else None)


@given(orders(), st.lists(st.integers(-10, 10), max_size=8))
def test_looking_up_many_chunks_equals_a_walk_over_the_batches(order, others):
    slow = look_up_slowly(order)
    asked = [*slow, *others]
    offsets, updates = order.steps_of_many(np.array(asked, dtype=np.int64))
    found = [updates[offsets[i] : offsets[i + 1]].tolist() for i in range(len(asked))]
    assert found == [slow.get(chunk, []) for chunk in asked]


@given(orders())
def test_a_checkpoint_has_seen_what_its_updates_trained_on(order):
    slow = look_up_slowly(order)
    for step in range(order.num_updates + 1):
        expected = sorted(chunk for chunk, updates in slow.items() for u in updates if u <= step)
        assert sorted(order.seen_by(step).tolist()) == expected


def test_an_order_without_epochs_is_asked_like_one_of_one_epoch():
    order = DataOrder(np.array([0, 2, 3]), np.array([1, 0, 1]), np.array([]))
    assert order.steps_of(1).tolist() == [1, 2]
    assert [value.tolist() for value in lment_readme_rows(order, np.array([2]))] == [[1], [1]]


def test_a_chunk_that_repeats_inside_an_epoch_keeps_all_its_updates():
    order = DataOrder(np.array([0, 2, 4, 6, 7]), np.array([3, 1, 1, 3, 3, 1, 3]), np.array([0, 3]))
    assert order.steps_of(3).tolist() == [1, 2, 3, 4]
    assert order.steps_of(1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("ids", [[0, 1, 2], [0, 1, 1 << 50], [-5, 0, 1]])
def test_ids_outside_those_of_the_order_have_no_steps(ids):
    order = DataOrder(np.array([0, 3]), np.array(ids), np.array([0]))
    asked = np.array([-1 << 60, -2, 3, 1 << 49, 1 << 60])
    offsets, updates = order.steps_of_many(asked)
    assert (offsets.tolist(), updates.tolist()) == ([0] * 6, [])
