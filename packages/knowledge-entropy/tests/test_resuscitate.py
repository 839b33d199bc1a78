"""The published rule, bit for bit, and what it does to every family."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from knowledge_entropy.convert import convert
from knowledge_entropy.files import read_coefficients, write_coefficients
from knowledge_entropy.measure import measure
from knowledge_entropy.reference import Reference, parse_reference
from knowledge_entropy.resuscitate import plan_change, plan_changes, resuscitate
from knowledge_entropy.revive import Request, revive

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def saved(tmp_path):
    """Save upstream's coefficients of rows A as it saves them."""
    with np.load(GOLDEN / "entropy.npz") as arrays:
        torch.save(torch.from_numpy(arrays["A_tok_avg_coeff"]), tmp_path / "mlp_average_coefficients.pt")
    return tmp_path / "mlp_average_coefficients.pt"


@pytest.mark.parametrize(("ratio", "factor"), [(0.5, 2.0), (0.25, 1.0)])
def test_the_changed_weights_are_the_published_ones_to_the_bit(ratio, factor, saved, tmp_path, golden_rows):
    request = Request(str(GOLDEN / "tiny_olmo_hf"), saved, ratio, factor)
    record = revive(request, tmp_path / "out", golden_rows["A"], device=torch.device("cpu"))
    new, old = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", GOLDEN / "tiny_olmo_hf")
    )
    with np.load(GOLDEN / f"resuscitated_ratio{ratio}_q{factor}.npz") as golden:
        for layer in range(3):
            expected = golden[f"layer{layer}_up_proj_weight"]
            name = f"model.layers.{layer}.mlp.up_proj.weight"
            assert np.array_equal(new.pop(name).numpy(), expected)
            old.pop(name)
        assert record["entropy_after"] == pytest.approx(golden["new_entropy_per_layer"].sum(), abs=3e-6)
        measured = read_coefficients(tmp_path / "out" / "coefficients.safetensors")[0]["mean_abs"]
        assert_allclose(measured * 64, golden["new_avg_coeff"], rtol=1e-5)
    assert all(torch.equal(new[name], old[name]) for name in old)
    assert json.loads((tmp_path / "out" / "resuscitation.json").read_text(encoding="utf-8")) == record
    assert not list(tmp_path.glob("*.measuring"))
    assert not list(tmp_path.glob("*.tmp"))


def test_in_the_first_layer_changed_units_become_factor_times_the_mean(golden_model, golden_rows, tmp_path):
    before = measure(golden_model, golden_rows["A"]).coefficients.mean_abs
    changes = plan_changes(before, ratio=0.5, factor=2.0)
    resuscitate(Reference(str(GOLDEN / "tiny_olmo_hf")), changes, tmp_path / "out", record={})
    after = measure(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), golden_rows["A"]).coefficients
    chosen = changes[0].selected.numpy()
    assert chosen.sum() == 64  # floor(0.5 * 127) + 1
    assert_allclose(after.mean_abs[0][chosen], 2 * before[0].mean(), rtol=1e-5)
    assert_allclose(after.mean_abs[0][~chosen], before[0][~chosen], rtol=1e-6)


def test_dead_units_are_left_alone_and_counted():
    change = plan_change(torch.tensor([0.0, 1.0, 2.0, 5.0]), ratio=0.5, factor=1.0)
    assert change.multipliers.tolist() == [1.0, 2.0, 1.0, 1.0]
    assert (change.dead, change.capped) == (1, 0)


def test_a_cap_holds_multipliers_down_and_is_counted():
    change = plan_change(torch.tensor([0.5, 1.0, 2.0, 4.5]), ratio=0.5, factor=1.0, max_multiplier=3.0)
    assert change.multipliers.tolist() == [3.0, 2.0, 1.0, 1.0]
    assert change.capped == 1


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt-neox", "opt", "phi", "starcoder2"])
def test_scaling_a_unit_scales_what_goes_into_its_activation(family, make_family, tmp_path):
    make_family(family).save_pretrained(tmp_path / "model")
    coefficients = np.ones((2, 24))
    coefficients[0, 5] = 0.25  # multiplier 4 * mean: 3.875
    resuscitate(
        Reference(str(tmp_path / "model")),
        plan_changes(coefficients, ratio=0.0, factor=1.0),
        tmp_path / "out",
        record={},
    )
    old, new = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("model", "out"))
    inputs = torch.tensor([[3, 4, 5, 6]])
    outputs = []
    for model in (old, new):
        seen = []
        for name, module in model.named_modules():
            if name.endswith(("up_proj", "c_fc", "dense_h_to_4h", "fc1")):
                module.register_forward_hook(
                    lambda _, __, out, seen=seen: seen.append(out.reshape(-1, out.shape[-1]))
                )
        with torch.no_grad():
            model(inputs)
        outputs.append(seen[0])
    unit = 5 + (24 if family == "phi3" else 0)
    expected = outputs[0].clone()
    expected[:, unit] *= (23 + 0.25) / 24 / 0.25
    torch.testing.assert_close(outputs[1], expected, rtol=1e-5, atol=1e-6)


