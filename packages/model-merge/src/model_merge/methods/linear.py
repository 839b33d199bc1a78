"""Sums: linear, task_arithmetic, passthrough. Element by element, no statistics."""

import numpy as np

from model_merge.averaging import weighted_sum
from model_merge.dtypes import Values
from model_merge.methods.spec import Call, Method, Parameter, Prepare, elementwise

WEIGHT = Parameter("weight", "number", of="model")


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
    return weighted_sum(weights, divisor)


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
    return weighted_sum([1.0 if scale is None else scale], 1.0)


NORMALIZE_OFF = Parameter("normalize", "flag", False)
LAMBDA = Parameter("lambda", "number", 1.0)
INT8_MASK = Parameter("int8_mask", "flag", False)  # a matter of memory in mergekit; nothing here

LINEAR = Method("linear", "sum of w x / sum of w", linear, (WEIGHT, Parameter("normalize", "flag", True)))
TASK_ARITHMETIC = Method(
    "task_arithmetic",
    "b + lambda * sum of w (x - b)",
    task_arithmetic,
    (
        WEIGHT,
        NORMALIZE_OFF,
        LAMBDA,
        INT8_MASK,
        # mergekit takes these too, without effect
        Parameter("density", "number", 1.0, "model", 0, 1),
        Parameter("rescale", "rescale", False),
    ),
    base="required",
    min_models=0,
)
PASSTHROUGH = Method(
    "passthrough", "scale * x", passthrough, (Parameter("scale", "number", None, "model"),), max_models=1
)
