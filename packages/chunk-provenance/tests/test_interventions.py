import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chunk_provenance import DataOrder, compute_order, load_order, save_order
from chunk_provenance.chunk_lists import ChunkList
from chunk_provenance.exposures import find_exposures
from chunk_provenance.hashing import hash_file
from chunk_provenance.interventions import (
    apply_plan,
    plan_mask,
    plan_replacement,
    plan_swaps,
    read_plan,
)
from chunk_provenance.order import PLAN, hash_order
from chunk_provenance.order_checks import check_order
from chunk_provenance.order_diff import diff_orders
from chunk_provenance.schedules import plan_schedule

BUCKETS = np.array([4] * 24 + [8] * 12, dtype=np.int32)
LENGTHS = np.array([3, 4] * 12 + [7, 8] * 6, dtype=np.int32)


@dataclasses.dataclass
class Lengths:
    """What of a chunk store an intervention looks at."""

    bucket: np.ndarray
    length: np.ndarray

    @property
    def num_chunks(self):
        return len(self.bucket)


STORE = Lengths(BUCKETS, LENGTHS)


def make_order(*, epochs=2, seed=0, updates=None):
    """Updates of 16 tokens: four chunks of 4, or two of 8."""
    asked = {"updates": updates} if updates else {"epochs": epochs}
    return compute_order(BUCKETS, batch_tokens=16, seed=seed, **asked)


def batches(order):
    return [order.batch(update).tolist() for update in range(1, order.num_updates + 1)]


def slots(*rows):
    return pa.Table.from_pylist([dict(zip(PLAN.names, row, strict=True)) for row in rows], schema=PLAN)


def test_a_mask_leaves_batches_as_they_are_and_takes_the_exposures_away():
    order = make_order()
    held_out = np.array([0, 30])
    changed = apply_plan(order, plan_mask(order, held_out), buckets=BUCKETS)
    assert batches(changed) == batches(order)
    pairs = [(update, chunk) for chunk in (0, 30) for update in order.steps_of(chunk).tolist()]
    assert [tuple(row.values()) for row in changed.masked.to_pylist()] == sorted(pairs)
    facts = pa.table({"fact_id": ["f", "g"], "kind": ["shared"] * 2, "chunk_id": [0, 1]})
    exposures = find_exposures(changed, facts, ["f", "g"])
    assert [exposures.of_fact(0).tolist(), exposures.of_fact(1).tolist()] == [[], order.steps_of(1).tolist()]
    again = apply_plan(changed, plan_mask(changed, np.array([0, 5])), buckets=BUCKETS)
    assert again.masked.num_rows == len(pairs) + 2


def test_an_update_is_never_held_out_whole():
    order = make_order()
    every = np.sort(order.batch(3))
    with pytest.raises(ValueError, match=r"every chunk of update \d+ .*would be held out.*replace these"):
        apply_plan(order, plan_mask(order, every), buckets=BUCKETS)
    apply_plan(order, plan_mask(order, every[1:]), buckets=BUCKETS)


def test_a_replacement_has_the_length_and_comes_from_outside_the_order():
    order = make_order(updates=5)
    inside = np.unique(order.ids)
    wanted = inside[:6]
    changed = apply_plan(order, plan_replacement(order, wanted, STORE, seed=1), buckets=BUCKETS)
    check_order(changed)
    for before, after in zip(batches(order), batches(changed), strict=True):
        for old, new in zip(before, after, strict=True):
            if old in wanted:
                assert (BUCKETS[new], LENGTHS[new], new in inside) == (BUCKETS[old], LENGTHS[old], False)
            else:
                assert old == new
    plan = plan_replacement(order, wanted, STORE, seed=1)
    assert plan.equals(plan_replacement(order, wanted, STORE, seed=1))
    assert not plan.equals(plan_replacement(order, wanted, STORE, seed=2))


def test_a_replacement_has_another_number_of_tokens_only_where_none_of_the_same_is_left():
    order = DataOrder(np.array([0, 2]), np.array([0, 1]), np.array([0]))
    store = Lengths(np.array([4] * 5), np.array([2, 2, 2, 3, 3]))
    for seed in range(5):
        plan = plan_replacement(order, np.array([0, 1]), store, seed=seed)
        new = set(plan["new_chunk_id"].to_pylist())
        assert 2 in new
        assert len(new) == 2
        assert new <= {2, 3, 4}


