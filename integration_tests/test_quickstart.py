import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

QUICKSTART = Path(__file__).resolve().parent.parent / "tools" / "quickstart.py"


def start(out, encyclopedia, *, updates=12):
    """The quickstart on a small encyclopedia, in a process group of its own."""
    command = [sys.executable, QUICKSTART, out, "--dump", encyclopedia / "dump.xml.bz2"]
    command += ["--probes", encyclopedia / "probes.parquet", "--updates", updates]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # the same bits need the same number of threads
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


def kill_at(process, words):
    """Kill the whole group with -9 as soon as a step of that title begins."""
    with process.stdout:
        assert any(words in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_a_quickstart_killed_twice_ends_like_one_that_never_stopped(encyclopedia, tmp_path):
    finish(start(tmp_path / "whole", encyclopedia))
    killed = tmp_path / "killed"
    kill_at(start(killed, encyclopedia), "Train a small OLMo-2")
    kill_at(start(killed, encyclopedia), "Ask every checkpoint")
    output = finish(start(killed, encyclopedia))
    assert "done before" in output
    assert "Open" in output
    for name in ("answers.parquet", "fact_chunks.parquet", "dynamics/facts.parquet", "run/order/ids.npy"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    page = (killed / "report.html").read_text(encoding="utf-8")
    assert "Spearman" in page
    assert "What the checkpoints know" in page
    assert pq.read_table(killed / "answers.parquet")["step"].unique().to_pylist() == [0, 1, 2, 4, 8, 12]


def test_the_steps_of_a_run_follow_from_its_options(quickstart):
    commands = {step.title: step.command.split()[:2] for step in quickstart.STEPS}
    assert commands["Ask every checkpoint every probe"] == ["olmo-trainer", "evaluate"]
    only = [step.command.split()[1] for step in quickstart.STEPS if step.only == "cloze"]
    assert only == ["cloze"]


def test_a_step_is_done_again_once_one_before_it_changed(quickstart, tmp_path, capfd):
    ledger = tmp_path / "quickstart.json"
    steps = [quickstart.Step(word, f"python -c \"print('{word}-{{n}}')\"") for word in ("first", "second")]
    for n in ("1", "1", "2"):
        quickstart.run_steps(steps, {"n": n}, ledger)
    ran = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("first", "second"))]
    assert ran == ["first-1", "second-1", "first-2", "second-2"]
