import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import orders
import pyarrow.parquet as pq
import pytest
import relatives
import run as experiment_run

from chunk_provenance import load_order
from model_merge.domains import find_domains, read_domain
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.model import build_on_meta, count_parameters, olmo2_config

EXPERIMENT = Path(__file__).resolve().parent / "experiments" / "mixtures"

PRESETS = sorted(path.stem.rpartition("-")[0] for path in (EXPERIMENT / "presets").glob("*-seed.yaml"))


def preset(name, kind):
    return load_config(TrainConfig, EXPERIMENT / "presets" / f"{name}-{kind}.yaml")


@pytest.mark.parametrize("name", PRESETS)
def test_a_branch_goes_on_at_the_rate_and_with_the_optimiser_the_seed_ended_with(name):
    seed, branch, joint = (preset(name, kind) for kind in ("seed", "branch", "joint"))
    assert branch.optim.lr == pytest.approx(seed.optim.lr * seed.schedule.min_ratio)
    assert branch.optim == seed.optim.model_copy(update={"lr": branch.optim.lr})
    assert branch.schedule.name == "constant"
    assert branch.schedule.warmup_steps == 0
    assert branch.model.optimizer == "keep"
    per_unit = {"data": branch.data.model_copy(update={"updates": joint.data.updates})}
    assert joint == branch.model_copy(update=per_unit)
    assert joint.data.updates in (3 * branch.data.updates, 6 * branch.data.updates)


@pytest.mark.parametrize(
    ("name", "parameters", "lr"), [("paper-130m", 102_483_456, 6e-4), ("paper-1.1b", 1_009_782_784, 3e-4)]
)
def test_the_papers_presets_have_its_budgets_and_nearly_its_parameters(name, parameters, lr):
    seed, branch = preset(name, "seed"), preset(name, "branch")
    assert seed.optim.lr == lr
    assert seed.data.batch_tokens == branch.data.batch_tokens == 1024 * 2048
    assert (seed.data.updates, branch.data.updates) == (20_000, 500)
    assert seed.model.preset is not None
    config = olmo2_config(
        seed.model.preset, seed.model.overrides, vocab_size=50280, max_length=2048, eos_id=50279, pad_id=1
    )
    ours = count_parameters(build_on_meta(config))
    layers, d_model = config.num_hidden_layers, config.hidden_size
    # OLMo-2 has a projection behind the attention; the paper's layers have 8 d of biases and 8 d of norms
    # where OLMo-2 has 4 d of norms, and one d more at the end
    assert ours == parameters + layers * d_model**2 - (12 * layers + 1) * d_model


def test_a_joint_model_sees_chunk_by_chunk_what_its_branches_saw():
    chunks = [np.arange(0, 10), np.arange(10, 17), np.arange(17, 40)]
    budgets = [orders.budget(ids, 24, rows=4, seed=1, unit=unit) for unit, ids in enumerate(chunks)]
    joint = orders.joint_order(budgets, rows=4, seed=1, units=(0, 1, 2))
    assert joint.num_updates == 18
    assert Counter(joint.ids.tolist()) == Counter(np.concatenate(budgets).tolist())
    for update in range(1, 19):
        assert len(set(joint.batch(update).tolist())) == 4
    for ids, budget in zip(chunks, budgets, strict=True):
        times = Counter(budget.tolist())
        assert set(times) <= set(ids.tolist())
        assert max(times.values()) - min(times[chunk] for chunk in ids.tolist()) <= 1


def test_a_unit_smaller_than_an_update_is_refused():
    with pytest.raises(ValueError, match="a unit has 3 chunks, an update takes 4"):
        orders.budget(np.arange(3), 8, rows=4, seed=0, unit=0)


def test_points_fall_into_those_with_and_without_a_part_of_the_domains_field():
    point = {"domain": "People,1880-1959", "members": ["People,1800-1879", "Places,1800-1959"]}
    assert relatives.has_relative(point)
    assert not relatives.has_relative({**point, "members": ["Places,1800-1959"]})
    points = [
        {"domain": domain, "proxy_log_perplexity": x, "joint_log_perplexity": x + 5}
        for domain, values in {"a": (1, 3), "b": (10, 30)}.items()
        for x in values
    ]
    assert relatives.centred(points).tolist() == [[-1, 1, -10, 10], [-1, 1, -10, 10]]


