"""Resuscitation: units that are hardly used get larger weights, by the published rule.

In every layer the units whose coefficient is at most the `ratio` quantile are multiplied, in the map that
goes up, by mean(c) / c * factor. Where that map is the linear half of a gated MLP and the MLP's input stays
the same, each chosen unit's coefficient then is factor * mean(c); elsewhere that is an approximation, so
measure again. Units with c = 0 are left alone: the published code turns them into NaN.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from knowledge_entropy.families import UpRows, find_up_rows
from knowledge_entropy.files import write_json
from knowledge_entropy.reference import INDEX, Reference, build_skeleton, find_file, weight_files

KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Change:
    """What happens to a layer's units."""

    multipliers: Float[Tensor, " unit"]
    """1 for units left alone."""
    selected: Bool[Tensor, " unit"]
    dead: int
    """Units at or below the quantile with a coefficient of zero."""
    capped: int


def plan_change(
    coefficients: Float[Tensor, " unit"], *, ratio: float, factor: float, max_multiplier: float | None = None
) -> Change:
    """The multiplier of every unit of a layer, in float32 and in the order of the published code.

    >>> plan_change(torch.tensor([1.0, 2.0, 9.0]), ratio=0.5, factor=1.0).multipliers.tolist()
    [4.0, 2.0, 1.0]
    """
    values = coefficients.float()
    below = values <= torch.quantile(values, ratio)
    alive = values > 0
    multipliers = values.mean() / torch.where(alive, values, 1.0) * factor
    selected = below & alive
    capped = torch.zeros_like(selected)
    if max_multiplier is not None:
        capped = selected & (multipliers > max_multiplier)
        multipliers = multipliers.clamp(max=max_multiplier)
    return Change(
        torch.where(selected, multipliers, 1.0), selected, int((below & ~alive).sum()), int(capped.sum())
    )


def plan_changes(
    mean_abs: Float[ndarray, "layer unit"],
    *,
    ratio: float,
    factor: float,
    max_multiplier: float | None = None,
) -> list[Change]:
    """`plan_change` for every layer."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"--ratio {ratio}: expected a share of the units, 0 to 1")
    if factor <= 0 or (max_multiplier is not None and max_multiplier <= 0):
        raise ValueError("--factor and --max-multiplier must be above 0")
    return [
        plan_change(torch.from_numpy(row), ratio=ratio, factor=factor, max_multiplier=max_multiplier)
        for row in mean_abs
    ]


def scale(tensor: Tensor, rows: UpRows, change: Change) -> Tensor:
    """A weight or bias with the chosen units multiplied, in float32, given back in its own precision."""
    changed = tensor.clone()
    units = change.selected.nonzero()[:, 0]
    index = units + rows.start
    taken = changed.index_select(rows.axis, index).float()
    shape = [1] * tensor.ndim
    shape[rows.axis] = -1
    scaled = (taken * change.multipliers[units].view(shape)).to(tensor.dtype)
    changed.index_copy_(rows.axis, index, scaled)
    return changed


def resuscitate(reference: Reference, changes: list[Change], out: Path, *, record: dict[str, Any]) -> None:
    """Write the model with its units changed into a folder that appears complete; shards stay as they are.

    Memory: one shard.
    """
    skeleton = build_skeleton(reference, dtype=torch.float32, device=torch.device("meta"))
    by_name = {rows.name: rows for rows in find_up_rows(skeleton)}
    layers, width = len(changes), len(changes[0].selected)
    own = skeleton.config.get_text_config().num_hidden_layers
    unit_counts = {dict(skeleton.named_parameters())[n].shape[r.axis] - r.start for n, r in by_name.items()}
    if layers != own or unit_counts != {width}:
        raise ValueError(
            f"the coefficients are of {layers} layers of {width} units, model {str(reference)!r} has {own} "
            f"layers of {unit_counts.pop()}: they were measured on another model"
        )
    unfinished = out.with_name(out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    remaining = dict(by_name)
    for file in weight_files(reference):
        tensors, metadata = _read(file)
        for name in tensors:
            rows = remaining.pop(_own_name(name, remaining), None)
            if rows is not None:
                tensors[name] = scale(tensors[name], rows, changes[rows.layer])
        save_file(tensors, unfinished / file.name, metadata=metadata)
    if remaining:
        shutil.rmtree(unfinished)
        raise ValueError(
            f"model {str(reference)!r} has no weight {min(remaining)!r}: open it with transformers and "
            "save_pretrained it again"
        )
    for name in (*KEPT, INDEX):
        if (found := find_file(reference, name)) is not None:
            shutil.copyfile(found, unfinished / name)
    write_json(record, unfinished / "resuscitation.json")
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)


def _own_name(name: str, wanted: dict[str, UpRows]) -> str:
    """A weight's name in the whole model; older files leave the base model's prefix out."""
    if name in wanted:
        return name
    return next((one for one in wanted if one.endswith("." + name)), name)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors, {"format": "pt"}


def describe(changes: list[Change]) -> list[dict[str, Any]]:
    """What was done to each layer, for resuscitation.json."""
    return [
        {
            "layer": layer,
            "units_scaled": int(change.selected.sum()),
            "dead_units_skipped": change.dead,
            "capped_units": change.capped,
            "smallest_multiplier": _extreme(change, largest=False),
            "largest_multiplier": _extreme(change, largest=True),
        }
        for layer, change in enumerate(changes)
    ]


def _extreme(change: Change, *, largest: bool) -> float | None:
    chosen = change.multipliers[change.selected]
    if not len(chosen):
        return None
    return float(chosen.max() if largest else chosen.min())
