"""`meta.json` of an index folder: what it is, what it was made from, the hashes of its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from chunk_provenance import FormatError

FORMAT, VERSION = "entity-index", 2
KINDS = (".npy", ".bits", ".strings")
"""Endings of the files whose bytes the same store always gives."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `meta.json`.

    Raises:
        FileNotFoundError: the folder is no entity index.
        FormatError: it is one this release does not read.
    """
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(f"no entity index at {str(folder)!r}: 'entity-index build' makes one")
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta.get("format") != FORMAT:
        raise FormatError(f"{str(folder)!r} is a {meta.get('format')!r} folder, expected {FORMAT!r}")
    if meta.get("version") != VERSION:
        raise FormatError(
            f"{str(folder)!r} has {FORMAT} version {meta.get('version')}, this release reads {VERSION}: "
            "build the index again, or use the release that made it"
        )
    if missing := [name for name in [*meta["files"], "text"] if not (folder / name).exists()]:
        raise FormatError(f"{str(folder)!r} is damaged, it lacks {', '.join(missing)}: build the index again")
    return meta


def write_manifest(folder: Path, description: dict[str, Any]) -> None:
    """Write `meta.json` with the hashes of the columns, not of `text`: tantivy names its files at random."""
    columns = sorted(file for file in folder.iterdir() if file.suffix in KINDS)
    files = {file.name: _sha256(file) for file in columns}
    meta = {**description, "format": FORMAT, "version": VERSION, "files": files}
    content = json.dumps(meta, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(content, encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
