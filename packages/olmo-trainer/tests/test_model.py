import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM, Olmo2Config

from olmo_trainer.model import (
    PRESETS,
    build_from_scratch,
    build_on_meta,
    count_parameters,
    olmo2_config,
    truncated_normal,
)

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_config(**overrides):
    return olmo2_config("olmo2-tiny", TINY | overrides, vocab_size=100, max_length=32, eos_id=0, pad_id=1)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, same, other = (
        dict(build_from_scratch(tiny_config(), seed=seed).named_parameters()) for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_another_layer_changes_no_weight_of_the_others():
    small = dict(build_from_scratch(tiny_config(), seed=0).named_parameters())
    large = dict(build_from_scratch(tiny_config(num_hidden_layers=3), seed=0).named_parameters())
    assert all(torch.equal(weight, large[name]) for name, weight in small.items())


def test_initial_values_are_the_same_on_every_torch_version():
    values = truncated_normal(torch.Size([1000]), seed=1)
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    # randn's stream is equal in torch 2.11, 2.13 and 2.15; trunc_normal_ is not
    assert digest[:16] == "fc0b554d4fc0133e"


def test_matrices_are_normal_with_std_002_cut_at_three_and_norms_are_one():
    model = build_from_scratch(tiny_config(hidden_size=64, vocab_size=2048), seed=0)
    weight = model.lm_head.weight
    assert weight.std().item() == pytest.approx(0.02 * 0.9866, rel=0.01)  # what the cut leaves of it
    assert weight.abs().max().item() <= 0.06
    assert model.model.norm.weight.eq(1).all()
    assert model.model.layers[0].self_attn.q_norm.weight.eq(1).all()


def test_rotary_tables_are_those_of_a_model_built_the_usual_way():
    config = tiny_config()
    ours = build_from_scratch(config, seed=0).model.rotary_emb
    usual = AutoModelForCausalLM.from_config(config).model.rotary_emb
    torch.testing.assert_close(ours.inv_freq, usual.inv_freq, rtol=0, atol=0)
    torch.testing.assert_close(ours.original_inv_freq, usual.original_inv_freq, rtol=0, atol=0)


def test_tied_embeddings_stay_tied():
    model = build_from_scratch(tiny_config(tie_word_embeddings=True), seed=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert count_parameters(model) == count_parameters(build_on_meta(tiny_config(tie_word_embeddings=True)))


def test_the_vocabulary_is_rounded_up_to_128_unless_told():
    assert tiny_config().vocab_size == 128
    assert tiny_config(vocab_size=100).vocab_size == 100


def test_padding_that_also_ends_documents_keeps_its_embedding_trained():
    config = olmo2_config("olmo2-tiny", TINY, vocab_size=9, max_length=8, eos_id=1, pad_id=1)
    assert config.pad_token_id is None
    assert config.eos_token_id == 1


def test_an_override_that_olmo2_does_not_have_is_refused():
    with pytest.raises(ValueError, match="hidden_dim"):
        tiny_config(hidden_dim=3)


@pytest.mark.parametrize(
    ("preset", "millions"), [("olmo2-190m", 190), ("olmo2-370m", 370), ("olmo2-1b", 1279)]
)
def test_presets_have_the_size_in_their_name_with_the_olmo_vocabulary(preset, millions):
    config = olmo2_config(preset, {}, vocab_size=100_278, max_length=4096, eos_id=0, pad_id=1)
    model = build_on_meta(config)
    without_embeddings = count_parameters(model) - model.model.embed_tokens.weight.numel()
    assert config.vocab_size == 100_352
    assert without_embeddings == pytest.approx(millions * 1e6, rel=0.02)


def test_every_preset_is_a_valid_configuration():
    for preset in PRESETS:
        config = olmo2_config(preset, {}, vocab_size=128, max_length=64, eos_id=0, pad_id=1)
        assert isinstance(config, Olmo2Config)
        assert config.hidden_size % config.num_attention_heads == 0
