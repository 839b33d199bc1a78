"""How fast `entity-index annotate` is, and that its memory does not grow with the table.

Run: uv run python packages/entity-index/benchmarks/fact_sets.py [INDEX]
Without INDEX it makes the corpus of benchmark.py, of 30,000 chunks. PopQA has 14,267 facts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from entity_index import build_index
from entity_index.backend import Backend, open_backend

SIZES = (5_000, 50_000)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = arguments.index or make_index(folder)
        backend = open_backend(reference)
        print(f"{backend.num_chunks:,} chunks, {len(backend.entities):,} entities")
        for size in SIZES:
            write_facts(backend, folder / "facts.jsonl", size)
            out = folder / "out.parquet"
            seconds, memory = measure(folder / "facts.jsonl", reference, out)
            written = out.stat().st_size / 2**20
            print(f"{size:8,} facts: {seconds:5.1f} s, peak {memory:,.0f} MiB, {written:,.0f} MiB written")


def make_index(folder: Path) -> str:
    """The corpus of benchmark.py."""
    from benchmark import write_corpus  # beside this file; importable only where this is the program

    write_corpus(folder / "chunks", num_chunks=30_000, num_mentions=3_000_000)
    build_index(folder / "chunks", folder / "index")
    return str(folder / "index")


def write_facts(backend: Backend, path: Path, size: int, *, seed: int = 0) -> None:
    """Facts of random entities, half of them by name."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(backend.entities), size=(size, 2)).tolist()
    with path.open("w", encoding="utf-8") as file:
        for number, (subject, answer) in enumerate(pairs):
            one, other = backend.entities[subject], backend.entities[answer]
            row = {"id": number, "subject": one if number % 2 else f"Name {one}", "answer": other}
            file.write(json.dumps({**row, "question": "what?" * 10}) + "\n")


def measure(facts: Path, reference: str, out: Path) -> tuple[float, float]:
    """Seconds and peak MiB of the command in a process of its own."""
    words = ["annotate", str(facts), reference, "--out", str(out), "--overwrite"]
    code = "import sys; from entity_index.cli import main; sys.argv[0] = 'entity-index'; main()"
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return time.perf_counter() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
