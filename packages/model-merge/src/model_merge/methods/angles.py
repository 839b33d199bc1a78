"""Angles: slerp, nuslerp, multislerp, karcher, model_stock.

All of them end in a sum of c_i x_i whose factors depend on norms and angles alone. One pass gathers the Gram
matrix in float64, the factors come from it (Karcher's iteration too runs on the n x n matrix: its iterates
stay in the span of the inputs), and the sum is element by element. A Gram matrix with further axes holds one
matrix a vector: the row-wise variants are the same functions.
"""

import numpy as np

from model_merge.averaging import weighted_sum
from model_merge.dtypes import Values
from model_merge.methods.spec import Call, Method, Parameter, Prepare, stepwise
from model_merge.methods.sums import Doubles, differences, gram, vector_gram, vector_ids
from model_merge.plan import Inputs, Kernel

OPPOSITE = 1e-6
"""A direction within this angle of the opposite of a mean pulls it nowhere: all ways there are as long."""


def slerp_factors(products: Doubles, t: float) -> Doubles:
    """Of a and c: sin((1-t)θ)/sinθ and sin(tθ)/sinθ, or 1-t and t where |cosθ| > 0.9995."""
    norms = _norms(products)
    norms = np.where(norms > 1e-8, norms, 1.0)
    cosine = np.clip(products[0, 1] / norms[0] / norms[1], -1, 1)
    return _arc(cosine, np.abs(cosine) > 0.9995, t)


def nuslerp_factors(products: Doubles, t: float) -> Doubles:
    """As `slerp_factors`, straight only where the cosine is 1 or -1 to float32.

    mergekit's 1 - cos² ≤ 1e-16 means just that in float32. In float64 it would lie below the rounding of the
    cosine: opposite vectors would be told from nearly opposite ones by chance, and these come out arbitrarily
    long.
    """
    norms = np.maximum(_norms(products), 1e-7)
    cosine = np.clip(products[0, 1] / norms[0] / norms[1], -1, 1)
    return _arc(cosine, np.abs(cosine).astype(np.float32) == 1, t)


def _arc(cosine: Doubles, straight: Doubles, t: float) -> Doubles:
    angle = np.arccos(np.where(straight, 0.0, cosine))
    arc = np.stack([np.sin((1 - t) * angle), np.sin(t * angle)]) / np.sin(angle)
    line = np.stack([np.full_like(cosine, 1 - t), np.full_like(cosine, t)])
    return np.asarray(np.where(straight, line, arc))


def _norms(products: Doubles) -> Doubles:
    """(n, ...) from (n, n, ...)."""
    return np.asarray(np.sqrt(np.einsum("ii...->i...", products)))


def multislerp_factors(products: Doubles, weights: Doubles, eps: float) -> Doubles | None:
    """Of the inputs; None where the weighted unit vectors cancel out.

    mergekit goes on from the weighted mean m of the unit vectors along the weighted mean of their tangents at
    m, which is zero by construction: what remains is m, as long as the weighted mean norm.
    """
    norms = _norms(products)
    units = weights / (norms + eps)
    length = np.sqrt(max(float(units @ products @ units), 0.0))
    if not norms.any():  # a tensor that no model has moved from the base
        return np.zeros(len(weights))
    if length < eps:
        return None
    return np.asarray(units / length * (weights @ norms))


def karcher_factors(products: Doubles, *, max_iter: int, tol: float) -> Doubles:
    """Of the inputs: the Fréchet mean of their unit vectors, as long as their mean norm."""
    norms = _norms(products)
    valid = norms > tol
    if not valid.any():
        return np.zeros(len(norms))
    lengths = norms[valid]
    cosines = products[np.ix_(valid, valid)] / np.outer(lengths, lengths)
    mean = _karcher_mean(cosines, max_iter=max_iter, tol=tol)
    factors = np.zeros(len(norms))
    factors[valid] = mean / lengths * norms.mean()
    return factors


def _karcher_mean(cosines: Doubles, *, max_iter: int, tol: float) -> Doubles:
    """Factors of unit vectors whose cosines are given."""
    count = len(cosines)

    def length(factors: Doubles) -> float:
        return float(np.sqrt(max(float(factors @ cosines @ factors), 0.0)))

    mean = np.full(count, 1 / count)
    size = length(mean)
    mean = mean / size if size >= tol else np.eye(count)[0]
    for _ in range(max_iter):
        cosine = np.clip(cosines @ mean, -1, 1)
        angle = np.arccos(cosine)
        moves = (angle >= tol) & (angle <= np.pi - OPPOSITE)
        pull = np.where(moves, angle / np.where(moves, np.sin(angle), 1.0), 0.0) / count
        tangent = pull - (pull @ cosine) * mean
        size = length(tangent)
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * tangent
        if (size := length(mean)) > tol:
            mean /= size
    return mean


def model_stock_share(products: Doubles) -> Doubles:
    """How far to go from the base to the mean: Nc / (1 + (N-1)c), c the mean cosine of the deltas."""
    count = len(products)
    norms = _norms(products)
    upper = np.triu_indices(count, 1)
    pairs = np.maximum(norms[upper[0]] * norms[upper[1]], 1e-6)
    cosine = np.clip(products[upper] / pairs, -1, 1).mean(axis=0)
    denominator = 1 + (count - 1) * cosine
    singular = np.abs(denominator) < 1e-6
    return np.asarray(np.where(singular, 0.0, count * cosine / np.where(singular, 1.0, denominator)))


