from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

from knowledge_entropy.tokens import from_rows

GOLDEN = Path(__file__).parent / "golden"
WIDTH, VOCAB = 24, 60
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 70,
    "pad_token_id": 1,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
GATED = {**SHAPE, "intermediate_size": WIDTH, "num_key_value_heads": 1}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 70,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES = {
    "olmo": OlmoConfig(**GATED),
    "olmo2": Olmo2Config(**GATED),
    "olmo3": Olmo3Config(**GATED, sliding_window=8),
    "llama": LlamaConfig(**GATED, mlp_bias=True, tie_word_embeddings=True),
    "mistral": MistralConfig(**GATED, sliding_window=8),
    "qwen2": Qwen2Config(**GATED),
    "qwen3": Qwen3Config(**GATED, head_dim=8),
    "gemma": GemmaConfig(**GATED, head_dim=8),
    "gemma2": Gemma2Config(**GATED, head_dim=8, attn_logit_softcapping=3.0, final_logit_softcapping=2.0),
    "stablelm": StableLmConfig(**GATED),
    "phi3": Phi3Config(**GATED),
    "gpt-neox": GPTNeoXConfig(**SHAPE, intermediate_size=WIDTH),
    "bloom": BloomConfig(
        vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
    "falcon": FalconConfig(**SHAPE, ffn_hidden_size=WIDTH),
    "gpt2": GPT2Config(**GPT2, n_inner=WIDTH),
    "starcoder2": Starcoder2Config(**GATED),
    "gpt-j": GPTJConfig(**GPT2, n_inner=WIDTH, rotary_dim=4),
    "opt": OPTConfig(**SHAPE, ffn_dim=WIDTH, word_embed_proj_dim=16),
    "phi": PhiConfig(**SHAPE, intermediate_size=WIDTH),
}


def build(config, seed=0):
    """A random model, with weights large enough that mistakes show."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture
def make_family():
    """Build a random model of a family by name."""
    return lambda name, seed=0: build(FAMILIES[name], seed=seed)


@pytest.fixture(params=list(FAMILIES))
def family_model(request):
    return build(FAMILIES[request.param])


@pytest.fixture
def golden_model():
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "tiny_olmo_hf").eval()


@pytest.fixture
def golden_rows():
    """The golden token sets: A without padding, B with it."""
    with np.load(GOLDEN / "inputs.npz") as arrays:
        padded = zip(arrays["B_input_ids"], arrays["B_lengths"], strict=True)
        return {
            "A": from_rows(list(arrays["A_input_ids"]), source="A"),
            "B": from_rows([row[:length] for row, length in padded], source="B"),
        }


@pytest.fixture
def golden_entropy():
    with np.load(GOLDEN / "entropy.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def ragged():
    """Rows of odd lengths, among them 1, 63 and 65."""
    rng = np.random.default_rng(0)
    return from_rows(
        [rng.integers(2, VOCAB, length) for length in (7, 1, 65, 63, 12, 3, 30)], source="ragged"
    )
