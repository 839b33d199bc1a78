import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch

from model_merge import dtypes
from model_merge.checkpoint import open_checkpoint
from model_merge.execute import execute
from model_merge.expression import Leaf, average
from model_merge.linear import plan_linear
from model_merge.resident import count_uses, find_inexact, make_resident, round_once
from model_merge.running_sum import Reach
from model_merge.subsets import Merge, list_family, uniform

F32 = ["olmo2_m1", "olmo2_m2", "olmo2_m3"]
BF16 = ["olmo2_bf16_m1", "olmo2_bf16_m2", "olmo2_bf16_m3"]


def open_all(golden, names):
    return [open_checkpoint(golden / "models" / name) for name in names]


def merged_bytes(checkpoints, name, merge, dtype):
    """The definition: a float64 sum in the parts' order, one division, one rounding."""
    total = np.full(checkpoints[0].tensors[name].size, -0.0)
    for checkpoint, coefficient in zip(checkpoints, merge.coefficients, strict=True):
        if coefficient:
            total = total + checkpoint.read(name, compute="F64") * coefficient
    return dtypes.encode(total / merge.divisor, dtype).tobytes()


def bytes_of(tensor):
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def assert_is_merge(resident, checkpoints, merge, dtype):
    for name, target in resident.targets.items():
        assert bytes_of(target) == merged_bytes(checkpoints, name, merge, dtype), name


@pytest.mark.parametrize(("names", "dtype"), [(F32, "F32"), (BF16, "BF16")])
@pytest.mark.parametrize("family", ["all", "pairs", "simplex:1/3", "rolling:2"])
def test_the_model_has_the_bits_of_each_merge(golden, names, dtype, family):
    checkpoints = open_all(golden, names)
    merges = list_family(family, names)
    resident = make_resident(checkpoints, merges)
    for merge in [*merges, *reversed(merges)]:
        resident.become(merge)
        assert_is_merge(resident, checkpoints, merge, dtype)


@pytest.mark.parametrize(("budget", "fewest", "most"), [(0, 7, 7), (60_000, 4, 6), (250_000, 3, 3)])
def test_inputs_that_do_not_fit_are_read_again_and_give_the_same_bits(golden, budget, fewest, most):
    checkpoints = open_all(golden, F32)
    merges = list_family("all", F32)
    resident = make_resident(checkpoints, merges, budget=budget)
    for merge in merges:
        resident.become(merge)
        assert_is_merge(resident, checkpoints, merge, "F32")
    inputs = next(iter(resident.sums.values())).load.args[0]
    assert inputs.kept_bytes <= budget
    size = sum(tensor.num_bytes for tensor in checkpoints[0].tensors.values())
    assert fewest <= inputs.bytes_read / size <= most


def test_the_plan_says_how_often_a_part_is_needed():
    assert count_uses(list_family("all", ["a", "b", "c"])) == [4, 2, 1]


def test_inputs_that_fit_are_read_once(golden):
    checkpoints = open_all(golden, F32)
    merges = list_family("all", F32)
    resident = make_resident(checkpoints, merges)
    for merge in merges:
        resident.become(merge)
    inputs = next(iter(resident.sums.values())).load.args[0]
    assert inputs.bytes_read == 3 * sum(tensor.num_bytes for tensor in checkpoints[0].tensors.values())


def test_a_model_of_another_type_is_rounded_once_from_the_sum(golden):
    checkpoints = open_all(golden, F32)
    merge = Merge((1, 1, 1), 3)
    resident = make_resident(checkpoints, [merge], dtype="bfloat16")
    resident.become(merge)
    assert_is_merge(resident, checkpoints, merge, "BF16")


def test_weights_that_are_not_whole_are_merged_in_the_parts_order(golden):
    checkpoints = open_all(golden, F32)
    merges = [Merge((0.7, 0.2, 0.1), 1.0, "weighted"), Merge((1.3, 0.0, -0.3), 1.0, "weighted")]
    resident = make_resident(checkpoints, merges)
    for merge in merges:
        resident.become(merge)
        assert_is_merge(resident, checkpoints, merge, "F32")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_is_that_of_the_files(dtype):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 200_000) * 2.0 ** rng.integers(-30, 15, 200_000)
    halves = rng.integers(-(1 << 15), 1 << 15, 50_000) / 2.0**6
    ties = np.concatenate(
        [halves, halves * (1 + 2.0**-40), halves * (1 - 2.0**-40), [0.0, -0.0, 1e-45, -1e-40, 6e-8]]
    )
    values = np.concatenate([values[np.abs(values) < 60_000], ties])
    target = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
    found = bytes_of(round_once(torch.from_numpy(values.copy()), target))
    assert found == dtypes.encode(values.copy(), dtype).tobytes()


def test_a_value_that_torch_rounds_twice_is_rounded_once():
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert round_once(value, torch.bfloat16).item() == 1 + 2.0**-7


def test_positions_are_found_across_blocks_of_reading(write_checkpoint, monkeypatch):
    monkeypatch.setattr("model_merge.resident.SCAN", 7)
    values = np.ones(20, np.float32)
    other = values.copy()
    other[[3, 8, 19]] = [2.0**-40, -0.0, 0.0]
    checkpoints = [open_checkpoint(write_checkpoint(str(n), {"w": v})) for n, v in enumerate([values, other])]
    assert find_inexact(checkpoints, "w", Reach(2, negative=False)).tolist() == [3, 8]
    assert find_inexact(checkpoints, "w", None) is None


