"""Train: the loop, top to bottom. Every update's chunks are checked against the order recorded before step 0.

    config, order, environment on disk -> step0 -> update, ask, log, export, resume state, again -> last step

A run that is killed at any moment and started again continues from its newest resume state; on the CPU it
then gives the same bits as if it had never stopped.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from transformers import PreTrainedModel

from chunk_provenance import ChunkStore, DataOrder, batch_digest, injected_items, open_store, slot_tokens
from olmo_trainer import checkpoint, setup
from olmo_trainer.batches import Batch, update_batches
from olmo_trainer.config import TrainConfig
from olmo_trainer.loop_probes import ask_sets, begin_answers, open_probe_sets, probe_steps
from olmo_trainer.loss import LossFunction, next_token_loss
from olmo_trainer.model import count_parameters
from olmo_trainer.run_folder import (
    MetricsLog,
    check_resume,
    config_sha256,
    lock,
    record_config,
    record_environment,
)
from olmo_trainer.schedules import learning_rate
from olmo_trainer.validation import open_rows, validate

logger = logging.getLogger(__name__)

Logged = dict[str, Any]
"""A line of metrics.jsonl."""


class DivergedError(RuntimeError):
    """The loss or its gradient is not a number; nothing was updated with it."""


@dataclass(frozen=True)
class Outcome:
    """Where a call of `train` ended."""

    step: int
    total: int
    interrupted: bool


def train(
    config: TrainConfig,
    run: Path,
    *,
    loss_function: LossFunction | None = None,
    stop_at: int | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[Logged, int], None] = lambda logged, total: None,
) -> Outcome:
    """Train until the order ends, `stop_at`, or `should_stop` says so after a step; continue what RUN holds.

    Args:
        loss_function: the seam, see `olmo_trainer.loss.LossFunction`; None is next-token prediction.
        on_step: gets every line of metrics.jsonl, and the number of updates of the whole run.

    Raises:
        DivergedError: the loss is not finite; the run can be continued from before.
        ValueError, OSError: configuration, data or folder do not allow it; the message says what to do.
    """
    with lock(run):
        check_resume(run, resume)
        session = _Session(config, run, loss_function)
        return session.run_until(stop_at, should_stop, on_step)


class _Session:
    """A run that is opened: everything its loop needs."""

    def __init__(self, config: TrainConfig, run: Path, loss_function: LossFunction | None) -> None:
        self.config, self.run = config, run
        self.device = setup.choose_device(config)
        self.store: ChunkStore = open_store(config.data.store)
        self.order: DataOrder = setup.make_order(config.data, self.store, seed=config.seed.data)
        self.tokens_seen = tokens_by_step(self.store, self.order)
        self.validation = {
            name: open_rows(name, path, self.store) for name, path in config.data.validation.items()
        }
        self.model: PreTrainedModel = setup.make_model(config.model, self.store, seed=config.seed.init)
        self.model.to(device=self.device).train()  # type: ignore[call-arg]
        self.optimizer: Optimizer = setup.make_optimizer(self.model, config.optim)
        self.loss_function = loss_function or partial(
            next_token_loss, z_weight=config.loss.z, chunk_tokens=config.loss.chunk_tokens
        )
        self.tokenizer = setup.make_tokenizer(
            self.store, max_length=getattr(self.model.config, "max_position_embeddings", None)
        )
        export = config.checkpoint.export
        self.exports = set(
            checkpoint.export_steps(
                total=self.order.num_updates,
                every=export.every,
                log_until=export.log_until,
                steps=export.steps,
            )
        )
        self.probes = open_probe_sets(config.probes, self.tokenizer, self.model.config)
        self.probe_steps = set(probe_steps(config.probes, self.order))
        begin_answers(self.probes, run / "probes")
        record_config(run, config)
        self.hashes = {
            "order_sha256": setup.record_order(self.order, run / "order", self.store),
            "config_sha256": config_sha256(config),
        }
        checkpoint.remove_unfinished(run)
        checkpoint.remove_unfinished(run / "resume")

    def run_until(
        self, stop_at: int | None, should_stop: Callable[[], bool], on_step: Callable[[Logged, int], None]
    ) -> Outcome:
        """The loop."""
        config, total = self.config, self.order.num_updates
        step = self.restore()
        record_environment(self.run, step=step, device=str(self.device), threads=torch.get_num_threads())
        if config.compile:
            setup.compile_layers(self.model)
        last, interrupted = min(total, stop_at or total), False
        with MetricsLog(self.run / "metrics.jsonl", step=step or -1) as log:
            if step == 0:
                self.begin(log)
            else:
                self.ask(step)  # probes that were added to the configuration since
            while step < last and not interrupted:
                step += 1
                logged = self.update(step)
                if step in self.exports:
                    logged |= self.validate()
                logged |= self.ask(step)
                log.write(logged)
                on_step(logged, total)
                interrupted = should_stop()
                if step in self.exports:
                    self.export(step, loss=logged["loss"], lr=logged["lr"])
                if step % config.checkpoint.resume.every == 0 or step == last or interrupted:
                    log.sync()
                    self.save_resume_state(step)
        return Outcome(step, total, interrupted and step < last)

    def restore(self) -> int:
        """Load the newest undamaged resume state, if there is one; the step to continue from."""
        folder = checkpoint.newest_resume_state(self.run / "resume")
        if folder is None:
            if self.config.model.optimizer == "keep":
                setup.keep_optimizer(self.config.model, self.model, self.optimizer)
            return 0
        state = checkpoint.read_state(folder)
        changed = [
            f"{key} {state.get(key)} -> {value}"
            for key, value in self.hashes.items()
            if state.get(key) != value
        ]
        if changed:
            raise ValueError(
                f"{str(folder)!r} belongs to another run ({', '.join(changed)}): use another folder"
            )
        checkpoint.load_weights(folder, self.model)
        checkpoint.load_optimizer(folder, self.model, self.optimizer)
        logger.info("continuing after step %d", state["step"])
        return int(state["step"])

    def begin(self, log: MetricsLog) -> None:
        """Step 0: the untrained model, exported, validated and asked."""
        self.export(0, loss=None, lr=None)
        if found := self.validate() | self.ask(0):
            log.write({"step": 0, "epoch": 0, "tokens": 0, **found})

    def update(self, step: int) -> Logged:
        """One optimiser update; what is logged about it."""
        started = time.perf_counter()
        torch.manual_seed(
            step_seed(self.config.seed.other, step)
        )  # dropout repeats on resume, without any state
        lr = learning_rate(
            step, total=self.order.num_updates, optim=self.config.optim, schedule=self.config.schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        chunk_ids, shares = self.forward_backward(step)
        expected = self.order.batch(step)
        assert np.array_equal(chunk_ids, expected), (
            f"step {step} trained on {chunk_ids}, the order says {expected}"
        )
        grad_norm = float(clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm))
        if not math.isfinite(grad_norm):
            raise DivergedError(
                f"the gradient of step {step} is {grad_norm} (chunks {_listed(chunk_ids)}): "
                "nothing was updated; lower optim.lr or look at these chunks"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = int(self.tokens_seen[step] - self.tokens_seen[step - 1])
        injected = injected_items(self.order, step)
        return {
            "step": step,
            "epoch": self.order.epoch_of(step),
            "tokens": int(self.tokens_seen[step]),
            **shares,
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens_per_second": round(tokens / (time.perf_counter() - started), 1),
            "batch_digest": batch_digest(chunk_ids),
            **({"injected": list(injected)} if injected else {}),
        }

    def forward_backward(self, step: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, float]]:
        """Add up the micro-batches' gradients; the chunk ids that were in them, and loss and metrics."""
        batches: list[Batch] = []
        losses: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        with self.autocast():
            for batch in update_batches(self.store, self.order, step, self.config, self.device):
                loss, metrics = self.loss_function(self.model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                batches.append(batch)
                losses.append(loss.detach())
                sums = {name: sums[name] + value if sums else value for name, value in metrics.items()}
        for batch, share in zip(batches, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(share):
                raise DivergedError(
                    f"the loss of step {step} is {share} (chunks {_listed(batch.chunk_ids)}): "
                    "nothing was updated; lower optim.lr or look at these chunks"
                )
        chunk_ids = np.array([chunk_id for batch in batches for chunk_id in batch.chunk_ids], dtype=np.int64)
        return chunk_ids, {"loss": float(sum(losses)), **{name: float(value) for name, value in sums.items()}}

    def autocast(self) -> torch.autocast:
        """bfloat16 products where the configuration says so; the weights are cast once an update."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def validate(self) -> dict[str, float]:
        """Cross-entropy and perplexity of every validation set."""
        tokens = self.config.micro_batch_tokens or self.config.data.batch_tokens
        with self.autocast():
            return validate(self.model, self.validation, micro_batch_tokens=tokens, device=self.device)

    def ask(self, step: int) -> dict[str, float]:
        """Ask the probes whose step it is; what is logged of the answers."""
        if step not in self.probe_steps:
            return {}
        tokens = self.config.micro_batch_tokens or self.config.data.batch_tokens
        folder = self.run / "probes"
        return ask_sets(self.model, self.tokenizer, self.probes, folder, step=step, batch_tokens=tokens)

    def export(self, step: int, *, loss: float | None, lr: float | None) -> None:
        """Write RUN/step{N}."""
        dtype = setup.export_dtype(self.config, count_parameters(self.model))
        epoch = self.order.epoch_of(step) if step else 0
        state = {"step": step, "epoch": epoch, "tokens": int(self.tokens_seen[step]), "loss": loss, "lr": lr}
        folder = self.run / f"step{step}"
        checkpoint.export(self.model, self.tokenizer, folder, dtype=dtype, state={**state, **self.hashes})

    def save_resume_state(self, step: int) -> None:
        """Write RUN/resume/step{N}."""
        checkpoint.save_resume_state(
            self.run / "resume",
            self.model,
            self.optimizer,
            state={"step": step, **self.hashes},
            keep_last=self.config.checkpoint.resume.keep_last,
        )


def tokens_by_step(store: ChunkStore, order: DataOrder) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens trained on up to each step, (updates + 1,): injected ones too, padding and held-out ones not."""
    by_slot = np.concatenate([[0], np.cumsum(slot_tokens(store, order), dtype=np.int64)])
    return by_slot[order.offsets]


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "little") >> 1


def _listed(chunk_ids: Any) -> str:
    """The first few ids, and how many more."""
    first = ", ".join(str(chunk_id) for chunk_id in chunk_ids[:8])
    return first if len(chunk_ids) <= 8 else f"{first} and {len(chunk_ids) - 8} more"
