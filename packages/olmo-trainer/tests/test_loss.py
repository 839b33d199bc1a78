from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from olmo_trainer.loss import chunked_loss, next_token_loss, output_head, sum_cross_entropy


@pytest.mark.parametrize("targets", ["cross_doc", "intra_doc"])
def test_cross_entropy_and_z_loss_are_the_golden_ones(golden_model, golden_batch, expected, targets):
    loss, metrics = next_token_loss(golden_model, golden_batch(f"labels_{targets}"), z_weight=1e-4)
    assert float(metrics["ce"]) == pytest.approx(expected[f"mean_ce_{targets}"], abs=1e-5)
    assert float(metrics["z"]) == pytest.approx(expected[f"z_loss_1e-4_{targets}"], abs=1e-5)
    assert loss.item() == pytest.approx(float(metrics["ce"] + metrics["z"]), abs=1e-6)


@pytest.mark.parametrize("chunk_tokens", [7, 1024])
def test_gradients_are_the_golden_ones_whatever_the_chunk(
    golden_model, golden_batch, golden_grads, chunk_tokens
):
    loss, _ = next_token_loss(golden_model, golden_batch(), z_weight=1e-4, chunk_tokens=chunk_tokens)
    loss.backward()
    for name, parameter in golden_model.named_parameters():
        want = golden_grads[name]
        np.testing.assert_allclose(
            parameter.grad, want, rtol=0, atol=1e-5 * max(np.abs(want).max(), 1e-30), err_msg=name
        )


@pytest.fixture(scope="session")
def golden_grads(golden_path):
    return dict(np.load(golden_path / "grads_ce_plus_z_cross_doc.npz"))


def test_micro_batches_add_up_to_the_whole_update(golden_model, golden_batch):
    parts = [golden_batch(rows=rows) for rows in (slice(0, 1), slice(1, 4))]
    shares = [next_token_loss(golden_model, part)[0].item() for part in parts]
    whole, _ = next_token_loss(golden_model, golden_batch())
    assert sum(shares) == pytest.approx(whole.item(), abs=1e-6)


def naive_loss(hidden, weight, bias, labels, z_weight):
    """The slow twin: all logits at once, gradients by autograd."""
    logits = linear(hidden, weight, bias)
    ce = cross_entropy(logits, labels, reduction="sum")
    z = z_weight * logits.logsumexp(1).square().sum()
    return ce + z, ce, z


@pytest.mark.parametrize("tokens", [1, 63, 64, 65])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunked_loss_equals_the_naive_one(tokens, with_bias):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, 8), (33, 8), (33,)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    labels = torch.randint(33, (tokens,), generator=generator)
    results = []
    for function in (naive_loss, lambda *args: chunked_loss(*args[:-1], z_weight=args[-1], chunk_tokens=32)):
        hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in inputs)
        loss, ce, z = function(hidden, weight, bias if with_bias else None, labels, 0.01)
        (loss / 5).backward()
        gradients = [hidden.grad, weight.grad, *([bias.grad] if with_bias else [])]
        results.append([loss.detach(), ce.detach(), z.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        # sums are kept in float32, as in training
        torch.testing.assert_close(other.double(), one, rtol=1e-5, atol=1e-5)


def test_an_update_without_any_target_costs_nothing(golden_model, golden_batch):
    batch = golden_batch()
    batch = replace(batch, labels=torch.full_like(batch.labels, -100), num_targets=1)
    loss, _ = next_token_loss(golden_model, batch)
    loss.backward()
    assert loss.item() == 0
    assert not golden_model.lm_head.weight.grad.any()


def test_a_head_tied_to_the_embeddings_gets_both_gradients(golden_model, golden_batch):
    golden_model.lm_head.weight = golden_model.model.embed_tokens.weight
    batch = golden_batch(doc_ids=False)
    next_token_loss(golden_model, batch, z_weight=0.0)[0].backward()
    found = golden_model.lm_head.weight.grad.clone()
    golden_model.zero_grad()
    logits = golden_model(input_ids=batch.input_ids, use_cache=False).logits
    cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).backward()
    torch.testing.assert_close(found, golden_model.lm_head.weight.grad, rtol=0, atol=1e-6)


def test_a_family_that_changes_its_logits_is_refused(golden_model):
    golden_model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="changes its logits"):
        output_head(golden_model)


def test_validation_sums_the_same_cross_entropy(golden_model, golden_batch, golden):
    found = sum_cross_entropy(golden_model, golden_batch("labels_intra_doc"), chunk_tokens=50)
    assert found == pytest.approx(golden["token_ce_intra_doc"].sum(), rel=1e-6)


def test_bfloat16_autocast_stays_close_to_float32(golden_model, golden_batch, expected):
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = next_token_loss(golden_model, golden_batch(), z_weight=1e-4)
        loss.backward()
    assert float(metrics["ce"]) == pytest.approx(expected["mean_ce_cross_doc"], abs=5e-2)
    assert golden_model.lm_head.weight.grad.dtype == torch.float32
