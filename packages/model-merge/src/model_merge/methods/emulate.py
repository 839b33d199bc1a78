"""The arithmetic of mergekit 0.1.5 and of ez-data-ablations, bit for bit, where it is determined.

mergekit computes in the tensors' own type (or in `dtype`) and rounds after every operation; linear alone sums
in float32, by fused multiply-add. What torch sums over a whole tensor (norms, so all angles and rescaling)
depends on vector width and threads, its generator on the order of tensors: these are refused here. Its sort
of equal magnitudes is not stable: those come in our order. Sums over models run in their order, as torch's do
up to four.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from model_merge.averaging import ez_average
from model_merge.dtypes import Values
from model_merge.methods.linear import nonzero_sum
from model_merge.methods.select import Cut, Magnitudes, every, largest
from model_merge.methods.sparse import kept_ranks
from model_merge.methods.spec import Call, Prepare, elementwise, stepwise
from model_merge.plan import Inputs, Kernel

Round = Callable[[Values], Values]

ROUNDS = ("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "passthrough")
"""The methods that can be followed."""


def rounding(dtype: str) -> Round:
    """To the values of a type, in the type of the values."""
    if dtype in {"F32", "F64"}:  # the values come in it
        return lambda values: values
    if dtype == "F16":
        return lambda values: values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        return _to_bfloat16
    raise ValueError(f"compat: no arithmetic of {dtype} can be followed")


def _to_bfloat16(values: Values) -> Values:
    import ml_dtypes  # here: `--help` has no use for it

    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def mergekit(name: str, call: Call, dtype: str) -> Prepare:
    """A method as mergekit computes it in tensors of `dtype`.

    Raises:
        ValueError: it cannot be followed.
    """
    if name not in ROUNDS or (call.shared.get("rescale") and name != "task_arithmetic"):
        what = f"{name} with rescale" if name in ROUNDS else name
        raise ValueError(
            f"compat: mergekit's {what} depends on the order in which torch sums or draws and "
            f"cannot be followed bit for bit (these can: {', '.join(ROUNDS)}): leave compat out"
        )
    if name == "linear":
        return _linear(call, rounding(dtype))
    if name == "passthrough":
        scale = 1.0 if call.models[0]["scale"] is None else call.models[0]["scale"]
        to = rounding(dtype)
        return elementwise(lambda flat_start, values: to(to(values[0]) * scale))
    return _deltas(name, call, rounding(dtype))


def _linear(call: Call, to: Round) -> Prepare:
    weights = call.each("weight")
    divisor = nonzero_sum(weights, call.tensor) if call.shared["normalize"] else 1.0
    return fused_sum(weights, divisor, to)


def fused_sum(weights: Sequence[float], divisor: float, to: Round) -> Prepare:
    """mergekit's linear: a fused multiply-add for every model, in their order, then the division."""

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        total = np.zeros_like(values[0])
        for weight, value in zip(weights, values, strict=True):
            total = fused(total, float(total.dtype.type(weight)), to(value))
        total /= total.dtype.type(divisor)
        return to(total)

    return elementwise(arithmetic)


def fused(total: Values, weight: float, value: Values) -> Values:
    """total + weight * value with one rounding: the product of float32 is exact in float64."""
    exact = total.astype(np.float64) + float(weight) * value.astype(np.float64)
    return exact if total.dtype == np.float64 else exact.astype(np.float32)


def _deltas(name: str, call: Call, to: Round) -> Prepare:
    """b + lambda * sum of w_i (x_i - b), thinned and of one sign where the method says so."""
    if not call.models:
        return elementwise(lambda flat_start, values: to(values[0]))
    ranks = [kept_ranks(name, model, call.size) for model in call.models]

    def streams(inputs: Inputs, step: int) -> Iterator[tuple[int, list[Magnitudes]]]:
        for flat_start, block in inputs.blocks():
            deltas = _rounded_deltas(every(step, flat_start, block), to)
            yield flat_start, [_magnitudes(delta) for delta in deltas]

    def prepare(inputs: Inputs) -> Kernel:
        cuts = largest(lambda step: streams(inputs, step), ranks, size=call.size)
        return stepwise(_delta_arithmetic(name, call, to, [(inner, outer) for inner, outer in cuts]))

    return prepare


def _magnitudes(delta: Values) -> Magnitudes:
    return np.abs(delta.astype(np.float32, copy=False))


def _rounded_deltas(values: list[Values], to: Round) -> list[Values]:
    base = to(values[0])
    return [to(to(value) - base) for value in values[1:]]


def _delta_arithmetic(
    name: str, call: Call, to: Round, cuts: list[tuple[Cut, Cut]]
) -> Callable[[int, list[Values]], Values]:
    weights = [float(to(np.asarray([weight], np.float32))[0]) for weight in call.each("weight")]
    consensus, scale = name.endswith("ties"), call.shared["lambda"]

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        terms = []
        for delta, (inner, outer), weight in zip(_rounded_deltas(values, to), cuts, weights, strict=True):
            ranked = _magnitudes(delta)
            kept = outer.keeps(flat_start, ranked) & ~inner.keeps(flat_start, ranked)
            terms.append(to(delta * kept * weight))
        mixed, divisor = _mixed(terms, weights, to, consensus=consensus)
        if call.shared["normalize"]:
            mixed = to(mixed / divisor)
        if scale != 1:
            mixed = to(mixed * scale)
        return to(to(values[0]) + mixed)

    return arithmetic


def _mixed(terms: list[Values], weights: list[float], to: Round, *, consensus: bool) -> tuple[Values, Values]:
    """The sum of the terms, and of the weights of those that count."""
    mask = [np.ones(term.shape, np.bool_) for term in terms]
    if consensus:
        sign = np.where(to(_in_order(terms)) >= 0, 1, -1)
        mask = [np.sign(term) == sign for term in terms]
    mixed = to(_in_order([term * one for term, one in zip(terms, mask, strict=True)]))
    parts = [np.full_like(mixed, weight) * one for one, weight in zip(mask, weights, strict=True)]
    divisor = to(_in_order(parts))
    divisor[(divisor == 0) if consensus else (np.abs(divisor) < 1e-8)] = 1
    return mixed, divisor


def _in_order(terms: list[Values]) -> Values:
    total = terms[0]
    for term in terms[1:]:
        total = np.add(total, term)
    return total


def ez(call: Call, dtype: str) -> Prepare:
    """The average of ez-data-ablations, in tensors of `dtype`.

    Raises:
        ValueError: the weights are not all the same, there is no dividing by their sum, or the type is
        another.
    """
    weights = call.each("weight")
    if len(set(weights)) > 1 or not call.shared["normalize"]:
        raise ValueError("compat: ez is an average of equal weights: leave compat out, or give equal weights")
    if dtype not in {"F32", "BF16"}:
        raise ValueError(f"compat: ez is known for F32 and BF16, found {dtype}")
    return ez_average(len(weights), in_bf16=dtype == "BF16")
