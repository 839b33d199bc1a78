"""Sums: linear, task_arithmetic, passthrough. Element by element, no statistics."""

import numpy as np

from model_merge.dtypes import Values
from model_merge.methods.spec import Call, Method, Parameter, Prepare, elementwise

WEIGHT = Parameter("weight", "number", of="model")


def weighted_sum(weights: list[float], values: list[Values]) -> Values:
    """Sum of w_i x_i in the order given, in the type of the values."""
    total = values[0] * weights[0]
    term = np.empty_like(total)
    for weight, value in zip(weights[1:], values[1:], strict=True):
        if weight == 1:
            total += value
        else:
            np.multiply(value, weight, out=term)
            total += term
    return total


def nonzero_sum(weights: list[float], tensor: str) -> float:
    """The sum of the weights, to divide by."""
    total = sum(weights)
    if abs(total) < 1e-8:
        raise ValueError(f"{tensor}: the weights {weights} sum to zero, which cannot be normalised")
    return total


def linear(call: Call) -> Prepare:
    """Sum of w_i x_i, divided by the sum of the weights unless normalize is false."""
    weights = call.each("weight")
    divisor = nonzero_sum(weights, call.tensor) if call.shared["normalize"] else 1.0

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        total = weighted_sum(weights, values)
        if divisor != 1:
            total /= divisor
        return total

    return elementwise(arithmetic)


def task_arithmetic(call: Call) -> Prepare:
    """b + lambda * sum of w_i (x_i - b)."""
    weights = call.each("weight")
    scale = float(call.shared["lambda"])
    divisor = nonzero_sum(weights, call.tensor) if call.shared["normalize"] and weights else 1.0

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        base = values[0]
        total = np.zeros_like(base)
        delta = np.empty_like(base)
        for weight, value in zip(weights, values[1:], strict=True):
            np.subtract(value, base, out=delta)
            delta *= weight
            total += delta
        total *= scale / divisor
        total += base
        return total

    return elementwise(arithmetic)


def passthrough(call: Call) -> Prepare:
    """scale * x."""
    scale = call.models[0]["scale"]
    return elementwise(lambda flat_start, values: weighted_sum([1.0 if scale is None else scale], values))


NORMALIZE_OFF = Parameter("normalize", "flag", False)
LAMBDA = Parameter("lambda", "number", 1.0)
INT8_MASK = Parameter("int8_mask", "flag", False)  # a matter of memory in mergekit; nothing here

LINEAR = Method("linear", "sum of w x / sum of w", linear, (WEIGHT, Parameter("normalize", "flag", True)))
TASK_ARITHMETIC = Method(
    "task_arithmetic",
    "b + lambda * sum of w (x - b)",
    task_arithmetic,
    (WEIGHT, NORMALIZE_OFF, LAMBDA, INT8_MASK, Parameter("density", "number", 1.0, "model", 0, 1)),
    base="required",
    min_models=0,
)
PASSTHROUGH = Method(
    "passthrough", "scale * x", passthrough, (Parameter("scale", "number", None, "model"),), max_models=1
)
