"""Where a decoder keeps its memories: the MLP's output map in every layer, and the rows that feed it.

The coefficient of a unit is what multiplies its row of the output map's matrix, that is the input of that
map. One rule for gated MLPs (act(gate) * up) and others (act(fc)). Resuscitation scales the rows, and the
bias, of the map that goes up: of the linear half, where there is a gate.
"""

import re
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# the output map's name in a decoder layer -> the names of the map before it, as they occur
OUTPUT_MAPS = {
    "mlp.down_proj": ("mlp.up_proj", "mlp.gate_up_proj"),  # Llama, OLMo, Qwen, Gemma, ...; Phi-3: fused
    "mlp.dense_4h_to_h": ("mlp.dense_h_to_4h",),  # GPT-NeoX, Bloom, Falcon
    "mlp.c_proj": ("mlp.c_fc",),  # GPT-2 (Conv1D), Starcoder2, GPT-Neo
    "mlp.fc_out": ("mlp.fc_in",),  # GPT-J
    "mlp.fc2": ("mlp.fc1",),  # Phi
    "fc2": ("fc1",),  # OPT
    "feed_forward.w2": ("feed_forward.w3",),  # OLMo-core's names
}


@dataclass(frozen=True)
class OutputMap:
    """The last map of a layer's MLP."""

    layer: int
    name: str
    """In the whole model, for example `model.layers.0.mlp.down_proj`."""
    width: int
    """How many units it reads."""


@dataclass(frozen=True)
class UpRows:
    """The part of a weight or bias that belongs to the units of a layer, unit k at `start + k` of `axis`."""

    layer: int
    name: str
    axis: int
    start: int


def find_output_maps(model: PreTrainedModel) -> list[OutputMap]:
    """The output map of every layer's MLP, in the order of the layers.

    Raises:
        ValueError: the model has fused experts, or MLPs of an unknown or uneven make.
    """
    prefix, layers = _find_layers(model)
    maps = [_output_map(model, layer, f"{prefix}.{number}", number) for number, layer in enumerate(layers)]
    widths = sorted({one.width for one in maps})
    if len(widths) > 1:
        raise ValueError(f"{_name(model)} has MLPs of {len(widths)} widths ({widths}): only one is supported")
    return maps


def _find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    count = model.config.get_text_config().num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and _has_attention(module)
    ]
    if len(found) != 1:
        raise ValueError(f"{_name(model)} has {len(found)} lists of {count} decoder layers: expected one")
    return found[0]


def _has_attention(layers: nn.ModuleList) -> bool:
    return any("att" in name for name, _ in layers[0].named_children())


def _output_map(model: PreTrainedModel, layer: nn.Module, prefix: str, number: int) -> OutputMap:
    modules = dict(layer.named_modules())
    if experts := [name for name in modules if re.search(r"(^|\.)experts($|\.)", name)]:
        raise ValueError(
            f"{_name(model)} is a mixture of experts ({prefix}.{experts[0]}): its MLP has no single output "
            "map to read coefficients from; only dense models are supported"
        )
    found = [name for name in OUTPUT_MAPS if isinstance(modules.get(name), nn.Linear | Conv1D)]
    if len(found) != 1:
        raise ValueError(
            f"{_name(model)} has {len(found)} known output maps in {prefix}: expected one of "
            f"{', '.join(OUTPUT_MAPS)}"
        )
    module = modules[found[0]]
    width = module.nx if isinstance(module, Conv1D) else module.in_features
    return OutputMap(number, f"{prefix}.{found[0]}", int(width))


def find_up_rows(model: PreTrainedModel) -> list[UpRows]:
    """The weights, and biases where there are any, that scale a unit's coefficient."""
    modules = dict(model.named_modules())
    rows = []
    for one in find_output_maps(model):
        suffix = next(suffix for suffix in OUTPUT_MAPS if one.name.endswith("." + suffix))
        prefix = one.name.removesuffix(suffix)
        up = next(prefix + name for name in OUTPUT_MAPS[suffix] if prefix + name in modules)
        start = one.width if up.endswith("gate_up_proj") else 0  # Phi-3: gate first
        axis = 1 if isinstance(modules[up], Conv1D) else 0
        rows.append(UpRows(one.layer, f"{up}.weight", axis, start))
        if modules[up].bias is not None:
            rows.append(UpRows(one.layer, f"{up}.bias", 0, start))
    return rows


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
