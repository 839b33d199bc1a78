import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from model_merge.cli import app, main

GOLDEN = Path(__file__).parent / "golden"
CONFIG = {"model_type": "tiny", "hidden_size": 2, "vocab_size": 3, "architectures": ["TinyModel"]}


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command as a user does; exit code, stdout, stderr."""

    def cli(*arguments):
        monkeypatch.setattr(sys, "argv", ["model-merge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return cli


@pytest.fixture
def models(write_checkpoint, tmp_path, monkeypatch):
    """Three models, 1, 2 and 4 times the same weights, in the working folder."""
    monkeypatch.chdir(tmp_path)
    weights = np.array([[1.0, -2.0], [3.0, 4.0], [0.5, 8.0]], dtype=np.float32)
    for name, factor in (("a", 1), ("b", 2), ("c", 4)):
        write_checkpoint(name, {"model.embed_tokens.weight": factor * weights}, config=CONFIG)
    return weights


def weights_of(folder, load_tensors):
    return load_tensors(Path(folder))["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("arguments", "factor"),
    [
        (["average", "a", "b", "c", "-o", "out"], 7 / 3),
        (["average", "a", "b", "a", "-o", "out"], 4 / 3),
        (["average", "a", "c", "-o", "out", "-w", "3", "-w", "1/2"], 5 / 3.5),
        (["macro", "-g", "a,b", "-g", "c", "-o", "out"], 2.75),
        (["macro", "-g", "a,b", "-g", "c", "-o", "out", "-w", "2", "-w", "1"], 7 / 3),
    ],
)
def test_a_merge_is_the_weighted_average(models, cli, load_tensors, arguments, factor):
    code, output, _ = cli(*arguments)
    assert code == 0
    assert output.startswith("out: 1 tensors, 6 parameters, 1 file, of ")
    assert np.allclose(weights_of("out", load_tensors), factor * models, rtol=1e-7, atol=0)


def test_leave_one_out_writes_a_folder_for_each_model(models, cli, load_tensors):
    assert cli("leave-one-out", "a", "b", "c", "-o", "ablations")[0] == 0
    factors = {"without-a": 3.0, "without-b": 2.5, "without-c": 1.5}
    assert sorted(os.listdir("ablations")) == sorted(factors)
    for name, factor in factors.items():
        assert np.array_equal(weights_of(f"ablations/{name}", load_tensors), factor * models)


def test_averages_over_a_run_take_its_steps_in_order(models, cli, load_tensors):
    for name, step in (("a", "step2"), ("b", "step10"), ("c", "step100")):
        Path("run").mkdir(exist_ok=True)
        Path(name).rename(Path("run") / step)
    assert cli("lawa", "run", "-o", "last2", "--last", "2")[0] == 0
    assert np.array_equal(weights_of("last2", load_tensors), 3 * models)
    assert cli("ema", "run", "-o", "ema", "--decay", "0.5")[0] == 0
    assert np.array_equal(weights_of("ema", load_tensors), (0.25 + 0.5 + 2) * models)
    content = json.loads(Path("ema/merge.json").read_text(encoding="utf-8"))
    assert content["inputs"][1]["reference"] == "run:step10"
    code, _, errors = cli("lawa", "run", "-o", "last9", "--last", "9")
    assert (code, errors) == (2, "error: 'run' holds 3 folders called step and a number, 9 are wanted\n")


def test_json_gives_what_merge_json_says(models, cli):
    code, output, _ = cli("average", "a", "b", "-o", "out", "--json", "--sha256")
    content = json.loads(Path("out/merge.json").read_text(encoding="utf-8"))
    assert (code, json.loads(output)) == (0, {"out": "out"} | content)
    assert len(content["files"][0]["sha256"]) == 64


def test_a_dry_run_tells_what_it_takes_and_writes_nothing(models, cli):
    before = sorted(os.listdir())
    code, output, _ = cli("average", "a", "b", "-o", "out", "--dry-run", "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["checkpoints"], found["tensors"], found["files"]) == (2, 1, ["model.safetensors"])
    assert (found["bytes_to_read"], found["bytes_to_write"] > 24) == (2 * 24, True)
    assert found["seconds"] >= 0
    assert (
        "out: 1 tensors of 2 models, in 1 file\n  read    48 B\n  write"
        in cli("average", "a", "b", "-o", "out", "--dry-run")[1]
    )
    assert sorted(os.listdir()) == before


def test_dtype_and_shard_size_are_obeyed(models, cli, load_tensors):
    assert cli("average", "a", "b", "-o", "out", "--dtype", "bfloat16", "--max-shard-size", "1KB")[0] == 0
    assert weights_of("out", load_tensors).dtype == ml_dtypes.bfloat16
    assert json.loads(Path("out/config.json").read_text(encoding="utf-8")) == CONFIG | {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["average", "a", "b", "-o", "a"], "error: 'a' exists: remove it, choose another place"),
        (["average", "a", "b", "-o", "out", "-w", "1"], "error: 1 weights for 2 models: give one for each"),
        (["average", "a", "b", "-o", "out", "-w", "1", "-w", "-1"], "error: the weights 1, -1 sum to zero"),
        (["average", "a", "b", "-o", "out", "-w", "1", "-w", "x"], "error: 1, x: expected numbers such as"),
        (["average", "a", "./d", "-o", "out"], "error: no checkpoint './d': expected a folder"),
        (
            ["average", "a", "b", "-o", "out", "--donor", "c"],
            "error: the donor 'c' is none of the models: 'a', 'b'",
        ),
        (
            ["average", "a", "b", "-o", "out", "--max-shard-size", "big"],
            "error: size 'big': expected a number",
        ),
        (["macro", "-g", ",", "-o", "out"], "error: 0 weights for 0 models"),
        (["leave-one-out", "a", "-o", "out"], "error: leaving one out takes at least two models"),
        (["ema", "a", "-o", "out", "--decay", "0.9"], "error: 'a' holds 0 folders called step and a number"),
        (["run", "no.yaml", "out"], "error: no merge file 'no.yaml'"),
        (["verify", "a"], "error: 'a' has no merge.json: it is no merge that model-merge wrote"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(models, cli, arguments, message):
    code, output, errors = cli(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert not Path("out").exists()


def test_every_incompatibility_is_told_at_once(models, cli, write_checkpoint):
    config = CONFIG | {"vocab_size": 4, "model_type": "other", "rope_parameters": {"rope_theta": 5e5}}
    shapes = {
        "model.embed_tokens.weight": np.ones((4, 2), dtype=np.float32),
        "extra": np.ones(1, dtype=np.float32),
    }
    write_checkpoint("d", shapes, config=config)
    code, output, errors = cli("check", "a", "b", "d")
    assert (code, output) == (2, "")
    assert errors.splitlines() == [
        "error: these checkpoints cannot be merged, 5 problems:",
        "  'd' has extra, which 'a' lacks",
        (
            "  'a' and 'd' differ in shape: model.embed_tokens.weight [3, 2] and [4, 2]; their vocabularies "
            "have 3 and 4 rows: `model-merge run` with tokenizer_source: union brings them together"
        ),
        "  'a' has model_type 'tiny' and 'd' has 'other'",
        "  'a' has rope_parameters None and 'd' has {'rope_theta': 500000.0}",
        "  'a' has vocab_size 3 and 'd' has 4",
    ]
    code, output, _ = cli("check", "a", "d", "--json")
    assert (code, len(json.loads(output)["problems"])) == (2, 5)
    assert cli("check", "a", "b")[:2] == (0, "2 models that can be merged\n")


def test_different_tokenizers_are_told_and_different_settings_of_one_are_not(models, cli):
    def tokenizer(vocabulary, **settings):
        added = [{"id": 2, "content": "<end>"}]
        return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added} | settings)

    Path("a/tokenizer.json").write_text(tokenizer({"x": 0, "y": 1}), encoding="utf-8")
    Path("b/tokenizer.json").write_text(tokenizer({"x": 0, "y": 1}, padding={"length": 8}), encoding="utf-8")
    Path("c/tokenizer.json").write_text(tokenizer({"x": 1, "y": 0}), encoding="utf-8")
    assert cli("check", "a", "b")[0] == 0
    code, _, errors = cli("check", "a", "c")
    assert code == 2
    assert "the tokenizers of 'a' and 'c' differ in 2 tokens ('x', 'y'), so that rows" in errors


def test_quantised_checkpoints_are_refused(models, cli):
    quantised = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    Path("b/config.json").write_text(json.dumps(quantised), encoding="utf-8")
    code, _, errors = cli("average", "a", "b", "-o", "out")
    assert code == 2
    assert (
        "  'b' is quantised (fp8): its tensors are codes and scales; merge the checkpoints it was" in errors
    )


def test_inspect_shows_what_a_checkpoint_holds(models, cli):
    code, output, _ = cli("inspect", "a", "--tensors")
    assert code == 0
    assert output.splitlines() == [
        "a: TinyModel",
        "  F32: 1 tensors, 6 parameters, 24 bytes",
        "  files: model.safetensors",
        "  model.embed_tokens.weight  F32 [3, 2]  model.safetensors",
    ]
    found = json.loads(cli("inspect", "a", "--tensors", "--json")[1])
    assert found["tensors"] == [
        {"name": "model.embed_tokens.weight", "dtype": "F32", "shape": [3, 2], "file": "model.safetensors"}
    ]


def test_diff_measures_how_far_two_checkpoints_are_apart(models, cli):
    code, output, _ = cli("diff", "a", "c", "--json")
    (found,) = json.loads(output)
    assert (code, found["max_abs"]) == (1, 24.0)
    assert (found["relative"], found["cosine"]) == pytest.approx((3.0, 1.0))
    code, output, _ = cli("diff", "a", "a")
    assert (code, len(output.splitlines())) == (0, 2)


def test_diff_of_different_shapes_says_so(models, cli, write_checkpoint):
    write_checkpoint("d", {"model.embed_tokens.weight": np.ones((2, 2), dtype=np.float32)})
    assert cli("diff", "a", "d")[2] == (
        "error: 'model.embed_tokens.weight' is [3, 2] in 'a' and [2, 2] in 'd'\n"
    )


def test_verify_finds_a_changed_output_and_a_changed_input(models, cli, write_safetensors, load_tensors):
    cli("average", "a", "b", "-o", "out")
    assert cli("verify", "out") == (0, "", "out is the merge of its inputs\n")
    assert cli("verify", "out", "--sample", "1")[0] == 0
    content = bytearray(Path("out/model.safetensors").read_bytes())
    content[-3] ^= 1
    Path("out/model.safetensors").write_bytes(content)
    code, output, _ = cli("verify", "out")
    assert code == 1
    assert output.splitlines() == [
        "model.safetensors of 'out' is not the file of the merge",
        "'model.embed_tokens.weight' differs from the merge computed again, from byte 0 on",
    ]
    cli("average", "a", "b", "-o", "out", "--overwrite")
    write_safetensors(Path("b/model.safetensors"), {"model.embed_tokens.weight": 3 * models})
    code, output, _ = cli("verify", "out")
    assert code == 1
    assert output.splitlines()[0] == "model.safetensors of 'b' is not the file of the merge"


def test_a_mergekit_file_runs_as_it_is_and_is_verified(cli, tmp_path, monkeypatch, load_tensors):
    monkeypatch.chdir(GOLDEN)
    code, output, _ = cli("run", "yaml/olmo2__ties.yml", tmp_path / "out")
    assert (code, output) == (0, f"{tmp_path / 'out'}: 25 tensors, 26,880 parameters, 1 file, of 4 models\n")
    assert cli("verify", tmp_path / "out")[0] == 0
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "m.safetensors").symlink_to(GOLDEN / "mergekit" / "olmo2__ties.safetensors")
    expected = load_tensors(tmp_path / "golden")
    for name, tensor in load_tensors(tmp_path / "out").items():
        assert np.abs(tensor - expected[name]).max() <= 3e-7 * np.abs(expected[name]).max()


def test_an_expression_in_a_file_runs_and_is_verified(models, cli, load_tensors):
    text = "{sum: [{weight: 2, of: {method: slerp, base: a, of: [b], parameters: {t: 0.5}}}, {of: c}]}"
    Path("merge.yml").write_text(text, encoding="utf-8")
    assert cli("run", "merge.yml", "out")[0] == 0
    # slerp of parallel vectors is linear: 1.5 times the weights
    assert np.allclose(weights_of("out", load_tensors), (2 * 1.5 + 4) / 3 * models, rtol=1e-7, atol=0)
    assert cli("verify", "out") == (0, "", "out is the merge of its inputs\n")
    Path("merge.yml").write_text("{sum: [{of: a}, {from: b}]}", encoding="utf-8")
    assert cli("run", "merge.yml", "out2") == (
        2,
        "",
        "error: \"{'from': 'b'}\" is no term of a sum: expected {weight, of}\n",
    )
    Path("merge.yml").write_text("{sum: [", encoding="utf-8")
    code, _, errors = cli("run", "merge.yml", "out2")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: 'merge.yml' is no YAML: ")


def test_a_truncated_input_is_told(models, cli):
    path = Path("b/model.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    code, _, errors = cli("average", "a", "b", "-o", "out")
    assert code == 2
    assert errors.startswith("error: 'b/model.safetensors' is cut short: its header describes")


def test_every_command_has_an_example_in_its_help():
    runner = CliRunner()
    for command in (
        "average",
        "macro",
        "leave-one-out",
        "ema",
        "lawa",
        "run",
        "inspect",
        "diff",
        "check",
        "verify",
    ):
        assert "Example: model-merge" in runner.invoke(app, [command, "--help"]).output, command


def test_help_imports_no_numpy():
    code = (
        "import sys\nsys.argv = ['model-merge', 'average', '--help']\nimport model_merge.cli\n"
        "try:\n    model_merge.cli.main()\nexcept SystemExit:\n    sys.exit('numpy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_the_time_is_told_apart_from_the_result(models, cli):
    begun = time.monotonic()
    _, output, words = cli("average", "a", "b", "-o", "out")
    assert float(words.split()[0]) <= time.monotonic() - begun + 0.1
    assert " s\n" not in output
