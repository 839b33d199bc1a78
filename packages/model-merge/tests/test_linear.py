from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from model_merge.checkpoint import open_checkpoint
from model_merge.checks import IncompatibleError
from model_merge.execute import execute
from model_merge.expression import Leaf, Linear, average
from model_merge.linear import plan_linear

GOLDEN = Path(__file__).parent / "golden"


def models(family):
    return [Leaf(str(GOLDEN / "models" / f"{family}_m{number}")) for number in (1, 2, 3)]


@pytest.fixture
def merge(tmp_path, load_tensors):
    """Merge into a new folder; the tensors that were written."""

    def merge(expression, **options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        execute(plan_linear(expression, **options), out)
        return load_tensors(out)

    return merge


def same(found, expected):
    assert found.keys() == expected.keys()
    return [name for name in found if found[name].tobytes() != expected[name].tobytes()]


def truth(family, weights):
    """The weighted average in float64, rounded once."""
    opened = [open_checkpoint(leaf.reference) for leaf in models(family)]
    dtype = ml_dtypes.bfloat16 if "bf16" in family else np.float32
    return {
        name: (
            sum(w * one.read(name, compute="F64") for w, one in zip(weights, opened, strict=True))
            / sum(weights)
        ).astype(dtype)
        for name in opened[0].tensors
    }


@pytest.mark.parametrize("family", ["olmo2", "olmo2_bf16"])
@pytest.mark.parametrize(
    ("case", "weights"), [("uniform", None), ("weighted", [Fraction(2), Fraction(1), Fraction("-0.5")])]
)
def test_compat_mergekit_writes_mergekits_bits(merge, load_tensors, tmp_path, family, case, weights):
    golden = tmp_path / "golden"
    golden.mkdir()
    (golden / "m.safetensors").symlink_to(GOLDEN / "mergekit" / f"{family}__linear_{case}.safetensors")
    found = merge(average(models(family), weights), compat="mergekit")
    assert same(found, load_tensors(golden)) == []


def test_a_sum_that_is_not_normalised_is_mergekits(merge, load_tensors, tmp_path):
    golden = tmp_path / "golden"
    golden.mkdir()
    (golden / "m.safetensors").symlink_to(GOLDEN / "mergekit" / "olmo2__linear_nonorm.safetensors")
    expected = load_tensors(golden)
    weights = [Fraction("0.2"), Fraction("0.3"), Fraction("0.5")]
    found = merge(Linear(tuple(zip(weights, models("olmo2"), strict=True)), normalise=False))
    assert found.keys() == expected.keys()
    worst = max(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max() for name in found)
    assert worst < 3e-7


@pytest.mark.parametrize("family", ["olmo2", "olmo2_bf16"])
def test_compat_ez_writes_the_bits_of_ez_data_ablations(merge, load_tensors, tmp_path, family):
    golden = tmp_path / "golden"
    golden.mkdir()
    (golden / "m.safetensors").symlink_to(GOLDEN / "ez" / f"save_uniform_avg_{family}.safetensors")
    found = merge(average(models(family)), compat="ez")
    # the upstream script cuts six characters off every name, "model." or not
    assert same({name[6:]: tensor for name, tensor in found.items()}, load_tensors(golden)) == []


@pytest.mark.parametrize("family", ["olmo2", "olmo2_bf16"])
@pytest.mark.parametrize("weights", [[1, 1, 1], [2, 1, -0.5], [1, 2, 4]])
def test_the_native_average_is_the_float64_one_rounded_once(merge, family, weights):
    found = merge(average(models(family), [Fraction(weight) for weight in weights]))
    expected = truth(family, weights)
    assert [name for name in found if found[name].ravel().tobytes() != expected[name].tobytes()] == []


def test_a_macro_merge_is_one_pass_over_its_models(merge):
    one, two, three = models("olmo2_bf16")
    macro = average([average([one, two]), average([three])])
    expected = truth("olmo2_bf16", [1, 1, 2])
    found = merge(macro)
    assert [name for name in found if found[name].ravel().tobytes() != expected[name].tobytes()] == []


def test_a_model_mentioned_twice_counts_twice(merge):
    one, two, _ = models("olmo2")
    assert same(merge(average([one, two, one])), merge(average([one, two], [Fraction(2), Fraction(1)]))) == []


def test_averaging_a_model_with_itself_changes_nothing(merge, load_tensors, tmp_path):
    one, two, _ = models("olmo2")
    found = merge(average([one, one, one]))
    assert same(found, load_tensors(Path(one.reference))) == []
    zero = merge(average([one, two], [Fraction(1), Fraction(0)]))
    assert same(zero, load_tensors(Path(one.reference))) == []


def test_tied_models_stay_tied(merge, write_checkpoint):
    embedding = np.array([[1.0, 2.0]], dtype=np.float32)
    config = {"tie_word_embeddings": True}
    tied = [
        Leaf(
            str(
                write_checkpoint(
                    f"tied{factor}", {"model.embed_tokens.weight": factor * embedding}, config=config
                )
            )
        )
        for factor in (1, 3)
    ]
    for untie in (False, True):
        found = merge(average(tied), untie=untie)
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            "model.embed_tokens.weight": [[2.0, 4.0]]
        }


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(ValueError, match=r"the weights 1, -1 sum to zero"):
        average([Leaf("a"), Leaf("b")], [Fraction(1), Fraction(-1)])


