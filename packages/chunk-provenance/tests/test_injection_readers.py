"""Everything that reads an order, on orders with injected items."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import (
    DataOrder,
    FormatError,
    inject,
    make_injection_plan,
    save_order,
    trace_fact,
    write_fact_chunks,
)
from chunk_provenance.chunk_lists import ChunkList
from chunk_provenance.facts import PROBES, Evidence, FactChunks
from chunk_provenance.formats import write_table
from chunk_provenance.interventions import apply_plan, plan_mask, plan_replacement
from chunk_provenance.order_checks import check_order
from chunk_provenance.order_diff import diff_orders
from chunk_provenance.order_questions import epochs_of
from chunk_provenance.schedules import plan_schedule


@pytest.fixture
def parent(small_store):
    """Updates [0, 1], [2], [1, 0], [2] of the small store: 8 of 8 tokens, 5 of 8, 9 of 16."""
    return DataOrder(
        np.array([0, 2, 3, 5, 6]),
        np.array([0, 1, 2, 1, 0, 2]),
        np.array([0, 2]),
        {"store_sha256": small_store.sha256},
    )


def item(update, row, item_id, text, placement="prepend", entities=()):
    return {
        "update": update,
        "row": row,
        "placement": placement,
        "item_id": item_id,
        "tokens": [*map(ord, text)],
        "text": text,
        "entities": list(entities),
    }


@pytest.fixture
def injected(parent, small_store):
    """Ada and Bob before a part of chunk 0 and instead of chunk 1, Bob after chunk 2."""
    rows = [
        item(1, 0, "moon/0", "Hi, "),
        item(1, 1, "sun/0", "Ada?", "replace"),
        item(2, 0, "moon/1", "Bob", "append_doc", ["Q1", "Q2"]),
        item(2, 0, "sun/1", "so", "append_doc"),
    ]
    return inject(parent, make_injection_plan(rows), small_store)


@pytest.fixture
def saved(parent, injected, small_store, tmp_path, monkeypatch):
    """The orders `parent` and `injected` in the current folder, beside `store`."""
    monkeypatch.chdir(tmp_path)
    save_order(parent, tmp_path / "parent")
    save_order(injected, tmp_path / "injected")


def test_an_order_with_items_passes_the_check_and_says_how_many(saved, run_cli):
    assert run_cli("check", "injected", "--store", "store") == (
        0,
        "4 updates, 6 exposures, 4 injected items in 3 of them, all of the store: nothing is wrong\n",
        "",
    )


def test_wrong_items_are_refused_with_their_place(injected, parent, small_store):
    def changed(name, values):
        number = injected.injections.column_names.index(name)
        kept = injected.injections.schema.field(number).type
        table = injected.injections.set_column(number, name, pa.array(values, kept))
        return dataclasses.replace(injected, injections=table)

    with pytest.raises(FormatError, match="update 1 holds -1, an injected item that injections"):
        check_order(dataclasses.replace(injected, injections=None))
    with pytest.raises(FormatError, match=r"row 1 \(moon/0\): its sha256 is not that of its tokens"):
        check_order(changed("sha256", ["0" * 64] * 4))
    with pytest.raises(FormatError, match="update 1 row 0 says that 3 tokens of chunk 0 are displaced and 4"):
        check_order(changed("displaced", [3, 5, 0, 0]), small_store)
    with pytest.raises(FormatError, match="update 3 holds chunk 0 twice"):
        check_order(dataclasses.replace(parent, ids=np.array([0, 1, 2, 0, 0, 2])))
    again = changed("chunk_id", [1, 1, 2, 2])
    with pytest.raises(FormatError, match="update 1 holds chunk 1 twice"):
        check_order(again, small_store)


def test_chunks_at_names_items_and_what_they_displaced(saved, run_cli):
    assert run_cli("chunks-at", "injected", "1-3")[1] == (
        "step 1, epoch 1: 0 1, injected: moon/0 before chunk 0 (4 of its tokens displaced); "
        "sun/0 instead of chunk 1\n"
        "step 2, epoch 1: 2, injected: moon/1 + sun/1 after chunk 2\n"
        "step 3, epoch 2: 1 0\n"
    )
    rows = json.loads(run_cli("chunks-at", "injected", 1, 3, "--json")[1])
    assert rows[0]["injected"][0] == {
        "step": 1,
        "row": 0,
        "placement": "prepend",
        "items": ["moon/0"],
        "tokens": 4,
        "chunk_id": 0,
        "displaced": 4,
        "kept": 4,
    }
    assert rows[1] == {"step": 3, "epoch": 2, "chunk_ids": [1, 0], "held_out": []}


def test_steps_of_a_chunk_say_where_items_took_its_place(saved, run_cli):
    assert run_cli("steps-of", "injected", 0, 1, 2)[1] == (
        "chunk 0: 1, 3, at 1 moon/0 before chunk 0 (4 of its tokens displaced)\n"
        "chunk 1: 3, at 1 sun/0 instead of chunk 1\n"
        "chunk 2: 2, 4, at 2 moon/1 + sun/1 after chunk 2\n"
    )


def test_a_checkpoint_has_seen_chunks_that_are_left_and_items(saved, run_cli):
    assert run_cli("seen-by", "injected", 1)[1] == "step 1 has seen 1 chunks, 1 exposures, 2 injected items\n"
    assert json.loads(run_cli("seen-by", "injected", 2, "--json")[1]) == {
        "step": 2,
        "exposures": 2,
        "chunks": 2,
        "injected_items": 4,
    }


def test_epochs_count_chunks_that_are_left(injected):
    assert [(epoch.exposures, epoch.chunks) for epoch in epochs_of(injected)] == [(2, 2), (3, 3)]


def test_show_prints_the_items_of_a_step_and_of_a_chunk(saved, run_cli):
    assert run_cli("show", "store", "--step", 1, "--order", "injected")[1] == (
        "step 1, epoch 1: 2 chunks of length 8\n"
        "  injected: moon/0 before chunk 0 (4 of its tokens displaced)\n"
        "  chunk       0  document d1  Ada met\n"
        "    Hi,\n"
        "  injected: sun/0 instead of chunk 1\n"
        "  chunk       1  document d1  Bob.\n"
        "    Ada?\n"
    )
    step = json.loads(run_cli("show", "store", "--step", 2, "--order", "injected", "--json")[1])
    assert (step["injected"], step["chunks"][0]["injected"]["texts"]) == (2, ["Bob", "so"])
    assert (
        "\n  at step 1 sun/0 instead of chunk 1\n"
        in run_cli("show", "store", "--chunk", 1, "--order", "injected")[1]
    )


def test_a_difference_names_the_items(saved, run_cli):
    code, out, _ = run_cli("diff", "parent", "injected")
    assert code == 1
    assert out == (
        "2 of 4 updates differ\n"
        "items injected: 4 (moon/0 at 1 row 0, sun/0 at 1 row 1, moon/1 at 2 row 0, sun/1 at 2 row 0)\n"
        "order.json differs in injections_sha256\n"
    )
    back = json.loads(run_cli("diff", "injected", "parent", "--json")[1])
    assert (back["items_in"], back["items_out"][1]["item_id"]) == ([], "sun/0")
    assert run_cli("diff", "injected", "injected")[0] == 0


def test_orders_whose_ids_are_equal_differ_where_their_items_do(parent, small_store):
    first, other = (
        inject(parent, make_injection_plan([item(1, 0, "moon/0", text)]), small_store)
        for text in ("Hi", "Ho")
    )
    assert first.ids.tolist() == other.ids.tolist()
    found = diff_orders(first, other)
    assert (found.same, found.changed_updates.tolist(), len(found.items_in)) == (False, [1], 1)


def test_a_chunk_that_items_displace_for_good_is_no_longer_trained_on(parent, small_store):
    rows = [item(1, 0, "moon/0", "x" * 8), item(3, 1, "moon/0", "x", "replace")]
    changed = inject(parent, make_injection_plan(rows), small_store)
    found = diff_orders(parent, changed)
    assert (found.chunks_out.tolist(), found.slots_out.tolist()) == ([0], [])


def test_places_with_items_are_changed_by_no_intervention_and_others_are(injected, small_store):
    with pytest.raises(
        ValueError, match="injected into the place of chunk 0 in update 1: hold out and swap first"
    ):
        apply_plan(injected, plan_mask(injected, np.array([0])))
    held_out = apply_plan(injected, plan_mask(injected, np.array([1])), buckets=small_store.bucket)
    assert held_out.masked.to_pylist() == [{"update": 3, "chunk_id": 1}]
    assert held_out.injections.equals(injected.injections)
    check_order(held_out, small_store)
    chunks = ChunkList(np.array([2]), np.array([0]), ["q"])
    with pytest.raises(ValueError, match="injected into the place of chunk 2 in update 2"):
        plan_schedule(injected, chunks, interval=1, window=(1, 5))
    with pytest.raises(ValueError, match="outside the order: 0"):
        plan_replacement(injected, np.array([1]), small_store, seed=0)


def test_an_update_whose_other_chunks_are_held_out_trains_on_its_item(parent, small_store):
    held_out = apply_plan(parent, plan_mask(parent, np.array([1])), buckets=small_store.bucket)
    changed = inject(held_out, make_injection_plan([item(1, 0, "moon/0", "Hi", "replace")]), small_store)
    check_order(changed, small_store)
    with pytest.raises(ValueError, match="row's chunk 1 is held out"):
        inject(held_out, make_injection_plan([item(1, 1, "moon/0", "Hi")]), small_store)


PROBE = {
    "fact_id": "f",
    "probe_id": "p",
    "relation": "met",
    "subject": "Q1",
    "answer": "Q2",
    "subject_name": "Ada",
    "answer_name": "Bob",
    "prompt": "Ada met",
    "answers": ["Bob"],
    "distractors": [],
}


@pytest.fixture
def answered():
    """Fact f is learned at step 2."""
    return pa.table(
        {
            "step": [0, 2, 4],
            "fact_id": ["f"] * 3,
            "probe_id": ["p"] * 3,
            "rank": pa.array([3, 1, 1], pa.int32()),
            "num_candidates": pa.array([4] * 3, pa.int32()),
            "logprob_mean": pa.array([-3.0, -1.0, -1.0], pa.float32()),
        }
    )


def test_a_trace_shows_the_items_that_were_read(injected, small_store, answered):
    chunks = pa.table({"fact_id": ["f"], "kind": ["shared"], "chunk_id": [1]})
    found = trace_fact(
        "f",
        store=small_store,
        order=injected,
        fact_chunks=FactChunks(chunks, Evidence(), "by hand", None),
        answers=answered,
        probes=pa.Table.from_pylist([PROBE], schema=PROBES),
    )
    assert [(point.step, point.exposures) for point in found.checkpoints] == [(0, 0), (2, 1), (4, 2)]
    passage = found.passages[0]
    assert len(found.passages) == 1  # chunk 1 was displaced at step 1, and is read at step 3
    assert (passage.chunk_id, passage.doc_id, passage.steps, passage.text, passage.spans) == (
        None,
        "moon/1",
        [2],
        "Bob",
        [(0, 3, "answer")],
    )


def test_dynamics_and_trace_count_items_from_the_command_line(saved, answered, run_cli, tmp_path):
    write_table(answered, tmp_path / "answers.parquet", "answers")
    (tmp_path / "probes.jsonl").write_text(json.dumps(PROBE), encoding="utf-8")
    chunks = pa.table({"fact_id": ["f"], "kind": ["shared"], "chunk_id": [1]})
    write_fact_chunks(chunks, tmp_path / "chunks.parquet", evidence=Evidence(), source="by hand")
    words = ["injected", "chunks.parquet", "answers.parquet"]
    for more, exposures in ((["alone"], 1), (["named", "--probes", "probes.jsonl"], 2)):
        code, out, err = run_cli("dynamics", *words, *more, "--json")
        assert (code, "with --probes they count" in err) == (0, more == ["alone"])
        bins = {row["exposures"]: row["facts"] for row in json.loads(out)["by_exposures"]}
        assert bins[str(exposures) if exposures < 2 else "2-3"] == 1
        assert json.loads(out)["injected_items"] == 4
    noted = json.loads((tmp_path / "named" / "dynamics.json").read_text(encoding="utf-8"))
    assert sorted(noted["inputs"]) == ["answers", "fact_chunks", "order", "probes"]
    given = ["--store", "store", "--order", "injected", "--facts", "chunks.parquet"]
    given += ["--answers", "answers.parquet", "--probes", "probes.jsonl"]
    code, out, _ = run_cli("trace", "f", *given)
    assert code == 0
    assert "1 passage that mentions both Ada and Bob (1 of them injected) was read by then." in out
    assert "step 2 (epoch 1) · moon/1 · injected item" in out
    code, out, _ = run_cli("trace", "--list", *given, "--json")
    assert [(row["kind"], row["exposures"]) for row in json.loads(out)] == [("often", 2), ("rare", 2)]
