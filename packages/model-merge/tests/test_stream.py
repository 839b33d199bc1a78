import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from model_merge.averaging import weighted_sum
from model_merge.checkpoint import open_checkpoint
from model_merge.execute import execute
from model_merge.plan import BLOCK, MergePlan, TensorPlan, TensorRef

RNG = np.random.default_rng(5)
LARGE = RNG.standard_normal((3, BLOCK + 123)).astype(ml_dtypes.bfloat16)
SMALL = RNG.standard_normal(7).astype(ml_dtypes.bfloat16)


def scaled_by_norm(inputs):
    """A method of two passes: a + b, each divided by its norm, plus the position."""
    squares = sum(
        np.array([np.square(one, dtype=np.float64).sum() for one in values]) for _, values in inputs.blocks()
    )
    norms = np.sqrt(squares)

    def kernel(flat_start, values):
        position = np.arange(flat_start, flat_start + len(values[0])) % 3
        return values[0] / norms[0] + values[1] / norms[1] + position

    return kernel


@pytest.fixture
def pair(write_checkpoint):
    tensors = {"large": LARGE, "empty": np.zeros((0, 4), dtype=np.float32), "small": SMALL}
    one = write_checkpoint("one", tensors)
    two = write_checkpoint(
        "two", {name: -2 * tensor for name, tensor in tensors.items()}, shards=[["small", "empty"], ["large"]]
    )
    return tuple(open_checkpoint(folder) for folder in (one, two))


def plan_of(checkpoints, prepare, *, compute="F64", dtype=None):
    return MergePlan(
        checkpoints,
        tuple(
            TensorPlan(
                name,
                info.shape,
                dtype or info.dtype,
                tuple(TensorRef(i, name) for i in range(len(checkpoints))),
                prepare,
                compute,
            )
            for name, info in checkpoints[0].tensors.items()
        ),
        {"name": "test"},
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunk_elements", [1000, BLOCK, 1 << 22])
def test_the_bytes_do_not_depend_on_threads_and_chunks(pair, tmp_path, threads, chunk_elements):
    execute(plan_of(pair, scaled_by_norm), tmp_path / "alone", threads=1)
    execute(plan_of(pair, scaled_by_norm), tmp_path / "out", threads=threads, chunk_elements=chunk_elements)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}


def test_two_passes_agree_with_the_whole_tensor_in_memory(pair, tmp_path, load_tensors):
    execute(plan_of(pair, scaled_by_norm, dtype="F64"), tmp_path / "out")
    one, two = (LARGE.astype(np.float64).ravel() * scale for scale in (1, -2))
    position = np.arange(one.size) % 3
    expected = one / np.linalg.norm(one) + two / np.linalg.norm(two) + position
    found = load_tensors(tmp_path / "out")["large"].ravel()
    assert np.allclose(found, expected, rtol=0, atol=1e-12)


def test_many_inputs_are_computed_in_smaller_blocks_with_the_same_result(pair, tmp_path, load_tensors):
    many = pair[:1] * 70
    execute(plan_of(many, weighted_sum([1.0] * 70, 70.0)), tmp_path / "out")
    assert load_tensors(tmp_path / "out")["large"].tobytes() == LARGE.tobytes()


def test_rows_are_gathered_and_absent_ones_are_left_to_the_arithmetic(
    write_checkpoint, tmp_path, load_tensors
):
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    checkpoint = open_checkpoint(write_checkpoint("one", {"w": table}))
    rows = np.array([3, 0, 1, -1, -1, 2, 2])

    def fill(inputs):
        return lambda flat_start, values: np.where(np.isnan(values[0]), -1.0, values[0])

    plan = MergePlan(
        (checkpoint,), (TensorPlan("w", (7, 3), "F32", (TensorRef(0, "w", rows),), fill),), {"name": "rows"}
    )
    expected = np.where(rows[:, None] < 0, -1, table[rows])
    for chunk_elements in (4, 5, 1 << 22):  # 5: chunks begin inside rows
        execute(plan, tmp_path / str(chunk_elements), chunk_elements=chunk_elements)
        assert load_tensors(tmp_path / str(chunk_elements))["w"].tolist() == expected.tolist()


def test_tensors_of_other_types_are_copied(write_checkpoint, tmp_path, load_tensors):
    tensors = {"ids": np.arange(1000), "flags": np.array([True, False]), "w": np.ones(3, dtype=np.float16)}
    checkpoint = open_checkpoint(write_checkpoint("one", tensors))
    execute(plan_of((checkpoint,), None), tmp_path / "out", chunk_elements=64)
    found = load_tensors(tmp_path / "out")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("prepare", [None, weighted_sum([1.0], 1.0)])
