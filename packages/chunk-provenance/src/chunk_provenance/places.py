"""Files by path or by URL. A URL (`s3://...`, `gs://...`, `memory://...`) needs the extra `fsspec`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast


def is_url(where: str | Path) -> bool:
    """Whether a place is a URL rather than a path.

    >>> is_url("s3://bucket/documents.jsonl"), is_url("folder/documents.jsonl")
    (True, False)
    """
    return "://" in str(where)


def find_files(where: str) -> dict[str, str] | None:
    """Files of a folder and its sub-folders: name inside the folder -> place. {"": where} for a file.

    None where nothing is there.
    """
    if is_url(where):
        return _find_remote(where)
    path = Path(where)
    if path.is_file():
        return {"": where}
    if not path.is_dir():
        return None
    return {file.relative_to(path).as_posix(): str(file) for file in path.rglob("*") if file.is_file()}


def _find_remote(where: str) -> dict[str, str] | None:
    fs, path = _connect(where)
    if fs.isfile(path):
        return {"": where}
    if not fs.isdir(path):
        return None
    root = path.rstrip("/") + "/"
    return {name.removeprefix(root): fs.unstrip_protocol(name) for name in fs.find(path)}


def open_binary(where: str | Path) -> BinaryIO:
    """Open a file for reading, seekable."""
    if not is_url(where):
        return Path(where).open("rb")
    fs, path = _connect(where)
    return cast(BinaryIO, fs.open(path, "rb"))


def size_of(where: str | Path) -> int:
    """Bytes of a file."""
    if not is_url(where):
        return Path(where).stat().st_size
    fs, path = _connect(where)
    return int(fs.size(path))


def version_of(where: str | Path) -> dict[str, Any]:
    """Size and time, or whatever else tells that a file was replaced."""
    if not is_url(where):
        found = Path(where).stat()
        return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    fs, path = _connect(where)
    info = fs.info(path)
    kept = {
        key: str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in info
    }
    return {"bytes": info["size"], **kept}


def exists(where: str | Path) -> bool:
    """Whether a file is there."""
    if not is_url(where):
        return Path(where).is_file()
    fs, path = _connect(where)
    return bool(fs.isfile(path))


def publish(file: Path, where: str | Path) -> None:
    """Move a file from its scratch folder to its place, where it appears whole or not at all."""
    if not is_url(where):
        os.replace(file, where)
        return
    fs, path = _connect(where)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.put_file(str(file), path)  # object stores show an object when all of it is there
    file.unlink()


@contextmanager
def scratch_folder(where: str | Path) -> Iterator[Path]:
    """A folder to prepare files in that will be published at `where`, gone afterwards."""
    parent = None if is_url(where) else Path(where).parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".unfinished-") as folder:
        yield Path(folder)


def remove_folder(where: str | Path) -> None:
    """Remove a folder and all in it, if it is there."""
    if not is_url(where):
        shutil.rmtree(where, ignore_errors=True)
        return
    fs, path = _connect(where)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@contextmanager
def local_copy(where: str | Path) -> Iterator[Path]:
    """The file on this machine's disk: itself, or a copy that lives as long as the context."""
    if not is_url(where):
        yield Path(where)
        return
    fs, path = _connect(where)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.rsplit("/", 1)[-1]
        fs.get_file(path, str(copy))
        yield copy


def download_folder(where: str, folder: Path) -> None:
    """Copy a folder from a URL."""
    fs, path = _connect(where)
    fs.get(path.rstrip("/") + "/", str(folder) + "/", recursive=True)


def upload_folder(folder: Path, where: str, *, last: str) -> None:
    """Copy a folder to a URL, the file `last` at the end: without it the folder is unfinished."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file == folder / last):
        fs, path = _connect(f"{where.rstrip('/')}/{file.relative_to(folder).as_posix()}")
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.put_file(str(file), path)


def _connect(where: str | Path) -> tuple[Any, str]:
    """A file system of fsspec, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ValueError(f"{str(where)!r} needs the extra: pip install 'chunk-provenance[fsspec]'") from error
    try:
        fs, path = url_to_fs(str(where))
    except ImportError as error:  # fsspec names the package
        raise ValueError(f"{str(where)!r}: {error}") from error
    return fs, str(path)
