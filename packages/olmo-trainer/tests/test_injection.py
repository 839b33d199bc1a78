import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from chunk_provenance import (
    DataOrder,
    batch_digest,
    inject,
    injected_items,
    load_order,
    make_injection_plan,
    open_store,
    order_rows,
    save_order,
)
from chunk_provenance.interventions import SWAPS, apply_plan, plan_mask, plan_swaps
from olmo_trainer.batches import IGNORED, update_batches
from olmo_trainer.cli import app
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.loop_probes import injected_updates
from olmo_trainer.loss import next_token_loss
from olmo_trainer.setup import make_order, record_order
from olmo_trainer.train import tokens_by_step, train

UPDATES = 6


@pytest.fixture
def config(write_config):
    return lambda *settings: load_config(TrainConfig, write_config(), settings)


@pytest.fixture
def control(config):
    """The order of the run that nothing is done to."""
    return make_order(config().data, open_store(config().data.store), seed=0)


@pytest.fixture
def save(tmp_path):
    """Save an order; the settings that train on it."""

    def save(order, name="changed"):
        save_order(order, tmp_path / name)
        return f"data.order={tmp_path / name}", "data.updates=null"

    return save


@pytest.fixture
def injected(control, store):
    """The control's order with four items in three rows of two updates."""
    store = open_store(store)
    rows = [
        {"update": 2, "row": 0, "placement": "prepend", "item_id": "f0/0", "tokens": [7, 8, 9]},
        {"update": 2, "row": 1, "placement": "append_doc", "item_id": "f1/0", "tokens": [10, 11, 12]},
        {"update": 4, "row": 2, "placement": "replace", "item_id": "f0/1", "tokens": [13, 14]},
        {"update": 4, "row": 2, "placement": "replace", "item_id": "f1/1", "tokens": [15, 16, 17]},
    ]
    return inject(control, make_injection_plan(rows), store, parent_sha256="x")


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def train_and_watch(config, run, *settings):
    """Train; everything the loss function was given, one dict a micro-batch, and the last weights."""
    seen = []

    def watched(model, batch):
        seen.append(
            {
                "input_ids": batch.input_ids.tolist(),
                "labels": batch.labels.tolist(),
                "doc_ids": None if batch.doc_ids is None else batch.doc_ids.tolist(),
                "chunk_ids": batch.chunk_ids,
            }
        )
        return next_token_loss(model, batch)

    train(config(*settings), run, loss_function=watched)
    return seen, (run / f"step{UPDATES}" / "model.safetensors").read_bytes()


def test_all_batches_but_the_injected_rows_are_those_of_the_control_run(
    config, control, injected, save, tmp_path
):
    before, _ = train_and_watch(config, tmp_path / "before")
    after, _ = train_and_watch(config, tmp_path / "after", *save(injected))
    changed = [
        (update, row)
        for update, (one, other) in enumerate(zip(before, after, strict=True), start=1)
        for row, (mine, yours) in enumerate(zip(one["chunk_ids"], other["chunk_ids"], strict=True))
        if mine != yours
    ]
    assert changed == [(2, 0), (2, 1), (4, 2)]
    for update, (one, other) in enumerate(zip(before, after, strict=True), start=1):
        kept = [row for row in range(len(one["chunk_ids"])) if (update, row) not in changed]
        for name in ("input_ids", "labels", "chunk_ids"):
            # a micro-batch is as wide as its longest row, which an item may have become
            width = min(len(one["input_ids"][0]), len(other["input_ids"][0]))
            rows = [[batch[name][row] for row in kept] for batch in (one, other)]
            cut = rows if name == "chunk_ids" else [[list(row[:width]) for row in side] for side in rows]
            assert cut[0] == cut[1]
    pairs = zip(read_metrics(tmp_path / "before"), read_metrics(tmp_path / "after"), strict=True)
    for one, other in pairs:
        assert [one[key] for key in ("step", "epoch", "lr")] == [
            other[key] for key in ("step", "epoch", "lr")
        ]
        assert (one["batch_digest"] == other["batch_digest"]) == (one["step"] not in (2, 4))
    assert read_metrics(tmp_path / "before")[0] | {"tokens_per_second": 0} == read_metrics(
        tmp_path / "after"
    )[0] | {"tokens_per_second": 0}


