"""DARE: what it keeps is random, what it makes of it is not."""

import numpy as np
import pytest

from model_merge.random import bernoulli, stream_key

MODELS = [{"weight": 0.5, "density": 0.5}, {"weight": 0.3, "density": 0.25}, {"weight": 0.2, "density": 1.0}]


def tensors():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((300, 400))
    return base, [base + 0.1 * rng.standard_normal(base.shape) for _ in MODELS]


def by_hand(base, models, *, rescale, consensus, seed=11):
    terms = []
    for i, (model, chosen) in enumerate(zip(models, MODELS, strict=True)):
        delta = model - base
        kept = delta * bernoulli(stream_key(seed, "w", i), 0, base.size, chosen["density"]).reshape(
            base.shape
        )
        scale = {True: np.abs(delta).sum() / np.abs(kept).sum(), "density": 1 / chosen["density"], False: 1.0}
        terms.append(chosen["weight"] * scale[rescale] * kept)
    terms = np.stack(terms)
    if consensus:
        terms = terms * (np.sign(terms) == np.where(terms.sum(0) >= 0, 1, -1))
    return base + terms.sum(0)


@pytest.mark.parametrize("rescale", [True, False, "density"])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_the_masked_and_rescaled_deltas_are_summed(merge, name, rescale):
    base, models = tensors()
    merged = merge(name, models, base=base, models=MODELS, seed=11, rescale=rescale)
    expected = by_hand(base, models, rescale=rescale, consensus=name == "dare_ties")
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-12)


def test_chunks_do_not_change_what_is_dropped_and_seeds_do(merge):
    base, models = tensors()
    whole = merge("dare_ties", models, base=base, models=MODELS, seed=1)
    np.testing.assert_array_equal(
        merge("dare_ties", models, base=base, models=MODELS, seed=1, chunk=997), whole
    )
    assert (merge("dare_ties", models, base=base, models=MODELS, seed=2) != whole).mean() > 0.3
    other = merge("dare_ties", models, base=base, models=MODELS, seed=1, tensor="v")
    assert (other != whole).mean() > 0.3


def test_rescaling_by_density_keeps_the_mean(merge):
    base, _ = tensors()
    chosen = [{"weight": 1.0, "density": 0.1}]
    kept = merge("dare_linear", [base + 1], base=base, models=chosen, rescale="density")
    share = (kept != base).mean()
    assert abs(share - 0.1) < 0.005
    np.testing.assert_allclose((kept - base)[kept != base], 10)