def test_wrong_requests_are_refused(saved, tmp_path, golden_rows):
    model = str(GOLDEN / "tiny_olmo_hf")
    with pytest.raises(ValueError, match=r"--ratio 1.5"):
        plan_changes(np.ones((1, 2)), ratio=1.5, factor=1.0)
    with pytest.raises(ValueError, match="must be above 0"):
        plan_changes(np.ones((1, 2)), ratio=0.5, factor=0.0)
    changes = plan_changes(np.ones((2, 24)), ratio=0.5, factor=1.0)
    with pytest.raises(ValueError, match=r"of 2 layers of 24 units, model .* has 3 layers of 128"):
        resuscitate(parse_reference(model), changes, tmp_path / "out", record={})
    write_coefficients(tmp_path / "c.safetensors", {"mean_abs": np.ones((3, 128))}, {"tokens_sha256": "0"})
    request = Request(model, tmp_path / "c.safetensors", 0.5, 1.0)
    with pytest.raises(ValueError, match="measured on other tokens"):
        revive(request, tmp_path / "out", golden_rows["A"], device=torch.device("cpu"))
    torch.save({"a": object()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="never unpickled"):
        read_coefficients(tmp_path / "bad.pt")
    assert not (tmp_path / "out").exists()


def test_a_native_checkpoint_becomes_the_same_hf_model(tmp_path):
    native = load_file(GOLDEN / "tiny_olmo_native.safetensors")
    torch.save(native, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", GOLDEN / "tiny_olmo_native.yaml", tmp_path / "hf")
    new, old = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", GOLDEN / "tiny_olmo_hf")
    )
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in old)
    ids = torch.tensor([[3, 4, 5]])
    models = [
        AutoModelForCausalLM.from_pretrained(one).eval() for one in (tmp_path / "hf", GOLDEN / "tiny_olmo_hf")
    ]
    with torch.no_grad():
        assert torch.equal(*(model(ids).logits for model in models))


def test_a_published_resuscitated_checkpoint_is_converted_up_half_first(tmp_path):
    native = load_file(GOLDEN / "tiny_olmo_native.safetensors")
    with np.load(GOLDEN / "resuscitated_ratio0.5_q2.0.npz") as golden:
        up_rows = [torch.from_numpy(golden[f"layer{layer}_up_proj_weight"]) for layer in range(3)]
    for layer, rows in enumerate(up_rows):
        native[f"transformer.blocks.{layer}.ff_proj.weight"][:128] = rows  # as the published code writes
    file = tmp_path / "resuscitation_ratio0.5_amplifying2.0.pt"
    torch.save(native, file)
    convert(file, GOLDEN / "tiny_olmo_native.yaml", tmp_path / "hf")
    new, old = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", GOLDEN / "tiny_olmo_hf")
    )
    for layer, rows in enumerate(up_rows):
        assert torch.equal(new.pop(f"model.layers.{layer}.mlp.up_proj.weight"), rows)
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_a_resuscitated_model_keeps_its_tokenizer_and_no_pickles(tmp_path, make_family):
    make_family("gpt2").save_pretrained(tmp_path / "model")
    names = ["vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja", "pytorch_model.bin"]
    for name in names:
        (tmp_path / "model" / name).write_text("{}", encoding="utf-8")
    changes = plan_changes(np.ones((2, 24)), ratio=0.5, factor=2.0)
    resuscitate(Reference(str(tmp_path / "model")), changes, tmp_path / "out", record={})
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {
        *names[:4],
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "resuscitation.json",
    }


def test_native_weights_that_do_not_belong_are_refused(tmp_path):
    native = load_file(GOLDEN / "tiny_olmo_native.safetensors")
    for change, words in (
        ({"extra": torch.ones(1)}, "1 weights its configuration has not: 'extra'"),
        ({}, "lacks"),
    ):
        wrong = {**native, **change}
        if not change:
            del wrong["transformer.blocks.1.ff_out.weight"]
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ValueError, match=words):
            convert(tmp_path / "wrong.safetensors", GOLDEN / "tiny_olmo_native.yaml", tmp_path / "hf")
    (tmp_path / "bad.yaml").write_text("model: {layer_norm_type: rms}", encoding="utf-8")
    with pytest.raises(ValueError, match="layer_norm_type 'rms'"):
        convert(tmp_path / "wrong.safetensors", tmp_path / "bad.yaml", tmp_path / "hf")