def test_the_injected_items_and_the_digest_are_logged_and_the_order_is_recorded(
    config, injected, save, tmp_path
):
    run = tmp_path / "run"
    train(config(*save(injected)), run)
    metrics, recorded = read_metrics(run), load_order(run / "order")
    assert {line["step"]: line["injected"] for line in metrics if "injected" in line} == {
        2: ["f0/0", "f1/0"],
        4: ["f0/1", "f1/1"],
    }
    assert [injected_items(recorded, step) for step in (1, 2)] == [(), ("f0/0", "f1/0")]
    assert recorded.injections.equals(injected.injections)
    assert recorded.info["parent_sha256"] == "x"
    assert [line["batch_digest"] for line in metrics] == [
        batch_digest(recorded.batch(step)) for step in range(1, UPDATES + 1)
    ]


def test_training_with_items_is_training_on_a_store_whose_chunks_hold_them(
    config, make_store, control, injected, save, tmp_path
):
    """The twin: the rows written into a second chunk store, trained with the control's order."""
    lengths = [[length] for length in open_store(config().data.store).length.tolist()]
    edited = {(2, 0): (), (2, 1): (), (4, 2): ()}
    store = open_store(config().data.store)
    for update, row in edited:
        ids, documents = (part[row] for part in order_rows(store, injected, update))
        chunk = int(control.batch(update)[row])
        lengths[chunk] = np.bincount(documents[documents >= 0]).tolist()
        edited[update, row] = (chunk, ids[documents >= 0])
    rewritten = make_store("rewritten", lengths, seed=1)
    by_chunk = dict(edited.values())
    tokens = [by_chunk.get(chunk, store.chunk_tokens(chunk)) for chunk in range(store.num_chunks)]
    np.save(rewritten / "tokens.npy", np.concatenate(tokens).astype(np.uint32))
    table = rewritten / "chunks.parquet"  # the rows' padded lengths stay, also where fewer tokens are in them
    chunks = pq.read_table(table)
    at = chunks.column_names.index("bucket")
    pq.write_table(chunks.set_column(at, "bucket", [store.bucket]), table)
    _, twin = train_and_watch(
        config,
        tmp_path / "twin",
        *save(dataclasses.replace(control, info={}), "again"),
        f"data.store={rewritten}",
    )
    _, ours = train_and_watch(config, tmp_path / "ours", *save(injected))
    _, without = train_and_watch(config, tmp_path / "without")
    assert ours == twin
    assert ours != without
    assert [line["tokens"] for line in read_metrics(tmp_path / "ours")] == [
        line["tokens"] for line in read_metrics(tmp_path / "twin")
    ]


@pytest.mark.parametrize("micro_batch_tokens", [16, 32, 48])
def test_cutting_an_update_changes_neither_the_injected_rows_nor_the_loss(
    config, injected, save, tmp_path, micro_batch_tokens
):
    whole, _ = train_and_watch(config, tmp_path / "whole", *save(injected))
    settings = (f"data.order={tmp_path / 'changed'}", "data.updates=null")
    cut, _ = train_and_watch(config, tmp_path / "cut", *settings, f"micro_batch_tokens={micro_batch_tokens}")
    assert len(cut) > len(whole)

    def rows(batches):
        return [
            (chunk, [token for token, label in zip(row, labels, strict=True) if label != IGNORED])
            for batch in batches
            for chunk, row, labels in zip(
                batch["chunk_ids"], batch["input_ids"], batch["labels"], strict=True
            )
        ]

    assert rows(cut) == rows(whole)
    for one, other in zip(read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "cut"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=2e-5)
        assert [other.get(key) for key in ("injected", "tokens", "batch_digest")] == [
            one.get(key) for key in ("injected", "tokens", "batch_digest")
        ]


def test_an_item_is_a_document_of_its_own_to_attention(config, injected, save):
    settings = config(*save(injected))
    store = open_store(settings.data.store)
    (batch,) = update_batches(store, injected, 2, settings, torch.device("cpu"))
    prepended, appended = batch.doc_ids[0].tolist(), batch.doc_ids[1].tolist()
    assert prepended[:4] == [0, 0, 0, 1]
    assert batch.input_ids[0, :3].tolist() == [7, 8, 9]
    last = [number for number in appended if number >= 0]
    assert last[-4:] == [0, 1, 1, 1]