def test_a_number_that_is_none_is_refused_with_its_place(write_checkpoint, tmp_path, value, prepare):
    weights = np.ones(100, dtype=ml_dtypes.bfloat16)
    weights[70] = value
    folder = write_checkpoint("one", {"w": weights})
    with pytest.raises(ValueError, match=f"'w' of '{folder}' holds {value}, at element 70: a merge"):
        execute(plan_of((open_checkpoint(folder),), prepare), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_a_result_beyond_its_type_is_refused(write_checkpoint, tmp_path):
    folder = write_checkpoint("one", {"w": np.array([1.0, 70000.0], dtype=np.float32)})
    plan = plan_of((open_checkpoint(folder),), weighted_sum([1.0], 1.0), dtype="F16")
    with pytest.raises(ValueError, match=r"'w': 70000.0 is beyond the largest F16: choose a wider --dtype"):
        execute(plan, tmp_path / "out")


def test_a_result_that_is_not_finite_is_refused(write_checkpoint, tmp_path):
    folder = write_checkpoint("one", {"w": np.array([1.0, 0.0], dtype=np.float32)})

    def divide(inputs):
        return lambda flat_start, values: np.divide(
            1, values[0], where=values[0] != 0, out=values[0] + np.inf
        )

    with pytest.raises(
        ValueError, match="'w': a merged value is NaN or infinite, though every input is finite"
    ):
        execute(plan_of((open_checkpoint(folder),), divide), tmp_path / "out")


def test_an_error_in_a_method_ends_the_merge_and_leaves_nothing(pair, tmp_path):
    def refuse(inputs):
        raise ValueError("large: no")

    with pytest.raises(ValueError, match="large: no"):
        execute(plan_of(pair, refuse), tmp_path / "out", threads=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "output"), [("float16", "F16"), ("float32", "F32"), ("float64", "BF16")])
def test_in_a_sum_the_input_that_is_not_finite_is_named(write_checkpoint, tmp_path, value, dtype, output):
    weights = np.ones(100, dtype=dtype)
    good = write_checkpoint("good", {"w": weights})
    weights[70] = value
    bad = write_checkpoint("bad", {"w": weights})
    plan = plan_of(tuple(map(open_checkpoint, (good, bad))), weighted_sum([1, 0], 1.0), dtype=output)
    with pytest.raises(ValueError, match=f"'w' of '{bad}' holds {value}, at element 70: a merge"):
        execute(plan, tmp_path / "out")


def test_of_many_inputs_the_bad_one_is_found_without_holding_all(write_checkpoint, tmp_path):
    weights = np.ones(1 << 19, dtype=np.float32)
    good = open_checkpoint(write_checkpoint("good", {"w": weights}))
    weights[-1] = np.nan
    bad = open_checkpoint(write_checkpoint("bad", {"w": weights}))
    plan = plan_of((*[good] * 49, bad), weighted_sum([1.0] * 50, 50.0))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"'w' of '.*bad' holds nan, at element 524287: a merge"):
        execute(plan, tmp_path / "out", threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * (1 << 19) * 8  # of 50 inputs


def test_a_sum_of_finite_numbers_that_overflows_is_refused(write_checkpoint, tmp_path):
    weights = {"w": np.full(3, 3e38, dtype=ml_dtypes.bfloat16)}
    both = tuple(open_checkpoint(write_checkpoint(name, weights)) for name in ("one", "two"))
    with pytest.raises(ValueError, match="'w': a merged value is NaN or infinite, though every input is"):
        execute(plan_of(both, weighted_sum([1, 1], 1.0), compute="F32"), tmp_path / "out")


def test_a_sum_that_reads_input_by_input_is_that_of_all_inputs_at_once(pair, tmp_path, load_tensors):
    kernel = weighted_sum([3, -0.5, 7], 4.0)(None)
    at_once = plan_of((*pair, pair[0]), lambda inputs: lambda start, values: kernel(start, values))
    in_turn = plan_of((*pair, pair[0]), lambda inputs: kernel)
    execute(at_once, tmp_path / "at_once")
    execute(in_turn, tmp_path / "in_turn")
    expected, found = load_tensors(tmp_path / "at_once"), load_tensors(tmp_path / "in_turn")
    assert {name: one.tobytes() for name, one in found.items()} == {
        name: one.tobytes() for name, one in expected.items()
    }
