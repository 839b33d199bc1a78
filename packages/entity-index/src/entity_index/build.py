"""Build an index folder from a chunk store, a mixture of stores, or what LMEnt published.

The mentions are read once, in pieces sorted by entity (pieces.py), which are then joined (joining.py,
naming.py); the texts are a stage of their own. What is finished stays in `INDEX.tmp`, so that a build that
was stopped goes on from there. The folder appears complete or not at all.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from chunk_provenance import FormatError, open_store
from entity_index.estimate import (
    Estimate,
    check_memory,
    check_room,
    chunks_of,
    estimate_build,
    has_plenty,
    memory_of,
)
from entity_index.inputs import Input, Separate, store_input
from entity_index.joining import join_pieces
from entity_index.manifest import VERSION, read_manifest, write_manifest
from entity_index.naming import join_names
from entity_index.pieces import Bounds, is_made, make_piece, read_summary, write_piece
from entity_index.query import DEFAULT_THRESHOLDS
from entity_index.source import ChunkBatch
from entity_index.strings import write_strings
from entity_index.texts import TextWriter

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

LEAST_MEMORY = 64_000_000
BYTES_A_ROW = 400
"""What a mention takes while its piece is sorted."""
CHUNKS_A_REPORT = 1 << 12
LARGE = 1 << 16
"""A source of fewer chunks needs so little that it is not measured first."""
LARGEST_PIECE, SMALLEST_PIECE = 1 << 21, 1 << 13


def build_index(
    store_path: str | Path,
    index_path: str | Path,
    *,
    memory: str = "2GB",
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> bool:
    """Build the entity index of a chunk store or mixture; an index of the same store is kept as it is.

    Args:
        store_path: a chunk store, or a mixture of several.
        index_path: the folder to make; while it grows it is called `index_path` + ".tmp", and a build that
            was stopped goes on with what is there.
        memory: about what the mentions may take at a time, for example "4GB".
        overwrite: replace an index that is there.
        progress: called now and then.

    Returns:
        Whether it was built (True), or was there already (False).

    Raises:
        FileExistsError: `index_path` is something else, or the index of another store.
        FormatError: the store's mentions do not fit the store.
        ValueError: `memory` is no size, or too little.
    """
    return build_from(
        store_input(open_store(store_path)),
        index_path,
        memory=memory,
        overwrite=overwrite,
        progress=progress,
    )


def build_from(
    source: Input,
    index_path: str | Path,
    *,
    memory: str = "2GB",
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> bool:
    """As `build_index`, from any source."""
    index_path, size = Path(index_path), parse_size(memory)
    if index_path.exists() and _is_current(index_path, source, overwrite=overwrite):
        return False
    unfinished = index_path.with_name(index_path.name + ".tmp")
    if source.num_chunks >= LARGE and not unfinished.exists():
        check_memory(memory_of(source, size))
        if not has_plenty(source, index_path.absolute()):
            check_room(estimate_from(source, memory), index_path.absolute())
    plan = begin(unfinished, source, size)
    try:
        _write_folder(unfinished, source, plan, progress)
    except FormatError:
        shutil.rmtree(unfinished, ignore_errors=True)  # going on would fail again
        raise
    except duckdb.OutOfMemoryException as error:
        raise ValueError(f"--memory {memory} is too little to sort the names: give more") from error
    _replace_folder(unfinished, index_path)
    return True


def estimate_from(source: Input, memory: str) -> Estimate:
    """What building an index of a source will take."""
    return estimate_build(source, memory=parse_size(memory), threads=num_threads())


def num_threads() -> int:
    """Threads of a build: more than four would wait for the disk, and take more memory."""
    return max(1, min(4, os.cpu_count() or 1))


def parse_size(text: str) -> int:
    """Bytes, from a text such as "4GB".

    >>> parse_size("1.5GB")
    1500000000
    """
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in units:
        raise ValueError(f"--memory {text!r} is not a size such as 4GB")
    size = int(float(found[1]) * units[found[2].upper()])
    if size < LEAST_MEMORY:
        raise ValueError(f"--memory {text} is too little: give at least {LEAST_MEMORY // 10**6}MB")
    return size


@dataclass(frozen=True)
class Plan:
    """How a build shares out its work; one that goes on keeps the pieces' size."""

    threads: int
    piece_rows: int
    memory: int

    @property
    def run_rows(self) -> int:
        """Mentions of a run of entities (joining.py): the same bytes a row as a piece."""
        return self.memory // (BYTES_A_ROW * (self.threads + 2))


