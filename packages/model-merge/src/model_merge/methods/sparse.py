"""Sparse deltas: ties, dare_linear, dare_ties, breadcrumbs, breadcrumbs_ties.

Each model's delta from the base is thinned (by magnitude or at random), weighted, and summed: all of it, or
only what agrees with the sign of the sum. Magnitudes are ranked as float32, the delta rounded once; thinning
costs two or three passes (`select`), rescaling one more.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values
from model_merge.methods.linear import INT8_MASK, LAMBDA, NORMALIZE_OFF, WEIGHT, nonzero_sum
from model_merge.methods.select import NOTHING, Cut, Magnitudes, every, largest
from model_merge.methods.spec import Call, Method, Parameter, Prepare, stepwise
from model_merge.methods.sums import sums
from model_merge.plan import Inputs, Kernel
from model_merge.random import bernoulli, stream_key

Keep = Callable[[int, Values], npt.NDArray[np.bool_]]
"""(flat start, deltas) -> which are kept."""


def magnitudes(deltas: Values) -> Magnitudes:
    """What deltas are ranked by."""
    return np.abs(deltas.astype(np.float32, copy=False))


def magnitude_streams(inputs: Inputs, step: int) -> Iterator[tuple[int, list[Magnitudes]]]:
    """The magnitudes of every model's deltas."""
    for flat_start, block in inputs.blocks():
        values = every(step, flat_start, block)
        yield flat_start, [magnitudes(value - values[0]) for value in values[1:]]


def keep_everything(flat_start: int, deltas: Values) -> npt.NDArray[np.bool_]:
    """Nothing is dropped."""
    return np.ones(len(deltas), np.bool_)


