"""Read what LMEnt published, at its size: the order, the chunk borders, the packed CSV. Synthetic, 1 minute.

    OMP_NUM_THREADS=1 uv run packages/chunk-provenance/benchmarks/published_order.py

Each line is a process of its own; memory is what it had at most beyond its imports. np.load unpickles, and
stands here for comparison only.
"""

import csv
import gzip
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from chunk_provenance.published import open_order, read_rows
from chunk_provenance.published.lment_csv import read_lment_csv
from chunk_provenance.published.lment_dataset import open_lment

CHUNKS, UPDATES, SHARDS = 10_491_928, 109_672, 8
LENGTHS = np.array([64, 128, 256, 512, 1024, 2048])
SHARES = np.array([0.33, 0.2, 0.13, 0.12, 0.12, 0.1])  # of the updates
DOCUMENTS = 3_000


def main() -> None:
    """Write the files, read them in processes of their own, print a table."""
    folder = Path(tempfile.mkdtemp(prefix="published_order_"))
    try:
        write_order(folder)
        write_borders(folder)
        size = write_csv(folder)
        print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}")
        print(f"{'what':58} {'seconds':>8} {'CPU s':>8} {'MiB':>6}")
        for name, function, note in (
            ("batch_indices.npy: np.load(allow_pickle=True), joined", unpickle, ""),
            ("batch_indices.npy: read_rows", read, ""),
            ("batch_indices.npy: open_order, ids checked", order, ""),
            ("open_lment: 8 shards, 10.5 M chunks, borders checked", borders, ""),
            (f"part-0-00000.csv.gz: {size / 1e6:.0f} MB of CSV streamed", stream, size),
        ):
            wall, cpu, memory = measured(function, folder)
            rate = f"   {note / wall / 1e6:.0f} MB/s" if note else ""
            print(f"{name:58} {wall:8.2f} {cpu:8.2f} {memory:6.0f}{rate}")
    finally:
        shutil.rmtree(folder)


def write_order(folder: Path) -> None:
    """An epoch of LMEnt: 109,672 batches of 16 to 512 chunks."""
    rng = np.random.default_rng(0)
    sizes = rng.choice(32_768 // LENGTHS, size=UPDATES, p=SHARES[::-1] / SHARES.sum())
    ends = np.cumsum(sizes)
    ids = rng.permutation(int(ends[-1])).astype(np.int64)
    rows = np.empty(UPDATES, dtype=object)
    for row, (begin, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        rows[row] = ids[begin:end]
    np.save(folder / "batch_indices.npy", rows, allow_pickle=True)


def write_borders(folder: Path) -> None:
    """Borders of 10.5 M chunks in 8 shards; the tokens are a file with holes."""
    for part in ("dataset-tokenized", "dataset-cache/dataset-common"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for shard in range(SHARDS):
        ends = np.cumsum(rng.choice(LENGTHS, size=CHUNKS // SHARDS, p=SHARES / SHARES.sum()))
        borders = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype("<u4")
        name = f"part-{shard}-00000.npy"
        borders.tofile(folder / "dataset-cache/dataset-common" / f"bucketed-doc-indices-{name}")
        with (folder / "dataset-tokenized" / name).open("wb") as file:
            file.truncate(4 * int(ends[-1]))


def write_csv(folder: Path) -> int:
    """A shard's CSV with a mention every nine tokens; how many bytes it holds unpacked."""
    rng = np.random.default_rng(2)
    token = 0
    with gzip.open(
        folder / "part-0-00000.csv.gz", "wt", newline="", encoding="utf-8", compresslevel=6
    ) as file:
        writer = csv.writer(file)
        for number in range(DOCUMENTS):
            length = int(rng.choice([60, 200, 400, 900, 4000]))
            ends = np.cumsum(rng.integers(1, 9, size=length)).tolist()
            pairs = list(zip([0, *ends[:-1]], ends, strict=True))
            entities = json.dumps(
                [mention(int(start), int(rng.integers(1, 7_000_000))) for start in ends[::9]]
            )
            writer.writerow(
                [token, token + length + 1, number, "x.json.gz", number, f"Page, {number}", entities, pairs]
            )
            token += length + 1
        file.flush()
        return file.buffer.tell()


def mention(start: int, number: int) -> dict[str, object]:
    """A mention as LMEnt publishes it."""
    scores = {"hyperlinks": 1.0, "entity_linking": 0.93, "coref": 0.0, "coref_cluster": 0.41}
    candidate = {
        "qid": f"Q{number}",
        "name": "A page's name",
        "scores_by_source": scores,
        "aggregated_score": 0.72,
    }
    return {
        "char_start": start,
        "char_end": start + 12,
        "text_mention": 'a "mention"',
        "candidates": [candidate],
    }


def unpickle(folder: Path) -> None:
    """What LMEnt's README does, and the rows joined."""
    np.concatenate(np.load(folder / "batch_indices.npy", allow_pickle=True))


def read(folder: Path) -> None:
    """Our reader."""
    read_rows(folder / "batch_indices.npy")


def order(folder: Path) -> None:
    """Our reader, and all ids looked at."""
    open_order(folder / "batch_indices.npy")


def borders(folder: Path) -> None:
    """The dataset, without its CSV."""
    open_lment(folder)


def stream(folder: Path) -> None:
    """Every document of the CSV."""
    for _ in read_lment_csv(folder / "part-0-00000.csv.gz"):
        pass


def measured(function, folder: Path) -> tuple[float, float, float]:
    """Wall and processor seconds and peak memory (MiB) of a call in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(function, folder, sender))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def measure(function, folder: Path, sender) -> None:
    """Call, and send what it took."""
    before = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    function(folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sender.send((wall, cpu, peak_memory() - before))


def peak_memory() -> float:
    """The most memory this process had so far, in MiB, pages of mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
