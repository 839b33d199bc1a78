"""From annotated documents to an evaluated index, by the packages' own commands."""

import subprocess
import sys
from pathlib import Path


def build_index(folder: Path, *, vocabulary: int = 1024, longest: int = 128) -> None:
    """Cut the documents into chunks, and index these."""
    documents, tokenizer = folder / "documents.parquet", folder / "tokenizer.json"
    run("chunk-provenance", "tokenizer", documents, tokenizer, "--vocab-size", vocabulary, "--overwrite")
    cutting = ["--min-length", longest, "--max-length", longest, "--batch-tokens", longest]
    reading = ["--tokenizer", tokenizer, "--mentions", folder / "mentions.parquet"]
    run("chunk-provenance", "build", documents, folder / "chunks", *reading, *cutting)
    run("entity-index", "build", folder / "chunks", folder / "index")


def evaluate(folder: Path, *, entities: int) -> str:
    """Judge by the gold; the tables are printed, the figure and the numbers stand in the folder."""
    judge = ["--gold", folder / "gold.parquet", "--store", folder / "chunks", "--entities", entities]
    written = ["--figure", folder / "precision.svg", "--section", folder / "section.json", "--overwrite"]
    print(f"\n{folder.name}\n", flush=True)
    return run(
        "entity-index", "evaluate", folder / "index", *judge, *written, "--chunks", folder / "judged.jsonl"
    )


def run(program: str, *words: object) -> str:
    """Run a command of this environment; its words go to stderr, what it prints is shown and given."""
    path = Path(sys.executable).parent / program
    done = subprocess.run([path, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return done.stdout
