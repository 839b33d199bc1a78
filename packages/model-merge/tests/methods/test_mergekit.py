"""What a mergekit file means: models, slices, modules, parameters at every level; and what is refused."""

import numpy as np
import pytest

from model_merge.checks import IncompatibleError
from model_merge.mergekit import plan_from_yaml


def tensors(value, layers=3, dtype=np.float32, prefix="model."):
    """Every tensor of a tiny model, each with a value of its own that tells the layer."""
    found = {f"{prefix}embed_tokens.weight": np.full((4, 2), value, dtype)}
    for layer in range(layers):
        for part in ("self_attn.q_proj", "mlp.up_proj"):
            found[f"{prefix}layers.{layer}.{part}.weight"] = np.full((2, 2), value + layer / 10, dtype)
    found[f"{prefix}norm.weight"] = np.full(2, value, dtype)
    found["lm_head.weight"] = np.full((4, 2), value, dtype)
    return found


@pytest.fixture
def root(tmp_path, write_checkpoint):
    """Models a (all 1), b (2), c (4) and a base (0)."""
    for name, value in {"base": 0, "a": 1, "b": 2, "c": 4}.items():
        config = {"num_hidden_layers": 3, "vocab_size": 4, "dtype": "float32", "name": name}
        write_checkpoint(name, tensors(value), config=config)
    return tmp_path


@pytest.fixture
def merged(root, execute_plan):
    """The first element of every tensor of a merge."""

    def merged(text, **options):
        plan = plan_from_yaml(text, root, **options)
        return {name: float(tensor.reshape(-1)[0]) for name, tensor in execute_plan(plan).items()}

    return merged


def test_parameters_are_taken_from_the_innermost_level_that_has_them(merged):
    text = """
merge_method: linear
parameters: {weight: 3, normalize: false}
slices:
- sources:
  - {model: a, layer_range: [0, 1], parameters: {weight: 10}}
  - {model: b, layer_range: [0, 1]}
  parameters: {weight: 100}
- sources:
  - {model: a, layer_range: [1, 2]}
  - {model: b, layer_range: [1, 2]}
"""
    found = merged(text)
    assert found["model.layers.0.mlp.up_proj.weight"] == pytest.approx(10 * 1 + 100 * 2)
    assert found["model.layers.1.mlp.up_proj.weight"] == pytest.approx(3 * 1.1 + 3 * 2.1)
    assert found["model.embed_tokens.weight"] == pytest.approx(10 * 1 + 100 * 2)  # of the first slice
    assert found["lm_head.weight"] == pytest.approx(3 * 1 + 3 * 2)  # of the last one


def test_modules_are_prefixes_and_have_parameters_between_slice_and_file(
    tmp_path, write_checkpoint, execute_plan
):
    for name, value in {"a": 1, "b": 2}.items():
        vision = {f"vision.{key}": tensor for key, tensor in tensors(value, prefix="").items()}
        write_checkpoint(name, {**tensors(value), **vision})
    text = """
merge_method: linear
parameters: {weight: 1, normalize: false}
modules:
  vision: {models: [{model: a}], parameters: {weight: 7}}
  default: {models: [{model: a}, {model: b, parameters: {weight: 5}}]}
"""
    found = execute_plan(plan_from_yaml(text, tmp_path))
    assert found["vision.norm.weight"][0] == 7
    assert found["model.norm.weight"][0] == 1 + 5 * 2
    assert len(found) == 18


def test_gradients_run_over_the_layers_and_begin_outside_of_them(merged):
    text = """
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters:
  t: [0.0, 0.5, 1.0]
"""
    found = merged(text)
    layers = [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(3)]
    assert layers == pytest.approx([1.0, (1.1 + 2.1) / 2, 2.2])
    assert found["model.embed_tokens.weight"] == found["model.norm.weight"] == found["lm_head.weight"] == 1.0


