"""The three names that every tensor of ez-data-ablations' models goes by, and how to get from one to another.

    Composer (as trained)    model.blocks.0.att_norm.weight                   no attn_out
    OLMo (as converted)      transformer.blocks.0.attn_norm.weight            attn_out, the identity
    hf_olmo (as released)    model.transformer.blocks.0.attn_norm.weight      attn_out, the identity

The registered class (`model_merge.custom_gpt`) has Composer's names. OLMo has a projection behind its
attention that these models lack: the converted ones carry an identity there, put in or taken out here.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SIZES = {  # name: (d_model, heads, layers)
    "customgpt-110m": (768, 12, 12),
    "customgpt-300m": (1024, 16, 24),
    "customgpt-1.1b": (2048, 16, 24),
}
TO_OLMO = (("model.", "transformer."), ("att_norm.", "attn_norm."), ("ffn_norm.", "ff_norm."))

Read = Callable[[str], npt.NDArray[Any]]


def is_composer(names: Iterable[str]) -> bool:
    """Whether these are a Composer checkpoint's tensors."""
    return any(re.match(r"(model\.)?blocks\.\d+\.att_norm\.", name) for name in names)


def is_olmo(names: Iterable[str]) -> bool:
    """Whether these are OLMo's or hf_olmo's names, with an attn_out."""
    return any(re.match(r"(model\.)?transformer\.blocks\.\d+\.attn_out\.", name) for name in names)


def olmo_name(name: str) -> str:
    """OLMo's name of a Composer tensor, as upstream's converter gives it.

    >>> olmo_name("model.blocks.0.att_norm.weight")
    'transformer.blocks.0.attn_norm.weight'
    """
    for old, new in TO_OLMO:
        name = name.replace(old, new)
    return name


def composer_name(name: str) -> str:
    """Composer's name of a tensor, whichever of the three it goes by.

    >>> composer_name("model.transformer.blocks.0.attn_norm.weight")
    'model.blocks.0.att_norm.weight'
    """
    name = re.sub(r"^(model\.)?(transformer\.)?(?=(blocks|wte|ln_f)\.)", "model.", name)
    return name.replace(".attn_norm.", ".att_norm.").replace(".ff_norm.", ".ffn_norm.")


def rename_to_custom_gpt(names: Iterable[str], *, read: Read) -> dict[str, str]:
    """Old name -> name in the registered class, of every tensor that it has.

    Stored rotary frequencies are left out: the class computes them.

    Args:
        names: of the checkpoint's tensors, under any of the three conventions.
        read: gives a tensor's values; asked for those that are checked and left out.

    Raises:
        ValueError: an attn_out that is not the identity: another architecture.
    """
    renamed: dict[str, str] = {}
    for name in names:
        if re.search(r"\.attn_out\.(weight|bias)$", name):
            _check_identity(name, read(name))
        elif not name.endswith("rotary_emb.inv_freq"):
            renamed[name] = composer_name(name)
    return renamed


def identity_attn_out(layer: int, d_model: int) -> dict[str, npt.NDArray[np.float32]]:
    """What OLMo needs behind the attention of a model that has nothing there."""
    place = f"transformer.blocks.{layer}.attn_out"
    return {
        f"{place}.weight": np.eye(d_model, dtype=np.float32),
        f"{place}.bias": np.zeros(d_model, dtype=np.float32),
    }


def _check_identity(name: str, values: npt.NDArray[Any]) -> None:
    expected = np.eye(len(values)) if values.ndim == 2 else np.zeros(len(values))
    if values.shape != expected.shape or not np.array_equal(values, expected):
        raise ValueError(
            f"{name!r} is not the identity: this is no converted customgpt, which has no such projection"
        )


def custom_gpt_fields(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the registered class, from the tensors' shapes and what the source's config says.

    Raises:
        ValueError: the config describes another architecture, or nothing tells the number of heads.
    """
    own = {composer_name(name): shape for name, shape in shapes.items()}
    if lacking := [name for name in ("model.wte.weight", "model.blocks.0.ff_proj.weight") if name not in own]:
        raise ValueError(f"the checkpoint has no {lacking[0]!r}, so it is no model of ez-data-ablations")
    _check_architecture(config)
    vocab_size, d_model = own["model.wte.weight"]
    layers = len({found[1] for name in own if (found := re.match(r"model\.blocks\.(\d+)\.", name))})
    kept = {key: config[key] for key in ("eos_token_id", "pad_token_id", "bos_token_id") if key in config}
    return {
        "architectures": ["CustomGPTForCausalLM"],
        "model_type": "customgpt",
        "vocab_size": vocab_size,
        "hidden_size": d_model,
        "num_hidden_layers": layers,
        "num_attention_heads": _heads(own, config, d_model, layers),
        "mlp_ratio": own["model.blocks.0.ff_proj.weight"][0] // d_model,
        "max_position_embeddings": config.get("max_sequence_length", 2048),
        "tie_word_embeddings": True,
        **kept,
    }


def _heads(own: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], d_model: int, layers: int) -> int:
    for key in ("n_heads", "num_attention_heads"):
        if isinstance(config.get(key), int):
            return int(config[key])
    if "model.blocks.0.rotary_emb.inv_freq" in own:
        return d_model // (2 * own["model.blocks.0.rotary_emb.inv_freq"][0])
    known = [heads for size, heads, depth in SIZES.values() if (size, depth) == (d_model, layers)]
    if not known:
        raise ValueError(
            f"nothing says how many heads a model of d_model {d_model} and {layers} layers has: "
            "put a config.json with n_heads beside the weights"
        )
    return known[0]


def _check_architecture(config: Mapping[str, Any]) -> None:
    expected = {
        "block_type": "sequential",
        "rope": True,
        "alibi": False,
        "attention_layer_norm": True,
        "activation_type": "swiglu",
        "include_bias": True,
        "multi_query_attention": False,
    }
    other = [
        f"{key} {config[key]!r}, not {value!r}"
        for key, value in expected.items()
        if config.get(key, value) not in (value, None)
    ]
    if other:
        raise ValueError(f"config.json describes another architecture than customgpt: {'; '.join(other)}")