def test_a_tensor_with_many_such_positions_is_summed_afresh_whole(write_checkpoint):
    values = np.ones(20, np.float32)
    other = np.where(np.arange(20) < 3, np.float32(2.0**-40), values)
    checkpoints = [open_checkpoint(write_checkpoint(str(n), {"w": v})) for n, v in enumerate([values, other])]
    assert find_inexact(checkpoints, "w", Reach(2, negative=False)) is None


def test_nan_and_infinity_are_refused_with_tensor_and_part(golden, tmp_path, write_safetensors, load_tensors):
    folder = tmp_path / "broken"
    shutil.copytree(golden / "models/olmo2_m1", folder)
    tensors = {name: array.copy() for name, array in load_tensors(folder).items()}
    tensors["model.norm.weight"][3] = np.inf
    write_safetensors(folder / "model.safetensors", tensors)
    checkpoints = [*open_all(golden, F32[1:]), open_checkpoint(folder)]
    with pytest.raises(ValueError, match=r"'model.norm.weight' of .*broken' holds NaN or infinite values"):
        make_resident(checkpoints, list_family("all", F32))
    resident = make_resident(checkpoints, [uniform([0], 3), uniform([2], 3)])
    resident.become(uniform([0], 3))
    with pytest.raises(ValueError, match=r"'model.norm.weight' has NaN, infinite values or"):
        resident.become(uniform([2], 3))


def test_a_tied_head_follows_its_embedding(golden, tmp_path, write_safetensors, load_tensors):
    folders = []
    for name in F32[:2]:
        folder = tmp_path / name
        folder.mkdir()
        tensors = load_tensors(golden / "models" / name)
        del tensors["lm_head.weight"]
        write_safetensors(folder / "model.safetensors", tensors)
        config = json.loads((golden / "models" / name / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(
            json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8"
        )
        folders.append(folder)
    checkpoints = [open_checkpoint(folder) for folder in folders]
    merge = uniform([0, 1], 2)
    resident = make_resident(checkpoints, [merge])
    resident.become(merge)
    assert_is_merge(resident, checkpoints, merge, "F32")
    embedding = merged_bytes(checkpoints, "model.embed_tokens.weight", merge, "F32")
    assert bytes_of(resident.model.get_output_embeddings().weight.view(-1)) == embedding


def test_parts_that_differ_are_refused_with_all_that_differs(write_checkpoint):
    ones = np.ones(4, np.float32)
    first = write_checkpoint("first", {"a": ones, "b": ones, "n": np.arange(3)})
    other = write_checkpoint("other", {"a": np.ones((2, 2), np.float32), "c": ones, "n": np.arange(1, 4)})
    with pytest.raises(ValueError, match=r"(?s)4 problems.*lacks b.*has c.*differ in shape: a .*copied: n"):
        make_resident([open_checkpoint(first), open_checkpoint(other)], [Merge((1, 1), 2)])


def test_a_tensor_that_the_model_does_not_have_is_refused(golden, tmp_path, write_safetensors, load_tensors):
    folder = tmp_path / "more"
    shutil.copytree(golden / "models/olmo2_m1", folder)
    write_safetensors(
        folder / "model.safetensors", load_tensors(folder) | {"extra.weight": np.ones(3, np.float32)}
    )
    with pytest.raises(ValueError, match=r"has no place for \['extra.weight'\]"):
        make_resident([open_checkpoint(folder)], [Merge((1,), 1)])


def test_a_folder_that_is_no_language_model_is_refused(write_checkpoint):
    folder = write_checkpoint("none", {"a": np.ones(3, np.float32)}, config={"model_type": "no-such-model"})
    with pytest.raises(ValueError, match=r"cannot be opened as a language model"):
        make_resident([open_checkpoint(folder)], [Merge((1,), 1)])


def test_a_merge_beyond_the_models_type_is_refused(golden):
    merge = Merge((1e38, -1e38, 1.0), 1.0, "weighted")
    checkpoints = open_all(golden, F32)
    resident = make_resident(checkpoints, [merge], dtype="float16")
    with pytest.raises(ValueError, match=r"some beyond the largest torch\.float16"):
        resident.become(merge)


@pytest.mark.parametrize("names", [F32, BF16])
def test_every_merge_has_the_bits_of_the_file_that_average_writes(golden, tmp_path, names, load_tensors):
    folders = [str(golden / "models" / name) for name in names]
    listed = [{"weights": {"a": 0.5, "b": 0.3, "c": 0.2}}, {"groups": [["a", "b"], ["c"]]}]
    merges = [*list_family("all", "abc"), *list_family("list:x", "abc", read_file=lambda path: listed)]
    resident = make_resident(open_all(golden, names), merges)
    for number, merge in enumerate(merges):
        weights = [Fraction(coefficient) for coefficient in merge.coefficients]
        terms = average([Leaf(folder) for folder in folders], weights)
        execute(plan_linear(terms), tmp_path / str(number))
        resident.become(merge)
        for name, tensor in load_tensors(tmp_path / str(number)).items():
            assert bytes_of(resident.targets[name]) == tensor.tobytes(), (merge, name)


@pytest.mark.gpu
@pytest.mark.parametrize(("names", "dtype"), [(F32, "F32"), (BF16, "BF16")])
def test_sums_on_a_gpu_have_the_bits_of_the_files(golden, names, dtype):
    checkpoints = open_all(golden, names)
    merges = list_family("all", names)
    resident = make_resident(checkpoints, merges, device="cuda")
    for merge in merges:
        resident.become(merge)
        assert_is_merge(resident, checkpoints, merge, dtype)
