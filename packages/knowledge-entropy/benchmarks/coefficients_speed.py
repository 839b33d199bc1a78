"""Measuring coefficients beside a plain forward of the same base model and a port of the published loop.

Usage: uv run python packages/knowledge-entropy/benchmarks/coefficients_speed.py
           [--sizes tiny small 100m] [--rows 8] [--length 512] [--rounds 3] [--threads 1]

Each way runs in the same process on the same tokens and weights, in turn; times are the best of `--rounds`.
Memory is the most a pass adds to what stood before it (Linux: VmHWM, reset before the pass).
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, OlmoConfig, PreTrainedModel

from knowledge_entropy.measure import measure
from knowledge_entropy.tokens import TokenSet, from_rows

SIZES = {  # d_model, layers, heads, MLP width
    "tiny": (128, 4, 4, 512),
    "small": (384, 6, 6, 1536),
    "100m": (768, 8, 12, 3072),
}
VOCAB, BATCH = 50_304, 4


def build(size: str, length: int) -> PreTrainedModel:
    """A random OLMo-1."""
    width, layers, heads, mlp = SIZES[size]
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def ours(model: PreTrainedModel, tokens: TokenSet) -> None:
    """The package."""
    measure(model, tokens, batch_tokens=BATCH * int(tokens.lengths[0]))


def plain_forward(model: PreTrainedModel, tokens: TokenSet) -> None:
    """The base model, nothing else."""
    with torch.inference_mode():
        for ids in torch.from_numpy(tokens.ids).view(tokens.num_rows, -1).split(BATCH):
            model.base_model(input_ids=ids, use_cache=False)


def published_loop(model: PreTrainedModel, tokens: TokenSet) -> None:
    """All activations kept, eager attention, cache, LM head; absolute values summed at the end of a batch."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    total = 0.0
    with torch.no_grad():
        for ids in torch.from_numpy(tokens.ids).view(tokens.num_rows, -1).split(BATCH):
            kept: list[torch.Tensor] = []
            handles = [
                layer.mlp.down_proj.register_forward_pre_hook(lambda _, x, kept=kept: kept.append(x[0]))
                for layer in model.model.layers
            ]
            model(input_ids=ids, use_cache=True)
            for handle in handles:
                handle.remove()
            total = total + torch.stack([one.abs().sum((0, 1)) for one in kept])
    model.set_attn_implementation(before)


WAYS: dict[str, Callable[[PreTrainedModel, TokenSet], None]] = {
    "plain forward": plain_forward,
    "ours": ours,
    "published loop": published_loop,
}


def make_tokens(rows: int, length: int) -> TokenSet:
    """Random rows."""
    return from_rows(list(np.random.default_rng(0).integers(2, VOCAB, (rows, length))), source="random")


def added_megabytes(run: Callable[[], None]) -> float:
    """The most memory a call adds to what stands before it."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier passes left free would hide this one
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    for name, default in (("rows", 8), ("length", 512), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokens = make_tokens(options.rows, options.length)
    print(f"{'size':>6} {'way':>15} {'CPU s':>8} {'of plain':>9} {'MB above weights':>17}")
    for size in options.sizes:
        model = build(size, options.length)
        best = dict.fromkeys(WAYS, float("inf"))
        for _ in range(options.rounds):
            for way, run in WAYS.items():
                start = time.process_time()
                run(model, tokens)
                best[way] = min(best[way], time.process_time() - start)
        for way in WAYS:
            memory = added_megabytes(partial(WAYS[way], model, tokens))
            ratio = best[way] / best["plain forward"]
            print(f"{size:>6} {way:>15} {best[way]:8.2f} {ratio:9.2f} {memory:17.0f}", flush=True)


if __name__ == "__main__":
    main()