def test_filters_choose_by_a_part_of_the_name_and_the_outer_level_steps_in(merged):
    text = """
merge_method: linear
parameters:
  normalize: false
  weight: 100
models:
- model: a
  parameters:
    weight: [{filter: self_attn, value: [1, 3]}, {filter: mlp, value: 0.5}]
"""
    found = merged(text)
    assert found["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(1)
    assert found["model.layers.1.self_attn.q_proj.weight"] == pytest.approx(2 * 1.1)
    assert found["model.layers.2.mlp.up_proj.weight"] == pytest.approx(0.6)
    assert found["model.norm.weight"] == 100


def test_a_list_of_truths_is_stepped_and_a_slice_of_one_layer_takes_the_last_value(merged):
    text = """
merge_method: linear
models: [{model: b, parameters: {weight: 3}}]
parameters: {normalize: [false, true]}
"""
    found = merged(text)
    normalized = [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(3)]
    assert normalized == pytest.approx([6.0, 6.3, 2.2])
    one = """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [1, 2], parameters: {scale: [5, 6, 7]}}]
"""
    assert merged(one)["model.layers.0.mlp.up_proj.weight"] == pytest.approx(7 * 1.1)


def test_slices_stack_layers_and_the_config_counts_them(root, execute_plan):
    text = """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 3]}]
"""
    plan = plan_from_yaml(text, root)
    assert plan.config_changes == {"num_hidden_layers": 4}
    assert all(tensor.prepare is None for tensor in plan.tensors)  # bytes are copied
    found = execute_plan(plan)
    assert [float(found[f"model.layers.{layer}.mlp.up_proj.weight"][0, 0]) for layer in range(4)] == [
        np.float32(value) for value in (1.0, 1.1, 2.1, 2.2)
    ]
    assert found["model.embed_tokens.weight"][0, 0] == 1
    assert found["lm_head.weight"][0, 0] == 2
    assert len(found) == 4 * 2 + 3


def test_the_base_is_added_to_models_that_do_not_name_it_and_comes_first(root):
    text = "{merge_method: task_arithmetic, base_model: base, models: [{model: a, parameters: {weight: 1}}]}"
    plan = plan_from_yaml(text, root)
    assert [reference.checkpoint for reference in plan.tensors[0].inputs] == [1, 0]
    assert plan.checkpoints[plan.donor].config["name"] == "base"


def test_without_a_base_the_first_model_of_the_file_is_the_donor(root):
    text = "{merge_method: karcher, models: [{model: c}, {model: a}]}"
    plan = plan_from_yaml(text, root)
    assert plan.checkpoints[plan.donor].config["name"] == "c"


def test_a_model_may_be_given_twice(merged):
    text = """
merge_method: linear
parameters: {weight: 1}
models: [{model: a}, {model: b}, {model: a}]
"""
    assert merged(text)["model.norm.weight"] == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("keys", "written", "config"),
    [
        ("", "F32", {}),
        ("dtype: bfloat16", "BF16", {"dtype": "bfloat16"}),
        ("dtype: float32\nout_dtype: float16", "F16", {"dtype": "float16"}),
    ],
)
def test_dtype_and_out_dtype_choose_what_is_written(root, keys, written, config):
    text = f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}]\n{keys}"
    plan = plan_from_yaml(text, root)
    assert {tensor.dtype for tensor in plan.tensors} == {written}
    assert plan.config_changes == config


def test_int8_mask_is_taken_by_every_method(merged):
    text = "{merge_method: karcher, models: [{model: a}, {model: b}], parameters: {int8_mask: true}}"
    assert merged(text)["model.norm.weight"] == pytest.approx(1.5)


def test_models_may_have_signs_in_their_names_or_be_mappings(tmp_path, write_checkpoint):
    for name in ("a+b@c", "plain"):
        write_checkpoint(name, tensors(1))
    text = """
merge_method: karcher
models:
- model: a+b@c
- model: {path: plain}
- model: {model: {path: plain}}
"""
    plan = plan_from_yaml(text, tmp_path)
    assert [checkpoint.path.name for checkpoint in plan.checkpoints] == ["a+b@c", "plain"]


def test_the_expression_names_no_path(tmp_path, write_checkpoint):
    for name in ("a", "b", "other_a", "other_b"):
        write_checkpoint(name, tensors(1))
    text = (
        "{{merge_method: linear, parameters: {{weight: [1, 2]}}, models: [{{model: {0}a}}, {{model: {0}b}}]}}"
    )
    plans = [plan_from_yaml(text.format(prefix), tmp_path) for prefix in ("", "other_")]
    assert plans[0].expression == plans[1].expression


