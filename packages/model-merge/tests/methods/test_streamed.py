"""mergekit files carried out by `execute` into folders: the same as in memory, for any threads and chunks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from model_merge.cli import main
from model_merge.execute import execute
from model_merge.mergekit import plan_from_yaml

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "yaml").glob("*.yml"))


def bits(tensors):
    return {name: (tensor.dtype.name, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_golden_file_runs_and_is_what_it_is_in_memory(tmp_path, execute_plan, load_tensors, case):
    plan = plan_from_yaml(GOLDEN / "yaml" / f"{case}.yml", GOLDEN)
    execute(plan, tmp_path / "out", threads=2, chunk_elements=1000)
    assert bits(load_tensors(tmp_path / "out")) == bits(execute_plan(plan))


SETTINGS = [(1, 8), (2, 104), (3, 1 << 22)]


@pytest.mark.parametrize(
    "case", ["ties", "sce", "nuslerp_base_rowwise", "karcher", "breadcrumbs", "dare_ties_seed7"]
)
def test_threads_and_chunks_change_no_byte_of_a_statistical_merge(tmp_path, case):
    files = []
    for threads, chunk_elements in SETTINGS:
        plan = plan_from_yaml(GOLDEN / "yaml" / f"olmo2__{case}.yml", GOLDEN)
        execute(plan, tmp_path / f"{threads}", threads=threads, chunk_elements=chunk_elements)
        files.append(
            b"".join(path.read_bytes() for path in sorted((tmp_path / f"{threads}").glob("*.safetensors")))
        )
    assert files[0] == files[1] == files[2]


def test_stacked_layers_make_a_checkpoint_whose_config_counts_them(tmp_path, load_tensors):
    text = """
merge_method: passthrough
slices:
- sources: [{model: models/olmo2_m1, layer_range: [0, 2]}]
- sources: [{model: models/olmo2_m2, layer_range: [0, 2]}]
"""
    execute(plan_from_yaml(text, GOLDEN), tmp_path / "out")
    found = load_tensors(tmp_path / "out")
    sources = [load_tensors(GOLDEN / "models" / name) for name in ("olmo2_m1", "olmo2_m2")]
    for layer in range(4):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        np.testing.assert_array_equal(
            found[name], sources[layer // 2][f"model.layers.{layer % 2}.mlp.up_proj.weight"]
        )
    assert json.loads((tmp_path / "out/config.json").read_text())["num_hidden_layers"] == 4


@pytest.mark.slow
def test_transformers_opens_what_a_file_with_stacked_layers_and_types_makes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra eval is not installed")
    text = """
merge_method: linear
out_dtype: bfloat16
slices:
- sources:
  - {model: models/olmo2_m1, layer_range: [0, 2], parameters: {weight: 0.25}}
  - {model: models/olmo2_m2, layer_range: [0, 2], parameters: {weight: 0.75}}
- sources:
  - {model: models/olmo2_m3, layer_range: [1, 2], parameters: {weight: 1}}
