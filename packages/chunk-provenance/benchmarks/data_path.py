"""Measure the way from text to a data order: `uv run benchmarks/data_path.py` (about a minute, two cores).

Encoding is measured beside the least one can do with `tokenizers`: one call for a batch, ids into an array.
The text is WikiText-2's validation set where SHARED_DATA (or ../shared) has it, else made-up sentences.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from chunk_provenance import compute_order
from chunk_provenance.build import Packing, build_store
from chunk_provenance.documents import Document
from chunk_provenance.encoding import encode_documents
from chunk_provenance.packing import merge_spans, pack_buckets
from chunk_provenance.projecting import Pieces, project
from chunk_provenance.tokenizing import TextEncoder, import_tokenizers, train_tokenizer

REPEATS = 5


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000_000, help="Tokens for packing, chunks follow.")
    arguments = parser.parse_args()
    table = Table("what", "amount", "seconds", "of the CPU", "per CPU second")
    for what, amount, unit, (seconds, cpu) in [*measure_text(), *measure_arrays(arguments.tokens)]:
        table.add_row(what, f"{amount:,} {unit}", f"{seconds:.3f}", f"{cpu:.3f}", f"{amount / cpu:,.0f}")
    Console().print(table)


def measure_text() -> list[tuple[str, int, str, tuple[float, float]]]:
    """Encoding and whole builds on real text."""
    texts = read_texts()
    content = train_tokenizer(texts, vocab_size=4096)
    encoder = TextEncoder(content)
    bare = import_tokenizers().Tokenizer.from_str(content)

    def least() -> int:
        encodings = bare.encode_batch_fast(texts, add_special_tokens=False)
        return sum(len(np.array(encoding.ids, dtype=np.uint32)) for encoding in encodings)

    def least_with_offsets() -> int:
        encodings = bare.encode_batch(texts, add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        offsets = [np.array(encoding.offsets, dtype=np.int64) for encoding in encodings]
        return sum(map(len, ids)) + 0 * len(offsets)

    tokens = least()
    documents = [Document(str(number), text) for number, text in enumerate(texts)]

    def build() -> None:
        with tempfile.TemporaryDirectory() as folder:
            batches = encode_documents(documents, encoder)
            build_store(f"{folder}/store", batches, encoder=encoder, packing=Packing())

    return [
        ("tokenizers alone, ids", tokens, "tokens", best(least)),
        ("tokenizers alone, ids and offsets", tokens, "tokens", best(least_with_offsets)),
        ("encode: ids and characters", tokens, "tokens", best(lambda: encoder.encode(texts))),
        ("build: read to store", tokens, "tokens", best(build)),
    ]


def measure_arrays(num_tokens: int) -> list[tuple[str, int, str, tuple[float, float]]]:
    """Packing, projection and orders on random documents of a Wikipedia's lengths."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, rng.lognormal(5.8, 1.1, num_tokens // 500).astype(np.int64))
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    total = int(bounds[-1])
    mention_starts = np.sort(rng.integers(0, total - 8, total // 9))  # as dense as in LMEnt's Wikipedia
    mention_ends = np.minimum(mention_starts + rng.integers(1, 6, len(mention_starts)), total)
    last = bounds[np.searchsorted(bounds, mention_starts, side="right")]
    mention_ends = np.minimum(mention_ends, last)
    limits = {"min_length": 64, "max_length": 2048}
    none = merge_spans(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    pairs = np.flatnonzero(rng.random(total) < 0.2)  # a fifth of all tokens continues a word
    words = merge_spans(pairs, np.minimum(pairs + 2, bounds[np.searchsorted(bounds, pairs, side="right")]))

    def pack() -> tuple[Any, Any]:
        mentions = merge_spans(mention_starts, mention_ends)
        return pack_buckets(bounds, mentions=mentions, words=words, characters=none, **limits)

    starts, ends = pack()
    zeros = np.zeros_like(starts)
    pieces = Pieces(starts, ends, starts, ends, zeros, zeros)
    spans = {"token_start": mention_starts, "token_end": mention_ends}
    chars = {"char_start": mention_starts, "char_end": mention_ends}
    buckets = rng.choice(np.array([64, 128, 256, 512, 1024, 2048], dtype=np.int32), 1_000_000)
    order = compute_order(buckets, batch_tokens=32_768, seed=0, epochs=4)

    def look_up() -> None:
        vars(order).pop("inverse", None)
        order.steps_of(12)

    chunks = 100_000
    return [
        ("pack, with mentions", total, "tokens", best(pack)),
        (
            "project mentions",
            len(mention_starts),
            "mentions",
            best(lambda: project(pieces, **spans, **chars)),
        ),
        (
            "order, 1 M chunks, 4 epochs",
            len(order.ids),
            "chunks",
            best(lambda: compute_order(buckets, batch_tokens=32_768, seed=0, epochs=4)),
        ),
        ("invert it: chunk to steps", len(order.ids), "chunks", best(look_up)),
        ("steps of a chunk", chunks, "look-ups", best(lambda: [order.steps_of(i) for i in range(chunks)])),
    ]


def best(function: Callable[[], Any]) -> tuple[float, float]:
    """The shortest of a few runs: seconds, and seconds of the CPU, which others' work disturbs less."""
    runs = []
    for _ in range(REPEATS):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        function()
        runs.append((time.perf_counter() - begin, time.process_time() - cpu_begin))
    return min(seconds for seconds, _ in runs), min(cpu for _, cpu in runs)


def read_texts() -> list[str]:
    """Paragraphs of real text, or made-up ones."""
    folder = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[4] / "shared"))
    path = folder / "data" / "text" / "wikitext-2-valid.txt"
    if path.is_file():
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        f"Person {i} was born in the year {1000 + i % 900} in the town number {i % 37}."
        for i in range(20_000)
    ]


if __name__ == "__main__":
    main()
