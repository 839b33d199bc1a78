"""One pass against upstream's numbers, and against plain loops over rows on every family."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from knowledge_entropy.families import find_output_maps
from knowledge_entropy.measure import Options, measure
from knowledge_entropy.tokens import from_rows

VOCAB = 60
TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def slow_coefficients(model, tokens, *, by_row=False):
    """Every activation kept, one row at a time, in float64."""
    model = copy.deepcopy(model).double()
    names = {one.name: one.layer for one in find_output_maps(model)}
    kept = [[] for _ in names]
    for name, module in model.named_modules():
        if name in names:
            module.register_forward_hook(
                lambda _, x, __, layer=names[name]: kept[layer].append(x[0].detach())
            )
    with torch.no_grad():
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            model(torch.from_numpy(tokens.ids[start:end])[None], use_cache=False)
    rows = [[one.abs().reshape(-1, one.shape[-1]) for one in layer] for layer in kept]
    if by_row:
        return np.stack([torch.stack([row.mean(0) for row in layer]).mean(0) for layer in rows])
    return np.stack([torch.cat(layer).mean(0).numpy() for layer in rows])


def test_coefficients_of_every_family_are_those_of_a_plain_loop(family_model, ragged):
    fast = measure(family_model, ragged, Options(blocks=3), batch_tokens=130)
    assert_allclose(fast.coefficients.mean_abs, slow_coefficients(family_model, ragged), rtol=2e-5, atol=1e-7)


def test_coefficients_by_sequence_are_means_of_the_rows_means(family_model, ragged):
    fast = measure(family_model, ragged, Options(weighting="sequence", blocks=2), batch_tokens=130)
    slow = slow_coefficients(family_model, ragged, by_row=True)
    assert_allclose(fast.coefficients.mean_abs, slow, rtol=2e-5, atol=1e-7)


def test_the_hooked_value_is_the_activation_written_out():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY)).eval()
    mlp, inputs = model.model.layers[0].mlp, []
    handle = mlp.register_forward_hook(lambda _, x, __: inputs.append(x[0].detach()))
    rows = from_rows([[3, 4, 5]], source="a row")
    fast = measure(model, rows).coefficients.mean_abs[0]
    handle.remove()
    with torch.no_grad():
        by_hand = (
            (torch.nn.functional.silu(mlp.gate_proj(inputs[0])) * mlp.up_proj(inputs[0])).abs().mean((0, 1))
        )
    assert_allclose(fast, by_hand.numpy(), rtol=1e-6)


def test_entropy_is_the_references_in_every_layer(golden_model, golden_rows, golden_entropy):
    result = measure(golden_model, golden_rows["A"], batch_tokens=200)
    assert_allclose(
        result.layers["entropy"], golden_entropy["ref_A_mean_coeff_entropy_f64"], rtol=0, atol=1e-6
    )
    assert_allclose(result.coefficients.mean_abs, golden_entropy["ref_A_mean_coeff_f64"], rtol=1e-5)
    assert result.total["entropy"] == pytest.approx(13.458837070, abs=1e-6)


@pytest.mark.parametrize(("weighting", "name"), [("token", "tokenmean"), ("sequence", "seqmean")])
def test_padding_counts_nothing(weighting, name, golden_model, golden_rows, golden_entropy):
    result = measure(golden_model, golden_rows["B"], Options(weighting=weighting), batch_tokens=10_000)
    expected = golden_entropy[f"ref_B_{name}_masked_entropy_f64"]
    assert_allclose(result.layers["entropy"], expected, rtol=0, atol=1e-6)
    assert_allclose(result.coefficients.mean_abs, golden_entropy[f"ref_B_{name}_masked_f64"], rtol=1e-5)


@pytest.mark.parametrize("name", ["A", "B"])
def test_compat_upstream_is_the_published_code(name, golden_model, golden_rows, golden_entropy):
    result = measure(golden_model, golden_rows[name], Options(compat="upstream", pad_id=1))
    assert_allclose(result.coefficients.mean_abs, golden_entropy[f"{name}_tok_avg_coeff"], rtol=1e-5)
    expected = golden_entropy[f"{name}_tok_entropy_per_layer"]
    assert_allclose(result.layers["entropy"], expected, rtol=0, atol=1e-6)


def test_attention_and_next_token_entropy_are_the_references(golden_model, golden_rows, golden_entropy):
    options = Options(attention=True, next_token=True)
    result = measure(golden_model, golden_rows["A"], options, batch_tokens=200)
    expected = golden_entropy["ref_A_attention_entropy_per_layer"]
    assert_allclose(result.attention_entropy, expected, rtol=0, atol=1e-6)
    assert result.next_token_entropy == pytest.approx(
        float(golden_entropy["ref_A_next_token_entropy"]), abs=1e-6
    )
    alone = measure(golden_model, golden_rows["A"], batch_tokens=200)
    assert_allclose(result.coefficients.mean_abs, alone.coefficients.mean_abs, rtol=1e-5)


def slow_other_entropies(model, tokens, *, own_attention):
    """From eager attention's stored weights and the whole logits, one row at a time."""
    model = copy.deepcopy(model).double()
    if not own_attention:
        model.set_attn_implementation("eager")
    attention, next_token = [], []
    with torch.no_grad():
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids = torch.from_numpy(tokens.ids[start:end])[None]
            output = model(ids, output_attentions=not own_attention, use_cache=False)
            next_token.append(torch.special.entr(output.logits.softmax(-1)).sum(-1)[0])
            if not own_attention:
                by_layer = [torch.special.entr(a).sum(-1).mean(1)[0] for a in output.attentions]
                attention.append(torch.stack(by_layer, dim=1))
    mean_attention = None if own_attention else torch.cat(attention).mean(0).numpy()
    return mean_attention, torch.cat(next_token).mean().item()


