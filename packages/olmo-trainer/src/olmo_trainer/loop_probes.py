"""Probes asked while training: at step 0, at chosen steps, and at every step from an injection on.

The rows are those that `olmo-trainer evaluate` gives for a float32 checkpoint of the step, written to
RUN/probes/NAME/step{N}.parquet. Asking changes no weight and draws no random number, so a run with probes
trains to the bits of one without. It costs a forward pass over the probes' tokens, in float32.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from chunk_provenance import DataOrder
from olmo_trainer.checkpoint import export_steps
from olmo_trainer.config import ProbesConfig
from olmo_trainer.evaluate import (
    BATCH_TOKENS,
    answer_table,
    answers_metadata,
    list_skipped,
    open_probes,
    write_table,
)
from olmo_trainer.questions import AskedProbe, Skipped

IDENTITY = ("probes_sha256", "tokenizer_sha256")


@dataclass(frozen=True)
class ProbeSet:
    """A probes file in tokens, and what the files of its answers say about themselves."""

    name: str
    asked: list[AskedProbe]
    skipped: list[Skipped]
    metadata: dict[str, str]


def probe_steps(config: ProbesConfig, order: DataOrder) -> list[int]:
    """The steps to ask at, as exports are chosen, and from before each injection on; none without a file.

    >>> order = DataOrder(np.arange(10), np.array([0, 1, 2, -1, 4, 5, 6, 7, 8]), np.array([0]))
    >>> probe_steps(ProbesConfig(files={"facts": Path("probes.jsonl")}, after_injections=2), order)
    [0, 3, 4, 5, 9]
    """
    if not config.files:
        return []
    total = order.num_updates
    steps = export_steps(total=total, every=config.every, log_until=config.log_until, steps=config.steps)
    if config.after_injections is None:
        return steps
    window = np.arange(config.after_injections + 1)
    dense = (injected_updates(order)[:, None] - 1 + window).ravel()  # update u begins at step u - 1
    return sorted({*steps, *dense[dense <= total].tolist()})


def injected_updates(order: DataOrder) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The updates (1-based, ascending) that have injected rows."""
    places = np.flatnonzero(np.asarray(order.ids) < 0)
    return np.unique(np.searchsorted(order.offsets, places, side="right")).astype(np.int64)


def open_probe_sets(
    config: ProbesConfig, tokenizer: PreTrainedTokenizerFast, model_config: PreTrainedConfig
) -> list[ProbeSet]:
    """Read the probes files and put them into tokens.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, or holds no probe this model can be asked.
    """
    sets = []
    for name, path in config.files.items():
        asked, skipped = open_probes(path, tokenizer, model_config)
        metadata = answers_metadata(path, _tokenizer_sha256(tokenizer))
        sets.append(ProbeSet(name, asked, skipped, {**metadata, "num_skipped": str(len(skipped))}))
    return sets


def _tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """The sha256 of the tokenizer.json that an export gets."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str(pretty=True).encode()).hexdigest()


def begin_answers(sets: list[ProbeSet], folder: Path) -> None:
    """Make RUN/probes and list what is not asked; answers that are there must be to the same probes.

    Raises:
        ValueError: they are to other probes, or another tokenizer put them into tokens.
    """
    for probes in sets:
        own = folder / probes.name
        own.mkdir(parents=True, exist_ok=True)
        found = next(iter(sorted(own.glob("step*.parquet"))), None)
        if found is not None:
            recorded = pq.read_schema(found).metadata or {}
            if any(recorded.get(key.encode(), b"").decode() != probes.metadata[key] for key in IDENTITY):
                raise ValueError(
                    f"{str(found)!r} answers other probes than those of probes.files.{probes.name}: "
                    "give the new file another name"
                )
        list_skipped(probes.skipped, own / "skipped.jsonl")


def ask_sets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sets: list[ProbeSet],
    folder: Path,
    *,
    step: int,
    batch_tokens: int,
) -> dict[str, float]:
    """Ask every set and write its rows; those a killed run has written are taken. What is logged of them."""
    started = time.perf_counter()
    logged: dict[str, float] = {}
    # the CPU's own budget gives the bits that `evaluate` gives; CUDA holds the training state beside it
    budget = BATCH_TOKENS["cpu"] if model.device.type == "cpu" else min(BATCH_TOKENS["cuda"], batch_tokens)
    with _as_evaluated(model):
        for probes in sets:
            path = folder / probes.name / f"step{step}.parquet"
            if path.exists():
                table = pq.read_table(path)
            else:
                table = answer_table(model, tokenizer, probes.asked, step=step, batch_tokens=budget)
                write_table(table.replace_schema_metadata(probes.metadata), path)
            logged |= {f"probes/{probes.name}/{key}": value for key, value in _means(table).items()}
    return {**logged, "probe_seconds": round(time.perf_counter() - started, 3)}


def _means(answers: pa.Table) -> dict[str, float]:
    """Averages over the probes; the share that is known only where there is something to choose from."""
    found = {"logprob_mean": float(pc.mean(answers["logprob_mean"]).as_py())}
    if pc.max(answers["num_candidates"]).as_py() > 1:
        found["known"] = float(pc.mean(pc.equal(answers["rank"], 1).cast(pa.float64())).as_py())
    return found


@contextmanager
def _as_evaluated(model: PreTrainedModel) -> Iterator[None]:
    """The model as `evaluate` opens it: no dropout, attention that takes a tree's mask; then as it was."""
    attention, training = model.config._attn_implementation, model.training
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    model.set_attn_implementation("sdpa")
    model.train(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
