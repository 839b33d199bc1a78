"""A series through the real ways of loading: run folders, a hub's cache, sharded files; what is read when."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file

from knowledge_entropy import series
from knowledge_entropy.files import read_coefficients
from knowledge_entropy.measure import Options, measure
from knowledge_entropy.reference import Reference, find_checkpoints, parse_reference
from knowledge_entropy.resuscitate import plan_changes, resuscitate
from knowledge_entropy.series import measure_series
from knowledge_entropy.tokens import from_rows

# Runs commands one after the other in one process and prints how each ended.
COMMANDS = """
import json, sys
from knowledge_entropy import cli
for words in json.loads(sys.argv[1]):
    sys.argv = ["knowledge-entropy", *words]
    try:
        cli.main()
    except SystemExit as stop:
        print("ended with", stop.code or 0, file=sys.stderr)
"""


@pytest.fixture
def rows():
    """Twelve rows of nine tokens."""
    return np.random.default_rng(0).integers(2, 60, (12, 9))


@pytest.fixture
def run(tmp_path, make_family):
    """Three checkpoints of one model."""
    for step in (0, 5, 10):
        make_family("olmo2", seed=step).save_pretrained(tmp_path / "run" / f"step{step}")
    return tmp_path / "run"


@pytest.fixture
def measure_all(rows, tmp_path):
    """Measures the checkpoints of a run into tmp_path/out; returns the results."""

    def measure_run(run, *, options=None, taken=rows):
        return list(
            measure_series(
                find_checkpoints([str(run)]),
                from_rows(list(taken), source="rows"),
                options or Options(),
                tmp_path / "out",
                dtype=torch.float32,
                device=torch.device("cpu"),
                batch_tokens=100,
            )
        )

    return measure_run


def publish(cache, repository, revisions):
    """A hub's cache as huggingface_hub lays it out: refs, snapshots of links, blobs."""
    home = cache / f"models--{repository.replace('/', '--')}"
    for revision, folder in revisions.items():
        commit = hashlib.sha1(revision.encode()).hexdigest()
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / revision).write_text(commit, encoding="utf-8")
        for file in (path for path in folder.rglob("*") if path.is_file()):
            blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(file.read_bytes())
            link = home / "snapshots" / commit / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)


def test_a_series_of_hub_revisions_is_that_of_the_same_folders(tmp_path, make_family, rows):
    np.save(tmp_path / "rows.npy", rows)
    models = {step: make_family("olmo2", seed=step) for step in (0, 1000)}
    models[0].save_pretrained(tmp_path / "hub" / "zero")
    models[1000].save_pretrained(tmp_path / "hub" / "thousand" / "weights", max_shard_size="10KB")
    assert (tmp_path / "hub" / "thousand" / "weights" / "model.safetensors.index.json").is_file()
    revisions = {"step0": tmp_path / "hub" / "zero", "step1000-tokens4B": tmp_path / "hub" / "thousand"}
    publish(tmp_path / "cache", "lab/tiny", revisions)
    named = ["lab/tiny@step0", "lab/tiny@step1000-tokens4B:weights"]
    options = ["--tokens", "rows.npy", "--device", "cpu"]
    commands = [["series", *named, "out", *options], ["series", *named, "lab/tiny@step2000", "new", *options]]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.count("ended with 0") == 1, done.stderr
    assert done.stderr.rstrip().endswith("ended with 2")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (
        "model 'lab/tiny@step2000' has no config.json on the hub (or, offline, in its cache): check" in error
    )
    assert not list((tmp_path / "new" / "coefficients").iterdir())  # told before anything was measured
    table = pq.read_table(tmp_path / "out" / "layers.parquet").to_pydict()
    # A subfolder names a file, the revision its step.
    assert table["model"] == ["step0", "step0", "weights", "weights"]
    assert table["step"] == [0, 0, 1000, 1000]
    tokens = from_rows(list(rows), source="rows")
    for label, model in (("step0", models[0]), ("weights", models[1000])):
        found = read_coefficients(tmp_path / "out" / "coefficients" / f"{label}.safetensors")[0]["mean_abs"]
        assert_allclose(found, measure(model, tokens).coefficients.mean_abs, rtol=1e-6)


def test_a_reference_names_its_step_wherever_it_stands():
    steps = {
        "run:step10": 10,
        "lab/tiny@step1000-tokens4B": 1000,
        "lab/tiny@stage1-step150-tokens1B": 150,
        "lab/tiny:step7": 7,
        "runs/step30": 30,
        "lab/tiny@main": None,
    }
    assert {text: parse_reference(text).step for text in steps} == steps


