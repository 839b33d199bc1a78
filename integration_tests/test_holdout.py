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

EXPERIMENT = Path(__file__).resolve().parent / "experiments" / "holdout"


def load(name):
    spec = importlib.util.spec_from_file_location(f"holdout_{name}", EXPERIMENT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


run, choose, compare = (load(name) for name in ("run", "choose", "compare"))


@pytest.mark.parametrize("name", run.SIZES)
def test_presets_weigh_early_and_late_updates_the_same(name):
    size = run.SIZES[name]
    config = load_config(TrainConfig, EXPERIMENT / "presets" / f"{name}.yaml")
    assert size.batch % size.chunk == 0
    assert size.updates % config.probes.every == 0
    assert config.schedule.name == "constant"


def test_conditions_are_compared_that_are_run():
    assert tuple(run.CONDITIONS) == compare.CONDITIONS


def test_entities_are_chosen_that_share_no_chunk_and_too_few_are_refused():
    chunks = {"a": {1, 2}, "b": {2, 3}, "c": {3}, "d": {4, 5, 6}, "e": {7, 8}}
    for seed in range(20):
        chosen = choose.choose(chunks, 2, fewest=1, most=2, seed=seed)
        assert len(chosen) == 2
        assert len(set.union(*chosen.values())) == sum(map(len, chosen.values()))
        assert "d" not in chosen
    with pytest.raises(ValueError, match="only 3 of 4 entities have 1 to 2 chunks of their own"):
        choose.choose(chunks, 4, fewest=1, most=2)


def test_an_interval_resamples_seeds_and_whole_entities():
    # two entities with facts that agree within each: all spread is between entities
    values = np.array([[0.0, 0.0, 1.0, 1.0]] * 3)
    assert compare.Bootstrap(3, np.array([0, 0, 1, 1])).mean(values) == [0.5, 0.0, 1.0]
    # the same facts as entities of their own: no longer all or nothing
    _, low, high = compare.Bootstrap(3, np.arange(4)).mean(values)
    assert 0 <= low < 0.5 < high <= 1
    assert compare.Bootstrap(3, np.arange(4)).share(values, 2 * values + 1e-9)[0] == pytest.approx(0.5)


def test_gain_since_the_last_meeting_begins_at_the_first_checkpoint_behind_it():
    steps = np.array([0, 10, 20, 30])
    gain = np.array([[[0.0, 1.0, 2.0, 3.0], [0.0, 5.0, 6.0, 7.0]]])
    meetings = {"burst": np.array([[[2, 4, 15], [2, 3, 10]]])}  # last met at 15 and at 10
    results = compare.Results(steps, {}, {}, np.array([0, 1]), [], meetings)
    found = compare.since_last(gain, results, "burst", results.entity, compare.Bootstrap(1, results.entity))
    assert [row[:2] for row in found] == [[0, 3.5], [10, 4.5]]  # at 20 and 10, at 30 and 20


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
def test_a_small_experiment_killed_once_ends_with_its_tables_and_its_report(tmp_path):
    process = start(tmp_path)
    with process.stdout:
        assert any("Seed 0, held-out: train" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = start(tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "done before" in output
    assert "For how long" in output

    orders = {name: load_order(tmp_path / "orders" / f"0-{name}") for name in run.CONDITIONS}
    control = orders["control"]
    treated = np.unique(pq.read_table(tmp_path / "entities.parquet")["chunk_id"].to_numpy())
    exposures = {name: order.steps_of_many(treated)[1] for name, order in orders.items()}
    assert len(exposures["held-out"]) == 0
    assert len(exposures["burst"]) == len(exposures["spread"]) == len(exposures["control"]) > 0
    half = control.num_updates // 2
    assert exposures["spread"].max() <= half
    assert 0.3 * control.num_updates <= exposures["burst"].min() <= exposures["burst"].max() <= half
    for order in orders.values():  # nothing else changes
        assert sorted(order.ids.tolist()) == sorted(control.ids.tolist())
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["conditions"]["held-out"]["gain_end"] == [0, 0, 0]
    assert results["conditions"]["control"]["gain_less_control"] == [0, 0, 0]
    assert results["traced"] in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