def test_compat_refuses_what_the_original_cannot_do():
    one, two, three = models("olmo2")
    with pytest.raises(ValueError, match="compat ez averages uniformly"):
        plan_linear(average([one, two], [Fraction(1), Fraction(2)]), compat="ez")
    with pytest.raises(ValueError, match="compat mergekit takes one list of different models"):
        plan_linear(average([average([one, two]), three]), compat="mergekit")


def test_checkpoints_of_different_types_need_a_dtype(merge, write_checkpoint):
    values = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    wide = Leaf(str(write_checkpoint("wide", {"w": values})))
    narrow = Leaf(str(write_checkpoint("narrow", {"w": values.astype(ml_dtypes.bfloat16)})))
    with pytest.raises(IncompatibleError, match=r"1 tensors are F32 in .* BF16 in .* \(w\): --dtype says"):
        plan_linear(average([wide, narrow]))
    assert merge(average([wide, narrow]), dtype="F16")["w"].tolist() == [1.0, 2.0, 3.0]


def test_tied_and_untied_models_meet_with_untie(merge, write_checkpoint):
    embedding = np.array([[1.0, 2.0]], dtype=np.float32)
    tied = write_checkpoint(
        "tied", {"model.embed_tokens.weight": embedding}, config={"tie_word_embeddings": True}
    )
    stored = write_checkpoint(
        "untied",
        {"model.embed_tokens.weight": 3 * embedding, "lm_head.weight": 5 * embedding},
        config={"tie_word_embeddings": False},
    )
    expression = average([Leaf(str(tied)), Leaf(str(stored))])
    with pytest.raises(IncompatibleError) as caught:
        plan_linear(expression)
    assert caught.value.problems == [
        f"'{stored}' stores lm_head.weight and '{tied}' ties it to its embedding: give --untie to write it",
        f"'{tied}' has tie_word_embeddings True and '{stored}' has False",
    ]
    found = merge(expression, untie=True)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "model.embed_tokens.weight": [[2.0, 4.0]],
        "lm_head.weight": [[3.0, 6.0]],
    }
    assert plan_linear(expression, untie=True).config_changes == {"tie_word_embeddings": False}


def test_integers_that_agree_are_copied_and_others_are_named(merge, write_checkpoint):
    weight = np.ones(3, dtype=np.float32)
    one = Leaf(str(write_checkpoint("one", {"w": weight, "ids": np.arange(3)})))
    same_ids = Leaf(str(write_checkpoint("same", {"w": weight, "ids": np.arange(3)})))
    other = Leaf(str(write_checkpoint("other", {"w": weight, "ids": np.arange(1, 4)})))
    assert merge(average([one, same_ids]))["ids"].tolist() == [0, 1, 2]
    with pytest.raises(IncompatibleError) as caught:
        plan_linear(average([one, other]))
    assert caught.value.problems == [
        (
            f"'{one.reference}' and '{other.reference}' differ in tensors that are no floating-point "
            "numbers and can only be copied: ids (I64)"
        )
    ]


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16])
def test_narrow_floats_are_averaged_as_the_numbers_they_are(merge, write_checkpoint, dtype):
    values = [
        np.array([1.0, -2.0, 3.0, 0.25], dtype=np.float32),
        np.array([4.0, 1.0, 1.0, 0.5], dtype=np.float32),
    ]
    leaves = [Leaf(str(write_checkpoint(f"m{i}", {"w": one.astype(dtype)}))) for i, one in enumerate(values)]
    found = merge(average(leaves))["w"]
    assert found.dtype == dtype
    assert found.tolist() == ((values[0] + values[1]) / 2).astype(dtype).tolist()
    assert merge(average(leaves), dtype="F32")["w"].tolist() == [2.5, -0.5, 2.0, 0.375]