def test_the_next_checkpoint_is_read_while_one_is_measured(run, measure_all, monkeypatch):
    second_begun, overlapped = threading.Event(), []
    real_read, real_measure = series.read_weights, series.measure

    def read(reference):
        if reference.label == "step5":
            second_begun.set()
        return real_read(reference)

    def measure_waiting(*arguments, **named):
        overlapped.append(second_begun.wait(30))
        return real_measure(*arguments, **named)

    monkeypatch.setattr(series, "read_weights", read)
    monkeypatch.setattr(series, "measure", measure_waiting)
    assert [one.reference.label for one in measure_all(run)] == ["step0", "step5", "step10"]
    assert overlapped == [True, True, True]


def test_only_what_is_missing_is_read_and_one_skeleton_is_built(run, measure_all, tmp_path, monkeypatch):
    first = measure_all(run)
    for step in (0, 10):
        (tmp_path / "out" / "coefficients" / f"step{step}.safetensors").unlink()
    read, built = [], []
    real_read, real_build = series.read_weights, series.build_skeleton
    monkeypatch.setattr(series, "read_weights", lambda one: read.append(one.label) or real_read(one))
    monkeypatch.setattr(series, "build_skeleton", lambda *a, **b: built.append(1) or real_build(*a, **b))
    second = measure_all(run)
    assert (read, built) == (["step0", "step10"], [1])
    for one, other in zip(first, second, strict=True):
        sums = [part.result.coefficients.block_sums for part in (one, other)]
        assert np.array_equal(*sums)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taken": np.full((12, 9), 7)}, "was measured with other tokens"),
        ({"options": Options(weighting="sequence")}, "was measured with other weights or options"),
        ({"options": Options(blocks=4)}, "was measured with other weights or options"),
    ],
)
def test_results_of_something_else_are_not_replaced(run, measure_all, tmp_path, change, words):
    measure_all(run)
    before = (tmp_path / "out" / "coefficients" / "step0.safetensors").read_bytes()
    with pytest.raises(ValueError, match=words):
        measure_all(run, **change)
    assert (tmp_path / "out" / "coefficients" / "step0.safetensors").read_bytes() == before


def test_a_checkpoint_whose_weights_changed_is_noticed(run, measure_all, make_family):
    measure_all(run)
    make_family("olmo2", seed=77).save_pretrained(run / "step5")
    with pytest.raises(ValueError, match=r"step5\.safetensors' was measured with other weights"):
        measure_all(run)


def test_checkpoints_of_two_models_are_no_series(run, measure_all, make_family):
    make_family("gpt2").save_pretrained(run / "step5")
    with pytest.raises(ValueError, match="has other weights than the first of the series"):
        measure_all(run)


def test_a_sharded_checkpoint_is_resuscitated_shard_by_shard(tmp_path, make_family, rows):
    model = make_family("llama")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    changes = plan_changes(
        measure(model, from_rows(list(rows), source="rows")).coefficients.mean_abs, ratio=0.5, factor=2.0
    )
    for name in ("whole", "parts"):
        resuscitate(Reference(str(tmp_path / name)), changes, tmp_path / f"new-{name}", record={})
    before, after = (sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("parts", "new-parts"))
    assert after == sorted([*before, "resuscitation.json"])
    files = sorted((tmp_path / "new-parts").glob("*.safetensors"))
    assert len(files) > 2
    joined = {name: tensor for file in files for name, tensor in load_file(file).items()}
    whole = load_file(tmp_path / "new-whole" / "model.safetensors")
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)
    untouched = load_file(tmp_path / "whole" / "model.safetensors")
    changed = {name for name in whole if not torch.equal(whole[name], untouched[name])}
    # The up rows, and their biases, which this model has.
    assert changed == {f"model.layers.{n}.mlp.up_proj.{part}" for n in (0, 1) for part in ("weight", "bias")}


def test_an_index_that_names_a_missing_shard_is_refused(tmp_path, make_family, rows, measure_all):
    make_family("llama").save_pretrained(tmp_path / "run" / "step0", max_shard_size="8KB")
    lost = sorted(Path(tmp_path / "run" / "step0").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(
        ValueError, match=f"names '{lost.name}' in model.safetensors.index.json, but has no such"
    ):
        measure_all(tmp_path / "run")