def test_a_chunk_seen_twice_has_one_replacement_and_held_out_chunks_replace_none():
    order = DataOrder(np.array([0, 2, 4]), np.array([0, 1, 1, 0]), np.array([0]))
    store = Lengths(np.array([4] * 4), np.array([4] * 4))
    plan = plan_replacement(order, np.array([0, 2]), store, seed=0)
    assert plan.to_pylist() == slots((1, 0, 3), (2, 0, 3)).to_pylist()
    with pytest.raises(
        ValueError, match="padded length 4 to replace: 2, outside the order: 1; hold them out"
    ):
        plan_replacement(order, np.array([0, 1, 2]), store, seed=0)


def test_two_chunks_exchange_all_their_places():
    order = make_order()
    changed = apply_plan(order, plan_swaps(order, pa.table(swap_columns((0, 1), (30, 31)))), buckets=BUCKETS)
    names = {0: 1, 1: 0, 30: 31, 31: 30}
    assert batches(changed) == [[names.get(chunk, chunk) for chunk in batch] for batch in batches(order)]


def swap_columns(*pairs, updates=None):
    chunk, other = zip(*pairs, strict=True)
    update, other_update = zip(*updates, strict=True) if updates else ([None] * len(chunk),) * 2
    return {
        "chunk_id": pa.array(chunk, pa.int64()),
        "other_chunk_id": pa.array(other, pa.int64()),
        "update": pa.array(update, pa.int64()),
        "other_update": pa.array(other_update, pa.int64()),
    }


def test_two_chunks_exchange_one_place_each():
    order = make_order()
    both = set(order.steps_of(0).tolist()) & set(order.steps_of(1).tolist())
    mine, yours = (next(u for u in order.steps_of(c).tolist() if u not in both) for c in (0, 1))
    assert not {mine, yours} & both
    plan = plan_swaps(order, pa.table(swap_columns((0, 1), updates=[(mine, yours)])))
    changed = apply_plan(order, plan, buckets=BUCKETS)
    assert changed.plan.to_pylist() == sorted(
        slots((mine, 0, 1), (yours, 1, 0)).to_pylist(), key=lambda row: row["update"]
    )
    assert sorted(changed.ids.tolist()) == sorted(order.ids.tolist())


