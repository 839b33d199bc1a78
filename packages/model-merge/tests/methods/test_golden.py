"""mergekit's own files run as they are, against what mergekit 0.1.5 wrote (tests/golden/README.md)."""

import ml_dtypes
import numpy as np
import pytest
import yaml

from model_merge.mergekit import plan_from_yaml

ROUNDED_ONCE = [
    "olmo2_bf16__linear_uniform",
    "olmo2_bf16__linear_weighted",
    "olmo2_bf16__linear_nonorm",
    "olmo2_bf16__linear_uniform_dtype_f32_out_bf16",
    "olmo2_bf16__task_arithmetic_dtype_f32_out_bf16",
]
IN_BF16 = [
    "task_arithmetic",
    "ties",
    "ties_nonorm",
    "breadcrumbs",
    "sce",
    "model_stock",
    "karcher",
    "multislerp",
    "nuslerp",
    "nuslerp_base_rowwise",
]
F32 = [
    *(name for name in IN_BF16),
    *("linear_uniform", "linear_weighted", "linear_nonorm", "slerp_t035", "slerp_gradient_filter", "slices"),
]


@pytest.fixture
def run(golden, execute_plan, read_tensors):
    """(ours, mergekit's) of a golden case."""

    def run(name, **options):
        plan = plan_from_yaml(golden / "yaml" / f"{name}.yml", golden, **options)
        return execute_plan(plan), read_tensors(golden / "mergekit" / f"{name}.safetensors")

    return run


@pytest.mark.parametrize("case", F32)
def test_float32_merges_agree_to_3e_7_of_the_largest_weight(run, case):
    ours, theirs = run(f"olmo2__{case}")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], tensor, rtol=0, atol=3e-7 * np.abs(tensor).max(), err_msg=name)


@pytest.mark.parametrize("case", ROUNDED_ONCE)
def test_bfloat16_merges_that_mergekit_rounds_once_agree(run, case):
    ours, theirs = run(case)
    bits = [
        np.concatenate([one[name].reshape(-1).view(np.int16) for name in theirs]) for one in (ours, theirs)
    ]
    apart = np.abs(bits[0].astype(int) - bits[1])
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.001


def test_slerp_of_bfloat16_agrees_but_for_the_rounding_of_two_elements(run):
    ours, theirs = run("olmo2_bf16__slerp_t035")
    pairs = [(ours[name].astype(np.float64), theirs[name].astype(np.float64)) for name in theirs]
    assert sum(np.count_nonzero(one != other) for one, other in pairs) <= 2
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=2**-7, atol=3e-7 * np.abs(other).max())


def in_float64(golden, read_tensors, twin, case):
    """The formula, in float64, of the BF16 inputs; nothing is rounded."""
    config = yaml.safe_load((golden / "yaml" / f"olmo2_bf16__{case}.yml").read_text(encoding="utf-8"))
    base = read_tensors(golden / config["base_model"]) if "base_model" in config else None
    models = [read_tensors(golden / entry["model"]) for entry in config["models"]]
    parameters = [entry.get("parameters", {}) for entry in config["models"]]
    return {
        name: twin(
            config["merge_method"],
            [model[name] for model in models],
            base=None if base is None else base[name],
            models=parameters,
            **config.get("parameters", {}),
        )
        for name in models[0]
    }


@pytest.mark.parametrize("case", IN_BF16)
def test_bfloat16_merges_are_nearer_to_float64_than_mergekit_s(run, golden, read_tensors, twin, case):
    ours, theirs = run(f"olmo2_bf16__{case}")
    truth = in_float64(golden, read_tensors, twin, case)
    correct = {name: value.astype(ml_dtypes.bfloat16) for name, value in truth.items()}
    wrong = [
        np.mean(np.concatenate([(one[name] != correct[name]).reshape(-1) for name in truth]))
        for one in (ours, theirs)
    ]
    assert wrong[0] <= 0.002  # exact ties of decimal weights, which no binary arithmetic decides
    assert wrong[1] >= 0.15  # mergekit computes in bfloat16


@pytest.mark.parametrize("case", ["olmo2__dare_ties_seed7"])
def test_dare_drops_as_many_as_it_should_with_a_generator_of_our_own(run, golden, read_tensors, case):
    ours, theirs = run(case, seed=7)
    base = read_tensors(golden / "models/olmo2_base")
    moved = [
        np.concatenate([(one[name] != base[name]).reshape(-1) for name in base]).mean()
        for one in (ours, theirs)
    ]
    assert abs(moved[0] - moved[1]) < 0.01
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
