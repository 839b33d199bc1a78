from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from model_merge.algebra import plan_expression
from model_merge.execute import execute
from model_merge.expression import Leaf, Linear, Nonlinear, average
from model_merge.mergekit import plan_from_yaml

GOLDEN = Path(__file__).parent / "golden" / "models"
BASE, ONE, TWO, THREE = (Leaf(str(GOLDEN / f"olmo2_bf16_{name}")) for name in ("base", "m1", "m2", "m3"))
TIES = {"weight": [1.0, 0.5], "density": 0.4}


@pytest.fixture
def write(tmp_path, load_tensors):
    """Write a merge in float64, so that nothing is rounded on the way; its tensors."""

    def write(name, expression, **options):
        execute(plan_expression(expression, dtype="F64", **options), tmp_path / name)
        return load_tensors(tmp_path / name)

    return write


def same(found, expected):
    return [name for name in {*found, *expected} if not np.array_equal(found[name], expected[name])]


def test_a_method_on_models_is_the_merge_file_of_it(write, tmp_path, load_tensors):
    found = write("ours", Nonlinear("ties", (ONE, TWO), BASE, TIES))
    text = (
        f"{{merge_method: ties, base_model: {BASE.reference}, dtype: float64, models: ["
        f"{{model: {ONE.reference}, parameters: {{weight: 1.0, density: 0.4}}}}, "
        f"{{model: {TWO.reference}, parameters: {{weight: 0.5, density: 0.4}}}}]}}"
    )
    execute(plan_from_yaml(text), tmp_path / "theirs")
    assert same(found, load_tensors(tmp_path / "theirs")) == []


@pytest.mark.parametrize(
    "outer",
    [
        lambda inner: Nonlinear("slerp", (inner,), THREE, {"t": 0.3}),
        lambda inner: Nonlinear("ties", (inner, THREE), BASE, TIES),
        lambda inner: average([inner, THREE], [Fraction(2), Fraction(1)]),
        lambda inner: Nonlinear("karcher", (inner, TWO, THREE)),
    ],
)
@pytest.mark.parametrize(
    "inner",
    [
        average([ONE, average([TWO, THREE])], [Fraction(1, 3), Fraction(1)]),
        Nonlinear("slerp", (TWO,), ONE, {"t": 0.6}),
        Linear(((Fraction(1), ONE), (Fraction(1), TWO), (Fraction(-1), BASE)), normalise=False),
    ],
)
def test_nesting_is_the_same_as_writing_what_is_inside_first(write, tmp_path, inner, outer):
    write("inner", inner)
    narrow = write("nested", outer(inner))
    assert same(narrow, write("stepwise", widened(outer(Leaf(str(tmp_path / "inner"))), tmp_path))) == []


def widened(expression, folder):
    """The BF16 models in float64, since the inner merge is in float64."""
    if isinstance(expression, Leaf):
        if expression.reference.startswith(str(folder)):
            return expression
        wide = folder / f"wide-{Path(expression.reference).name}"
        if not wide.exists():
            execute(plan_expression(average([expression]), dtype="F64"), wide)
        return Leaf(str(wide))
    if isinstance(expression, Linear):
        return Linear(
            tuple((weight, widened(one, folder)) for weight, one in expression.terms), expression.normalise
        )
    operands = tuple(widened(one, folder) for one in expression.operands)
    base = None if expression.base is None else widened(expression.base, folder)
    return Nonlinear(expression.method, operands, base, expression.parameters)


@pytest.mark.parametrize(("threads", "chunk_elements"), [(1, 1000), (3, 1 << 22)])
def test_nested_merges_do_not_depend_on_threads_and_chunks(tmp_path, threads, chunk_elements):
    expression = Nonlinear("dare_ties", (average([ONE, TWO]), THREE), BASE, TIES)
    for name, options in (("whole", {}), ("cut", {"threads": threads, "chunk_elements": chunk_elements})):
        execute(plan_expression(expression, seed=3), tmp_path / name, **options)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("expression", "options", "message"),
    [
        (Nonlinear("blend", (ONE,)), {}, "there is no method 'blend', only breadcrumbs, "),
        (Nonlinear("ties", (ONE,)), {}, "expression: ties needs a base_model"),
        (
            Nonlinear("ties", (ONE, TWO), BASE, {"weight": [1]}),
            {},
            "ties has 2 operands and 1 values of 'weight'",
        ),
        (Nonlinear("slerp", (ONE,), BASE, {"t": 0.5, "x": 1}), {}, "slerp has no parameter 'x'"),
        (Nonlinear("karcher", (ONE, TWO)), {"compat": "ez"}, "compat ez is for weighted sums"),
        (
            average([Nonlinear("karcher", (ONE, TWO)), Linear(((Fraction(1), ONE), (Fraction(-1), TWO)))]),
            {},
            "the weights 1, -1 sum to zero",
        ),
    ],
)
def test_an_expression_that_means_nothing_is_refused(expression, options, message):
    with pytest.raises(ValueError, match=message):
        plan_expression(expression, **options)