def combination(factors: Doubles, inputs: Inputs, *, has_base: bool) -> Kernel:
    """Sum of c_i x_i, or b + sum of c_i (x_i - b)."""
    add = weighted_sum([float(factor) for factor in factors], 1.0)(inputs)
    if not has_base:
        return add

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        total = add(flat_start, differences(values, has_base=True))
        total += values[0]
        return total

    return stepwise(arithmetic)


def vector_combination(factors: Doubles, shape: tuple[int, ...], *, axis: int, has_base: bool) -> Kernel:
    """As `combination` with factors of its own for every vector along `axis`: (n, vectors)."""

    def arithmetic(flat_start: int, values: list[Values]) -> Values:
        ids = vector_ids(flat_start, len(values[0]), shape, axis=axis)
        total = np.zeros_like(values[0])
        for factor, value in zip(factors, differences(values, has_base=has_base), strict=True):
            total += factor[ids].astype(total.dtype, copy=False) * value
        return total + values[0] if has_base else total

    return stepwise(arithmetic)


def slerp(call: Call) -> Prepare:
    """From the base to the other model along the arc."""

    def prepare(inputs: Inputs) -> Kernel:
        if not call.size:
            return combination(np.ones(2) / 2, inputs, has_base=False)
        products = gram(inputs, has_base=False)
        return combination(slerp_factors(products, call.shared["t"]), inputs, has_base=False)

    return prepare


def nuslerp(call: Call) -> Prepare:
    """From the first model to the second along the arc, of the whole tensor or of each vector."""
    first, second = call.each("weight")
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)

    def prepare(inputs: Inputs) -> Kernel:
        if not call.size:
            return combination(np.ones(2) / 2, inputs, has_base=call.has_base)
        if call.shared["nuslerp_flatten"]:
            products = gram(inputs, has_base=call.has_base)
            return combination(nuslerp_factors(products, t), inputs, has_base=call.has_base)
        axis = 0 if call.shared["nuslerp_row_wise"] else -1
        products = vector_gram(inputs, axis=axis, has_base=call.has_base)
        factors = nuslerp_factors(products, t)
        return vector_combination(factors, call.shape, axis=axis, has_base=call.has_base)

    return prepare


def multislerp(call: Call) -> Prepare:
    """The weighted mean direction, as long as the weighted mean norm."""
    weights = np.asarray(call.each("weight"))
    if call.shared["normalize_weights"]:
        if abs(weights.sum()) < 1e-8:
            raise ValueError(f"{call.tensor}: the weights {weights.tolist()} sum to zero")
        weights = weights / weights.sum()

    def prepare(inputs: Inputs) -> Kernel:
        if len(weights) == 1:  # mergekit returns it whatever its weight
            return combination(np.ones(1), inputs, has_base=call.has_base)
        if not call.size:
            return combination(weights, inputs, has_base=call.has_base)
        products = gram(inputs, has_base=call.has_base)
        factors = multislerp_factors(products, weights, call.shared["eps"])
        if factors is None and len(weights) > 2:
            raise ValueError(
                f"{call.tensor}: the weighted directions cancel out, there is no mean of them: "
                "give other weights"
            )
        return combination(weights if factors is None else factors, inputs, has_base=call.has_base)

    return prepare


def karcher(call: Call) -> Prepare:
    """The Fréchet mean of the directions, as long as the mean norm."""

    def prepare(inputs: Inputs) -> Kernel:
        count = len(call.models)
        if count == 1 or not call.size:
            return combination(np.ones(count) / count, inputs, has_base=False)
        products = gram(inputs, has_base=False)
        limits = {"max_iter": call.shared["max_iter"], "tol": call.shared["tol"]}
        return combination(karcher_factors(products, **limits), inputs, has_base=False)

    return prepare


def model_stock(call: Call) -> Prepare:
    """From the base towards the mean, by the angle between the models' deltas."""
    count = len(call.models)

    def prepare(inputs: Inputs) -> Kernel:
        if not call.size:
            return combination(np.ones(count) / count, inputs, has_base=True)
        if call.shared["filter_wise"]:
            share = model_stock_share(vector_gram(inputs, axis=-1, has_base=True))
            factors = np.broadcast_to(share / count, (count, len(share)))
            return vector_combination(factors, call.shape, axis=-1, has_base=True)
        share = model_stock_share(gram(inputs, has_base=True))
        return combination(np.full(count, share / count), inputs, has_base=True)

    return prepare


WEIGHT = Parameter("weight", "number", of="model")
SLERP = Method(
    "slerp",
    "along the arc from the base, by t",
    slerp,
    (Parameter("t", "number"),),
    base="required",
    max_models=1,
)
NUSLERP = Method(
    "nuslerp",
    "along the arc between two models, or between their deltas",
    nuslerp,
    (
        WEIGHT,
        Parameter("nuslerp_flatten", "flag", True),
        Parameter("nuslerp_row_wise", "flag", False),
    ),
    base="optional",
    min_models=2,
    max_models=2,
)
MULTISLERP = Method(
    "multislerp",
    "weighted mean direction at the weighted mean norm",
    multislerp,
    (WEIGHT, Parameter("normalize_weights", "flag", True), Parameter("eps", "number", 1e-8, low=0)),
    base="optional",
)
KARCHER = Method(
    "karcher",
    "Fréchet mean of the directions at the mean norm",
    karcher,
    (Parameter("max_iter", "count", 10, low=0), Parameter("tol", "number", 1e-5, low=0)),
)
MODEL_STOCK = Method(
    "model_stock",
    "from the base towards the mean, by the angle between the deltas",
    model_stock,
    (Parameter("filter_wise", "flag", False),),
    base="required",
    min_models=2,
)
