"""What a run will need, before it starts: parameters, tokens, steps, memory, disk. No weight is made."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig

from chunk_provenance import ChunkStore, DataOrder, open_store, slot_chunks
from olmo_trainer import checkpoint, setup
from olmo_trainer.config import TrainConfig
from olmo_trainer.loop_probes import injected_updates, open_probe_sets, probe_steps
from olmo_trainer.model import count_parameters
from olmo_trainer.train import tokens_by_step

TRAINING_BYTES = 16  # a parameter: weight, gradient and two moments, float32
RESUME_BYTES = 12  # a parameter: weight and two moments
LIBRARY_BYTES = 900_000_000  # a process that has opened torch and transformers, seen on Linux


@dataclass(frozen=True)
class Plan:
    """Numbers of a run, from its configuration."""

    parameters: int
    embedding_parameters: int
    tokens: int
    """Real tokens over all updates; padding is not counted."""
    held_out_tokens: int
    """Real tokens in rows whose targets are ignored; not among `tokens`."""
    injected_items: int
    injected_rows: int
    injected_updates: int
    padding: float
    """Part of the rows that is padding."""
    updates: int
    epochs: int
    updates_per_bucket: dict[int, int]
    """Padded length of the rows -> updates."""
    memory_bytes: int
    """Weights, gradients and moments, roughly what a micro-batch keeps, on the CPU also the libraries."""
    exports: list[int]
    num_probes: int
    """Over all probes files; those that cannot be asked are not counted."""
    num_skipped: int
    """Probes that cannot be asked of this model."""
    probe_steps: list[int]
    disk_bytes: int
    """Exports, and the resume states that exist at the same time."""
    free_bytes: int
    device: str


def make_plan(config: TrainConfig, run: Path) -> Plan:
    """Open the data, count, and multiply."""
    store = open_store(config.data.store)
    order = setup.make_order(config.data, store, seed=config.seed.data)
    model = setup.make_meta_model(config.model, store)
    parameters = count_parameters(model)
    export = config.checkpoint.export
    exports = checkpoint.export_steps(
        total=order.num_updates, every=export.every, log_until=export.log_until, steps=export.steps
    )
    tokens = int(tokens_by_step(store, order)[-1])
    held_out = held_out_tokens(store, order)
    row_lengths = store.bucket[slot_chunks(order)]
    buckets, counts = np.unique(row_lengths[order.offsets[:-1]], return_counts=True)
    export_bytes = parameters * setup.export_dtype(config, parameters).itemsize
    device = setup.choose_device(config)
    libraries = LIBRARY_BYTES if device.type == "cpu" else 0
    tokenizer = setup.make_tokenizer(store, max_length=None)
    probes = open_probe_sets(config.probes, tokenizer, model.config)
    states = config.checkpoint.resume.keep_last + 1  # the newest is written before the oldest goes
    return Plan(
        parameters=parameters,
        embedding_parameters=setup.input_embeddings(model).weight.numel(),
        tokens=tokens,
        held_out_tokens=held_out,
        injected_items=len(order.injected.item_ids) if order.injected else 0,
        injected_rows=len(order.injected.ids) if order.injected else 0,
        injected_updates=len(injected_updates(order)),
        padding=1 - (tokens + held_out) / int(row_lengths.sum(dtype=np.int64)),
        updates=order.num_updates,
        epochs=len(order.epoch_starts),
        updates_per_bucket=dict(zip(buckets.tolist(), counts.tolist(), strict=True)),
        memory_bytes=libraries + parameters * TRAINING_BYTES + activation_bytes(config, model.config),
        exports=exports,
        num_probes=sum(len(one.asked) for one in probes),
        num_skipped=sum(len(one.skipped) for one in probes),
        probe_steps=probe_steps(config.probes, order),
        disk_bytes=len(exports) * export_bytes + states * parameters * RESUME_BYTES,
        free_bytes=shutil.disk_usage(_existing(run)).free,
        device=str(device),
    )


def held_out_tokens(store: ChunkStore, order: DataOrder) -> int:
    """Real tokens of the rows whose targets are ignored."""
    if order.trained is None:
        return 0
    held_out = (order.ids >= 0) & ~order.trained  # a chunk that items displaced is not trained either
    return int(store.length[order.ids[held_out]].sum(dtype=np.int64))


def activation_bytes(config: TrainConfig, model_config: PreTrainedConfig) -> int:
    """Roughly what one micro-batch keeps: 24 d_model and 6 d_ffn values a token and layer, and logits."""
    tokens = config.micro_batch_tokens or config.data.batch_tokens
    d_model, layers = int(model_config.hidden_size), int(model_config.num_hidden_layers)
    d_ffn = int(getattr(model_config, "intermediate_size", None) or 4 * d_model)
    value_bytes = 4 if config.precision == "float32" else 3  # autocast keeps some of them in float32
    logits = 3 * 4 * min(tokens, config.loss.chunk_tokens) * int(model_config.vocab_size)
    return value_bytes * tokens * layers * (24 * d_model + 6 * d_ffn) + logits


def check_disk(plan: Plan) -> None:
    """Refuse a run whose checkpoints do not fit.

    Raises:
        ValueError: with the numbers and what to change.
    """
    if plan.disk_bytes > plan.free_bytes:
        raise ValueError(
            f"the run writes {plan.disk_bytes / 1e9:.1f} GB of checkpoints, "
            f"{plan.free_bytes / 1e9:.1f} GB are free: export less often (checkpoint.export.every), "
            "in bfloat16, or elsewhere"
        )


def describe(plan: Plan) -> str:
    """The plan as lines of text."""
    buckets = ", ".join(f"{count:,} of length {size}" for size, count in plan.updates_per_bucket.items())
    skipped = f" ({plan.num_skipped:,} cannot be asked)" if plan.num_skipped else ""
    probes = [f"probes      {plan.num_probes:,} asked at {len(plan.probe_steps):,} steps{skipped}"]
    injected = (
        f"{plan.injected_items:,} items in {plan.injected_rows:,} rows of {plan.injected_updates:,} updates"
    )
    return "\n".join(
        [
            f"parameters  {plan.parameters:,}, of them {plan.embedding_parameters:,} input embeddings",
            f"tokens      {plan.tokens:,} in {plan.epochs} epochs; {plan.padding:.1%} of the rows is padding",
            *([f"held out    {plan.held_out_tokens:,} tokens more"] if plan.held_out_tokens else []),
            f"updates     {plan.updates:,}: {buckets}",
            *([f"injected    {injected}"] if plan.injected_items else []),
            *(probes if plan.probe_steps else []),
            f"memory      about {plan.memory_bytes / 1e9:.2f} GB on {plan.device}",
            f"disk        {plan.disk_bytes / 1e9:.2f} GB: {len(plan.exports)} exports, and resume states",
            f"            {plan.free_bytes / 1e9:.1f} GB are free",
        ]
    )


def _existing(path: Path) -> Path:
    """The path, or the closest parent that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
