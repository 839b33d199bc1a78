"""What a build will take, from a small sample that goes the whole way: disk, memory and time."""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from chunk_provenance.formats import open_table
from chunk_provenance.sources import Source

SAMPLE_BYTES = 4 << 20
SAMPLE_ROWS = 1000
BYTES_PER_DOCUMENT = 200  # ids seen, and where their mentions are


@dataclass(frozen=True)
class Sample:
    """What the sample gave."""

    documents: int
    characters: int
    tokens: int
    chunks: int
    parts_bytes: int
    store_bytes: int
    encode_seconds: float
    encode_cpu_seconds: float
    join_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What the whole build will take."""

    documents: int
    characters: int
    tokens: int
    chunks: int
    parts_bytes: int
    """On disk until the store is finished, beside it."""
    store_bytes: int
    memory_bytes: int
    seconds: float


def estimate_build(
    sources: Sequence[Source], measure: Callable[[Source, Path], Sample], *, processes: int
) -> Estimate:
    """Build a sample of the first source and scale what it took.

    Args:
        sources: all documents.
        measure: builds a small source in a folder.
        processes: how many will encode.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, share = sample_source(sources[0], Path(folder))
        sample = measure(source, Path(folder))
    scale = sum(map(_weight, sources)) / max(_weight(sources[0]) * share, 1)
    cores = os.cpu_count() or 1
    encode = sample.encode_seconds if processes == 1 else sample.encode_cpu_seconds / cores
    documents = round(sample.documents * scale)
    return Estimate(
        documents=documents,
        characters=round(sample.characters * scale),
        tokens=round(sample.tokens * scale),
        chunks=round(sample.chunks * scale),
        parts_bytes=round(sample.parts_bytes * scale),
        store_bytes=round(sample.store_bytes * scale),
        memory_bytes=peak_memory() * processes + documents * BYTES_PER_DOCUMENT,
        seconds=(encode + sample.join_seconds) * scale,
    )


def sample_source(source: Source, folder: Path) -> tuple[Source, float]:
    """A small file with the source's first documents, and which share of the source it is."""
    if source.path is None:
        rows = min(SAMPLE_ROWS, len(source.dataset))
        return Source(source.name, None, source.dataset.select(range(rows))), rows / max(_weight(source), 1)
    if source.is_parquet:
        return _sample_parquet(source, folder)
    path = folder / "sample.jsonl"
    with source.open() as file:
        content = _read_start(file, source.compression)
        used = min(file.tell(), _weight(source)) if source.compression else len(content)
    path.write_bytes(content)
    return Source(source.name, str(path)), used / max(_weight(source), 1)


def check_room(estimate: Estimate, folder: Path) -> None:
    """Refuse a build for which the disk or the memory will not do.

    Raises:
        OSError: there is too little.
    """
    while not folder.exists():
        folder = folder.parent
    needed, free = estimate.parts_bytes + estimate.store_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the build needs about {needed / 1e9:,.1f} GB of disk in {str(folder)!r} (the store and, until "
            f"it is finished, its parts), {free / 1e9:,.1f} GB are free"
        )
    memory = available_memory()
    if memory is not None and estimate.memory_bytes > memory:
        raise OSError(
            f"the build needs about {estimate.memory_bytes / 1e9:,.1f} GB of memory, {memory / 1e9:,.1f} GB "
            "are available: use fewer --processes"
        )


def available_memory() -> int | None:
    """Bytes of memory that programs may still take; None where the system does not say."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    lines = dict(line.split(":", 1) for line in path.read_text("ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def peak_memory() -> int:
    """Bytes this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads, that something takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


def _weight(source: Source) -> int:
    """What a source counts against others."""
    return len(source.dataset) if source.path is None else int(source.version()["bytes"])


def _sample_parquet(source: Source, folder: Path) -> tuple[Source, float]:
    path = folder / "sample.parquet"
    with source.open() as binary, open_table(source.name, "documents", [], file=binary) as file:
        batch = next(file.iter_batches(SAMPLE_ROWS), None)
        rows = pa.Table.from_batches([] if batch is None else [batch], schema=file.schema_arrow)
        share = rows.num_rows / max(file.metadata.num_rows, 1)
    pq.write_table(rows, path)
    return Source(source.name, str(path)), share


def _read_start(file: BinaryIO, codec: str | None) -> bytes:
    """The first lines of a file."""
    stream = file if codec is None else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)
    content: bytes = stream.read(SAMPLE_BYTES)
    whole = len(content) < SAMPLE_BYTES
    return content if whole else content[: content.rfind(b"\n") + 1] or content