def kept_ranks(name: str, model: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Of the magnitudes in falling order, the ranks [first, last) that a method keeps.

    ties: the int(density * size) largest, one at least; none at density 0.
    breadcrumbs: as many after the int(gamma * size) largest, fewer of these where it must be.

    >>> kept_ranks("ties", {"density": 0.5}, 9), kept_ranks("breadcrumbs", {"density": 0.5, "gamma": 0.2}, 9)
    ((0, 4), (1, 5))
    """
    density = model["density"]
    if density >= 1 or name == "task_arithmetic":
        return 0, size
    kept = int(density * size)
    if name == "ties":
        return 0, max(1, kept) if density > 0 else 0
    below = max(0, size - kept - int(model["gamma"] * size))
    return size - below - kept, size - below


def ranked_keeps(name: str) -> Callable[[Call, Inputs], list[Keep]]:
    """Keep by rank of magnitude."""

    def find(call: Call, inputs: Inputs) -> list[Keep]:
        ranks = [kept_ranks(name, model, call.size) for model in call.models]
        cuts = largest(lambda step: magnitude_streams(inputs, step), ranks, size=call.size)
        return [_inside(outer, None if inner is NOTHING else inner) for inner, outer in cuts]

    return find


def _inside(outer: Cut, inner: Cut | None) -> Keep:
    def keep(flat_start: int, deltas: Values) -> npt.NDArray[np.bool_]:
        ranked = magnitudes(deltas)
        kept = outer.keeps(flat_start, ranked)
        if inner is not None:
            kept &= ~inner.keeps(flat_start, ranked)
        return kept

    return keep


def random_keeps(call: Call, inputs: Inputs) -> list[Keep]:
    """Each delta with probability density, by its place in the stream of (seed, tensor, model)."""
    return [
        _at_random(stream_key(call.seed, call.tensor, model), density)
        for model, density in enumerate(call.each("density"))
    ]


def _at_random(key: int, density: float) -> Keep:
    if density >= 1:
        return keep_everything
    return lambda flat_start, deltas: bernoulli(key, flat_start, len(deltas), density)


def rescaling(call: Call, inputs: Inputs, keeps: list[Keep]) -> list[float]:
    """What makes up for the dropped: of L1 norms as mergekit does it, or 1 / density."""
    rescale = call.shared["rescale"]
    if rescale == "density":
        return [1 / density if density > 0 else 1.0 for density in call.each("density")]
    if not rescale or not call.size:
        return [1.0] * len(keeps)

    def norms(flat_start: int, values: list[Values]) -> list[Values]:
        deltas = [np.abs(value - values[0]) for value in values[1:]]
        kept = [delta * keep(flat_start, delta) for delta, keep in zip(deltas, keeps, strict=True)]
        return deltas + kept

    before, after = sums(inputs, norms).reshape(2, -1)
    tiny = (before < 1e-7) | (after < 1e-7)
    return [float(scale) for scale in np.where(tiny, 1.0, before / np.where(tiny, 1.0, after))]


def sum_kernel(call: Call, keeps: list[Keep], scales: list[float]) -> Kernel:
    """b + lambda * sum of W_i, W_i = w_i * kept and rescaled delta_i."""
    weights = call.each("weight")
    divisor = nonzero_sum(weights, call.tensor) if call.shared["normalize"] else 1.0
    scale = float(call.shared["lambda"]) / divisor

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        total = np.zeros_like(values[0])
        for term in _weighted(flat_start, values, weights, keeps, scales):
            total += term
        total *= scale
        total += values[0]
        return total

    return stepwise(arithmetic)


def _weighted(
    flat_start: int, values: list[Values], weights: list[float], keeps: list[Keep], scales: list[float]
) -> Iterator[Values]:
    for value, weight, keep, scale in zip(values[1:], weights, keeps, scales, strict=True):
        delta = value - values[0]
        factor = _as_numbers(keep(flat_start, delta), delta)
        factor *= weight * scale
        delta *= factor
        yield delta


def _as_numbers(mask: npt.NDArray[np.bool_], like: Values) -> Values:
    """Ones and zeros: faster to multiply by than truths."""
    numbers = np.empty_like(like)
    np.copyto(numbers, mask)
    return numbers


def consensus_kernel(call: Call, keeps: list[Keep], scales: list[float]) -> Kernel:
    """As `sum_kernel` with only the W_i whose sign is that of their sum (zero counts as positive)."""
    weights, normalize, scale = call.each("weight"), call.shared["normalize"], call.shared["lambda"]

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        terms = list(_weighted(flat_start, values, weights, keeps, scales))
        sign = _sign_bits(terms)
        total, divisor = np.zeros_like(values[0]), np.zeros_like(values[0])
        for weight, term in zip(weights, terms, strict=True):
            bits = term.view(sign.dtype)
            bits ^= sign  # those that agree become positive
            agreed = _as_numbers(term > 0, term)
            term *= agreed
            total += term
            if normalize:
                agreed *= weight
                divisor += agreed
        if normalize:
            divisor[divisor == 0] = 1
            total /= divisor
        bits = total.view(sign.dtype)
        bits ^= sign
        if scale != 1:
            total *= scale
        total += values[0]
        return total

    return stepwise(arithmetic)


def _sign_bits(terms: list[Values]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The sign of the sum of the terms, as the bit that negates a number."""
    total = terms[0] + 0.0  # -0.0 becomes 0.0
    for term in terms[1:]:
        total += term
    total += 0.0
    kind = np.dtype(np.uint32) if total.dtype == np.float32 else np.dtype(np.uint64)
    bits: npt.NDArray[np.unsignedinteger[Any]] = total.view(kind)
    bits &= kind.type(1 << (8 * kind.itemsize - 1))
    return bits


def sparse(
    find_keeps: Callable[[Call, Inputs], list[Keep]],
    kernel: Callable[[Call, list[Keep], list[float]], Kernel],
) -> Callable[[Call], Prepare]:
    """A method from its way of thinning and its way of summing."""

    def build(call: Call) -> Prepare:
        def prepare(inputs: Inputs) -> Kernel:
            if not call.models:
                return lambda flat_start, values: values[0].copy()
            keeps = find_keeps(call, inputs)
            return kernel(call, keeps, rescaling(call, inputs, keeps))

        return prepare

    return build


def _parameters(*, normalize: bool, rescale: bool, gamma: bool = False) -> tuple[Parameter, ...]:
    return (
        WEIGHT,
        Parameter("density", "number", 1.0, "model", 0, 1),
        *((Parameter("gamma", "number", 0.01, "model", 0, 1),) if gamma else ()),
        Parameter("normalize", "flag", True) if normalize else NORMALIZE_OFF,
        Parameter("rescale", "rescale", rescale),
        LAMBDA,
        INT8_MASK,
    )


TIES = Method(
    "ties",
    "the largest deltas, where they agree with the sign of their sum",
    sparse(ranked_keeps("ties"), consensus_kernel),
    _parameters(normalize=True, rescale=False),
    base="required",
    min_models=0,
)
DARE_LINEAR = Method(
    "dare_linear",
    "deltas dropped at random and rescaled",
    sparse(random_keeps, sum_kernel),
    _parameters(normalize=False, rescale=True),
    base="required",
    min_models=0,
)
DARE_TIES = Method(
    "dare_ties",
    "deltas dropped at random and rescaled, where they agree with the sign of their sum",
    sparse(random_keeps, consensus_kernel),
    _parameters(normalize=False, rescale=True),
    base="required",
    min_models=0,
)
BREADCRUMBS = Method(
    "breadcrumbs",
    "deltas without the largest and without the small",
    sparse(ranked_keeps("breadcrumbs"), sum_kernel),
    _parameters(normalize=False, rescale=False, gamma=True),
    base="required",
    min_models=0,
)
BREADCRUMBS_TIES = Method(
    "breadcrumbs_ties",
    "breadcrumbs, where they agree with the sign of their sum",
    sparse(ranked_keeps("breadcrumbs"), consensus_kernel),
    _parameters(normalize=False, rescale=False, gamma=True),
    base="required",
    min_models=0,
)
