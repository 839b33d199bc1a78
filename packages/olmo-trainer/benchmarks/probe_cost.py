"""What asking probes while training costs, beside an update and a plain padded pass over the same texts.

Usage: uv run python packages/olmo-trainer/benchmarks/probe_cost.py [--rounds 3] [--threads 1] [--probes 1950]
The probes have the shape of the Fictional Knowledge ones: 27 tokens, the last 1 to 6 of them asked for. The
plain pass is what the published evaluation does, once where that does it three times: sixteen texts padded to
the longest, logits of every position. Seconds of CPU time hardly depend on who else is using the machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from olmo_trainer.batches import make_labels, micro_batches
from olmo_trainer.config import OptimConfig
from olmo_trainer.loop_probes import ProbeSet, ask_sets
from olmo_trainer.loss import next_token_loss
from olmo_trainer.model import build_from_scratch, olmo2_config
from olmo_trainer.questions import AskedProbe, Probe
from olmo_trainer.setup import make_optimizer

TOKENS, LENGTH, VOCAB, ROWS = 4096, 256, 4096, 16


def draw_probes(number: int) -> list[AskedProbe]:
    """Probes of random tokens in the published lengths, without distractors."""
    rng = np.random.default_rng(0)
    asked = []
    for index in range(number):
        ids = tuple(rng.integers(2, VOCAB, int(rng.integers(19, 36))).tolist())
        split = len(ids) - int(rng.integers(1, 7))
        asked.append(AskedProbe(Probe(str(index), "0", "", (), ()), ids[:split], (ids[split:],), ()))
    return asked


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """A training step of 4,096 tokens."""
    ids = np.random.default_rng(0).integers(2, VOCAB, (TOKENS // LENGTH, LENGTH))
    rows = ids, np.zeros(ids.shape, dtype=np.int32)
    labels = make_labels(*rows, cross_document_targets=True)
    device = torch.device("cpu")
    for batch in micro_batches(rows, labels, np.arange(len(ids)), micro_batch_tokens=None, device=device):
        next_token_loss(model, batch)[0].backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def plain_pass(model: PreTrainedModel, asked: list[AskedProbe]) -> list[float]:
    """Mean cross-entropy of each probe's target, sixteen padded texts at a time."""
    found = []
    for first in range(0, len(asked), ROWS):
        group = asked[first : first + ROWS]
        texts = [torch.tensor(probe.prompt + probe.answers[0]) for probe in group]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=1)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(
            len(ids), -1
        )
        for row, probe in zip(losses, group, strict=True):
            target = slice(len(probe.prompt) - 1, len(probe.prompt) + len(probe.answers[0]) - 1)
            found.append(float(row[target].mean()))
    return found


def best(work: Callable[[int], object], rounds: int) -> tuple[float, float]:
    """CPU seconds and seconds of the quickest round."""
    times = []
    for number in range(rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        work(number)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(cpu for cpu, _ in times[1:]), min(wall for _, wall in times[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--probes", type=int, default=1950)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = olmo2_config("olmo2-tiny", {}, vocab_size=VOCAB, max_length=512, eos_id=0, pad_id=1)
    model = build_from_scratch(config, seed=0).train()
    optimizer = make_optimizer(model, OptimConfig())
    asked = draw_probes(options.probes)
    probes = ProbeSet("facts", asked, [], {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "facts").mkdir()
        lines = {
            "an update of 4,096 tokens": best(lambda _: update(model, optimizer), options.rounds),
            f"{options.probes:,} probes asked in the loop": best(
                lambda step: ask_sets(model, tokenizer, [probes], folder, step=step, batch_tokens=TOKENS),
                options.rounds,
            ),
            "the same, plain padded pass": best(lambda _: plain_pass(model.eval(), asked), options.rounds),
        }
        size = (folder / "facts" / "step1.parquet").stat().st_size
    print(f"{'':32}  {'CPU-s':>6}  {'s':>6}")
    for what, (cpu, wall) in lines.items():
        print(f"{what:32}  {cpu:6.2f}  {wall:6.2f}")
    print(f"a file of answers: {size:,} bytes; torch {torch.__version__}, {options.threads} threads")


if __name__ == "__main__":
    main()
