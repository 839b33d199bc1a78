"""Merges a second: the running sum of the subset engine against a fresh sum for every merge.

    python benchmarks/subset_engine.py [--parts 10] [--parameters 5000000] [--dtype float32] [--device cpu]

Random Olmo2 checkpoints are written to a temporary folder. All non-empty subsets are merged in
Gray-code order in one resident model, without evaluating it; then the same merges are made afresh
from the same inputs in memory. Every merge's bits are compared. Prints JSON.
"""

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM
from transformers.utils import logging

from model_merge.checkpoint import open_checkpoint
from model_merge.resident import Resident, make_resident
from model_merge.subsets import Merge, list_family


def write_parts(folder: Path, count: int, parameters: int, dtype: torch.dtype) -> list[str]:
    """Checkpoints of about so many parameters, a base and Gaussian noise."""
    width = 256
    layers = 4
    vocabulary = max(64, (parameters - layers * 12 * width * width) // (2 * width))
    config = Olmo2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width * 2 // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = Olmo2ForCausalLM(config).to(dtype)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(count):
        noise = torch.Generator().manual_seed(number)
        for name, value in model.state_dict().items():
            value.copy_(base[name] + 0.005 * torch.randn(value.shape, generator=noise))
        model.save_pretrained(folder / f"part{number}")
    return [str(folder / f"part{number}") for number in range(count)]


def digest(resident: Resident) -> list[int]:
    """Of every parameter's bytes."""
    return [
        zlib.crc32(target.detach().cpu().view(torch.uint8).numpy()) for target in resident.targets.values()
    ]


def measure(
    resident: Resident, merges: list[Merge], device: str, *, afresh: bool
) -> tuple[float, list[list[int]]]:
    """Seconds for all merges, and what they were. The digests are not timed."""
    seconds, digests = 0.0, []
    for merge in merges:
        start = time.perf_counter()
        if afresh:
            for running in resident.sums.values():
                running.coefficients = []
        resident.become(merge)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
        digests.append(digest(resident))
    return seconds, digests


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=5_000_000)
    parser.add_argument("--merges", type=int, default=0, help="only so many of the subsets, 0 for all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dtype = getattr(torch, arguments.dtype)
        references = write_parts(Path(folder), arguments.parts, arguments.parameters, dtype)
        checkpoints = [open_checkpoint(reference) for reference in references]
        merges = list_family("all", [str(number) for number in range(arguments.parts)])
        start = time.perf_counter()
        resident = make_resident(checkpoints, merges, device=arguments.device)
        looked = time.perf_counter() - start
        shown = merges[: arguments.merges or None]
        resident.become(Merge((1.0,) * arguments.parts, float(arguments.parts)))  # every input is in memory
        running, digests = measure(resident, shown, arguments.device, afresh=False)
        fresh, expected = measure(resident, shown, arguments.device, afresh=True)
    assert digests == expected, "a running sum differs from a fresh one"
    tensors = resident.sums.values()
    print(
        json.dumps(
            {
                "parts": arguments.parts,
                "parameters": sum(tensor.size for tensor in tensors),
                "dtype": arguments.dtype,
                "device": arguments.device,
                "merges": len(shown),
                "all bit-equal": True,
                "positions summed afresh": sum(
                    tensor.size if tensor.inexact is None else len(tensor.inexact) for tensor in tensors
                ),
                "seconds to look at the parts once": round(looked, 2),
                "merges a second, running": round(len(shown) / running, 1),
                "merges a second, afresh": round(len(shown) / fresh, 1),
                "ratio": round(fresh / running, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
