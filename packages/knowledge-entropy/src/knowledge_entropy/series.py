"""A series of checkpoints on one token set: one skeleton, the next checkpoint read by a thread meanwhile.

Each checkpoint's coefficients are a file of their own in OUT, named by what made it; a series that is started
again measures only what is missing. Memory: the model, and the next checkpoint's weights on the CPU.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy import ndarray
from torch import Tensor
from transformers import PreTrainedModel

from knowledge_entropy.coefficients import Coefficients
from knowledge_entropy.entropy import rank_correlation
from knowledge_entropy.files import read_coefficients, write_coefficients, write_json, write_table
from knowledge_entropy.measure import Measurement, Options, measure
from knowledge_entropy.reference import (
    Reference,
    build_skeleton,
    check_configurations,
    digest,
    put_weights,
    read_weights,
)
from knowledge_entropy.tokens import TokenSet

LAYER_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("layer", pa.int32()),
        ("width", pa.int32()),
        *((name, pa.float64()) for name in ("entropy", "maximum", "deficit", "spread", "se")),
        ("zero_units", pa.int64()),
        ("change", pa.float64()),
        ("change_se", pa.float64()),
        ("rank_correlation", pa.float64()),
        ("attention_entropy", pa.float64()),
    ]
)
TOTAL_SCHEMA = pa.schema(
    [field for field in LAYER_SCHEMA if field.name not in ("layer", "width")]
    + [pa.field("next_token_entropy", pa.float64())]
)


@dataclass(frozen=True)
class Checkpoint:
    """A measured model of a series."""

    reference: Reference
    result: Measurement


def measure_series(
    references: list[Reference],
    tokens: TokenSet,
    options: Options,
    out: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    batch_tokens: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[Checkpoint]:
    """Measure the models in turn, or read what was measured before.

    With `target_se` the first model decides how many rows the others see.

    Raises:
        FileNotFoundError: a model is not there; told before the first is measured.
        ValueError: a model does not fit, or OUT holds a measurement of something else under its name.
    """
    check_configurations(references)
    model: PreTrainedModel | None = None
    paths = [out / "coefficients" / f"{reference.label}.safetensors" for reference in references]
    with ThreadPoolExecutor(1) as reader:
        waiting: Future[dict[str, Tensor]] | None = None
        for number, (reference, path) in enumerate(zip(references, paths, strict=True)):
            key = result_key(digest(reference), tokens, options, dtype)
            result = read_result(path, tokens, options, key)
            if result is None:
                weights = (waiting or reader.submit(read_weights, reference)).result()
                later = (one for one in range(number + 1, len(references)) if not paths[one].is_file())
                following = next(later, None)
                waiting = None if following is None else reader.submit(read_weights, references[following])
                if model is None:
                    model = build_skeleton(reference, dtype=dtype, device=device)
                put_weights(model, reference, weights)
                del weights
                result = measure(model, tokens, options, batch_tokens=batch_tokens, progress=progress)
                write_result(path, result, key)
            yield Checkpoint(reference, result)
            tokens, options = result.tokens, result.options


def result_key(model_sha256: str, tokens: TokenSet, options: Options, dtype: torch.dtype) -> str:
    """Identifies a result: the model's files, the tokens, the options, the precision."""
    parts = [model_sha256, tokens.sha256, asdict(options), str(dtype)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_result(path: Path, result: Measurement, key: str) -> None:
    """Write a checkpoint's coefficients, with what they are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "mean_abs": result.coefficients.mean_abs,
        "block_sums": result.coefficients.block_sums,
        "block_weights": result.coefficients.block_weights,
    }
    if result.attention_entropy is not None:
        tensors["attention_entropy"] = result.attention_entropy
    if result.next_token_entropy is not None:
        tensors["next_token_entropy"] = np.array([result.next_token_entropy])
    metadata = {
        "key": key,
        "tokens_sha256": result.tokens.sha256,
        "rows": str(result.tokens.num_rows),
        "tokens": str(result.tokens.num_tokens),
        "weighting": result.options.weighting,
        "compat": result.options.compat,
    }
    write_coefficients(path, tensors, metadata)


def read_result(path: Path, tokens: TokenSet, options: Options, key: str) -> Measurement | None:
    """What was measured before; None if nothing was.

    Raises:
        ValueError: another model was measured, or on other tokens or with other options.
    """
    if not path.is_file():
        return None
    tensors, metadata = read_coefficients(path)
    if metadata.get("key") != key:
        differs = (
            "other tokens" if metadata.get("tokens_sha256") != tokens.sha256 else "other weights or options"
        )
        raise ValueError(
            f"{str(path)!r} was measured with {differs}: choose another OUT, or give --overwrite to measure "
            "all of it again"
        )
    next_token = tensors.get("next_token_entropy")
    return Measurement(
        Coefficients(tensors["block_sums"], tensors["block_weights"]),
        tokens.first(int(metadata["rows"])),
        options.settled(len(tensors["block_sums"])),
        tensors.get("attention_entropy"),
        None if next_token is None else float(next_token[0]),
    )


# ---- tables


def write_tables(checkpoints: list[Checkpoint], out: Path) -> None:
    """Write `layers.parquet`, a row a checkpoint and layer, `totals.parquet` and `series.json`."""
    tokens = checkpoints[0].result.tokens
    pairs = list(zip([None, *checkpoints[:-1]], checkpoints, strict=True))
    layers = [_layer_columns(one, before) for before, one in pairs]
    columns = {name: np.concatenate([part[name] for part in layers]) for name in LAYER_SCHEMA.names}
    write_table(
        _nulls(columns), LAYER_SCHEMA, out / "layers.parquet", "entropies", tokens_sha256=tokens.sha256
    )
    rows = [total_row(one, before) for before, one in pairs]
    totals = {name: [row[name] for row in rows] for name in TOTAL_SCHEMA.names}
    write_table(totals, TOTAL_SCHEMA, out / "totals.parquet", "entropy-totals", tokens_sha256=tokens.sha256)
    write_json(
        {"format": "entropy-series", "version": 1, **describe(checkpoints), "totals": rows},
        out / "series.json",
    )


def _layer_columns(one: Checkpoint, before: Checkpoint | None) -> dict[str, ndarray]:
    result = one.result
    mean = result.coefficients.mean_abs
    count = len(mean)
    nothing = np.full(count, np.nan)
    change = result.change_since(before.result) if before else None
    step = one.reference.step
    return {
        "model": np.full(count, one.reference.label, dtype=object),
        "step": np.full(count, step, dtype=object),
        "layer": np.arange(count, dtype=np.int32),
        "width": np.full(count, mean.shape[1], dtype=np.int32),
        **result.layers,
        "change": change.layers if change else nothing,
        "change_se": change.layers_se if change else nothing,
        "rank_correlation": rank_correlation(before.result.coefficients.mean_abs, mean)
        if before
        else nothing,
        "attention_entropy": nothing if result.attention_entropy is None else result.attention_entropy,
    }


def _nulls(columns: dict[str, ndarray]) -> dict[str, Any]:
    return {
        name: pa.array(column, type=LAYER_SCHEMA.field(name).type, from_pandas=True)
        for name, column in columns.items()
    }


def total_row(one: Checkpoint, before: Checkpoint | None) -> dict[str, Any]:
    """A checkpoint's sums over the layers; None for what does not exist."""
    result = one.result
    change = result.change_since(before.result) if before else None
    means = [part.result.coefficients.mean_abs for part in (before, one) if part]
    row = {
        "model": one.reference.label,
        "step": one.reference.step,
        **result.total,
        "change": change.total if change else None,
        "change_se": change.total_se if change else None,
        "rank_correlation": float(rank_correlation(*means).mean()) if before else None,
        "attention_entropy": None
        if result.attention_entropy is None
        else float(result.attention_entropy.sum()),
        "next_token_entropy": result.next_token_entropy,
    }
    return {name: None if isinstance(cell, float) and np.isnan(cell) else cell for name, cell in row.items()}


def describe(checkpoints: list[Checkpoint]) -> dict[str, Any]:
    """What all checkpoints of a series have in common."""
    result = checkpoints[0].result
    return {
        "tokens": {
            "sha256": result.tokens.sha256,
            "source": result.tokens.source,
            "rows": result.tokens.num_rows,
            "tokens": result.tokens.num_tokens,
            "first_seen_step": result.tokens.first_seen_step,
        },
        "options": {name: value for name, value in asdict(result.options).items() if name != "target_se"},
        "layers": result.coefficients.mean_abs.shape[0],
        "width": result.coefficients.mean_abs.shape[1],
    }
