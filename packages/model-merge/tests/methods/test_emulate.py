"""compat: the files that mergekit and ez-data-ablations wrote, bit for bit."""

from fractions import Fraction

import numpy as np
import pytest

from model_merge.expression import Leaf, average
from model_merge.linear import plan_linear
from model_merge.mergekit import plan_from_yaml

EQUAL = ["linear_uniform", "linear_weighted", "linear_nonorm", "task_arithmetic"]
RANKED = ["ties", "ties_nonorm", "breadcrumbs"]


@pytest.fixture
def differing(golden, execute_plan, read_tensors):
    """How many elements differ from a golden file."""

    def differing(case, compat="mergekit"):
        plan = plan_from_yaml(golden / "yaml" / f"{case}.yml", golden, compat=compat)
        ours, theirs = execute_plan(plan), read_tensors(golden / "mergekit" / f"{case}.safetensors")
        return sum(
            np.count_nonzero(ours[name].view(np.uint8) != theirs[name].view(np.uint8)) for name in theirs
        )

    return differing


@pytest.mark.parametrize("case", [*EQUAL, *RANKED])
def test_float32_merges_are_mergekit_s_to_the_bit(differing, case):
    assert differing(f"olmo2__{case}") == 0


@pytest.mark.parametrize(
    "case", [*EQUAL, "linear_uniform_dtype_f32_out_bf16", "task_arithmetic_dtype_f32_out_bf16"]
)
def test_bfloat16_merges_are_mergekit_s_to_the_bit_where_nothing_is_sorted(differing, case):
    assert differing(f"olmo2_bf16__{case}") == 0


@pytest.mark.parametrize("case", RANKED)
def test_bfloat16_merges_differ_from_mergekit_s_in_the_order_of_equal_magnitudes_only(
    golden, execute_plan, read_tensors, case
):
    plan = plan_from_yaml(golden / "yaml" / f"olmo2_bf16__{case}.yml", golden, compat="mergekit")
    ours = execute_plan(plan)
    theirs = read_tensors(golden / "mergekit" / f"olmo2_bf16__{case}.safetensors")
    wrong = sum(np.count_nonzero(ours[name] != theirs[name]) for name in theirs)
    assert 0 < wrong < 100  # of 26,880; without compat over 5,000


@pytest.mark.parametrize("family", ["olmo2", "olmo2_bf16"])
def test_the_average_of_ez_data_ablations_is_theirs_to_the_bit(golden, execute_plan, read_tensors, family):
    plan = plan_from_yaml(golden / "yaml" / f"{family}__linear_uniform.yml", golden, compat="ez")
    ours = execute_plan(plan)
    theirs = read_tensors(golden / "ez" / f"save_uniform_avg_{family}.safetensors")
    assert {name[6:] for name in ours} == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.view(np.uint8), theirs[name[6:]].view(np.uint8), err_msg=name)


@pytest.mark.parametrize("case", ["karcher", "sce", "slerp_t035", "dare_ties_seed7", "model_stock"])
def test_what_depends_on_torch_s_sums_or_generator_is_refused(golden, case):
    with pytest.raises(ValueError, match="cannot be followed bit for bit"):
        plan_from_yaml(golden / "yaml" / f"olmo2__{case}.yml", golden, compat="mergekit")


def test_a_weighted_average_of_the_command_is_the_file_s(golden, execute_plan):
    names = [str(golden / "models" / f"olmo2_{name}") for name in ("m1", "m2", "m3")]
    entries = [
        f"{{model: {name}, parameters: {{weight: {weight}}}}}"
        for name, weight in zip(names, ("0.2", "0.3", "0.4"), strict=True)
    ]
    of_file = plan_from_yaml(f"{{merge_method: linear, models: [{', '.join(entries)}]}}", compat="mergekit")
    weights = [Fraction(2, 10), Fraction(3, 10), Fraction(4, 10)]
    of_command = plan_linear(average([Leaf(name) for name in names], weights), compat="mergekit")
    ours, theirs = execute_plan(of_command), execute_plan(of_file)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name].view(np.uint32), tensor.view(np.uint32), err_msg=name)


def test_ez_only_averages(golden):
    with pytest.raises(ValueError, match="equal weights"):
        plan_from_yaml(golden / "yaml/olmo2__linear_weighted.yml", golden, compat="ez")
    with pytest.raises(ValueError, match="there is no ties of it"):
        plan_from_yaml(golden / "yaml/olmo2__ties.yml", golden, compat="ez")
