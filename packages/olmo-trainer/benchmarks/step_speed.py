"""Training steps of the same decoder, ours beside stock transformers, in the same process.

Usage: uv run python packages/olmo-trainer/benchmarks/step_speed.py [--rounds 3] [--threads 1] [--compile]
Every line is the best of `--rounds` steps of 4,096 tokens. Tokens per CPU-second hardly depend on who else is
using the machine, tokens per second do.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from olmo_trainer.batches import Batch, make_labels, micro_batches
from olmo_trainer.config import OptimConfig
from olmo_trainer.loss import next_token_loss
from olmo_trainer.model import build_from_scratch, count_parameters, olmo2_config
from olmo_trainer.setup import compile_layers, make_optimizer

TOKENS, VOCAB = 4096, 4096
Loss = Callable[[PreTrainedModel, Batch], torch.Tensor]


def stock_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """What `labels=` does in transformers: all logits at once, no z-loss."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten())


def our_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Chunked cross-entropy and z-loss."""
    return next_token_loss(model, batch)[0]


def measure(
    attention: str, loss_of: Loss, *, length: int, precision: str, micro: int, rounds: int, compiled: bool
) -> tuple[float, float, int]:
    """Tokens per CPU-second, tokens per second, and parameters."""
    config = olmo2_config("olmo2-tiny", {}, vocab_size=VOCAB, max_length=512, eos_id=0, pad_id=1)
    model = build_from_scratch(config, seed=0).train()
    model.set_attn_implementation(attention)
    if compiled:
        compile_layers(model)
    optimizer = make_optimizer(model, OptimConfig())
    ids = np.random.default_rng(0).integers(2, VOCAB, (TOKENS // length, length))
    rows = ids, np.zeros(ids.shape, dtype=np.int32)
    labels = make_labels(*rows, cross_document_targets=True)
    options = {"micro_batch_tokens": micro, "device": torch.device("cpu")}
    times = []
    for _ in range(rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            for batch in micro_batches(rows, labels, np.arange(len(ids)), **options):
                loss_of(model, batch).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    best_cpu, best_wall = (min(column) for column in zip(*times[1:], strict=True))
    return TOKENS / best_cpu, TOKENS / best_wall, count_parameters(model)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("step                rows  precision  micro-batch  tokens/CPU-s  tokens/s")
    cases = [
        (name, length, precision, TOKENS)
        for precision in ("float32", "bfloat16")
        for length in (256, 64)
        for name in ("transformers", "olmo-trainer")
    ]
    cases += [("olmo-trainer", 256, "bfloat16", micro) for micro in (2048, 1024)]
    for name, length, precision, micro in cases:
        attention, loss_of = ("sdpa", stock_loss) if name == "transformers" else ("olmo_trainer", our_loss)
        cpu, wall, parameters = measure(
            attention,
            loss_of,
            length=length,
            precision=precision,
            micro=micro,
            rounds=options.rounds,
            compiled=options.compile,
        )
        print(f"{name:18}  {length:4}  {precision:9}  {micro:11}  {cpu:12,.0f}  {wall:8,.0f}", flush=True)
    print(f"{parameters:,} parameters, torch {torch.__version__}, {options.threads} threads")


if __name__ == "__main__":
    main()
