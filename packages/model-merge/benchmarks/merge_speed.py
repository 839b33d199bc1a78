"""Merging speed beside mergekit, on random checkpoints of half a billion parameters in BF16.

    uv run python packages/model-merge/benchmarks/merge_speed.py FOLDER [--cases linear,slerp,ties] [--runs 5]

FOLDER gets five checkpoints (5 GB), an environment with mergekit from PyPI, and one output at a time. Every
run is a process of its own: wall time, CPU seconds and peak resident memory as the kernel counts them; inputs
are in the page cache, outputs are synced before the clock stops. The median of the runs is shown; ties of
mergekit, which takes minutes, runs once.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_merge.header import write_header

MERGEKIT = "mergekit==0.1.5"
HIDDEN, LAYERS, VOCABULARY = 1536, 12, 50304
INNER = 4224
MODELS = ("base", "m1", "m2", "m3", "m4")
STEP = 1 << 23

CONFIG = {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "pad_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 12,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}

FILES = {
    "linear": "merge_method: linear\nmodels:\n"
    + "".join(f"- model: m{i}\n  parameters: {{weight: 1.0}}\n" for i in (1, 2, 3, 4))
    + "dtype: bfloat16\n",
    "slerp": "merge_method: slerp\nbase_model: m1\nmodels:\n- model: m1\n- model: m2\n"
    "parameters: {t: 0.35}\ndtype: bfloat16\n",
    "ties": "merge_method: ties\nbase_model: base\nmodels:\n"
    + "".join(f"- model: m{i}\n  parameters: {{weight: 1.0, density: 0.5}}\n" for i in (1, 2, 3, 4))
    + "dtype: bfloat16\n",
}


def tensor_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of the model, sorted by name in a layer."""
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            yield f"{prefix}{name}.weight", (HIDDEN,)
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            yield f"{prefix}{name}.weight", (HIDDEN,)
        yield f"{prefix}mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{prefix}mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, INNER)
    yield "model.norm.weight", (HIDDEN,)


def make_checkpoint(folder: Path, seed: int) -> None:
    """Random weights of an OLMo-2 model, written once."""
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    shapes = dict(tensor_shapes())
    header, _ = write_header({name: ("BF16", shape) for name, shape in shapes.items()})
    left = sum(int(np.prod(shape)) for shape in shapes.values())
    generator = np.random.default_rng(seed)
    with (folder / "unfinished").open("wb") as file:
        file.write(header)
        while left:
            count = min(left, STEP)
            weights = generator.standard_normal(count, dtype=np.float32) * np.float32(0.02)
            file.write((weights.view(np.uint32) >> 16).astype("<u2").tobytes())
            left -= count
    (folder / "unfinished").rename(folder / "model.safetensors")


def copy_program(out: Path, inputs: list[Path], threads: int) -> None:
    """Only read the inputs and write one output of their size, synced: what no merge can be faster than."""
    sources = [os.open(path / "model.safetensors", os.O_RDONLY) for path in inputs]
    out.mkdir()
    target = os.open(out / "model.safetensors", os.O_RDWR | os.O_CREAT, 0o666)
    size = os.fstat(sources[0]).st_size

    def work(first: int) -> None:
        buffer = bytearray(STEP)
        for start in range(first * STEP, size, threads * STEP):
            for source in sources:
                count = os.preadv(source, [buffer], start)
            os.pwrite(target, memoryview(buffer)[:count], start)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os.fsync(target)


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    wall: float
    cpu: float
    peak_mb: float


