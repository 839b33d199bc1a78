import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from chunk_provenance import load_order
from olmo_trainer.config import TrainConfig, load_config

EXPERIMENT = Path(__file__).resolve().parent / "experiments" / "entropy"


def load(name):
    spec = importlib.util.spec_from_file_location(f"entropy_{name}", EXPERIMENT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


run, facts, compare = (load(name) for name in ("run", "facts", "compare"))


def config(name, kind):
    return load_config(TrainConfig, EXPERIMENT / "presets" / f"{name}-{kind}.yaml")


@pytest.mark.parametrize("name", run.SIZES)
def test_training_goes_on_from_checkpoints_that_are_there_as_the_paper_does(name):
    size, first, later = run.SIZES[name], config(name, "pretrain"), config(name, "continue")
    assert all(origin % first.checkpoint.export.every == 0 for origin in size.origins)
    assert size.origins[-1] == size.updates
    assert later.optim.lr == first.optim.lr  # in the paper both peak at 4e-4
    assert later.model.optimizer == "fresh"
    schedule = later.schedule
    assert (schedule.name, schedule.warmup_fraction, schedule.min_ratio) == ("cosine", 0.05, 0.1)
    assert (later.optim.betas, later.optim.weight_decay, later.optim.max_grad_norm) == ((0.9, 0.95), 0.1, 1.0)
    once = size.inject - size.paraphrased
    assert once % 10 == 0  # dealt evenly to ten injections
    assert size.paraphrased + once // 10 <= size.later_batch // size.chunk


def test_what_is_asked_for_stands_in_the_passage_in_a_paraphrase_or_only_the_other_way_round():
    made = list(facts.make_facts(4, paraphrased=2, known=set(), seed=2))
    assert [fact["id"] for fact in made] == ["fact-0", "fact-1", "fact-2", "fact-3"]
    assert [len(fact["paraphrases"]) for fact in made] == [9, 9, 0, 0]
    for fact in made:
        asked = {
            depth: [
                f"{prompt} {target}."
                for prompt, target in zip(fact[f"{depth}_input"], fact[f"{depth}_target"], strict=True)
            ]
            for depth in facts.DEPTHS
        }
        texts = [fact["train_context"], *fact["paraphrases"]]
        assert fact["train_context"] == " ".join(asked["mem"])
        assert not any(sentence in text for sentence in asked["hard_gen"] for text in texts)
        assert all(name in text for name in fact["mem_target"] for text in texts)


def test_facts_are_about_nobody_of_the_known_texts():
    (first,) = facts.make_facts(1, paraphrased=0, known=set(), seed=2)
    person = first["hard_gen_target"][0]
    (other,) = facts.make_facts(1, paraphrased=0, known={person}, seed=2)
    assert person in first["train_context"]
    assert person not in other["train_context"]


def test_a_table_has_intervals_over_seeds_and_differences_are_paired():
    rows = [
        {name: 0.0 for name in compare.MEASURES}
        | {"seed": seed, "origin": 10, "variant": variant, "entropy": 5.0, "acquisition": value}
        for variant, values in (("plain", [1.0, 2.0, 3.0]), ("resuscitated", [2.0, 3.0, 4.0]))
        for seed, value in enumerate(values)
    ]
    _, _, plain, revived = compare.table(rows, [10]).splitlines()
    assert "| 10 | plain | 5.000 [5.000, 5.000] | 2.0 [-0.5, 4.5] |" in plain
    assert "| 3.0 [0.5, 5.5] |" in revived
    assert compare.revived_difference(rows, [10], "acquisition") == {10: [1.0, 1.0, 1.0]}


def start(out):
    command = [sys.executable, EXPERIMENT / "run.py", out, "--preset", "tiny"]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_small_experiment_killed_once_ends_with_its_table_and_figures(tmp_path):
    process = start(tmp_path)
    with process.stdout:
        assert any("step 20: amplify the units" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = start(tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "done before" in output
    assert "| from step |" in output

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [(row["origin"], row["variant"]) for row in results["runs"]] == [
        (20, "plain"),
        (20, "resuscitated"),
    ]
    size = run.SIZES["tiny"]
    injected = pq.read_table(tmp_path / "orders" / "0-other-injected" / "injections.parquet")
    assert sorted(set(injected["update"].to_pylist())) == list(range(1, 11))
    assert injected.num_rows == 10 * size.paraphrased + size.inject - size.paraphrased
    order = load_order(tmp_path / "runs" / "0-20-plain" / "order")
    assert order.injections.num_rows == injected.num_rows  # the run was trained on them
    for row in results["runs"]:
        assert row["acquisition"] == pytest.approx(
            100 * (row["k_after"] - row["k_before"]) / abs(row["k_before"])
        )
        assert np.isfinite(row["entropy"])
    plain, revived = results["runs"]
    assert revived["entropy"] != plain["entropy"]
    assert revived["loss_before"] != plain["loss_before"]
    assert (tmp_path / "change.png").stat().st_size > 10_000
