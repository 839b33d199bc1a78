import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model_merge.cli import app
from model_merge.convert import convert

torch = pytest.importorskip("torch")

GOLDEN = Path(__file__).parent / "golden" / "ez"


def run(*words):
    return CliRunner().invoke(app, ["convert", *map(str, words)])


def make_state(*, dtype=torch.float32):
    embeddings = torch.arange(12, dtype=torch.float32).reshape(4, 3).to(dtype)
    return {
        "model.embed_tokens.weight": embeddings,
        "model.layers.0.mlp.weight": torch.linspace(-1, 1, 6).reshape(2, 3).T.to(dtype),  # not contiguous
        "lm_head.weight": embeddings,
        "steps": torch.tensor(7),
    }


def as_torch(found):
    """Tensors of a folder as torch has them."""
    return {
        name: torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        if array.dtype.name == "bfloat16"
        else torch.from_numpy(array.copy())
        for name, array in found.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_every_value_of_a_pickled_model_is_kept(tmp_path, load_tensors, name, dtype):
    source = tmp_path / "source"
    source.mkdir()
    state = make_state(dtype=dtype)
    torch.save(state, source / name)
    (source / "tokenizer.json").write_text("{}", encoding="utf-8")
    convert(source, tmp_path / "out")
    written = as_torch(load_tensors(tmp_path / "out"))
    assert written.keys() == state.keys() - {"lm_head.weight"}
    for key, tensor in written.items():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(tensor, state[key])
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert not (tmp_path / "out" / name).exists()


def test_a_tied_output_layer_is_written_once_and_named(tmp_path):
    torch.save(make_state(), tmp_path / "model.pt")
    result = run(tmp_path / "model.pt", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert json.loads(result.stdout)["num_tensors"] == 3


def test_an_equal_but_separate_output_layer_is_not_tied(tmp_path, load_tensors):
    state = make_state()
    torch.save(state | {"lm_head.weight": state["lm_head.weight"].clone()}, tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "out")["tied"] == {}
    assert "lm_head.weight" in load_tensors(tmp_path / "out")


def test_a_config_that_says_untied_is_believed(tmp_path, load_tensors):
    source = tmp_path / "source"
    source.mkdir()
    torch.save(make_state(), source / "pytorch_model.bin")
    (source / "config.json").write_text('{"tie_word_embeddings": false}', encoding="utf-8")
    assert convert(source, tmp_path / "out")["tied"] == {}
    assert "lm_head.weight" in load_tensors(tmp_path / "out")


def write_shards(folder, shards):
    folder.mkdir()
    weight_map = {}
    for file, state in shards.items():
        torch.save(state, folder / file)
        weight_map |= dict.fromkeys(state, file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return index


def test_shards_are_joined_and_their_index_stays_behind(tmp_path, load_tensors):
    state = make_state()
    first = {name: state[name] for name in list(state)[:2]}
    write_shards(tmp_path / "s", {"a-1.bin": first, "a-2.bin": {"steps": state["steps"]}})
    convert(tmp_path / "s", tmp_path / "out")
    assert load_tensors(tmp_path / "out").keys() == {*first, "steps"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conversion.json",
        "model.safetensors",
    ]


def test_shards_that_are_missing_or_elsewhere_or_repeat_a_tensor_are_refused(tmp_path):
    state = make_state()
    index = write_shards(tmp_path / "s", {"a.bin": {"steps": state["steps"]}})
    index.write_text('{"weight_map": {"steps": "a.bin", "x": "b.bin"}}', encoding="utf-8")
    assert "lacks the shards b.bin" in str(run(tmp_path / "s", tmp_path / "out").exception)
    index.write_text('{"weight_map": {"x": "../b.bin"}}', encoding="utf-8")
    assert "outside of its folder: '../b.bin'" in str(run(tmp_path / "s", tmp_path / "out").exception)
    torch.save({"steps": state["steps"]}, tmp_path / "s" / "b.bin")
    index.write_text('{"weight_map": {"steps": "a.bin", "x": "b.bin"}}', encoding="utf-8")
    assert "'steps' is in 'b.bin' and in a file before it" in str(
        run(tmp_path / "s", tmp_path / "out").exception
    )


@pytest.mark.parametrize("place", [["state", "model"], ["state_dict"], ["model"]])
def test_weights_are_found_inside_a_trainers_checkpoint(tmp_path, load_tensors, place):
    content = {"w": torch.ones(2)}
    for key in reversed(place):
        content = {key: content, "step": 4}
    torch.save(content, tmp_path / "latest.pt")
    convert(tmp_path / "latest.pt", tmp_path / "out")
    assert load_tensors(tmp_path / "out")["w"].tolist() == [1, 1]


class Command:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def test_nothing_but_tensors_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "surprise": Command()}, tmp_path / "model.pt")
    Path("plain.bin").write_bytes(pickle.dumps({"w": Command()}))
    for name in ("model.pt", "plain.bin"):
        assert "holds more than tensors, and nothing else is ever unpickled" in str(
            run(name, "out").exception
        )
    assert not Path("was-run").exists()
    assert not Path("out").exists()


def test_damaged_files_and_files_without_weights_are_refused(tmp_path):
    torch.save(make_state(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    assert "is damaged or cut off" in str(run(tmp_path / "cut.pt", tmp_path / "out").exception)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no tensors by name" in str(run(tmp_path / "list.pt", tmp_path / "out").exception)
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    assert "'w' is a sparse_coo tensor" in str(run(tmp_path / "sparse.pt", tmp_path / "out").exception)
    assert "no checkpoint at" in str(run(tmp_path / "absent", tmp_path / "out").exception)
    (tmp_path / "empty").mkdir()
    assert "no weights in" in str(run(tmp_path / "empty", tmp_path / "out").exception)
    assert "name the one to convert" in str(run(tmp_path, tmp_path / "out").exception)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path):
    torch.save(make_state(), tmp_path / "model.pt")
    assert run(tmp_path / "model.pt", tmp_path / "out").exit_code == 0
    assert "exists: remove it" in str(run(tmp_path / "model.pt", tmp_path / "out").exception)
    assert run(tmp_path / "model.pt", tmp_path / "out", "--overwrite").exit_code == 0


def test_a_composer_checkpoint_gets_the_names_and_identities_of_upstreams_converter(tmp_path, load_tensors):
    convert(GOLDEN / "convert_in.safetensors", tmp_path / "out", names="olmo")
    written = load_tensors(tmp_path / "out")
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "model.safetensors").write_bytes((GOLDEN / "convert_out.safetensors").read_bytes())
    expected = load_tensors(tmp_path / "golden")
    assert written.keys() == expected.keys()
    for name, array in expected.items():
        assert written[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("prefix", ["", "model."])
def test_olmo_and_hf_olmo_names_lead_back_to_composers(tmp_path, load_tensors, write_checkpoint, prefix):
    convert(GOLDEN / "convert_in.safetensors", tmp_path / "olmo", names="olmo")
    olmo = {prefix + name: array for name, array in load_tensors(tmp_path / "olmo").items()}
    source = write_checkpoint("hf", olmo, config={"n_heads": 2, "eos_token_id": 3, "rope": True})
    convert(source, tmp_path / "back", names="customgpt")
    back = load_tensors(tmp_path / "back")
    convert(GOLDEN / "convert_in.safetensors", tmp_path / "direct", names="customgpt")
    direct = load_tensors(tmp_path / "direct")
    assert back.keys() == direct.keys()
    assert all(np.array_equal(back[name], direct[name]) for name in back)
    config = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    assert config == {
        "architectures": ["CustomGPTForCausalLM"],
        "model_type": "customgpt",
        "vocab_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "eos_token_id": 3,
    }
    plain = convert(source, tmp_path / "plain", names="olmo")
    assert load_tensors(tmp_path / "plain").keys() == load_tensors(tmp_path / "olmo").keys()
    assert plain["added"] == []


def test_other_models_are_not_taken_for_those_of_ez(tmp_path, write_checkpoint, load_tensors):
    other = write_checkpoint("llama", {"model.layers.0.w": np.ones(2, dtype=np.float32)})
    assert "are no tensors of ez-data-ablations" in str(
        run(other, tmp_path / "o", "--names", "olmo").exception
    )
    assert "has no 'model.wte.weight'" in str(run(other, tmp_path / "o", "--names", "customgpt").exception)
    convert(GOLDEN / "convert_in.safetensors", tmp_path / "olmo", names="olmo")
    tensors = load_tensors(tmp_path / "olmo")
    rope = write_checkpoint("rope", tensors, config={"alibi": True, "n_heads": 2})
    assert "another architecture than customgpt: alibi True" in str(
        run(rope, tmp_path / "o", "--names", "customgpt").exception
    )
    trained = tensors | {
        "transformer.blocks.1.attn_out.weight": tensors["transformer.blocks.0.attn_out.weight"] * 2
    }
    projected = write_checkpoint("projected", trained, config={"n_heads": 2})
    message = str(run(projected, tmp_path / "o", "--names", "customgpt").exception)
    assert "'transformer.blocks.1.attn_out.weight' is not the identity" in message
    assert not (tmp_path / "o").exists()