def measure(command: list[str], folder: Path, warm: list[str], runs: int) -> Cost:
    """The median, by wall time, of some runs of a command that writes FOLDER/out."""
    costs = []
    for _ in range(runs):
        shutil.rmtree(folder / "out", ignore_errors=True)
        for name in warm:
            subprocess.run(
                ["cat", str(folder / name / "model.safetensors")], stdout=subprocess.DEVNULL, check=True
            )
        os.sync()
        costs.append(_measure_once(command, folder))
    return sorted(costs, key=lambda cost: cost.wall)[len(costs) // 2]


def _measure_once(command: list[str], folder: Path) -> Cost:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as at any user's
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    for path in (folder / "out").iterdir() if (folder / "out").exists() else ():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    wall = time.perf_counter() - begun
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def install_mergekit(folder: Path) -> Path:
    """mergekit in an environment of its own; its command."""
    command = folder / "mergekit-env" / "bin" / "mergekit-yaml"
    if not command.exists():
        subprocess.run(["uv", "venv", "--quiet", str(folder / "mergekit-env")], check=True)
        python = folder / "mergekit-env" / "bin" / "python"
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, MERGEKIT], check=True)
    return command


def main() -> None:
    """Make what is missing, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", default="linear,slerp,ties")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--without-mergekit", action="store_true")
    parser.add_argument("--copy-program", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    if options.copy_program:
        copy_program(folder / "out", [folder / name for name in MODELS[1:]], options.copy_program)
        return
    for seed, name in enumerate(MODELS):
        make_checkpoint(folder / name, seed)
    for name, content in FILES.items():
        (folder / f"{name}.yml").write_text(content, encoding="utf-8")
    report(folder, options.cases.split(","), options.runs, with_mergekit=not options.without_mergekit)
    shutil.rmtree(folder / "out", ignore_errors=True)


def report(folder: Path, cases: list[str], runs: int, *, with_mergekit: bool) -> None:
    """Measure in turn and print every line as it is known."""
    ours = str(Path(sys.executable).with_name("model-merge"))
    print(f"load before: {os.getloadavg()[0]:.1f}\n")
    print("| what | wall s | CPU s | peak MB |\n|---|---|---|---|")

    def row(what: str, command: list[str], warm: tuple[str, ...] = MODELS, times: int = runs) -> Cost:
        cost = measure(command, folder, list(warm), times)
        print(f"| {what} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.peak_mb:.0f} |", flush=True)
        return cost

    found: dict[str, Cost] = {}
    average = [ours, "average", *MODELS[1:], "-o", "out"]
    copying = [sys.executable, __file__, str(folder), "--copy-program"]
    if "linear" in cases:
        found["copy"] = row("read 4 and write 1, 1 thread", [*copying, "1"], MODELS[1:])
        row("read 4 and write 1, 2 threads", [*copying, "2"], MODELS[1:])
        found["linear"] = row(
            "model-merge average, 4 models", [ours, "average", *MODELS[1:], "-o", "out"], MODELS[1:]
        )
        row("the same with --sha256", [*average, "--sha256"], MODELS[1:])
    for case in cases:
        found[f"run {case}"] = row(f"model-merge run {case}.yml", [ours, "run", f"{case}.yml", "out"])
    if with_mergekit:
        mergekit = str(install_mergekit(folder))
        for case in cases:
            command = [mergekit, f"{case}.yml", "out", "--no-copy-tokenizer", "--no-write-model-card"]
            times = 1 if case == "ties" else runs
            found[f"mergekit {case}"] = row(f"mergekit-yaml {case}.yml", command, times=times)
    help_cost = row("model-merge --help", [ours, "--help"], (), max(runs, 5))
    print(f"\nload after: {os.getloadavg()[0]:.1f}\n")
    for line in ratios(found):
        print(line)
    print(f"--help: {help_cost.wall:.2f} s")


def ratios(found: dict[str, Cost]) -> Iterator[str]:
    """The comparisons that matter."""
    if "linear" in found:
        yield f"linear: {found['linear'].wall / found['copy'].wall:.2f} x reading and writing (wall)"
        if "mergekit linear" in found:
            ratio = found["mergekit linear"].wall / found["linear"].wall
            yield f"linear: 1/{ratio:.1f} of mergekit's wall time"
    for case in ("slerp", "ties"):
        if f"mergekit {case}" in found:
            ratio = found[f"mergekit {case}"].cpu / found[f"run {case}"].cpu
            yield f"{case}: 1/{ratio:.1f} of mergekit's CPU time"


if __name__ == "__main__":
    main()