def test_other_entropies_of_every_family_are_those_of_stored_weights(family_model, ragged, monkeypatch):
    monkeypatch.setattr("knowledge_entropy.other_entropies.CHUNK_NUMBERS", 1000)  # a few queries at a time
    own_attention = family_model.config.model_type in ("bloom", "falcon", "gptj")
    attention, next_token = slow_other_entropies(family_model, ragged, own_attention=own_attention)
    result = measure(
        family_model, ragged, Options(next_token=True, attention=not own_attention), batch_tokens=130
    )
    assert result.next_token_entropy == pytest.approx(next_token, abs=2e-5)
    if not own_attention:
        assert_allclose(result.attention_entropy, attention, rtol=0, atol=2e-5)
    else:
        with pytest.raises(ValueError, match="attention entropy"):
            measure(family_model, ragged, Options(attention=True))
    assert family_model.config._attn_implementation != "knowledge_entropy"


def test_batches_change_nothing(golden_model, golden_rows):
    one, many = (
        measure(golden_model, golden_rows["B"], Options(blocks=4), batch_tokens=size) for size in (1, 100_000)
    )
    assert_allclose(one.coefficients.block_sums, many.coefficients.block_sums, rtol=1e-5)
    assert_allclose(one.layers["se"], many.layers["se"], rtol=1e-4)