def test_the_mixtures_of_six_parts_are_six_branches_and_fifty_seven_joint_models():
    sizes = Counter(len(members) for members in experiment_run.mixtures(6))
    assert sizes == {1: 6, 2: 15, 3: 20, 4: 15, 5: 6, 6: 1}


def test_any_folder_of_units_can_be_taken_with_the_seeds_text_beside_them(tmp_path):
    def write(place, *ids):
        place.mkdir(parents=True)
        lines = [json.dumps({"id": doc_id, "text": f"text of {doc_id}"}) + "\n" for doc_id in ids]
        (place / "documents.jsonl").write_text("".join(lines), encoding="utf-8")

    for unit in ("Law", "Art", "Sea"):
        write(tmp_path / "units" / unit / "train", f"{unit} 1", f"{unit} 2")
        write(tmp_path / "units" / unit / "val", f"{unit} 3")
    write(tmp_path / "units" / "seed", "seed 1")
    out = tmp_path / "out"
    out.mkdir()
    experiment = experiment_run.Experiment(out, "tiny", 0, 300, 2, domains=tmp_path / "units")
    experiment_run.prepare_text(experiment)
    training = list(experiment_run.read_json_lines(out / "train.jsonl"))
    assert [(row["id"], row["source"]) for row in training] == [
        ("Art 1", "Art"),
        ("Art 2", "Art"),
        ("Law 1", "Law"),
        ("Law 2", "Law"),
    ]
    assert [row["id"] for row in experiment_run.read_json_lines(out / "seed.jsonl")] == ["seed 1"]
    held_out = {
        domain.name: read_domain(domain).texts
        for domain in find_domains(experiment_run.link_parts(experiment), "val")
    }
    assert held_out == {"Art": ["text of Art 3"], "Law": ["text of Law 3"]}
    with pytest.raises(ValueError, match="has 3 folders with train, expected 4"):
        experiment_run.prepare_text(
            experiment_run.Experiment(tmp_path, "tiny", 0, 300, 4, experiment.domains)
        )


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    experiment_run.check_same(experiment_run.Experiment(tmp_path, "tiny", 100, 300, 3))
    experiment_run.check_same(experiment_run.Experiment(tmp_path, "tiny", 100, 300, 3))
    with pytest.raises(ValueError, match="--seed-model needs the tokenizer"):
        experiment_run.check_same(experiment_run.Experiment(tmp_path, "tiny", 1, 1, 3, seed_model=tmp_path))
    with pytest.raises(ValueError, match="holds another experiment"):
        experiment_run.check_same(experiment_run.Experiment(tmp_path, "tiny", 100, 300, 6))


def start(out):
    command = [sys.executable, EXPERIMENT / "run.py", out, "--preset", "tiny", "--parts", "3"]
    command += ["--facts", "300", "--vocab-size", "300"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    )


def kill_at(process, words):
    with process.stdout:
        assert any(words in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_three_parts_killed_twice_end_as_three_parts_that_never_stopped(tmp_path):
    finish(start(tmp_path / "whole"))
    killed = tmp_path / "killed"
    kill_at(start(killed), "parts-1: 6 updates")
    kill_at(start(killed), "ablate eval ")
    output = finish(start(killed))
    assert "parts-0-1-2:" not in output  # finished models are not trained again
    models = sorted(path.name for path in (killed / "runs").iterdir())
    assert models == [
        "parts-0",
        "parts-0-1",
        "parts-0-1-2",
        "parts-0-2",
        "parts-1",
        "parts-1-2",
        "parts-2",
        "seed",
    ]
    for name in ("results.parquet", "joint.parquet", "report/report.json"):
        found, expected = (read(folder / name) for folder in (killed, tmp_path / "whole"))
        assert found == expected, name
    one, two, both = (load_order(killed / "orders" / f"parts-{name}") for name in ("0", "1", "0-1"))
    assert sorted(both.ids.tolist()) == sorted([*one.ids.tolist(), *two.ids.tolist()])
    assert not set(one.ids.tolist()) & set(two.ids.tolist())


def read(path):
    """A result without what depends on the clock and the place."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    table = pq.read_table(path)
    return table.drop_columns([name for name in ("seconds",) if name in table.column_names]).to_pylist()
