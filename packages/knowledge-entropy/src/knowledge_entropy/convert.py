"""OLMo-1's own checkpoints, `model.pt` and the published `resuscitation_ratio*.pt`, as Hugging Face folders.

Names and shapes only: `ff_proj` holds the up rows first and the gate's second, `att_proj` query, key and
value. Tensors are read with `weights_only`; nothing is unpickled.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import OlmoConfig

from knowledge_entropy.files import load_pt

BLOCK = "transformer.blocks"


def convert(weights: Path, config: Path, out: Path) -> None:
    """Write an HF folder of a native checkpoint and its config.yaml.

    Raises:
        ValueError: the model has something OLMo-1's HF form has not, or weights are missing or left over.
    """
    settings = _read_config(config)
    native = load_file(weights) if weights.suffix == ".safetensors" else load_pt(weights)
    if not isinstance(native, dict) or not all(isinstance(one, Tensor) for one in native.values()):
        raise ValueError(f"{str(weights)!r} holds no state dict: expected OLMo's model.pt")
    hf_config = make_config(settings, rows=len(native.get("transformer.wte.weight", [])))
    tensors = convert_weights(native, hf_config)
    unfinished = out.with_name(out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    hf_config.save_pretrained(unfinished)
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is no YAML: {str(error).splitlines()[0]}") from error
    settings = content.get("model") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} has no section 'model': expected OLMo's config.yaml")
    return settings


def make_config(model: dict[str, Any], *, rows: int) -> OlmoConfig:
    """The HF configuration of OLMo's `model:` section; `rows` is the height of the embedding."""
    needed = {"activation_type": "swiglu", "layer_norm_type": "default", "block_type": "sequential"}
    for name, value in needed.items():
        if model.get(name, value) != value:
            raise ValueError(f"the model has {name} {model[name]!r}: OLMo's HF form has only {value!r}")
    for name in ("include_bias", "layer_norm_with_affine", "attention_layer_norm", "alibi"):
        if model.get(name):
            raise ValueError(f"the model has {name}: OLMo's HF form has not")
    hidden = model.get("mlp_hidden_size") or model["mlp_ratio"] * model["d_model"]
    kv_heads = 1 if model.get("multi_query_attention") else model.get("n_kv_heads") or model["n_heads"]
    return OlmoConfig(
        architectures=["OlmoForCausalLM"],
        vocab_size=rows,
        hidden_size=model["d_model"],
        intermediate_size=hidden // 2,
        num_hidden_layers=model["n_layers"],
        num_attention_heads=model["n_heads"],
        num_key_value_heads=kv_heads,
        max_position_embeddings=model["max_sequence_length"],
        pad_token_id=model.get("pad_token_id"),
        eos_token_id=model.get("eos_token_id"),
        bos_token_id=None,
        clip_qkv=model.get("clip_qkv"),
        tie_word_embeddings=model.get("weight_tying", True),
    )


def convert_weights(native: dict[str, Tensor], config: OlmoConfig) -> dict[str, Tensor]:
    """Weights under HF's names."""
    native = dict(native)
    head = config.hidden_size // config.num_attention_heads
    kv = (config.num_key_value_heads or config.num_attention_heads) * head
    parts = [config.hidden_size, kv, kv]
    try:
        tensors = {"model.embed_tokens.weight": native.pop("transformer.wte.weight")}
        if not config.tie_word_embeddings:
            tensors["lm_head.weight"] = native.pop("transformer.ff_out.weight")
        for layer in range(config.num_hidden_layers):
            block, target = f"{BLOCK}.{layer}", f"model.layers.{layer}"
            qkv = torch.split(native.pop(f"{block}.att_proj.weight"), parts)
            up, gate = native.pop(f"{block}.ff_proj.weight").chunk(2)
            named = dict(zip(("q_proj", "k_proj", "v_proj"), qkv, strict=True))
            tensors |= {f"{target}.self_attn.{name}.weight": part for name, part in named.items()}
            tensors[f"{target}.self_attn.o_proj.weight"] = native.pop(f"{block}.attn_out.weight")
            tensors[f"{target}.mlp.up_proj.weight"] = up
            tensors[f"{target}.mlp.gate_proj.weight"] = gate
            tensors[f"{target}.mlp.down_proj.weight"] = native.pop(f"{block}.ff_out.weight")
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks the weight {error.args[0]!r} of its configuration") from error
    if native:
        raise ValueError(
            f"the checkpoint has {len(native)} weights its configuration has not: {min(native)!r}"
        )
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
