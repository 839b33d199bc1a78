"""From coefficients to a resuscitated model, and what its coefficients are when measured again."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from knowledge_entropy.entropy import entropy
from knowledge_entropy.files import read_coefficients, write_json
from knowledge_entropy.measure import Options, measure
from knowledge_entropy.reference import (
    Reference,
    build_skeleton,
    digest,
    parse_reference,
    put_weights,
    read_weights,
)
from knowledge_entropy.resuscitate import Change, describe, plan_changes, resuscitate
from knowledge_entropy.series import result_key, write_result
from knowledge_entropy.tokens import TokenSet


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    model: str
    coefficients: Path
    ratio: float
    factor: float
    max_multiplier: float | None = None


def revive(
    request: Request, out: Path, tokens: TokenSet | None, *, device: torch.device, batch_tokens: int = 8192
) -> dict[str, Any]:
    """Write the changed model and its resuscitation.json; with `tokens`, measure it and write that beside."""
    reference = parse_reference(request.model)
    tensors, metadata = read_coefficients(request.coefficients)
    if tokens is not None and metadata.get("tokens_sha256", tokens.sha256) != tokens.sha256:
        raise ValueError(
            f"{str(request.coefficients)!r} was measured on other tokens: give the same --tokens, --rows "
            "and --order, so that before and after can be compared"
        )
    mean_abs = tensors["mean_abs"]
    changes = plan_changes(
        mean_abs, ratio=request.ratio, factor=request.factor, max_multiplier=request.max_multiplier
    )
    settings = {
        name: value for name, value in asdict(request).items() if name not in ("model", "coefficients")
    }
    record = {
        "format": "resuscitation",
        "version": 1,
        **settings,
        "model": reference.label,
        "model_sha256": digest(reference),
        "tokens_sha256": metadata.get("tokens_sha256"),
        "entropy_before": float(entropy(mean_abs).sum()),
        "layers": describe(changes),
    }
    unfinished = out.with_name(out.name + ".measuring")
    resuscitate(reference, changes, unfinished, record=record)
    if tokens is not None:
        _measure_again(record, unfinished, (mean_abs, changes), tokens, device, batch_tokens, metadata)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
    return record


def _measure_again(
    record: dict[str, Any],
    folder: Path,
    before: tuple[ndarray, list[Change]],
    tokens: TokenSet,
    device: torch.device,
    batch_tokens: int,
    metadata: dict[str, str],
) -> None:
    """Add the changed units' coefficients, before, as the rule wants them, and as they are."""
    place = Reference(str(folder))
    model = build_skeleton(place, dtype=torch.float32, device=device)
    put_weights(model, place, read_weights(place))
    compat = "none" if "tokens_sha256" not in metadata else metadata["compat"]
    options = Options(weighting=metadata.get("weighting", "token"), compat=compat)
    result = measure(model, tokens, options, batch_tokens=batch_tokens)
    after = result.coefficients.mean_abs
    record["entropy_after"] = result.total["entropy"]
    for entry, old, new, change in zip(record["layers"], before[0], after, before[1], strict=True):
        chosen = change.selected.numpy()
        entry["coefficient_before"] = _mean(old[chosen])
        entry["coefficient_expected"] = _mean((old * change.multipliers.double().numpy())[chosen])
        entry["coefficient_after"] = _mean(new[chosen])
    write_result(
        folder / "coefficients.safetensors", result, result_key(digest(place), tokens, options, model.dtype)
    )
    write_json(record, folder / "resuscitation.json")


def _mean(values: ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