ORDER = DataOrder(
    np.array([0, 2, 4, 5]),
    np.array([0, 1, 2, 0, 3]),
    np.array([0]),
    masked=pa.table({"update": [1], "chunk_id": [1]}),
)  # chunks 0, 1, 2, 4 of length 8, 3 of length 16
OF_ORDER = np.array([8, 8, 8, 16, 8])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(4, 0, 2)], "no update 4: the order has updates 1 to 3"),
        ([(1, 2, 0)], "update 1 does not hold chunk 2: the plan is of another order"),
        ([(2, 2, 4), (2, 2, 1)], "changes chunk 2 in update 2 twice: a slot has one plan"),
        ([(2, 2, 4), (2, 2, None)], "changes chunk 2 in update 2 twice: a slot has one plan"),
        ([(1, 1, 4)], "chunk 1 is held out of update 1 already"),
        ([(1, 1, None)], "chunk 1 is held out of update 1 already"),
        ([(2, 2, 3), (3, 3, 2)], "chunk 2 in update 2 has the padded length 8, chunk 3 has 16"),
        ([(2, 2, 5)], "no chunk 5: the store has chunks 0 to 4"),
        ([(1, 0, 2), (2, 2, 0)], "chunk 0 would stand twice in update 2: it is there already"),
        ([(3, 3, 2)], "chunk 2 is in the order already and leaves none of its places"),
        ([(1, 0, None)], "every chunk of update 1 would be held out"),
        ([(2, -1, 0)], "-1 is a row of an injection plan"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        apply_plan(ORDER, slots(*rows), buckets=OF_ORDER)


def test_without_a_store_updates_of_equally_many_chunks_count_as_equally_long():
    with pytest.raises(ValueError, match="number of chunks in its update 2, chunk 3 has 1"):
        apply_plan(ORDER, slots((2, 2, 3), (3, 3, 2)))
    with pytest.raises(ValueError, match="chunk 4 is not in the order, its length is unknown"):
        apply_plan(ORDER, slots((2, 2, 4)))
    assert batches(apply_plan(ORDER, slots((1, 0, 2), (2, 2, 0), (2, 0, 2)))) == [[2, 1], [0, 2], [3]]


@pytest.mark.parametrize(
    ("pairs", "updates", "message"),
    [
        ([(0, 0)], None, "row 1 of the swap plan swaps chunk 0 with itself"),
        ([(0, 2), (0, 9)], None, "chunk 9 is not trained on in the order"),
        ([(0, 2)], [(1, None)], "row 1 of the swap plan names one update"),
    ],
)
def test_a_swap_that_cannot_be_done_is_refused(pairs, updates, message):
    with pytest.raises(ValueError, match=message):
        plan_swaps(ORDER, pa.table(swap_columns(*pairs, updates=updates)))


def test_plans_are_read_as_swaps_or_as_slots(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text("chunk_id,other_chunk_id\n0,2\n", encoding="utf-8")
    assert read_plan(path, ORDER).to_pylist() == slots((1, 0, 2), (2, 0, 2), (2, 2, 0)).to_pylist()
    path = tmp_path / "plan.jsonl"
    path.write_text('{"update": 2, "chunk_id": 2}\n', encoding="utf-8")
    assert read_plan(path, ORDER).to_pylist() == slots((2, 2, None)).to_pylist()
    path.write_text('{"chunk_id": 2}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="must have other_chunk_id in every row"):
        read_plan(path, ORDER)


def make_list(*groups):
    ids = [chunk for group in groups for chunk in group]
    number = [place for place, group in enumerate(groups) for _ in group]
    return ChunkList(np.array(ids), np.array(number), [f"Q{place}" for place in range(len(groups))])


@given(
    st.lists(st.integers(0, 35), min_size=1, max_size=6, unique=True),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(0, 20),
)
def test_a_schedule_moves_the_chunks_and_keeps_everything_else(chunks, interval, seed):
    order = make_order(epochs=4)
    half = len(chunks) // 2
    groups = make_list(chunks[:half], chunks[half:]) if half else make_list(chunks)
    window = (order.num_updates // 2, order.num_updates + 1)
    try:
        scheduled = plan_schedule(order, groups, interval=interval, window=window, seed=seed)
    except ValueError as refused:
        assume("wider window" not in str(refused) and "its window" not in str(refused))
        raise
    changed = apply_plan(order, scheduled.plan, buckets=BUCKETS)
    check_order(changed)
    assert np.array_equal(changed.offsets, order.offsets)
    assert sorted(changed.ids.tolist()) == sorted(order.ids.tolist())
    assert [len({int(BUCKETS[chunk]) for chunk in batch}) for batch in batches(changed)] == [
        1
    ] * order.num_updates
    for group in range(len(groups.names)):
        ids = groups.chunk_ids[groups.group == group]
        steps = np.sort(changed.steps_of_many(ids)[1])
        assert window[0] <= steps.min()
        assert steps.max() < window[1]
        assert len(set(steps.tolist())) == len(steps)
    touched = set(scheduled.plan["update"].to_pylist())
    for update in set(range(1, order.num_updates + 1)) - touched:
        assert changed.batch(update).tolist() == order.batch(update).tolist()


def test_a_burst_keeps_its_interval_where_all_updates_are_of_one_length():
    order = compute_order(np.full(200, 4, dtype=np.int32), batch_tokens=8, seed=0, epochs=1)
    chunks = np.arange(10)
    for interval in (1, 5, 10):
        scheduled = plan_schedule(order, make_list(chunks), interval=interval, window=(1, 101), seed=3)
        changed = apply_plan(order, scheduled.plan)
        steps = np.sort(changed.steps_of_many(chunks)[1])
        assert (np.diff(steps).tolist(), scheduled.farthest) == ([interval] * 9, 0)


def test_groups_are_dealt_to_equal_parts_of_the_window():
    order = compute_order(np.full(400, 4, dtype=np.int32), batch_tokens=8, seed=0, epochs=1)
    groups = make_list(*np.arange(24).reshape(8, 3).tolist())
    scheduled = plan_schedule(order, groups, interval=None, window=(101, 201), parts=4, seed=0)
    changed = apply_plan(order, scheduled.plan)
    parts = []
    for group in range(8):
        steps = changed.steps_of_many(np.arange(3 * group, 3 * group + 3))[1]
        (part,) = {(int(step) - 101) // 25 for step in steps}
        parts.append(part)
    assert sorted(parts) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert scheduled.plan.equals(
        plan_schedule(order, groups, interval=None, window=(101, 201), parts=4, seed=0).plan
    )


def test_a_schedule_that_cannot_be_kept_is_refused():
    order = make_order()
    whole = (1, order.num_updates + 1)
    with pytest.raises(
        ValueError, match=r"'Q0' has 6 exposures, which need 51 updates; its window, 1-24, has 24"
    ):
        plan_schedule(order, make_list([0, 1, 2]), interval=10, window=whole)
    with pytest.raises(ValueError, match=r"chunk 1 belongs to the groups \['Q0', 'Q1'\]"):
        plan_schedule(order, make_list([0, 1], [1, 2]), interval=1, window=whole)
    with pytest.raises(ValueError, match="'Q0' is not trained on in the order"):
        plan_schedule(order, make_list([99]), interval=1, window=whole)
    with pytest.raises(ValueError, match="none of its length is left, give a wider window"):
        plan_schedule(order, make_list([0, 1, 2]), interval=None, window=(1, 7))


def test_a_diff_says_exactly_what_changed():
    order = make_order(updates=5)
    same = diff_orders(order, make_order(updates=5))
    assert (same.same, same.changed_updates.tolist(), same.info) == (True, [], {})
    first = order.batch(1).tolist()
    other = next(c for c in range(36) if BUCKETS[c] == BUCKETS[first[0]] and c not in order.ids)
    plan = slots((1, first[0], other), (2, int(order.batch(2)[0]), None))
    diff = diff_orders(order, apply_plan(order, plan, buckets=BUCKETS, parent_sha256="x"))
    assert (diff.same, diff.changed_updates.tolist()) == (False, [1, 2])
    assert (diff.slots_out.tolist(), diff.slots_in.tolist()) == ([[1, first[0]]], [[1, other]])
    assert (diff.masked_out.tolist(), diff.masked_in.tolist()) == ([[2, order.batch(2)[0]]], [])
    assert (diff.chunks_in.tolist(), first[0] in diff.chunks_out) == ([other], True)
    assert diff.info == {"parent_sha256": (None, "x")}
    back = diff_orders(apply_plan(order, plan, buckets=BUCKETS), order)
    assert (back.slots_out.tolist(), back.slots_in.tolist()) == ([[1, other]], [[1, first[0]]])
    assert (back.masked_out.tolist(), back.masked_in.tolist()) == ([], [[2, order.batch(2)[0]]])


@pytest.mark.parametrize("seed", range(5))
def test_a_diff_of_any_two_orders_equals_its_slow_twin(seed):
    rng = np.random.default_rng(seed)

    def draw():
        sizes = rng.integers(1, 4, size=int(rng.integers(1, 8)))
        ids = np.concatenate([rng.permutation(5)[:size] for size in sizes])
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        masks = [(u + 1, int(ids[offsets[u]])) for u in range(len(sizes)) if rng.random() < 0.3]
        masked = pa.table({"update": [u for u, _ in masks], "chunk_id": [c for _, c in masks]})
        return DataOrder(offsets, ids, np.array([0]), masked=masked if masks else None)

    def pairs(order, common):
        return {(u, c) for u in range(1, common + 1) for c in order.batch(u).tolist()}

    def masks(order, common):
        rows = [] if order.masked is None else order.masked.to_pylist()
        return {(row["update"], row["chunk_id"]) for row in rows if row["update"] <= common}

    a, b = draw(), draw()
    common = min(a.num_updates, b.num_updates)
    left, right = pairs(a, common), pairs(b, common)
    diff = diff_orders(a, b)
    assert [tuple(row) for row in diff.slots_out.tolist()] == sorted(left - right)
    assert [tuple(row) for row in diff.slots_in.tolist()] == sorted(right - left)
    masked_a, masked_b = masks(a, common), masks(b, common)
    assert [tuple(row) for row in diff.masked_out.tolist()] == sorted((masked_b - masked_a) & left)
    assert [tuple(row) for row in diff.masked_in.tolist()] == sorted((masked_a - masked_b) & right)
    ids = [{c for _, c in pairs(order, order.num_updates) - masks(order, 99)} for order in (a, b)]
    assert (diff.chunks_out.tolist(), diff.chunks_in.tolist()) == (
        sorted(ids[0] - ids[1]),
        sorted(ids[1] - ids[0]),
    )
    reordered = [
        u
        for u in range(1, common + 1)
        if sorted(a.batch(u)) == sorted(b.batch(u)) and a.batch(u).tolist() != b.batch(u).tolist()
    ]
    assert diff.reordered.tolist() == reordered


@pytest.fixture
def files(tmp_path):
    """An order folder, chunks of two entities, and where to write."""
    save_order(make_order(updates=11), tmp_path / "order")
    pq.write_table(
        pa.table({"chunk_id": [0, 1, 30], "entity": ["Q1", "Q1", "Q2"]}), tmp_path / "chunks.parquet"
    )
    return tmp_path


def test_a_derived_order_names_its_parent_its_plan_and_its_chunks(files, run_cli):
    order, chunks, out = files / "order", files / "chunks.parquet", files / "out"
    code, printed, _ = run_cli("hold-out", order, chunks, out)
    header = json.loads((out / "order.json").read_text(encoding="utf-8"))
    assert header["parent_sha256"] == hash_order(order)
    assert header["plan_sha256"] == hash_file(out / "plan.parquet")
    assert header["intervention"] == {
        "kind": "hold-out, mask",
        "seed": 0,
        "chunks": {"sha256": hash_file(chunks)},
    }
    number = len(load_order(order).steps_of_many(np.array([0, 1, 30]))[1])
    assert (code, printed.startswith(f"0 slots have another chunk, {number} are held out")) == (0, True)
    save_order(load_order(out), files / "again")
    assert hash_order(files / "again") == hash_order(out)
    code, _, errors = run_cli("hold-out", order, chunks, out)
    assert (code, "exists" in errors) == (2, True)


def test_fact_chunks_are_taken_by_kind_and_fact_and_their_evidence_is_noted(files, run_cli):
    table = pa.table(
        {"fact_id": ["f", "f", "g"], "kind": ["subject", "shared", "shared"], "chunk_id": [0, 1, 2]}
    )
    tagged = table.replace_schema_metadata(
        {"format": "fact-chunks", "version": "1", "evidence": '{"coref": 0.6}'}
    )
    pq.write_table(tagged, files / "facts.parquet")
    for options, expected in (([], {1, 2}), (["--kind", "subject"], {0}), (["--fact", "g"], {2})):
        code, _, _ = run_cli(
            "hold-out", files / "order", files / "facts.parquet", files / "out", *options, "--overwrite"
        )
        out = load_order(files / "out")
        assert (code, set(out.masked["chunk_id"].to_pylist())) == (0, expected)
        assert out.info["intervention"]["chunks"]["evidence"] == {"coref": 0.6}
    code, _, errors = run_cli(
        "hold-out", files / "order", files / "facts.parquet", files / "o", "--fact", "h"
    )
    assert (code, "has no shared chunks of the facts ['h']" in errors) == (2, True)


def test_schedules_and_swaps_from_the_command_line(files, run_cli):
    order, out = files / "order", files / "out"
    code, printed, _ = run_cli(
        "reschedule", order, files / "chunks.parquet", out, "--schedule", "spread", "--window", "50%-100%"
    )
    assert (code, "in 2 group(s), each at most" in printed) == (0, True)
    assert load_order(out).steps_of_many(np.array([0, 1, 30]))[1].min() >= 7
    (files / "plan.csv").write_text("chunk_id,other_chunk_id\n0,1\n", encoding="utf-8")
    code, _, _ = run_cli("swap", order, files / "plan.csv", files / "swapped")
    assert code == 0
    code, printed, _ = run_cli("diff", order, files / "swapped", "--json")
    found = json.loads(printed)
    assert (code, found["same"], found["chunks_in"], found["chunks_out"]) == (1, False, [], [])
    assert {chunk for _, chunk in found["slots_in"]} == {0, 1}
    code, printed, _ = run_cli("diff", order, files / "swapped")
    assert (code, "slots with another chunk: " in printed, "order.json differs in" in printed) == (
        1,
        True,
        True,
    )
    assert run_cli("diff", order, order)[:2] == (0, "0 of 11 updates differ\n")
    code, _, _ = run_cli("swap", files / "order", files / "swapped" / "plan.parquet", files / "again")
    assert (code, run_cli("diff", files / "swapped", files / "again")[0]) == (0, 0)


def test_chunks_that_are_never_trained_on_are_told_and_only_they_are_refused(files, run_cli):
    order = files / "order"
    never = sorted(set(range(36)) - set(load_order(order).ids.tolist()))[0]
    (files / "ids.txt").write_text(f"0\n{never}\n", encoding="utf-8")
    code, _, words = run_cli("hold-out", order, files / "ids.txt", files / "out")
    assert (code, words) == (0, f"1 of 2 chunks are not trained on in the order anyway: {never}\n")
    (files / "ids.txt").write_text(f"{never}\n", encoding="utf-8")
    code, _, errors = run_cli("hold-out", order, files / "ids.txt", files / "out2")
    assert (code, "none of the 1 chunks is trained on" in errors) == (2, True)
    code, _, errors = run_cli("hold-out", order, files / "chunks.parquet", files / "out2", "--how", "replace")
    assert (code, "needs --store" in errors) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "lists no chunk"),
        ("a.txt", "7\nx\n", "is no list of chunk ids"),
        ("a.txt", "-1\n", "lists -1, a chunk id counts from 0"),
        ("a.csv", "chunk_id\n-1\n", "lists -1, a chunk id counts from 0"),
        ("a.csv", "id\n1\n", "lacks the chunk list columns"),
    ],
)
def test_a_list_that_is_none_is_refused(files, run_cli, name, content, message):
    (files / name).write_text(content, encoding="utf-8")
    code, _, errors = run_cli("hold-out", files / "order", files / name, files / "out")
    assert (code, message in errors, errors.count("\n")) == (2, True, 1)


def test_the_hits_of_an_entity_query_are_a_list_if_they_are_all(files, run_cli):
    hits = files / "hits.json"
    hits.write_text('{"total": 2, "hits": [{"chunk_id": 1}, {"chunk_id": 0}]}', encoding="utf-8")
    assert run_cli("hold-out", files / "order", hits, files / "out")[0] == 0
    assert set(load_order(files / "out").masked["chunk_id"].to_pylist()) == {0, 1}
    for content, message in (
        ('{"total": 9, "hits": [{"chunk_id": 1}]}', "lists 1 of 9 chunks: ask again with --limit 9"),
        ('{"total": 0, "hits": []}', "lists no chunk"),
        ("[1]", "is not what 'entity-index query --json' prints"),
        ("{", "is not what 'entity-index query --json' prints"),
    ):
        hits.write_text(content, encoding="utf-8")
        code, _, errors = run_cli("hold-out", files / "order", hits, files / "none")
        assert (code, message in errors) == (2, True)


def test_chunks_of_another_store_are_refused(files, run_cli):
    order = load_order(files / "order")
    save_order(dataclasses.replace(order, info={**order.info, "store_sha256": "a" * 64}), files / "mine")
    table = pa.table({"chunk_id": [0]}).replace_schema_metadata({"store_sha256": "b" * 64})
    pq.write_table(table, files / "yours.parquet")
    code, _, errors = run_cli("hold-out", files / "mine", files / "yours.parquet", files / "out")
    assert (code, "lists chunks of the store bbbbbbbbbbbb" in errors) == (2, True)
