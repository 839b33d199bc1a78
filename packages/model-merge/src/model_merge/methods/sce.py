"""SCE: select where the models vary, weight them by their energy, erase what disagrees in sign.

Always in float64: a variance of small deltas wants the digits. Up to four passes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values
from model_merge.methods.linear import INT8_MASK
from model_merge.methods.select import EVERYTHING, NOTHING, Cut, Magnitudes, every, largest
from model_merge.methods.spec import Call, Method, Parameter, Prepare, stepwise
from model_merge.methods.sums import Doubles, sums
from model_merge.plan import Inputs, Kernel


def variance(values: list[Values]) -> Values:
    """Population variance over the models; exactly zero where they are equal.

    Of the differences from the first model, which are the differences of their deltas.
    """
    count = len(values)
    total, squares = np.zeros_like(values[0]), np.zeros_like(values[0])
    for value in values[1:]:
        apart = value - values[0]
        total += apart
        squares += apart**2
    return np.asarray(np.maximum(squares / count - (total / count) ** 2, 0.0))


def _ranked(values: list[Values]) -> Magnitudes:
    return variance(values[1:]).astype(np.float32)


def selection(call: Call, inputs: Inputs) -> Cut:
    """The int(select_topk * number of places that vary) places of largest variance."""
    share = call.shared["select_topk"]
    if share >= 1 or not call.size:
        return EVERYTHING
    varying = sums(inputs, lambda flat_start, values: [(_ranked(values) > 0).astype(np.float64)])
    wanted = int(float(varying[0]) * share)
    if not wanted:
        return NOTHING

    def streams(step: int) -> Iterator[tuple[int, list[Magnitudes]]]:
        for flat_start, values in inputs.blocks():
            yield flat_start, [_ranked(every(step, flat_start, values))]

    return largest(streams, [[wanted]], size=call.size)[0][0]


def energies(call: Call, inputs: Inputs, cut: Cut) -> list[float]:
    """Each model's share of the mean squared selected delta; equal where there is next to none."""
    count = len(call.models)

    def squares(flat_start: int, values: list[Values]) -> list[Values]:
        return [delta**2 for delta in selected_deltas(cut, flat_start, values)]

    energy: Doubles = sums(inputs, squares) / call.size if call.size else np.zeros(count)
    total = energy.sum()
    return [float(share) for share in (energy / total if total >= 1e-6 else np.full(count, 1 / count))]


def selected_deltas(cut: Cut, flat_start: int, values: list[Values]) -> list[Values]:
    """Every model's delta, zero where it was not selected."""
    deltas = [value - values[0] for value in values[1:]]
    if cut is EVERYTHING:
        return deltas
    kept: npt.NDArray[np.bool_] = cut.keeps(flat_start, _ranked(values))
    return [delta * kept for delta in deltas]


def sce(call: Call) -> Prepare:
    """b + sum of w_i delta_i over those of the majority's sign, divided by the sum of their w_i."""

    def prepare(inputs: Inputs) -> Kernel:
        if not call.models:
            return lambda flat_start, values: values[0].copy()
        cut = selection(call, inputs)
        weights = energies(call, inputs, cut)

        def arithmetic(flat_start: int, values: list[Values]) -> Values:
            deltas = selected_deltas(cut, flat_start, values)
            sign = np.where(sum(deltas) >= 0, 1.0, -1.0)
            total, divisor = np.zeros_like(values[0]), np.zeros_like(values[0])
            for weight, delta in zip(weights, deltas, strict=True):
                agreed = weight * (np.sign(delta) == sign)
                total += delta * agreed
                divisor += agreed
            return np.asarray(values[0] + total / np.maximum(divisor, 1e-6))

        return stepwise(arithmetic)

    return prepare


SCE = Method(
    "sce",
    "deltas where the models vary, weighted by their energy, of the majority's sign",
    sce,
    (INT8_MASK, Parameter("select_topk", "number", 1.0, low=0, high=1)),
    base="required",
    min_models=0,
    wide=True,
)