def test_tensors_that_are_no_numbers_are_copied_where_all_agree(tmp_path, write_checkpoint, execute_plan):
    steps = np.array([1, 2, 3], np.int64)
    for name, value in {"a": 1, "b": 2, "c": 3}.items():
        write_checkpoint(name, {**tensors(value), "model.steps": steps + (value == 3)})
    text = "{{merge_method: karcher, models: [{{model: a}}, {{model: {0}}}]}}"
    sliced = "{{merge_method: karcher, modules: {{default: {{models: [{{model: a}}, {{model: {0}}}]}}}}}}"
    found = execute_plan(plan_from_yaml(text.format("b"), tmp_path))
    np.testing.assert_array_equal(found["model.steps"], steps)
    with pytest.raises(ValueError, match=r"can only be copied: model\.steps"):
        plan_from_yaml(text.format("c"), tmp_path)
    with pytest.raises(
        ValueError, match=r"'model\.steps' is I64, which is copied and not merged, and differs"
    ):
        plan_from_yaml(sliced.format("c"), tmp_path)


@pytest.mark.parametrize("written_as", ["models: [{0}, {1}]", "modules: {{default: {{models: [{0}, {1}]}}}}"])
def test_every_missing_tensor_and_every_shape_that_differs_is_told_at_once(
    tmp_path, write_checkpoint, written_as
):
    write_checkpoint("a", tensors(1))
    other = tensors(2) | {
        "model.extra": np.ones(3, np.float32),
        "lm_head.weight": np.ones((5, 2), np.float32),
    }
    del other["model.norm.weight"]
    write_checkpoint("b", other)
    text = "{merge_method: karcher, " + written_as.format("{model: a}", "{model: b}") + "}"
    with pytest.raises(IncompatibleError, match="3 problems") as caught:
        plan_from_yaml(text, tmp_path)
    message = str(caught.value)
    assert "b' lacks" in message
    assert "model.norm.weight" in message
    assert "model.extra" in message
    assert "lm_head.weight" in message
    assert "[4, 2] and [5, 2]" in message


def test_a_layer_that_a_slice_does_not_find_whole_is_told(tmp_path, write_checkpoint):
    write_checkpoint("a", tensors(1))
    other = tensors(2)
    del other["model.layers.1.mlp.up_proj.weight"]
    write_checkpoint("b", other)
    text = """
merge_method: karcher
slices: [{sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]}]
"""
    with pytest.raises(IncompatibleError, match=r"b' lacks in layer 1 of slices\[0\] 'mlp.up_proj.weight'"):
        plan_from_yaml(text, tmp_path)


SLICED = """
merge_method: slerp
base_model: a
parameters: {t: 0.5}
slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}]
"""


def test_slices_too_want_models_that_mean_the_same(tmp_path, write_checkpoint):
    config = {"rope_theta": 10000.0, "num_hidden_layers": 3, "vocab_size": 4}
    write_checkpoint("a", tensors(1), config=config)
    write_checkpoint("b", tensors(2, layers=2), config=config | {"num_hidden_layers": 2})
    assert plan_from_yaml(SLICED, tmp_path).config_changes == {"num_hidden_layers": 2}
    (tmp_path / "b/config.json").write_text('{"rope_theta": 500000.0}', encoding="utf-8")
    with pytest.raises(IncompatibleError, match=r"rope_theta 10000\.0 and .*500000\.0"):
        plan_from_yaml(SLICED, tmp_path)
    (tmp_path / "b/config.json").write_text(
        '{"quantization_config": {"quant_method": "awq"}}', encoding="utf-8"
    )
    with pytest.raises(IncompatibleError, match=r"is quantised \(awq\)"):
        plan_from_yaml(SLICED, tmp_path)