def test_the_standard_error_is_the_jackknife_written_out(golden_model, golden_rows):
    rows = golden_rows["A"]
    result = measure(golden_model, rows, Options(blocks=5))
    lacking = []
    for block in range(5):
        kept = [row for number, row in enumerate(rows.ids.reshape(10, 64)) if number // 2 != block]
        lacking.append(measure(golden_model, from_rows(kept, source="kept")).total["entropy"])
    by_hand = np.sqrt(4 / 5 * np.sum((np.array(lacking) - np.mean(lacking)) ** 2))
    assert result.total["se"] == pytest.approx(by_hand, rel=1e-4)


def test_a_change_between_checkpoints_is_measured_with_paired_errors(golden_model, golden_rows):
    before = measure(golden_model, golden_rows["A"], Options(blocks=10))
    golden_model.model.layers[2].mlp.up_proj.weight.data[:8] *= 1.01
    after = measure(golden_model, golden_rows["A"], Options(blocks=10))
    change = after.change_since(before)
    assert_allclose(change.layers[:2], 0, atol=1e-12)
    assert abs(change.total) > 0
    assert 0 < change.total_se < 0.1 * after.total["se"]
    with pytest.raises(ValueError, match="different tokens"):
        after.change_since(measure(golden_model, golden_rows["B"], Options(blocks=10)))


def test_a_target_error_ends_the_pass_early_on_the_first_rows(golden_model, golden_rows):
    options = Options(blocks=10, target_se=10.0)
    result = measure(golden_model, golden_rows["A"], options)
    assert result.tokens.num_rows == 8
    whole = measure(golden_model, golden_rows["A"].first(8), Options(blocks=8))
    assert_allclose(result.coefficients.block_sums, whole.coefficients.block_sums)
    assert measure(golden_model, golden_rows["A"], Options(target_se=1e-9)).tokens.num_rows == 10


def test_one_block_has_no_standard_error(golden_model, golden_rows):
    assert np.isnan(measure(golden_model, golden_rows["A"], Options(blocks=1)).total["se"])


def test_silent_units_are_counted(golden_model, golden_rows):
    golden_model.model.layers[1].mlp.up_proj.weight.data[[3, 7]] = 0
    assert measure(golden_model, golden_rows["A"]).layers["zero_units"].tolist() == [0, 2, 0]


def test_experts_are_refused(ragged):
    model = AutoModelForCausalLM.from_config(MixtralConfig(**TINY, num_local_experts=2))
    with pytest.raises(ValueError, match="MixtralForCausalLM is a mixture of experts"):
        measure(model, ragged)


def test_tokens_that_do_not_fit_are_refused(golden_model):
    with pytest.raises(ValueError, match="hold id 128, OlmoForCausalLM knows 128"):
        measure(golden_model, from_rows([[128]], source="x"))
    with pytest.raises(ValueError, match=r"a row has 65 tokens, OlmoForCausalLM takes 64.*--length"):
        measure(golden_model, from_rows([[1] * 65], source="x"))


def test_damaged_or_dead_weights_are_refused(golden_model, golden_rows):
    golden_model.model.layers[1].mlp.up_proj.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer 1 has coefficients that are not finite"):
        measure(golden_model, golden_rows["A"])
    golden_model.model.layers[1].mlp.up_proj.weight.data[:] = 0
    with pytest.raises(ValueError, match="layer 1 has only coefficients of zero"):
        measure(golden_model, golden_rows["A"])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"weighting": "row"}, "weighting 'row'"), ({"compat": "x"}, "compat 'x'"), ({"blocks": 0}, "0 blocks")],
)
def test_unknown_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Options(**options)


def test_a_bfloat16_pass_is_near(golden_model, golden_rows):
    exact = measure(golden_model, golden_rows["A"]).layers["entropy"]
    assert_allclose(measure(golden_model.bfloat16(), golden_rows["A"]).layers["entropy"], exact, atol=5e-3)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(golden_model, golden_rows):
    exact = measure(golden_model, golden_rows["B"], Options(attention=True, next_token=True))
    cuda = measure(golden_model.cuda(), golden_rows["B"], Options(attention=True, next_token=True))
    assert_allclose(cuda.layers["entropy"], exact.layers["entropy"], rtol=0, atol=1e-5)
    assert_allclose(cuda.attention_entropy, exact.attention_entropy, rtol=0, atol=1e-4)


def test_a_target_that_cannot_stop_a_pass_is_refused():
    with pytest.raises(ValueError, match=r"--target-se 0\.0: expected nats above 0"):
        Options(target_se=0.0)
    with pytest.raises(ValueError, match="--target-se needs --blocks 8 or more"):
        Options(target_se=0.1, blocks=7)
