import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import DataOrder
from chunk_provenance.chunk_updates import chunk_updates
from chunk_provenance.csr import gather, offsets_of
from chunk_provenance.exposures import find_exposures, updates_of_chunks


@pytest.fixture
def order():
    """Builds an order from its batches and, optionally, masked (update, chunk) pairs."""
    return make_order


def make_order(batches, masked=None, epoch_starts=(0,)):
    offsets = np.cumsum([0] + [len(batch) for batch in batches], dtype=np.int64)
    ids = np.array([chunk for batch in batches for chunk in batch], dtype=np.int64)
    table = None
    if masked is not None:
        columns = {"update": [update for update, _ in masked], "chunk_id": [chunk for _, chunk in masked]}
        table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    return DataOrder(offsets, ids, np.array(epoch_starts, dtype=np.int64), {}, table)


def shared_chunks(rows):
    return pa.table(
        {
            "fact_id": pa.array([fact for fact, _ in rows], pa.string()),
            "kind": pa.array(["shared"] * len(rows), pa.string()),
            "chunk_id": pa.array([chunk for _, chunk in rows], pa.int64()),
        }
    )


def test_an_exposure_is_an_update_with_a_shared_chunk(order):
    # update:          1       2       3       4
    run = order([[0, 1], [2, 5], [1, 3], [0, 2]])
    chunks = shared_chunks([("a", 0), ("a", 1), ("b", 2), ("c", 9)])
    seen = find_exposures(run, chunks, ["a", "b", "c", "d"])
    assert [seen.of_fact(fact).tolist() for fact in range(4)] == [[1, 1, 3, 4], [2, 4], [], []]
    steps = np.array([0, 1, 2, 3, 4])
    assert seen.counts(steps).tolist() == [[0, 2, 2, 3, 4], [0, 0, 1, 1, 2], [0] * 5, [0] * 5]
    assert seen.last(steps).tolist() == [[0, 1, 1, 3, 4], [0, 0, 2, 2, 4], [0] * 5, [0] * 5]
    assert seen.first().tolist() == [1, 2, 0, 0]


def test_a_chunk_counts_once_per_update_and_a_repeated_row_of_the_table_once(order):
    seen = find_exposures(order([[0, 0], [0]]), shared_chunks([("a", 0), ("a", 0)]), ["a"])
    assert seen.of_fact(0).tolist() == [1, 2]


def test_masked_chunks_do_not_count_in_their_update_only(order):
    run = order([[0, 1], [0, 1], [0, 1]], masked=[(2, 0), (3, 7), (9, 1)])
    seen = find_exposures(run, shared_chunks([("a", 0), ("b", 1)]), ["a", "b"])
    assert [seen.of_fact(fact).tolist() for fact in range(2)] == [[1, 3], [1, 2, 3]]


def test_subject_and_answer_chunks_are_no_exposures(order):
    table = pa.table({"fact_id": ["a", "a"], "kind": ["subject", "answer"], "chunk_id": [0, 0]})
    assert find_exposures(order([[0]]), table, ["a"]).counts(np.array([1])).tolist() == [[0]]


def test_nothing_to_count_gives_zeros(order):
    none = find_exposures(order([[0]]), shared_chunks([]), ["a"])
    assert none.counts(np.array([0, 1])).tolist() == [[0, 0]]
    assert (none.first().tolist(), none.last(np.array([1])).tolist()) == ([0], [[0]])
    assert find_exposures(order([]), shared_chunks([("a", 0)]), ["a"]).counts(np.array([0])).tolist() == [[0]]
    assert find_exposures(order([[0]]), shared_chunks([("a", 0)]), []).counts(np.array([1])).shape == (0, 1)


def test_the_updates_of_chunks_are_those_of_the_order(order):
    run = order([[0, 1], [1, 2], [0]])
    offsets, updates = updates_of_chunks(run, np.array([0, 1, 7]))
    assert (offsets.tolist(), updates.tolist()) == ([0, 2, 4, 4], [1, 3, 1, 2])
    assert run.steps_of(1).tolist() == [1, 2]


def test_a_grid_has_as_many_columns_as_a_quarter_of_the_chunks_fills(order):
    run = order([[0, 1, 2, 3, 4], [0, 1, 1], [0], [1]])  # chunk 1 twice in an update counts once
    grid = chunk_updates(run, np.arange(5)).grid()  # a quarter of five is one chunk
    assert grid.cells.tolist() == [[1, 2, 3], [1, 2, 4], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert not len(grid.spill)
    grid = chunk_updates(run, np.arange(12)).grid()  # of twelve, three; only two have a second update
    assert grid.cells.tolist() == [[1]] * 5 + [[0]] * 7
    assert (grid.spill_offsets.tolist(), grid.spill.tolist()) == ([0, 2, 4] + [4] * 10, [2, 3, 2, 4])


def slow_exposures(batches, masked, chunks, fact_ids):
    """The twin: walk over the updates, one set a batch."""
    return [
        [
            update
            for update, batch in enumerate(batches, start=1)
            for chunk in sorted({chunk for fact, chunk in chunks if fact == fact_id})
            if chunk in batch and (update, chunk) not in masked
        ]
        for fact_id in fact_ids
    ]


@given(st.data())
def test_exposures_equal_the_slow_twin(data):
    ids = data.draw(st.sampled_from([st.integers(-2, 6), st.integers(0, 2), st.integers(0, 8)]))
    batches = data.draw(st.lists(st.lists(ids, max_size=8), max_size=6))
    masked = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=4))
    fact_ids = data.draw(st.lists(st.sampled_from("abcd"), unique=True))
    chunks = data.draw(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 8)), max_size=12))
    starts = data.draw(st.sets(st.integers(0, len(batches))))  # where epochs begin is no more than a hint
    big = data.draw(st.sampled_from([1, 1 << 40]))  # ids too sparse for a table
    run = make_order([[chunk * big for chunk in batch] for batch in batches], None, sorted(starts))
    if masked:
        rows = {"update": [u for u, _ in masked], "chunk_id": [chunk * big for _, chunk in masked]}
        run = dataclasses.replace(run, masked=pa.table(rows))
    seen = find_exposures(run, shared_chunks([(fact, chunk * big) for fact, chunk in chunks]), fact_ids)
    slow = slow_exposures(batches, set(masked), chunks, fact_ids)
    assert [seen.of_fact(fact).tolist() for fact in range(len(fact_ids))] == slow
    steps = np.array(data.draw(st.permutations(range(len(batches) + 2))))
    assert seen.counts(steps).tolist() == [[sum(u <= step for u in row) for step in steps] for row in slow]
    assert seen.last(steps).tolist() == [
        [max([u for u in row if u <= step], default=0) for step in steps] for row in slow
    ]
    assert seen.first().tolist() == [min(row, default=0) for row in slow]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1), st.data())
def test_gathered_rows_are_the_rows_one_after_the_other(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    offsets = np.cumsum([0] + [len(row) for row in rows])
    values = np.array([value for row in rows for value in row], dtype=np.int64)
    row, position = gather(offsets, np.array(wanted, dtype=np.int64))
    assert values[position].tolist() == [value for number in wanted for value in rows[number]]
    assert row.tolist() == [place for place, number in enumerate(wanted) for _ in rows[number]]
    of_value = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    assert offsets_of(of_value, len(rows)).tolist() == offsets.tolist()
