"""From a plan to a folder: all of it under its name, or nothing.

The work happens in `OUT.partial-<id>` beside OUT, where <id> stands for the expression, the inputs and the
layout; the same merge started again continues there. At the end everything is synced and the folder renamed.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model_merge.checkpoint import Checkpoint
from model_merge.digests import BackgroundHashes, TensorSums, checksum_file
from model_merge.journal import NAME as JOURNAL
from model_merge.journal import Journal
from model_merge.merge_json import describe, write_merge_json
from model_merge.output import OutputFile, lay_out, write_side_files
from model_merge.plan import MergePlan
from model_merge.stream import CHUNK, SYNC_BYTES, Progress, write_tensors

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
THREADS = 2


class DiskFullError(OSError):
    """The output does not fit; what is finished stays in the unfinished folder."""


def execute(
    plan: MergePlan,
    out: str | Path,
    *,
    threads: int = THREADS,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    sha256: bool = False,
    chunk_elements: int = CHUNK,
    sync_bytes: int = SYNC_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Carry out a plan into the folder `out`; what merge.json says is returned.

    Raises:
        FileExistsError: `out` exists and `overwrite` is not given.
        ValueError: an input or a result is not finite, or an input changed meanwhile.
        DiskFullError: there is not enough room.
    """
    out = Path(out)
    check_free_name(out, overwrite=overwrite)
    files = lay_out(plan.tensors, like=plan.checkpoints[0], max_shard_bytes=max_shard_bytes)
    stamps = _stamps(plan.checkpoints)
    identity = identify(plan, files, stamps, chunk_elements)
    unfinished = out.with_name(f"{out.name}.partial-{identity[:12]}")
    _check_room(out, unfinished, files)
    unfinished.mkdir(parents=True, exist_ok=True)
    journal = Journal(unfinished, identity)
    write = partial(
        write_tensors,
        threads=threads,
        chunk_elements=chunk_elements,
        sync_bytes=sync_bytes,
        progress=progress,
    )
    try:
        with _told_what_is_left(out, unfinished, files), BackgroundHashes(threads) as hashes:
            _remove_others(unfinished, files)
            content = _fill(plan, unfinished, files, journal, write, hashes if sha256 else None)
            if _stamps(plan.checkpoints) != stamps:
                raise ValueError("an input was changed while it was merged: start again")
            write_merge_json(content, unfinished)
            (unfinished / JOURNAL).unlink()
            _sync_folder(unfinished)
            _give_name(unfinished, out)
    finally:
        journal.close()
    return content


@contextmanager
def _told_what_is_left(out: Path, unfinished: Path, files: Sequence[OutputFile]) -> Iterator[None]:
    """Remove what a failure of the data leaves, and keep, with a word, what a full disk leaves."""
    try:
        yield
    except ValueError:
        shutil.rmtree(unfinished)  # the same inputs would fail in the same way
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(
            f"{_full(out, files)}: {error.strerror}. Nothing is under that name; what is finished stays in "
            f"{str(unfinished)!r}, and the same command continues it"
        ) from error


def _fill(
    plan: MergePlan,
    unfinished: Path,
    files: Sequence[OutputFile],
    journal: Journal,
    write: Callable[..., None],
    hashes: BackgroundHashes | None,
) -> dict[str, Any]:
    """Write and sync all files but merge.json, whose content is returned."""
    sums = TensorSums(_read_once(plan) | _written(unfinished, files))
    if hashes is not None:
        hashes.start(path for one in plan.checkpoints for path in one.files)
    write(plan, unfinished, files, journal, sums=sums)
    if hashes is not None:
        hashes.start(unfinished / file.name for file in files)
    write_side_files(plan, unfinished, files)
    _sync_folder(unfinished)
    digests = (
        lambda path: checksum_file(path, sums.of_file(path)),
        lambda path: None if hashes is None else hashes.result(path),
    )
    return describe(plan, unfinished, files, digests)


def check_free_name(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that is there already."""
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"{str(out)!r} exists: remove it, choose another place or give --overwrite")


def identify(
    plan: MergePlan, files: Sequence[OutputFile], stamps: dict[str, list[list[Any]]], chunk_elements: int
) -> str:
    """What two merges have in common if one may continue the other."""
    content = {
        "tool": version("model-merge"),  # another one may compute otherwise
        "expression": plan.expression,
        "inputs": stamps,
        "files": [[file.name, hashlib.sha256(file.header).hexdigest()] for file in files],
        "config": plan.config_changes,
        "donor": plan.donor,
        "side_files": {name: hashlib.sha256(data).hexdigest() for name, data in plan.files.items()},
        "chunk_elements": chunk_elements,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamps(checkpoints: Sequence[Checkpoint]) -> dict[str, list[list[Any]]]:
    """Name, size and time of every input file: enough to see that one was replaced."""
    return {
        f"{position} {checkpoint.path.resolve()}": [
            [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in checkpoint.files
        ]
        for position, checkpoint in enumerate(checkpoints)
    }


def _read_once(plan: MergePlan) -> dict[tuple[Path, str], int]:
    """The input tensors that a merge reads exactly once besides its statistics: (file, name) -> bytes."""
    uses = [
        (plan.checkpoints[ref.checkpoint].tensors[ref.name], ref.rows is None)
        for tensor in plan.tensors
        for ref in tensor.inputs
    ]
    counts = Counter((info.file, info.name) for info, _ in uses)
    return {
        (info.file, info.name): info.num_bytes
        for info, whole in uses
        if whole and counts[info.file, info.name] == 1
    }


def _written(unfinished: Path, files: Sequence[OutputFile]) -> dict[tuple[Path, str], int]:
    return {
        (unfinished / file.name, name): num_bytes for file in files for name, num_bytes in file.sizes.items()
    }


def _check_room(out: Path, unfinished: Path, files: Sequence[OutputFile]) -> None:
    """Find out that the disk is too small before any time is spent."""
    there = sum(path.stat().st_blocks * 512 for path in unfinished.iterdir()) if unfinished.exists() else 0
    needed = sum(file.num_bytes for file in files) - there
    free = shutil.disk_usage(next(parent for parent in out.absolute().parents if parent.exists())).free
    if needed > free:
        raise DiskFullError(f"{_full(out, files)}: {needed:,} more are needed and {free:,} are free")


def _full(out: Path, files: Sequence[OutputFile]) -> str:
    return f"no room for {str(out)!r}, which takes {sum(file.num_bytes for file in files):,} bytes"


def _remove_others(unfinished: Path, files: Sequence[OutputFile]) -> None:
    """Remove what an earlier attempt left there besides the weights: it is written anew at the end."""
    for path in unfinished.iterdir():
        if path.name not in (JOURNAL, *(file.name for file in files)):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Wait until every file of a folder, and the folder itself, are on the disk."""
    for path in [*sorted(folder.iterdir()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _give_name(unfinished: Path, out: Path) -> None:
    """Rename the finished folder; what had the name goes away after."""
    old = out.with_name(f"{unfinished.name}.old")
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    replaces = out.exists()
    if replaces:
        os.replace(out, old)
    os.replace(unfinished, out)
    descriptor = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if replaces:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