"""
    execute(plan_from_yaml(text, GOLDEN), tmp_path / "out")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert model.config.num_hidden_layers == 3
    assert str(model.dtype) == "torch.bfloat16"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_a_union_of_tokenizers_is_written_whole(tmp_path, write_checkpoint, execute_plan, load_tensors):
    for name, tokens in {"a": ["x", "y"], "b": ["y", "z", "q"]}.items():
        rng = np.random.default_rng(len(tokens))
        tensors = {
            "model.embed_tokens.weight": rng.standard_normal((len(tokens), 3)).astype(np.float32),
            "model.layers.0.w": np.ones((2, 2), np.float32),
        }
        folder = write_checkpoint(name, tensors, config={"vocab_size": len(tokens)})
        content = {
            "added_tokens": [],
            "model": {
                "type": "WordLevel",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "unk_token": "x",
            },
        }
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    text = "{merge_method: karcher, tokenizer_source: union, models: [{model: a}, {model: b}]}"
    plan = plan_from_yaml(text, tmp_path)
    for threads, chunk_elements in SETTINGS:
        out = tmp_path / f"out{threads}"
        execute(plan, out, threads=threads, chunk_elements=chunk_elements)
        assert bits(load_tensors(out)) == bits(execute_plan(plan))
    vocabulary = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert vocabulary == {"x": 0, "y": 1, "z": 2, "q": 3}
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 4


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


@pytest.mark.parametrize(
    "case", ["olmo2__ties", "olmo2__slerp_gradient_filter", "olmo2_bf16__linear_uniform"]
)
def test_the_command_makes_what_mergekit_made(tmp_path, cli, load_tensors, read_tensors, case):
    out = tmp_path / "out"
    code, output, _ = cli("run", GOLDEN / f"yaml/{case}.yml", out, "--root", GOLDEN)
    assert code == 0
    assert output.startswith(f"{out}: 25 tensors, 26,880 parameters")
    theirs = read_tensors(GOLDEN / "mergekit" / f"{case}.safetensors")
    for name, tensor in load_tensors(out).items():
        theirs_wide = theirs[name].astype(np.float64)
        tolerance = 3e-7 * np.abs(theirs_wide).max()
        np.testing.assert_allclose(tensor.astype(np.float64), theirs_wide, rtol=0, atol=tolerance)


def test_the_command_refuses_what_mergekit_swallows_in_one_line(tmp_path, cli):
    (tmp_path / "bad.yaml").write_text(
        "merge_method: ties\nbase_model: models/olmo2_base\nmodels:\n"
        "- {model: models/olmo2_m1, parameters: {wieght: 1, density: 50}}\n",
        encoding="utf-8",
    )
    code, output, errors = cli("run", tmp_path / "bad.yaml", tmp_path / "out", "--root", GOLDEN)
    assert (code, output) == (2, "")
    assert errors == (
        "error: models[0].parameters.wieght: ties has no such parameter, did you mean 'weight'?\n"
    )
    assert not (tmp_path / "out").exists()


def test_compat_and_seed_of_the_command_reach_the_merge(tmp_path, cli, load_tensors, read_tensors):
    yml = GOLDEN / "yaml/olmo2__linear_nonorm.yml"
    assert cli("run", yml, tmp_path / "same", "--root", GOLDEN, "--compat", "mergekit")[0] == 0
    assert bits(load_tensors(tmp_path / "same")) == bits(
        read_tensors(GOLDEN / "mergekit/olmo2__linear_nonorm.safetensors")
    )
    dare = GOLDEN / "yaml/olmo2__dare_ties_seed7.yml"
    for seed in (1, 2):
        assert cli("run", dare, tmp_path / f"dare{seed}", "--root", GOLDEN, "--seed", seed)[0] == 0
    assert bits(load_tensors(tmp_path / "dare1")) != bits(load_tensors(tmp_path / "dare2"))


@pytest.mark.parametrize("case", ["olmo2__dare_ties_seed7", "olmo2__slerp_gradient_filter", "olmo2__sce"])
def test_a_merge_is_computed_again_from_its_merge_json(tmp_path, cli, case):
    assert cli("run", GOLDEN / f"yaml/{case}.yml", tmp_path / "out", "--root", GOLDEN)[0] == 0
    assert cli("verify", tmp_path / "out")[0] == 0


def test_a_merge_with_chosen_tokens_is_computed_again_from_its_merge_json(tmp_path, cli, write_checkpoint):
    for name, tokens in {"a": ["x", "y"], "b": ["y", "z", "q"]}.items():
        tensors = {
            "model.embed_tokens.weight": np.random.default_rng(1)
            .standard_normal((len(tokens), 3))
            .astype("f4")
        }
        folder = write_checkpoint(name, tensors, config={"vocab_size": len(tokens)})
        vocabulary = {token: i for i, token in enumerate(tokens)}
        content = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "y"}}
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    text = """
merge_method: task_arithmetic
base_model: a
models: [{model: b, parameters: {weight: [{filter: embed, value: 0.5}, {value: 1}]}}]
tokenizer:
  source: union
  pad_to_multiple_of: 3
  tokens:
    z: {source: a, force: true}
    x: {source: {kind: model_token, model: b, token: q}}
    q: {source: {kind: zero}, force: true}
"""
    file = tmp_path / "merge.yaml"
    file.write_text(
        text.replace("source: a,", "source: {kind: model_token, model: a, token_id: 1},"), encoding="utf-8"
    )
    assert cli("run", file, tmp_path / "out", "--root", tmp_path)[0] == 0
    code, output, errors = cli("verify", tmp_path / "out")
    assert (code, errors.count("error")) == (0, 0), output + errors
