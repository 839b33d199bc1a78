"""Write files as LMEnt and OLMo published theirs, small enough to try every command on them.

    uv run python packages/chunk-provenance/benchmarks/small_publication.py OUT

OUT gets LMEnt-Dataset/ (2 shards of 150 invented pages each, the order of two epochs), tokenizer.json, and
global_indices.npy (OLMo). Chunks and order are made by LMEnt's rules; the crafted.npy beside them is what a
stranger might send instead of a batch_indices.npy.
"""

import argparse
import csv
import gzip
import io
import json
import pickle
from pathlib import Path

import numpy as np

from chunk_provenance.lment import (
    Curriculum,
    bucket_members,
    chunk_documents,
    compute_curriculum_order,
    find_buckets,
)
from chunk_provenance.packing import merge_spans
from chunk_provenance.tokenizing import TextEncoder, train_tokenizer

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo", "Ida", "Jon"]
PLACES = ["Arden", "Belmar", "Corvin", "Dalholm", "Elsby", "Farrow", "Gorse", "Jarrow"]
VERBS = ["was born in", "lived in", "wrote about", "left for", "came back to"]
MIN_LENGTH, MAX_LENGTH, BATCH_TOKENS = 8, 32, 128


def main() -> None:
    """Write everything into the folder that the command names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    shards = [[page(rng, 150 * shard + number) for number in range(150)] for shard in range(2)]
    content = train_tokenizer([text for pages in shards for _, text, _ in pages], vocab_size=400)
    dataset = out / "LMEnt-Dataset"
    for place in ("dataset-tokenized", "dataset-cache/dataset-common", "dataset-metadata"):
        (dataset / place).mkdir(parents=True)
    (out / "tokenizer.json").write_text(content, encoding="utf-8")
    lengths = [
        write_shard(dataset, number, pages, TextEncoder(content)) for number, pages in enumerate(shards)
    ]
    write_order(dataset / "dataset-cache", np.concatenate(lengths))
    np.random.default_rng(0).permutation(1000).astype("<u4").tofile(out / "global_indices.npy")
    write_crafted(out / "crafted.npy")


def page(rng: np.random.Generator, number: int) -> tuple[str, str, list[dict[str, object]]]:
    """Title, text and mentions of an invented page; the first name links to its entity."""
    title = f"{NAMES[number % len(NAMES)]} {number}"
    sentences = [
        f"{title} {VERBS[rng.integers(len(VERBS))]} {PLACES[rng.integers(len(PLACES))]}."
        for _ in range(rng.integers(1, 9))
    ]
    text = " ".join(sentences)
    scores = {"hyperlinks": 1.0, "entity_linking": 0.9, "coref": 0.0, "coref_cluster": 0.0}
    candidate = {"qid": f"Q{number}", "name": title, "scores_by_source": scores, "aggregated_score": 0.67}
    mention = {"char_start": 0, "char_end": len(title), "text_mention": title, "candidates": [candidate]}
    return title, text, [mention]


def write_shard(folder: Path, number: int, pages: list, encoder: TextEncoder) -> np.ndarray:
    """Tokens, chunk borders and packed CSV of a shard; the padded lengths of its chunks."""
    encoded = encoder.encode([text for _, text, _ in pages])
    bounds, name = encoded.doc_bounds, f"part-{number}-00000"
    nothing = merge_spans(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    cut = chunk_documents(
        bounds[:-1], bounds[1:], mentions=nothing, min_length=MIN_LENGTH, max_length=MAX_LENGTH
    )
    lines = io.StringIO(newline="")
    for row, (title, _, mentions) in enumerate(pages):
        start, end = bounds[row : row + 2].tolist()
        spans = encoded.char_start[start : end - 1].tolist(), encoded.char_end[start : end - 1].tolist()
        pairs = list(zip(*spans, strict=True))
        page_id = 1000 + 150 * number + row
        csv.writer(lines).writerow(
            [start, end, page_id, "enwiki.json.gz", row, title, json.dumps(mentions), pairs]
        )
    encoded.ids.astype("<u4").tofile(folder / "dataset-tokenized" / f"{name}.npy")
    borders = np.stack([cut.start, cut.end], axis=1).astype("<u4")
    borders.tofile(folder / "dataset-cache/dataset-common" / f"bucketed-doc-indices-{name}.npy")
    packed = gzip.compress(lines.getvalue().encode(), mtime=0)
    (folder / "dataset-metadata" / f"{name}.csv.gz").write_bytes(packed)
    return cut.end - cut.start


def write_order(folder: Path, lengths: np.ndarray) -> None:
    """LMEnt's order of two epochs, as object arrays of integer arrays."""
    buckets = find_buckets(lengths, min_length=MIN_LENGTH, max_length=MAX_LENGTH)
    members = bucket_members(buckets, min_length=MIN_LENGTH, max_length=MAX_LENGTH)
    order = compute_curriculum_order(
        members, Curriculum(num_cycles=2), batch_tokens=BATCH_TOKENS, seed=0, epochs=2
    )
    bounds = [*order.epoch_starts.tolist(), order.num_updates]
    for epoch in (1, 2):
        rows = np.empty(bounds[epoch] - bounds[epoch - 1], dtype=object)
        for row in range(len(rows)):
            rows[row] = np.array(order.batch(bounds[epoch - 1] + row + 1))
        np.save(folder / f"batch_indices_epoch_{epoch}.npy", rows, allow_pickle=True)


def write_crafted(path: Path) -> None:
    """A file that would run a command if it were unpickled."""

    class Crafted:
        def __reduce__(self):
            import os

            return os.system, ("echo your files are gone",)

    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(Crafted(), file, protocol=4)


if __name__ == "__main__":
    main()
