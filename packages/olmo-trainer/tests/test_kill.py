"""kill -9 at any moment, then the same run to the bit. One driver process forks a child for every death."""

import hashlib
import json
import subprocess
import sys

import pytest

DRIVER = '''
import json, os, signal, sys
from pathlib import Path

import torch._dynamo  # what the children would each import
from chunk_provenance import open_store

from olmo_trainer import checkpoint, setup
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.train import train

torch.set_num_threads(1)  # a thread pool would not survive a fork
config = load_config(TrainConfig, sys.argv[1])
out = Path(sys.argv[2])
store = open_store(config.data.store)
model, tokenizer = setup.make_model(config.model, store, seed=0), setup.make_tokenizer(store, max_length=8)
checkpoint.export(model, tokenizer, out / "imports", dtype=torch.float32, state={})


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point, occurrence):
    """Patch one call of the writing of a checkpoint so that it is the process's last."""
    module, name, at_call, wanted = {
        "mid-file": (checkpoint, "save_file", "half", lambda *args: True),
        "after staging": (checkpoint, "file_sha256", "before", lambda path: path.name == "config.json"),
        "before COMPLETE": (checkpoint, "write_json", "before", lambda path, _: path.name == "COMPLETE.json"),
        "before rename": (os, "rename", "before", lambda *args: True),
        "after rename": (os, "rename", "after", lambda *args: True),
        "before metrics": (os, "replace", "before", lambda source, target: target.name == "metrics.jsonl"),
        "before answers": (os, "replace", "before", lambda source, target: target.name == "step3.parquet"),
        "after answers": (os, "replace", "after", lambda source, target: target.name == "step3.parquet"),
    }[point]
    real, seen = getattr(module, name), []

    def patched(*args, **kwargs):
        if not wanted(*args):
            return real(*args, **kwargs)
        seen.append(args)
        if len(seen) < occurrence or at_call != "before":
            result = real(*args, **kwargs)
        if len(seen) == occurrence:
            if at_call == "half":
                os.truncate(args[1], os.path.getsize(args[1]) // 2)
            die()
        return result

    setattr(module, name, patched)


def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_by_the_parent(run, steps):
    """A real kill -9 from outside, in the middle of whatever comes after that many steps."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        train(config, run, on_step=lambda logged, total: os.write(theirs, b"."))
        os._exit(0)
    for _ in range(steps):
        os.read(ours, 1)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


deaths = {}
in_child(lambda: train(config, out / "straight"))
for point, occurrence in json.loads(sys.argv[3]):
    run = out / f"{point} {occurrence}"
    deaths[run.name] = [in_child(lambda: (die_at(point, occurrence), train(config, run)))]
    deaths[run.name].append(in_child(lambda: train(config, run)))
run = out / "from outside"
deaths[run.name] = [killed_by_the_parent(run, steps) for steps in (2, 3, 2)]
deaths[run.name].append(in_child(lambda: train(config, run)))
print(json.dumps(deaths))
'''

# occurrences: exports and resume states come 0, 1, 2, resume 2, 4, resume 4, 6, resume 6
POINTS = [
    *(("mid-file", occurrence) for occurrence in (1, 2, 3)),  # weights and optimiser of a resume state
    *(("after staging", occurrence) for occurrence in (1, 3)),
    *(("before COMPLETE", occurrence) for occurrence in (1, 3, 4, 6)),
    *(("before rename", occurrence) for occurrence in (1, 2, 3, 4, 5, 6, 7, 8)),
    *(("after rename", occurrence) for occurrence in (1, 2, 3, 4, 5, 6, 7, 8)),
    ("before metrics", 1),
    ("before answers", 1),
    ("after answers", 1),
]


def decisive(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line.pop("tokens_per_second", None)
        line.pop("probe_seconds", None)
    exports = sorted(path.name for path in run.glob("step*"))
    weights = [
        hashlib.sha256((run / name / "model.safetensors").read_bytes()).hexdigest() for name in exports
    ]
    answers = {path.name: path.read_bytes() for path in (run / "probes" / "facts").glob("*.parquet")}
    return lines, exports, weights, answers


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(write_config, tmp_path):
    out = tmp_path / "out"
    probes = tmp_path / "probes.jsonl"
    row = {"fact_id": "f", "probe_id": "p", "prompt": "w5", "answers": ["w6"], "distractors": ["w7"]}
    probes.write_text(json.dumps(row) + "\n", encoding="utf-8")
    config = write_config(probes={"files": {"facts": str(probes)}, "every": 1})
    command = [sys.executable, "-c", DRIVER, str(config), str(out), json.dumps(POINTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deaths = json.loads(done.stdout)
    assert deaths.pop("from outside") == [-9, -9, -9, 0]
    assert all(codes == [-9, 0] for codes in deaths.values()), deaths
    straight = decisive(out / "straight")
    assert straight[1] == ["step0", "step1", "step2", "step4", "step6"]
    assert len(straight[3]) == 7
    for name in [*deaths, "from outside"]:
        assert decisive(out / name) == straight, name
        assert not list((out / name).rglob(".step*")), name