def begin(unfinished: Path, source: Input, memory: int) -> Plan:
    """The folder to write into, with what an earlier build of the same index has finished."""
    threads = num_threads()
    rows = max(SMALLEST_PIECE, min(LARGEST_PIECE, memory // (BYTES_A_ROW * (threads + 2))))
    plan = {"version": VERSION, "store_sha256": source.sha256, "release": version("entity-index")}
    where = unfinished / "plan.json"
    if where.exists():
        earlier = json.loads(where.read_text(encoding="utf-8"))
        if {name: earlier.get(name) for name in plan} == plan:
            return Plan(threads, earlier["piece_rows"], memory)
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "pieces").mkdir(parents=True)
    where.write_text(json.dumps({**plan, "piece_rows": rows}), encoding="utf-8")
    return Plan(threads, rows, memory)


def _write_folder(folder: Path, source: Input, plan: Plan, progress: Progress) -> None:
    """Everything that an index folder holds."""
    if isinstance(source.streams, Separate):
        write_pieces(folder / "pieces", source, source.streams, plan, progress)
        layout = join_all(folder, source, plan, progress)
        _write_texts(folder / "text", source.num_chunks, source.streams, progress)
    else:
        _write_batches(folder, source, source.streams, plan, progress)
        layout = join_all(folder, source, plan, progress)
    for left_over in ("pieces", "sort"):
        shutil.rmtree(folder / left_over, ignore_errors=True)
    write_manifest(folder, describe(source, layout))
    (folder / "plan.json").unlink()


def join_all(folder: Path, source: Input, plan: Plan, progress: Progress) -> dict[str, Any]:
    """All but the texts, from the pieces; returns what `meta.json` must say of it."""
    layout, entities, codes = join_pieces(
        folder / "pieces",
        folder,
        num_pieces=check_pieces(folder / "pieces", source),
        num_chunks=source.num_chunks,
        threads=plan.threads,
        run_rows=plan.run_rows,
        progress=lambda done, total: progress("writing postings", done, total),
    )
    layout["strings"] = {"entities": write_strings(folder, "entities", entities)}
    progress("writing names", 0, len(entities))
    with duckdb.connect() as database:
        _configure(database, folder, plan)
        names = join_names(
            folder / "pieces", folder, codes=codes, num_entities=len(entities), database=database
        )
    layout["strings"]["names"] = names["strings"]
    layout["widths"] |= names["widths"]
    progress("writing names", len(entities), len(entities))
    return layout


def write_pieces(folder: Path, source: Input, streams: Separate, plan: Plan, progress: Progress) -> None:
    """Make the pieces that are not there yet."""
    first, rows = len(_made(folder)), sum(summary["num_mentions"] for summary in _made(folder))
    progress("sorting mentions", rows, streams.num_mentions)
    with ThreadPoolExecutor(plan.threads) as pool:
        working: set[Future[int]] = set()
        tables = streams.stream_mentions(piece_rows=plan.piece_rows, first_row=rows)
        for number, table in enumerate(tables, start=first):
            working.add(pool.submit(_make, folder, number, table, _bounds(source)))
            if len(working) > plan.threads:
                done, working = wait(working, return_when=FIRST_COMPLETED)
                rows += sum(future.result() for future in done)
                progress("sorting mentions", rows, streams.num_mentions)
        rows += sum(future.result() for future in working)
        progress("sorting mentions", rows, streams.num_mentions)


def _write_texts(folder: Path, num_chunks: int, streams: Separate, progress: Progress) -> None:
    with TextWriter(folder) as writer:
        for chunk in streams.stream_chunks(writer.num_chunks):
            writer.add(chunk)
            if writer.num_chunks % CHUNKS_A_REPORT == 0:
                progress("indexing texts", writer.num_chunks, num_chunks)
        progress("indexing texts", writer.num_chunks, num_chunks)


def _write_batches(
    folder: Path, source: Input, stream: Callable[[int], Iterator[ChunkBatch]], plan: Plan, progress: Progress
) -> None:
    """The pieces and the texts of a source that is read in one go."""
    made = _made(folder / "pieces")
    number, sorted_until = len(made), made[-1]["end_chunk"] if made else 0
    waiting: list[pa.Table] = []
    with TextWriter(folder / "text") as writer:
        for batch in stream(min(sorted_until, writer.num_chunks)):
            for chunk in chunks_of(batch):
                if chunk.chunk_id >= writer.num_chunks:
                    writer.add(chunk)
            chunk_ids = batch.mentions["chunk_id"].to_numpy()
            waiting.append(batch.mentions.slice(int(np.searchsorted(chunk_ids, sorted_until))))
            if sum(map(len, waiting)) >= plan.piece_rows:
                _make(folder / "pieces", number, pa.concat_tables(waiting), _bounds(source))
                number, waiting = number + 1, []
            progress("reading documents", int(batch.chunk_ids[-1]) + 1, source.num_chunks)
    if any(map(len, waiting)):
        _make(folder / "pieces", number, pa.concat_tables(waiting), _bounds(source))


def _bounds(source: Input) -> Bounds:
    return Bounds(source.mentions_name, source.num_chunks, source.largest_score)


def _make(folder: Path, number: int, table: pa.Table, bounds: Bounds) -> int:
    """Make a piece, unless it is there; returns how many mentions it has."""
    if not is_made(folder, number):
        write_piece(make_piece(table, bounds), folder, number)
    return len(table)


def _made(folder: Path) -> list[dict[str, Any]]:
    """What the pieces hold up to the first that is missing."""
    made = itertools.takewhile(lambda number: is_made(folder, number), itertools.count())
    return [read_summary(folder, number) for number in made]


def check_pieces(folder: Path, source: Input) -> int:
    """The number of pieces; their chunks must ascend from one to the next."""
    summaries = _made(folder)
    for before, after in itertools.pairwise(summaries):
        if after["first_chunk"] < before["end_chunk"]:
            raise FormatError(f"{source.mentions_name} is not sorted by chunk: build the store again")
    return len(summaries)


def _is_current(index_path: Path, source: Input, *, overwrite: bool) -> bool:
    """Whether the index there is this source's; raises where it must not be touched."""
    try:
        made_from = read_manifest(index_path)["store_sha256"]
    except FileNotFoundError:
        raise FileExistsError(
            f"{str(index_path)!r} exists and is no entity index: choose another place"
        ) from None
    except FormatError:
        if not overwrite:
            raise
        return False
    if overwrite or made_from == source.sha256:
        return not overwrite
    raise FileExistsError(
        f"the entity index {str(index_path)!r} was built from another chunk store ({made_from[:12]}, "
        f"this one is {source.sha256[:12]}): build it again with --overwrite"
    )


def _configure(database: duckdb.DuckDBPyConnection, folder: Path, plan: Plan) -> None:
    database.execute(f"SET memory_limit = '{plan.memory}B'")
    database.execute(f"SET threads = {plan.threads}")
    quoted = str(folder / "sort").replace("'", "''")
    database.execute(f"SET temp_directory = '{quoted}'")


def describe(source: Input, layout: dict[str, Any]) -> dict[str, Any]:
    """What `meta.json` says."""
    counts = ("num_mentions", "num_postings", "num_entities", "num_chunks")
    return {
        **{name: layout.pop(name) for name in counts},
        "layout": layout,
        "store_sha256": source.sha256,
        "evidence": DEFAULT_THRESHOLDS.active(),
        "engine": {"tantivy": version("tantivy")},
    }


def _replace_folder(unfinished: Path, path: Path) -> None:
    """Give the finished folder its name; an older one goes only then."""
    older = path.with_name(path.name + ".old")
    shutil.rmtree(older, ignore_errors=True)
    if path.exists():
        os.replace(path, older)
    os.replace(unfinished, path)
    shutil.rmtree(older, ignore_errors=True)
