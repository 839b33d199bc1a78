"""Build the model: an OLMo-2 decoder from scratch with portable weights, or any decoder to continue from.

The architecture is transformers' own class, so a checkpoint opens anywhere; what is ours are the attention
function, the loss and the initial weights. Each parameter has a random stream of its own, named after it:
adding a layer changes no other weight, and no torch version or number of processes changes any.
"""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Olmo2Config, PreTrainedModel

from olmo_trainer import attention

INIT_STD = 0.02
INIT_CUTOFF = 3.0  # standard deviations
VOCAB_MULTIPLE = 128

# name: (d_model, layers, heads, d_ffn); the sizes of OLMo-core, whose names count its 100k vocabulary's head
PRESETS = {
    "olmo2-tiny": (256, 6, 4, 768),
    "olmo2-30m": (256, 4, 8, 768),
    "olmo2-60m": (384, 8, 8, 1536),
    "olmo2-190m": (768, 12, 12, 3072),
    "olmo2-370m": (1024, 16, 16, 4096),
    "olmo2-600m": (1344, 16, 16, 5376),
    "olmo2-760m": (1536, 16, 16, 6144),
    "olmo2-1b": (2048, 16, 16, 8192),
}


def olmo2_config(
    preset: str,
    overrides: dict[str, Any],
    *,
    vocab_size: int,
    max_length: int,
    eos_id: int | None,
    pad_id: int | None,
) -> Olmo2Config:
    """The configuration of a preset; `overrides` are fields of `Olmo2Config` and win over everything.

    The vocabulary is rounded up to a multiple of 128. A padding token that also ends documents is left out,
    because transformers never trains the embedding of the padding token.

    Raises:
        ValueError: an override is no field of `Olmo2Config`.
    """
    d_model, layers, heads, d_ffn = PRESETS[preset]
    fields: dict[str, Any] = {
        "vocab_size": math.ceil(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        "hidden_size": d_model,
        "intermediate_size": d_ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": max(max_length, 2048),
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": eos_id,
        "bos_token_id": None,
        "pad_token_id": None if pad_id == eos_id else pad_id,
    }
    known = set(Olmo2Config().to_dict())
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"model.overrides has {unknown}, which Olmo2Config does not: see its documentation")
    return Olmo2Config(**{**fields, **overrides})


def build_from_scratch(config: Olmo2Config, *, seed: int) -> PreTrainedModel:
    """A model with our initial weights, float32, on the CPU."""
    model = build_on_meta(config)
    model.to_empty(device="cpu")
    # to_empty leaves the rotary tables uninitialised: they are computed, not stored
    rotary = model.get_submodule("model.rotary_emb")
    fresh = type(rotary)(config)
    for name, buffer in rotary.named_buffers():
        buffer.copy_(fresh.get_buffer(name))
    initialise(model, seed=seed)
    model.tie_weights()
    return model


def build_on_meta(config: Olmo2Config) -> PreTrainedModel:
    """The modules without any memory: enough to count parameters, or to shard before materialising."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    return model


@torch.no_grad()
def initialise(model: nn.Module, *, seed: int) -> None:
    """Norms to one, biases to zero, matrices to a normal of std 0.02 cut at three standard deviations."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.copy_(truncated_normal(parameter.shape, seed=parameter_seed(seed, name)) * INIT_STD)


def parameter_seed(seed: int, name: str) -> int:
    """The seed of one parameter's random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def truncated_normal(shape: torch.Size, *, seed: int) -> Tensor:
    """Standard normal values, none beyond 3; by rejection, as torch's own function differs by version."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape.numel(), generator=generator)
    while (outside := values.abs() > INIT_CUTOFF).any():
        values[outside] = torch.randn(int(outside.sum()), generator=generator)
    return values.reshape(shape)


def count_parameters(model: nn.Module) -> int:
    """The number of trained values; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())
