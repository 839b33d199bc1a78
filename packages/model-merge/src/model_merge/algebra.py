"""From any expression to a plan: methods on sums, sums of methods, methods on methods, in constant memory.

A tree that is a weighted sum as a whole becomes one (`linear`). Of any other one every node computes its
values from those of its operands, block by block in float64, and nothing is rounded before the end. A method
that needs statistics asks for the blocks of its operands, which are computed anew for every pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from model_merge.averaging import Compat, weighted_sum
from model_merge.dtypes import FLOATS, Values
from model_merge.expression import (
    Expression,
    Leaf,
    Linear,
    Nonlinear,
    is_linear,
    leaves,
    to_json,
    whole_weights,
)
from model_merge.linear import Merge, open_all, plan_linear
from model_merge.methods import METHODS
from model_merge.methods.spec import Method, settle
from model_merge.plan import Inputs, Kernel, MergePlan, TensorPlan

Prepare = Callable[[Inputs], Kernel]


def plan_expression(
    expression: Expression,
    *,
    dtype: str | None = None,
    compat: Compat | None = None,
    untie: bool = False,
    donor: str | None = None,
    seed: int = 0,
) -> MergePlan:
    """The plan of a merge, after every check of its inputs.

    Raises:
        IncompatibleError: listing every reason why these checkpoints cannot be merged.
        ValueError: a method is unknown or lacks a parameter, weights sum to zero, or `compat` does not fit.
    """
    if is_linear(expression):
        return plan_linear(expression, dtype=dtype, compat=compat, untie=untie, donor=donor)
    if compat is not None:
        raise ValueError(f"compat {compat} is for weighted sums and for merge files, not for this expression")
    merge = open_all(leaves(expression), dtype=dtype, untie=untie, donor=donor)
    tensors = tuple(_tensor(merge, name, expression, dtype, seed) for name in merge.names)
    described = {
        "expression": to_json(expression),
        "weights": None,
        "dtype": dtype,
        "compat": None,
        "untie": untie,
        "seed": seed,
    }
    return MergePlan(merge.checkpoints, tensors, described, merge.donor, merge.config_changes)


def _tensor(merge: Merge, name: str, expression: Expression, dtype: str | None, seed: int) -> TensorPlan:
    refs, infos = merge.inputs(name)
    if infos[0].dtype not in FLOATS:
        return TensorPlan(name, infos[0].shape, infos[0].dtype, refs[:1], None)
    positions = {checkpoint.reference: i for i, checkpoint in enumerate(merge.checkpoints)}
    prepare = _node(expression, positions, name, infos[0].shape, seed)
    return TensorPlan(name, infos[0].shape, dtype or infos[0].dtype, refs, prepare, "F64")


def _node(
    expression: Expression, positions: Mapping[str, int], name: str, shape: tuple[int, ...], seed: int
) -> Prepare:
    """How a node's values come from those of the checkpoints."""
    if isinstance(expression, Leaf):
        position = positions[expression.reference]
        # a copy, because whoever computes with it may overwrite it
        return lambda inputs: lambda flat_start, values: values[position].copy()
    if isinstance(expression, Linear):
        parts = [operand for _, operand in expression.terms]
        arithmetic = _sum(expression)
    else:
        parts = [*([] if expression.base is None else [expression.base]), *expression.operands]
        arithmetic = _method(expression, name, shape, seed)
    nodes = [_node(part, positions, name, shape, seed) for part in parts]
    return lambda inputs: _compose(arithmetic, [node(inputs) for node in nodes], inputs)


def _compose(arithmetic: Prepare, operands: Sequence[Kernel], inputs: Inputs) -> Kernel:
    """The kernel of an arithmetic on computed operands."""
    derived = _Derived(inputs, operands)
    kernel = arithmetic(derived)
    return lambda flat_start, values: kernel(flat_start, derived.of(flat_start, values))


class _Derived:
    """`Inputs` that are computed from other inputs."""

    def __init__(self, inputs: Inputs, operands: Sequence[Kernel]) -> None:
        self._inputs, self._operands = inputs, operands

    @property
    def shape(self) -> tuple[int, ...]:
        return self._inputs.shape

    def blocks(self) -> Iterator[tuple[int, list[Values]]]:
        for flat_start, values in self._inputs.blocks():
            yield flat_start, self.of(flat_start, values)

    def of(self, flat_start: int, values: list[Values]) -> list[Values]:
        return [operand(flat_start, values) for operand in self._operands]


def _sum(expression: Linear) -> Prepare:
    weights = [weight for weight, _ in expression.terms]
    total = sum(weights) if expression.normalise else 1
    if total == 0:
        raise ValueError(f"the weights {', '.join(map(str, weights))} sum to zero")
    return weighted_sum(*whole_weights([weight / total for weight in weights]))


def _method(expression: Nonlinear, name: str, shape: tuple[int, ...], seed: int) -> Prepare:
    if expression.method not in METHODS:
        raise ValueError(f"there is no method {expression.method!r}, only {', '.join(sorted(METHODS))}")
    method, count, has_base = (
        METHODS[expression.method],
        len(expression.operands),
        expression.base is not None,
    )
    method.check_models(count, has_base=has_base, where="expression")
    models, shared = _split(method, expression.parameters, count)
    call = settle(
        method, tensor=name, shape=shape, has_base=has_base, models=models, shared=shared, seed=seed
    )
    return method.build(call)


def _split(
    method: Method, parameters: Mapping[str, Any], count: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The parameters of every operand, and those of the merge."""
    of_models = {parameter.name for parameter in method.parameters if parameter.of == "model"}
    models: list[dict[str, Any]] = [{} for _ in range(count)]
    shared = {}
    for key, value in parameters.items():
        if key not in of_models:
            shared[key] = value
            continue
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count:
            raise ValueError(f"{method.name} has {count} operands and {len(values)} values of {key!r}")
        for model, one in zip(models, values, strict=True):
            model[key] = one
    return models, shared
