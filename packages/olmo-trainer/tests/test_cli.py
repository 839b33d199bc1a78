import json
import os
import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from olmo_trainer import cli
from olmo_trainer.cli import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def main(monkeypatch, capsys, *arguments):
    """The exit code and stderr of the console script."""
    monkeypatch.setattr(sys, "argv", ["olmo-trainer", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_help_names_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "Pretraining" in result.output
    for command in ("train", "evaluate"):
        assert command in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys, olmo_trainer.cli as cli; sys.argv = ['olmo-trainer', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_help_of_train_explains_itself():
    result = invoke("train", "--help")
    output = re.sub(r"\s+", " ", result.output)
    assert "olmo-trainer train tiny.yaml runs/tiny --set optim.lr=1e-3" in output
    for option in ("--set", "--stop-at", "--resume", "--dry-run"):
        assert option in output


def test_a_dry_run_says_what_is_needed_and_leaves_nothing(write_config, store, tmp_path):
    result = invoke(
        "train",
        write_config(),
        tmp_path / "run",
        "--dry-run",
        "--set",
        "data.epochs=1",
        "--set",
        "data.updates=null",
    )
    assert result.exit_code == 0
    # 2 tables of 128 x 16, 2 layers of 768 + 1,536 + 24 + 32, a norm of 16; lengths as the fixture has them
    tokens = sum(9 + i % 8 for i in range(16)) + sum(5 + i % 4 for i in range(16))
    assert result.stdout.splitlines()[:3] == [
        "parameters  8,832, of them 2,048 input embeddings",
        f"tokens      {tokens} in 1 epochs; {1 - tokens / 384:.1%} of the rows is padding",
        "updates     6: 2 of length 8, 4 of length 16",
    ]
    assert re.search(
        r"memory +about 0\.9\d GB on cpu\ndisk +0\.00 GB: 5 exports, and resume states", result.stdout
    )
    assert not (tmp_path / "run").exists()


def test_a_run_trains_stops_continues_and_is_then_finished(write_config, tmp_path):
    run = tmp_path / "run"
    stopped = invoke("train", write_config(), run, "--stop-at", 3)
    assert stopped.exit_code == 0
    assert f"stopped at step 3 of 6: {run}" in stopped.stderr
    finished = invoke("train", write_config(), run)
    assert f"finished at step 6 of 6: {run}" in finished.stderr
    assert "step 6/6  loss" in finished.stderr
    assert f"finished at step 6 of 6: {run}" in invoke("train", write_config(), run).stderr
    assert len((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    starts = json.loads((run / "env.json").read_text(encoding="utf-8"))["starts"]
    assert [start["from_step"] for start in starts] == [0, 3, 6]


def test_a_users_mistake_is_one_line_and_exit_code_2(write_config, tmp_path, monkeypatch, capsys):
    code, words = main(monkeypatch, capsys, "train", write_config(), tmp_path / "run", "--set", "optim.rl=1")
    assert code == 2
    assert words == "error: unknown configuration key 'optim.rl': did you mean 'optim.lr'?\n"
    code, words = main(monkeypatch, capsys, "train", tmp_path / "no.yaml", tmp_path / "run")
    assert code == 2
    assert words.startswith("error: no configuration file")


def test_a_disk_that_is_too_small_is_noticed_before_the_start(write_config, tmp_path, monkeypatch, capsys):
    settings = ["model.overrides.num_hidden_layers=2", "model.overrides.vocab_size=100000000"]
    sets = [part for setting in settings for part in ("--set", setting)]
    steps = ["--set", f"checkpoint.export.steps={list(range(7))}"]
    sizes = ["--set", "model.overrides.hidden_size=40960", *steps]
    code, words = main(monkeypatch, capsys, "train", write_config(), tmp_path / "run", *sets, *sizes)
    assert code == 2
    assert re.search(
        r"error: the run writes [\d.]+ GB of checkpoints, [\d.]+ GB are free: export less often", words
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_85_and_the_same_command_continues(write_config, tmp_path):
    run = tmp_path / "run"
    settings = ["--set", "data.updates=2000", "--set", "checkpoint.resume.every=2000"]
    command = [
        sys.executable,
        "-c",
        "from olmo_trainer.cli import main; main()",
        "train",
        str(write_config()),
        str(run),
        *settings,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 1/"):
                break
        os.kill(process.pid, signal.SIGTERM)
        words = process.stderr.read()
    assert process.returncode == 85
    step = int(re.search(r"stopped at step (\d+) of 2000", words)[1])
    assert [path.name for path in (run / "resume").iterdir()] == [f"step{step}"]
    again = invoke("train", write_config(), run, *settings, "--stop-at", step + 1)
    assert f"stopped at step {step + 1} of 2000" in again.stderr
