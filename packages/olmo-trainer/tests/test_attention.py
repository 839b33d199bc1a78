import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from olmo_trainer.attention import document_attention, document_mask
from olmo_trainer.batches import cumulative_lengths
from olmo_trainer.loss import hidden_states


def logits(model, batch):
    with torch.no_grad():
        return model.lm_head(hidden_states(model, batch)).numpy()


def test_logits_are_those_of_each_document_run_alone(golden_model, golden_batch, golden):
    np.testing.assert_allclose(
        logits(golden_model, golden_batch()), golden["logits_doc_masked"], rtol=0, atol=2e-5
    )


def test_without_document_ids_attention_is_plain_causal(golden_model, golden_batch, golden):
    found = logits(golden_model, golden_batch(doc_ids=False))
    np.testing.assert_allclose(found, golden["logits_plain_causal"], rtol=0, atol=2e-5)
    assert np.abs(found - golden["logits_doc_masked"]).max() > 8  # so a missing mask cannot hide


def one_document_at_a_time(query, key, value, doc_ids):
    """The slow twin: every document of every row cut out and run alone, heads repeated by hand."""
    output = torch.zeros_like(query)
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    for row, ids in enumerate(doc_ids):
        for document in ids.unique():
            where = (ids == document).nonzero().squeeze(1)
            parts = (states[row][:, where] for states in (query, key, value))
            output[row][:, where] = scaled_dot_product_attention(*parts, is_causal=True)
    return output.transpose(1, 2)


@pytest.mark.parametrize("lengths", [[1], [63], [1, 62, 1], [30, 35], [1, 1, 1]])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_values_and_gradients_equal_running_documents_one_by_one(lengths, kv_heads):
    generator = torch.Generator().manual_seed(0)
    doc_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, -1)
    shapes = [(2, heads, sum(lengths), 8) for heads in (4, kv_heads, kv_heads)]
    states = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    slow, fast = ([tensor.clone().requires_grad_() for tensor in states] for _ in range(2))
    expected = one_document_at_a_time(*slow, doc_ids)
    found, _ = document_attention(nn.Module(), *fast, None, doc_mask=document_mask(doc_ids))
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for output in (expected, found):
        (output * weights).sum().backward()
    for one, other in zip(slow, fast, strict=True):
        torch.testing.assert_close(other.grad, one.grad)


@pytest.mark.parametrize("lengths", [[1], [65], [1, 63, 1], [300, 213]])  # the last is longer than SHORT_ROW
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_on_the_cpu_equals_float32_up_to_its_rounding(lengths, masked):
    generator = torch.Generator().manual_seed(0)
    doc_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, -1)
    mask = document_mask(doc_ids) if masked else None
    states = [torch.randn((2, heads, sum(lengths), 16), generator=generator) for heads in (4, 2, 2)]
    weights = torch.randn((2, sum(lengths), 4, 16), generator=generator)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [tensor.to(torch.bfloat16).to(dtype).requires_grad_() for tensor in states]
        output, _ = document_attention(nn.Module(), *inputs, None, doc_mask=mask, scaling=0.3)
        (output * weights).sum().backward()
        results.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for exact, rounded in zip(*results, strict=True):
        torch.testing.assert_close(
            rounded.float(), exact, rtol=0, atol=2e-2 * exact.abs().max().item() + 1e-6
        )


def test_a_cache_is_refused_because_the_mask_would_be_wrong():
    query, key = torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 5, 8)
    with pytest.raises(ValueError, match="for training: it got 1 queries and 5 keys"):
        document_attention(nn.Module(), query, key, key, None)


def test_exported_configurations_do_not_name_our_attention(golden_model, tmp_path):
    golden_model.save_pretrained(tmp_path)
    assert "olmo_trainer" not in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_variable_length_kernel_equals_the_block_mask():
    generator = torch.Generator().manual_seed(0)
    doc_ids = np.repeat(np.arange(3, dtype=np.int32), [1, 62, 33])[None].repeat(2, 0)
    states = [torch.randn((2, heads, 96, 16), generator=generator).bfloat16().cuda() for heads in (4, 2, 2)]
    mask = document_mask(torch.from_numpy(doc_ids)).cuda()
    boundaries = torch.from_numpy(cumulative_lengths(doc_ids)).cuda()
    expected, _ = document_attention(nn.Module(), *states, None, doc_mask=mask)
    found, _ = document_attention(nn.Module(), *states, None, cu_seqlens=boundaries)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