def test_a_killed_run_with_items_ends_with_the_same_bits(config, injected, save, tmp_path):
    settings = save(injected)
    _, straight = train_and_watch(config, tmp_path / "straight", *settings)
    for stop_at in (1, 3, None):
        train(config(*settings), tmp_path / "stopped", stop_at=stop_at)
    assert (tmp_path / "stopped" / "step6" / "model.safetensors").read_bytes() == straight


def test_held_out_and_displaced_tokens_are_not_counted_and_injected_ones_are(store, control):
    store = open_store(store)
    held_out = control.batch(1)[:2]
    masked = apply_plan(control, plan_mask(control, held_out), parent_sha256="x")
    lost = int(store.length[held_out].sum())
    fewer = tokens_by_step(store, control) - tokens_by_step(store, masked)
    assert fewer.tolist() == [0, *[lost] * UPDATES]
    chunk = int(control.batch(3)[0])
    bucket, length = int(store.bucket[chunk]), int(store.length[chunk])
    item = {"update": 3, "row": 0, "item_id": "f/0", "tokens": [5] * (bucket - 2)}
    for placement, in_the_row in (("replace", bucket - 2), ("prepend", min(bucket, bucket - 2 + length))):
        changed = inject(control, make_injection_plan([{**item, "placement": placement}]), store)
        gained = tokens_by_step(store, changed) - tokens_by_step(store, control)
        assert gained.tolist() == [0, 0, 0, *[in_the_row - length] * (UPDATES - 2)]


def test_held_out_swapped_and_injected_orders_train_as_they_are_recorded(
    config, store, control, save, tmp_path
):
    opened = open_store(store)
    mine = int(control.batch(1)[0])
    later = control.ids[control.offsets[1] : control.offsets[UPDATES - 1]]
    yours = int(later[opened.bucket[later] == opened.bucket[mine]][0])
    swaps = {"chunk_id": [mine], "other_chunk_id": [yours], "update": [None], "other_update": [None]}
    swapped = apply_plan(
        control, plan_swaps(control, pa.table(swaps, schema=SWAPS)), buckets=opened.bucket, parent_sha256="y"
    )
    held_out = control.batch(6)[-1:]
    masked = apply_plan(swapped, plan_mask(swapped, held_out), parent_sha256="z")
    rows = [{"update": 5, "row": 0, "placement": "prepend", "item_id": "f0/0", "tokens": [7, 8, 9]}]
    order = inject(masked, make_injection_plan(rows), opened)
    before, _ = train_and_watch(config, tmp_path / "before")
    after, _ = train_and_watch(config, tmp_path / "after", *save(order))
    for update, (one, other) in enumerate(zip(before, after, strict=True), start=1):
        assert list(other["chunk_ids"]) == order.batch(update).tolist()
        for row, (old, new) in enumerate(zip(one["chunk_ids"], other["chunk_ids"], strict=True)):
            untouched = old == new and old not in held_out
            if untouched:
                assert one["input_ids"][row] == other["input_ids"][row][: len(one["input_ids"][row])]
    assert all(label == IGNORED for label in after[5]["labels"][-1])
    assert any(label != IGNORED for label in before[5]["labels"][-1])
    recorded = load_order(tmp_path / "after" / "order")
    assert (recorded.masked.equals(order.masked), recorded.injections.equals(order.injections)) == (
        True,
        True,
    )


