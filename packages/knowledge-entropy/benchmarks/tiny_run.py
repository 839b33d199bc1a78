"""Write the checkpoints and tokens of the README's examples: a tiny OLMo-2 whose units fall asleep.

    uv run python packages/knowledge-entropy/benchmarks/tiny_run.py FOLDER

Nothing is trained: every unit of the random model at step 0 fades at a speed of its own, so that entropy
falls from step to step, and the numbers are the same on every machine.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

STEPS = (0, 10, 20, 40, 80)


def main() -> None:
    """Write FOLDER/run/step0 ... step80 and FOLDER/rows.npy."""
    folder = Path(sys.argv[1])
    model = random_model()
    speeds = torch.rand(4, 192, generator=torch.Generator().manual_seed(1)) ** 3
    rows = [layer.mlp.up_proj.weight.data.clone() for layer in model.model.layers]
    for step in STEPS:
        for layer, row, speed in zip(model.model.layers, rows, speeds, strict=True):
            layer.mlp.up_proj.weight.data = row * torch.exp(-4 * speed * step / STEPS[-1])[:, None]
        model.save_pretrained(folder / "run" / f"step{step}")
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(0, 256, (64, 64)))


def random_model() -> Olmo2ForCausalLM:
    """Four layers of 192 units."""
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=1,
        eos_token_id=0,
    )
    return Olmo2ForCausalLM(config)


if __name__ == "__main__":
    main()
