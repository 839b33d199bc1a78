import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chunk_provenance import (
    batch_digest,
    compute_store_order,
    load_order,
    open_store,
    save_order,
    write_mixture,
)
from chunk_provenance.interventions import apply_plan, plan_mask
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.loss import next_token_loss
from olmo_trainer.setup import record_order
from olmo_trainer.train import DivergedError, train


@pytest.fixture
def config(write_config):
    """Load the tiny configuration with settings."""
    return lambda *settings: load_config(TrainConfig, write_config(), settings)


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def decisive(run):
    """All that must be equal to the bit: metrics without the speed, and the bytes of the last weights."""
    lines = [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in read_metrics(run)
    ]
    return lines, hashlib.sha256((run / "step6" / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_leaves_what_a_reader_needs(config, tmp_path):
    run = tmp_path / "run"
    outcome = train(config(), run)
    assert (outcome.step, outcome.total, outcome.interrupted) == (6, 6, False)
    names = {path.name for path in run.iterdir()}
    exports = {"step0", "step1", "step2", "step4", "step6"}
    assert names == exports | {"config.yaml", "env.json", "lock", "metrics.jsonl", "order", "resume"}
    assert sorted(path.name for path in (run / "resume").iterdir()) == ["step4", "step6"]


def test_each_step_is_logged_once_with_the_digest_of_the_recorded_order(config, tmp_path):
    run = tmp_path / "run"
    train(config(), run)
    metrics, order = read_metrics(run), load_order(run / "order")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert [line["batch_digest"] for line in metrics] == [
        batch_digest(order.batch(step)) for step in range(1, 7)
    ]
    lengths = open_store(config().data.store).length
    assert metrics[-1]["tokens"] == lengths[order.seen_by(6)].sum()
    for line in metrics:
        assert line["loss"] == pytest.approx(line["ce"] + line["z"], abs=1e-6)
    assert metrics[0]["ce"] == pytest.approx(math.log(128), abs=0.1)  # an untrained model knows nothing


def test_an_order_with_chunks_held_out_is_trained_and_recorded_as_it_is(config, tmp_path):
    run = tmp_path / "run"
    train(config(), run)
    held_out = np.unique(load_order(run / "order").batch(2)[:1])
    order = load_order(run / "order")
    without = apply_plan(order, plan_mask(order, held_out), parent_sha256="x")
    save_order(without, tmp_path / "without")
    masked = config(f"data.order={tmp_path / 'without'}", "data.updates=null")
    train(masked, tmp_path / "other")
    before, after = read_metrics(run), read_metrics(tmp_path / "other")
    assert [line["batch_digest"] for line in before] == [line["batch_digest"] for line in after]
    assert before[0]["loss"] == after[0]["loss"]
    assert before[1]["loss"] != after[1]["loss"]
    recorded = load_order(tmp_path / "other" / "order")
    assert recorded.masked.equals(without.masked)
    assert (recorded.plan.to_pylist(), recorded.info["parent_sha256"]) == (without.plan.to_pylist(), "x")
    with pytest.raises(ValueError, match="is not the order this configuration gives"):
        record_order(order, tmp_path / "other" / "order", open_store(masked.data.store))


def test_a_mixture_of_stores_is_trained_like_a_store(config, make_store, store, tmp_path):
    other = make_store("other", documents=[[8]] * 8, seed=1)
    write_mixture(tmp_path / "mixture", [f"{store}=1x", f"{other}=3x"])
    mixture = open_store(tmp_path / "mixture")
    settings = config(f"data.store={mixture.path}", "data.updates=12")
    train(settings, tmp_path / "run")
    order = load_order(tmp_path / "run" / "order")
    expected = compute_store_order(
        mixture, batch_tokens=settings.data.batch_tokens, seed=settings.seed.data, updates=12
    )
    assert order.ids.tolist() == expected.ids.tolist()
    assert (order.ids >= mixture.parts[1].first_chunk).any()
    last = read_metrics(tmp_path / "run")[-1]
    assert last["tokens"] == mixture.length[order.ids].sum()


def test_exports_open_with_transformers_alone(config, tmp_path):
    run = tmp_path / "run"
    train(config("data.updates=2"), run)
    tokenizer = AutoTokenizer.from_pretrained(run, subfolder="step2")
    assert tokenizer.convert_ids_to_tokens([0, 1, 5]) == ["<eos>", "<pad>", "w5"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<eos>", "<pad>")
    model = AutoModelForCausalLM.from_pretrained(run, subfolder="step2")
    assert model.dtype == torch.float32
    assert model.config.eos_token_id == 0
    state = json.loads((run / "step2" / "trainer_state.json").read_text(encoding="utf-8"))
    last = read_metrics(run)[-1]
    assert (state["step"], state["tokens"], state["loss"]) == (2, last["tokens"], last["loss"])
    # the exported weights are those that were trained: the loss of the next step is theirs
    more = tmp_path / "more"
    train(
        config("data.updates=2", "model.preset=null", "model.overrides={}", f"model.from={run}:step2"), more
    )
    weights = AutoModelForCausalLM.from_pretrained(more, subfolder="step0").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_exports_in_bfloat16_open_in_bfloat16(config, tmp_path):
    train(config("data.updates=1", "checkpoint.export.dtype=bfloat16"), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run", subfolder="step1")
    assert model.dtype == torch.bfloat16


def test_a_stopped_and_continued_run_is_the_same_to_the_bit(config, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(config(), straight)
    for stop_at in (1, 3, 4, None):
        train(config(), stopped, stop_at=stop_at)
    assert decisive(stopped) == decisive(straight)


def test_a_run_that_died_between_two_states_repeats_the_steps_between_once(config, tmp_path):
    straight, died = tmp_path / "straight", tmp_path / "died"
    train(config(), straight)

    def die(logged, total):
        if logged["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), died, on_step=die)
    with (died / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')  # a line that was being written
    train(config(), died)
    assert decisive(died) == decisive(straight)


def test_a_damaged_resume_state_costs_steps_not_the_run(config, tmp_path):
    straight, damaged = tmp_path / "straight", tmp_path / "damaged"
    train(config(), straight)
    train(config(), damaged, stop_at=4)
    (damaged / "resume" / "step4" / "optimizer.safetensors").write_bytes(b"")
    train(config(), damaged)
    assert decisive(damaged) == decisive(straight)


def test_dropout_of_a_continued_model_repeats_too(config, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "gpt2")
    settings = ["model.preset=null", "model.overrides={}", f"model.from={tmp_path / 'gpt2'}"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(config(*settings), straight)
    for stop_at in (3, None):
        train(config(*settings), stopped, stop_at=stop_at)
    assert decisive(stopped) == decisive(straight)


def test_micro_batches_change_nothing_but_rounding(config, tmp_path):
    train(config(), tmp_path / "whole")
    train(config("micro_batch_tokens=16"), tmp_path / "cut")
    for one, other in zip(read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "cut"), strict=True):
        assert other["batch_digest"] == one["batch_digest"]
        assert other["loss"] == pytest.approx(one["loss"], abs=2e-5)


def test_a_recorded_order_can_be_used_again(config, tmp_path):
    train(config(), tmp_path / "first")
    again = config(
        "data.updates=null", f"data.order={tmp_path / 'first' / 'order'}", "seed.data=5", "seed.init=1"
    )
    train(again, tmp_path / "again")
    digests = [
        [line["batch_digest"] for line in read_metrics(tmp_path / name)] for name in ("first", "again")
    ]
    assert digests[0] == digests[1]
    assert read_metrics(tmp_path / "first")[0]["loss"] != read_metrics(tmp_path / "again")[0]["loss"]


def test_validation_is_logged_at_every_export(config, make_store, tmp_path):
    held_out = make_store("held-out", [[7], [12], [5, 6]], seed=9)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(2, 60, (3, 10)))
    sets = f"data.validation={{store: {held_out}, rows: {tmp_path / 'rows.npy'}}}"
    train(config(sets), tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if "validation/store/ce" in line]
    assert [line["step"] for line in lines] == [0, 1, 2, 4, 6]
    last = lines[-1]
    assert last["validation/rows/perplexity"] == pytest.approx(math.exp(last["validation/rows/ce"]))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run", subfolder="step6")
    rows = torch.from_numpy(np.load(tmp_path / "rows.npy"))
    with torch.no_grad():
        usual = model(input_ids=rows, labels=rows).loss.item()
    assert last["validation/rows/ce"] == pytest.approx(usual, abs=1e-5)
    store = open_store(held_out)
    documents = [
        store.chunk_tokens(0),
        store.chunk_tokens(1),
        store.chunk_tokens(2)[:5],
        store.chunk_tokens(2)[5:],
    ]
    with torch.no_grad():
        ids = [torch.from_numpy(tokens.astype(np.int64))[None] for tokens in documents]
        total = sum(model(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1) for row in ids)
    assert last["validation/store/ce"] == pytest.approx(
        total / sum(row.shape[1] - 1 for row in ids), abs=1e-5
    )


def test_the_optimiser_is_fresh_or_kept(config, tmp_path):
    first = tmp_path / "first"
    train(config(), first)
    settings = [
        "model.preset=null",
        "model.overrides={}",
        f"model.from={first}:step6",
        "schedule.name=constant",
    ]
    train(config(*settings), tmp_path / "fresh", stop_at=1)
    train(config(*settings, "model.optimizer=keep"), tmp_path / "kept", stop_at=1)
    fresh, kept = (read_metrics(tmp_path / name)[0] for name in ("fresh", "kept"))
    assert fresh["loss"] == kept["loss"]
    weights = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name, subfolder="step1").lm_head.weight
        for name in ("fresh", "kept")
    ]
    assert not torch.equal(*weights)


def test_keeping_an_optimiser_that_is_gone_says_which_are_there(config, tmp_path):
    first = tmp_path / "first"
    train(config(), first)
    settings = [
        "model.preset=null",
        "model.overrides={}",
        f"model.from={first}:step2",
        "model.optimizer=keep",
    ]
    with pytest.raises(FileNotFoundError, match="kept the states: step4, step6"):
        train(config(*settings), tmp_path / "kept")


def test_another_loss_function_takes_the_seam(config, tmp_path):
    seen = []

    def loss_and_rows(model, batch):
        loss, metrics = next_token_loss(model, batch)
        seen.append(batch.chunk_ids)
        return loss, {"rows": torch.tensor(len(batch.input_ids)), **metrics}

    train(config("data.updates=2", "micro_batch_tokens=32"), tmp_path / "run", loss_function=loss_and_rows)
    order = load_order(tmp_path / "run" / "order")
    assert [chunk for ids in seen for chunk in ids] == order.ids.tolist()
    assert [line["rows"] for line in read_metrics(tmp_path / "run")] == [
        len(order.batch(1)),
        len(order.batch(2)),
    ]


def test_a_loss_that_is_not_a_number_stops_before_the_update(config, tmp_path):
    calls = []

    def nan_at_the_third(model, batch):
        calls.append(batch.chunk_ids)
        loss, metrics = next_token_loss(model, batch)
        return (loss * float("nan") if len(calls) == 3 else loss), metrics

    run = tmp_path / "run"
    with pytest.raises(
        DivergedError, match=r"the loss of step 3 is nan \(chunks \d+, \d+.*nothing was updated"
    ):
        train(config(), run, loss_function=nan_at_the_third)
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert train(config(), run).step == 6


def test_being_asked_to_stop_saves_after_the_step_in_progress(config, tmp_path):
    outcome = train(config(), tmp_path / "run", should_stop=lambda: True)
    assert (outcome.step, outcome.interrupted) == (1, True)
    assert [path.name for path in (tmp_path / "run" / "resume").iterdir()] == ["step1"]


def test_another_configuration_is_refused_with_the_differences(config, tmp_path):
    run = tmp_path / "run"
    train(config(), run, stop_at=1)
    with pytest.raises(ValueError, match=r"optim\.lr 0\.01 -> 0\.02, seed\.init 0 -> 1\)"):
        train(config("optim.lr=0.02", "seed.init=1"), run)
    train(config("checkpoint.export.every=5"), run)  # what is written may change
    assert (run / "step5").exists()


def test_another_store_under_the_same_path_is_refused(config, tmp_path, store):
    run = tmp_path / "run"
    train(config(), run, stop_at=1)
    meta = json.loads((store / "meta.json").read_text(encoding="utf-8"))
    (store / "meta.json").write_text(json.dumps(meta | {"note": "built again"}), encoding="utf-8")
    with pytest.raises(ValueError, match="belongs to the chunk store"):
        train(config(), run)


def test_a_changed_order_folder_is_refused(config, tmp_path):
    run = tmp_path / "run"
    train(config(), run, stop_at=1)
    ids = np.load(run / "order" / "ids.npy")
    np.save(run / "order" / "ids.npy", ids[::-1])
    with pytest.raises(ValueError, match="is not the order this configuration gives"):
        train(config(), run)


def test_resume_can_be_demanded_or_forbidden(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="holds no state to continue from"):
        train(config(), run, resume="must")
    train(config(), run, stop_at=2, resume="never")
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(config(), run, resume="never")
    assert train(config(), run, resume="must").step == 6


def test_an_exported_step_is_never_written_twice(config, tmp_path):
    run = tmp_path / "run"
    train(config(), run, stop_at=1)
    before = (run / "step0" / "model.safetensors").stat().st_mtime_ns
    train(config(), run, stop_at=2)
    assert (run / "step0" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_is_held_by_one_process_until_it_ends_however_it_ends(config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); file.write('process 5 on there'); file.flush()\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is being trained by process 5 on there"):
            train(config(), run)
        holder.kill()
    assert train(config(), run, stop_at=1).step == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.preset=olmo2-9b"], "no model preset 'olmo2-9b': there are olmo2-tiny"),
        (["model.overrides.vocab_size=30"], r"model\.overrides\.vocab_size is 30, the tokenizer has 60"),
        (["data.batch_tokens=24"], "is not a multiple of the chunk lengths"),
        (["data.batch_tokens=4096"], "could never be trained"),
    ],
)
def test_what_cannot_be_trained_is_refused(config, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(config(*settings), tmp_path / "run")


def test_validation_sets_that_do_not_fit_are_refused(config, tmp_path):
    np.save(tmp_path / "flat.npy", np.arange(5))
    with pytest.raises(ValueError, match=r"int64 of shape \(5,\), expected integer token rows"):
        train(config(f"data.validation.flat={tmp_path / 'flat.npy'}"), tmp_path / "run")


def test_bfloat16_training_learns(config, tmp_path):
    train(config("precision=bfloat16", "data.updates=30", "schedule.name=constant"), tmp_path / "run")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_follows_the_cpu(config, make_store, tmp_path):
    documents = [[3, 5 + i % 8] for i in range(16)]
    data = f"data={{store: {make_store('two', documents, bucket=16)}, batch_tokens: 64, updates: 6}}"
    train(config(data, "device=cpu"), tmp_path / "cpu")
    train(config(data, "device=cuda", "precision=bfloat16"), tmp_path / "cuda")
    for one, other in zip(read_metrics(tmp_path / "cpu"), read_metrics(tmp_path / "cuda"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=5e-2)