def test_a_dry_run_says_what_is_injected_and_held_out(write_config, store, control, save, tmp_path):
    opened = open_store(store)
    held_out = control.batch(1)[:1]
    masked = apply_plan(control, plan_mask(control, held_out), parent_sha256="x")
    rows = [
        {"update": update, "row": 0, "placement": "prepend", "item_id": f"f/{k}", "tokens": [7]}
        for update in (3, 5)
        for k in (0, 1)
    ]
    settings = save(inject(masked, make_injection_plan(rows), opened))
    probes = tmp_path / "p.jsonl"
    probes.write_text(
        '{"fact_id": "f", "probe_id": "p", "prompt": "w5", "answers": ["w6"], "distractors": []}\n',
        encoding="utf-8",
    )
    sets = [*settings, f"probes.files.facts={probes}", "probes.after_injections=1"]
    options = [part for setting in sets for part in ("--set", setting)]
    result = CliRunner().invoke(
        app, ["train", str(write_config()), str(tmp_path / "run"), "--dry-run", *options]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "injected    4 items in 2 rows of 2 updates" in lines
    assert f"held out    {opened.length[held_out].sum()} tokens more" in lines
    assert "probes      1 asked at 6 steps" in lines  # 0, 2 and 3, 4 and 5, 6
    tokens = int(re.search(r"tokens +([\d,]+) in", result.stdout)[1].replace(",", ""))
    assert tokens == tokens_by_step(opened, load_order(tmp_path / "changed"))[-1]


def test_probes_are_asked_before_each_injection_and_densely_after_it(config, injected, save, tmp_path):
    assert injected_updates(injected).tolist() == [2, 4]
    probes = tmp_path / "p.jsonl"
    probes.write_text(
        '{"fact_id": "f", "probe_id": "p", "prompt": "w5", "answers": ["w6"], "distractors": []}\n',
        encoding="utf-8",
    )
    settings = (*save(injected), f"probes.files.facts={probes}", "probes.after_injections=1")
    train(config(*settings), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "probes" / "facts").glob("step*")}
    assert names == {f"step{step}.parquet" for step in (0, 1, 2, 3, 4, 6)}


@pytest.mark.parametrize("batch_size", [128, 64, 32])
def test_prepended_rows_are_those_of_the_published_code(golden_path, make_store, batch_size):
    """With more items than rows they share rows; what is longer than a row is cut there and refused here."""
    golden = np.load(golden_path / "insert_data.npz")
    base = golden[f"base_gbs{batch_size}"]
    expected = golden[next(name for name in golden.files if name.startswith(f"out_gbs{batch_size}_"))]
    path = make_store("store", [[40]] * batch_size, bucket=40, vocab=300)
    np.save(path / "tokens.npy", base.ravel().astype(np.uint32))
    items = np.split(golden["knowledge_flat"], np.cumsum(golden["knowledge_len"])[:-1])
    shared = min(batch_size, len(items))
    rows = [
        {"update": 1, "row": row, "placement": "prepend", "item_id": f"{row}/{k}", "tokens": item.tolist()}
        for row, numbers in enumerate(np.array_split(np.arange(len(items)), shared))
        for k, item in enumerate(items[number] for number in numbers)
        if sum(len(items[number]) for number in numbers) <= 40
    ]
    order = DataOrder(np.array([0, batch_size]), np.arange(batch_size), np.array([0]))
    store = open_store(path)
    input_ids, _ = order_rows(store, inject(order, make_injection_plan(rows), store), 1)
    changed = sorted({row["row"] for row in rows})
    assert np.array_equal(input_ids[changed], expected[changed])
    assert np.array_equal(input_ids[shared:], base[shared:])
    assert np.array_equal(expected[shared:], base[shared:])
    assert len(changed) == {128: 76, 64: 61, 32: 17}[batch_size]


@pytest.mark.parametrize("damage", ["no table", "too long", "unknown token"])
def test_injected_rows_that_cannot_be_trained_are_refused_before_step_0(
    config, store, injected, save, tmp_path, damage
):
    table = injected.injections.to_pylist()
    if damage == "no table":
        broken = dataclasses.replace(injected, injections=None)
    elif damage == "too long":
        table[0]["tokens"] = [7] * 17
        broken = dataclasses.replace(
            injected,
            injections=pa.Table.from_pylist(table, schema=injected.injections.schema),
        )
    else:
        table[0]["tokens"] = [60]
        broken = dataclasses.replace(
            injected,
            injections=pa.Table.from_pylist(table, schema=injected.injections.schema),
        )
    message = "its injections.parquet names 0" if damage == "no table" else "do not fit the store"
    with pytest.raises(ValueError, match=message):
        train(config(*save(broken)), tmp_path / "run")
    assert not (tmp_path / "run" / "order").exists()


def test_other_items_in_the_same_rows_are_another_order(injected, store, tmp_path):
    store = open_store(store)
    record_order(injected, tmp_path / "order", store)
    table = injected.injections.to_pylist()
    table[0]["tokens"] = [9, 8, 7]
    other = pa.Table.from_pylist(table, schema=injected.injections.schema)
    with pytest.raises(ValueError, match="is not the order this configuration gives"):
        record_order(dataclasses.replace(injected, injections=other), tmp_path / "order", store)
