"""Every method against its formula in float64, on shapes and values that break things."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from model_merge.methods import METHODS

SHAPES = [(), (1,), (0,), (3, 0), (63,), (64,), (5, 7), (2, 3, 5), (1, 9), (9, 1), (300, 257)]
PER_MODEL = [
    {"weight": 0.5, "density": 0.5, "gamma": 0.1},
    {"weight": 0.3, "density": 0.4, "gamma": 0.02},
    {"weight": 0.25, "density": 0.75, "gamma": 0.3},
]
CASES = [
    ("linear", 3, False, {}),
    ("linear", 3, False, {"normalize": False}),
    ("linear", 1, False, {}),
    ("slerp", 1, True, {"t": 0.35}),
    ("nuslerp", 2, False, {}),
    ("nuslerp", 2, True, {}),
    ("nuslerp", 2, False, {"nuslerp_flatten": False}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", 3, False, {}),
    ("multislerp", 3, True, {}),
    ("multislerp", 1, True, {}),
    ("karcher", 3, False, {}),
    ("karcher", 1, False, {}),
    ("karcher", 2, False, {"max_iter": 3, "tol": 1e-3}),
    ("task_arithmetic", 3, True, {"lambda": 0.9}),
    ("task_arithmetic", 3, True, {"normalize": True}),
    ("task_arithmetic", 0, True, {}),
    ("ties", 3, True, {}),
    ("ties", 3, True, {"normalize": False, "lambda": 0.7}),
    ("ties", 3, True, {"rescale": True}),
    ("ties", 1, True, {}),
    ("ties", 0, True, {}),
    ("breadcrumbs", 3, True, {}),
    ("breadcrumbs", 2, True, {"normalize": True, "rescale": True}),
    ("breadcrumbs_ties", 3, True, {}),
    ("sce", 3, True, {}),
    ("sce", 3, True, {"select_topk": 0.4}),
    ("sce", 2, True, {"select_topk": 0.0}),
    ("model_stock", 3, True, {}),
    ("model_stock", 2, True, {"filter_wise": True}),
]


def parameters(name, count):
    """Of each model, those that the method has."""
    known = {parameter.name for parameter in METHODS[name].parameters if parameter.of == "model"}
    return [{key: value for key, value in PER_MODEL[i].items() if key in known} for i in range(count)]


def tensors(shape, count, seed=0, scale=0.1):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(shape)
    return np.asarray(base), [np.asarray(base + scale * rng.standard_normal(shape)) for _ in range(count)]


def assert_near(merged, truth):
    np.testing.assert_allclose(merged, truth, rtol=0, atol=1e-13 * (1 + np.abs(truth).max(initial=0)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "count", "has_base", "shared"), CASES, ids=str)
def test_every_method_is_its_formula_on_every_shape(merge, twin, name, count, has_base, shared, shape):
    base, models = tensors(shape, count)
    options = {"base": base if has_base else None, "models": parameters(name, count), **shared}
    assert_near(merge(name, models, **options), twin(name, models, **options))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000, 16384, 70_000])
@pytest.mark.parametrize(("name", "count", "has_base", "shared"), CASES, ids=str)
def test_no_cutting_into_chunks_changes_a_bit(merge, name, count, has_base, shared, chunk):
    shape = (3, 50_003) if chunk > 1000 else (17, 13)
    base, models = tensors(shape, count)
    base, models = base.astype(np.float32), [model.astype(np.float32) for model in models]
    options = {"base": base if has_base else None, "models": parameters(name, count), **shared}
    whole = merge(name, models, **options)
    assert whole.dtype == np.float32
    cut = merge(name, models, chunk=chunk, **options)
    np.testing.assert_array_equal(cut.view(np.uint32), whole.view(np.uint32))


def test_a_direction_opposite_to_the_mean_pulls_it_nowhere(merge):
    models = [np.array([value]) for value in (1.0, -1.0, 2.0)]
    assert merge("karcher", models) == pytest.approx(4 / 3)


def test_directions_that_cancel_have_no_weighted_mean(merge):
    models = [np.array([3.0, 4.0]), np.array([-6.0, -8.0])]
    halves = [{"weight": 0.5}, {"weight": 0.5}]
    np.testing.assert_allclose(merge("multislerp", models, models=halves), [-1.5, -2.0])  # of two: their line
    thirds = [{"weight": 0.5}, {"weight": 0.25}, {"weight": 0.25}]
    with pytest.raises(ValueError, match="w: the weighted directions cancel out"):
        merge("multislerp", [*models, models[1]], models=thirds)


def test_weights_that_sum_to_zero_are_refused_where_they_divide(merge):
    base, models = tensors((4,), 2)
    opposite = [{"weight": 1.0}, {"weight": -1.0}]
    for name, shared in [("linear", {}), ("multislerp", {}), ("task_arithmetic", {"normalize": True})]:
        with pytest.raises(ValueError, match="sum to zero"):
            merge(name, models, base=base if name == "task_arithmetic" else None, models=opposite, **shared)
    difference = merge("linear", models, models=opposite, normalize=False)
    np.testing.assert_array_equal(difference, models[0] - models[1])


small = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3e-5])


CANCELLING = {"multislerp", "karcher"}  # a sum of directions that cancels has no direction but rounding's


@pytest.mark.parametrize("case", [case for case in CASES if case[0] not in CANCELLING], ids=str)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_equal_magnitudes_and_zeros_follow_the_formula(merge, twin, case, data):
    name, count, has_base, shared = case
    values = arrays(np.float64, data.draw(array_shapes(min_dims=0, max_side=6)), elements=small)
    options = {"base": data.draw(values) if has_base else None, "models": parameters(name, count), **shared}
    models = [data.draw(values) for _ in range(count)]
    assert_near(merge(name, models, **options), twin(name, models, **options))


@pytest.mark.parametrize(("name", "count", "has_base", "shared"), CASES, ids=str)
def test_merging_equal_models_changes_nothing(merge, name, count, has_base, shared):
    base, _ = tensors((8, 9), 1)
    options = {"base": base if has_base else None, "models": parameters(name, count), **shared}
    options |= {"normalize": True} if name == "linear" else {}
    assert_near(merge(name, [base] * count, **options), base)
