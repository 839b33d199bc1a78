"""Knowledge entropy from coefficients, its standard error, rank correlations. Pure NumPy, in nats.

A layer's coefficients, divided by their sum, are a distribution over its units; its entropy is the layer's,
and the model's is the sum over the layers. Trained models stay within a per cent of the maximum, so the
deficit, ln(width) - H, is the number to look at. Errors come from leaving out one block of rows at a time,
which costs blocks * layers * width operations and no forward pass.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

UPSTREAM_EPS = 1e-9


def entropy(coefficients: Float[ndarray, "*rows unit"], *, eps: float = 0.0) -> Float[ndarray, "*rows"]:
    """The entropy of every row of coefficients, on any scale; 0 ln 0 = 0, and NaN for zeros only.

    `eps` is what the published code adds inside the logarithm, 1e-9.

    >>> float(np.exp(entropy(np.array([2.0, 2.0, 0.0]))).round(6))
    2.0
    """
    values = np.asarray(coefficients, dtype=np.float64)
    total = values.sum(-1, keepdims=True)
    shares = np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)
    logs = np.log(shares + eps, out=np.zeros_like(shares), where=~(shares + eps <= 0))
    return np.asarray(-(shares * logs).sum(-1))


def leave_one_out(
    block_sums: Float[ndarray, "block layer unit"], *, eps: float = 0.0
) -> Float[ndarray, "block layer"]:
    """Every layer's entropy without one of the blocks, for each block."""
    total = block_sums.sum(0)
    return np.stack([entropy(total - block, eps=eps) for block in block_sums])


def jackknife_error(without: Float[ndarray, "block ..."]) -> Float[ndarray, "..."]:
    """The standard error of a number, from its values without one of the blocks; NaN for a single block.

    >>> float(jackknife_error(np.array([1.0, 2.0, 3.0])).round(4))
    1.1547
    """
    blocks = len(without)
    if blocks < 2:
        return np.full(without.shape[1:], np.nan)
    spread = ((without - without.mean(0)) ** 2).sum(0)
    return np.asarray(np.sqrt((blocks - 1) / blocks * spread))


def rank_correlation(
    first: Float[ndarray, "layer unit"], second: Float[ndarray, "layer unit"]
) -> Float[ndarray, " layer"]:
    """Spearman's rho between two checkpoints' coefficients, layer by layer; NaN where all are equal."""
    ranks = [np.stack([_ranks(row) for row in one]) for one in (first, second)]
    centred = [one - one.mean(-1, keepdims=True) for one in ranks]
    product = (centred[0] * centred[1]).sum(-1)
    size = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    return np.asarray(np.divide(product, size, out=np.full(len(product), np.nan), where=size > 0))


def _ranks(values: Float[ndarray, " unit"]) -> Float[ndarray, " unit"]:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: ndarray = (last - (counts - 1) / 2)[inverse]
    return ranks