TIES = "{merge_method: ties, base_model: base, models: [{model: a, parameters: {weight: 1, %s}}]}"
BAD = {
    "wieght": (
        "{merge_method: linear, models: [{model: a, parameters: {wieght: 1}}]}",
        r"models\[0\].parameters.wieght: linear has no such parameter, did you mean 'weight'\?",
    ),
    "out_dytpe": (
        "{merge_method: linear, models: [{model: a, parameters: {weight: 1}}], out_dytpe: float32}",
        "out_dytpe: unknown key, did you mean 'out_dtype'?",
    ),
    "nested key": (
        "{merge_method: linear, slices: [{sources: [{model: a, layer_range: [0, 1]}], residual: 1}]}",
        r"slices\[0\].residual: unknown key \(known here: sources, base_model, parameters\)",
    ),
    "density 50": (
        TIES % "density: 50",
        r"models\[0\].parameters.density: density is 50, must be between 0 and 1",
    ),
    "density in a filter": (
        TIES % "density: [{filter: mlp, value: [0.5, 2]}]",
        "density is 2, must be between 0 and 1",
    ),
    "word for number": (TIES % "density: half", "density is 'half', must be a number"),
    "filter key": (
        TIES % "density: [{fliter: mlp, value: 1}]",
        "unknown key 'fliter' .known here: filter, value",
    ),
    "method": (
        "{merge_method: della, models: [{model: a}]}",
        "merge_method: 'della' is not known here .known: linear, slerp",
    ),
    "shared of a model": (
        TIES % "normalize: false",
        r"models\[0\].parameters.normalize: ties takes it for the whole merge",
    ),
    "both": (
        (
            "{merge_method: karcher, models: [{model: a}], "
            "slices: [{sources: [{model: b, layer_range: [0, 1]}]}]}"
        ),
        "exactly one of models, slices and modules, found models and slices",
    ),
    "none": ("{merge_method: linear}", "exactly one of models, slices and modules, found none"),
    "no method": ("{models: [{model: a}]}", "merge_method is missing"),
    "dtype": (
        "{merge_method: karcher, models: [{model: a}], dtype: int4}",
        "dtype: .*'float64'.*found 'int4'",
    ),
    "no base": (
        "{merge_method: ties, models: [{model: a, parameters: {weight: 1}}]}",
        "ties needs a base_model",
    ),
    "too many": (
        "{merge_method: slerp, base_model: a, models: [{model: b}, {model: c}], parameters: {t: 0}}",
        "models: slerp takes 1 model besides the base, found 2",
    ),
    "no weight": ("{merge_method: linear, models: [{model: a}]}", "linear needs the parameter 'weight'"),
    "zero weights": (
        (
            "{merge_method: linear, parameters: {weight: -1}, models: [{model: a, parameters: {weight: 1}}, "
            "{model: b}]}"
        ),
        "sum to zero",
    ),
    "lora": ("{merge_method: karcher, models: [{model: x/y+z/lora}]}", "LoRA adapters .* are not supported"),
    "lora mapping": (
        "{merge_method: karcher, models: [{model: {model: a, lora: b}}]}",
        r"models\[0\].model: LoRA adapters are not supported \('b'\)",
    ),
    "reference key": (
        "{merge_method: karcher, models: [{model: {paht: a}}]}",
        r"models\[0\].model: unknown key 'paht' \(known here: path, revision\)",
    ),
    "twice": (
        "merge_method: karcher\nmodels: [{model: a}]\nmerge_method: linear",
        "'merge_method' is given twice",
    ),
    "no yaml": ("a: [", "not YAML"),
    "no mapping": ("- a", "a mergekit file is a mapping with merge_method, found list"),
    "range": (
        "{merge_method: passthrough, slices: [{sources: [{model: a, layer_range: [1, 9]}]}]}",
        r"layer_range \[1, 9\] of '.*a', which has 3 layers",
    ),
    "empty range": (
        "{merge_method: passthrough, slices: [{sources: [{model: a, layer_range: [2, 2]}]}]}",
        r"slices\[0\]: layer_range \[2, 2\] holds no layer",
    ),
    "lengths": (
        (
            "{merge_method: karcher, slices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 1]}]}]}"
        ),
        r"the sources have \[1, 2\] layers, which must be the same number",
    ),
    "base in no source": (
        "{merge_method: ties, base_model: base, slices: [{sources: [{model: a, layer_range: [0, 2]}]}]}",
        r"slices\[0\]: the base model must be among the sources",
    ),
    "module": (
        "{merge_method: karcher, modules: {vision: {models: [{model: a}]}}}",
        "a' has no tensor in the module 'vision'",
    ),
    "two tokenizers": (
        "{merge_method: karcher, models: [{model: a}], tokenizer_source: union, tokenizer: {source: base}}",
        "give either tokenizer or tokenizer_source",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_refused_by_name(root, case):
    text, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        plan_from_yaml(text, root)


def test_a_model_that_is_not_there_is_told(root):
    with pytest.raises(FileNotFoundError, match="no_such"):
        plan_from_yaml("{merge_method: karcher, models: [{model: ./no_such}]}", root)


def test_tensors_outside_of_all_modules_are_told(tmp_path, write_checkpoint):
    write_checkpoint("a", {**tensors(1), "vision.norm.weight": np.ones(2, np.float32)})
    text = "{merge_method: karcher, modules: {vision: {models: [{model: a}]}}}"
    with pytest.raises(ValueError, match=r"in no module: 'model.embed_tokens.weight'"):
        plan_from_yaml(text, tmp_path)
