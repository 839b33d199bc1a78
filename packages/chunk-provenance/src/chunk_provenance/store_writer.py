"""Write a chunk store: a folder that appears complete, with the hashes of its files, or not at all."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.formats import write_json, write_table
from chunk_provenance.store import CHUNKS, DOCUMENTS, DROPPED, MENTIONS, SEGMENTS


def write_store(
    path: str | Path,
    *,
    tokens: npt.NDArray[np.uint32],
    chunks: pa.Table,
    segments: pa.Table,
    documents: pa.Table,
    dropped: pa.Table | None = None,
    mentions: pa.Table | None = None,
    tokenizer_json: str,
    meta: dict[str, Any],
) -> None:
    """Write a chunk store from tables in memory; `build` is the way for whole corpora.

    Args:
        path: the folder to make.
        tokens: all chunks' tokens, (tokens,).
        chunks: columns as in FORMAT.md; the same holds for the other tables.
        segments: sorted by chunk.
        documents: without the column `text`, the store has no texts.
        dropped: what is in no chunk; nothing, where it is not given.
        mentions: sorted by chunk and `char_start`; none, where it is not given.
        tokenizer_json: content of the tokenizer's file.
        meta: must hold `tokenizer` with `pad_id`, `eos_id` and `vocab_size`; anything else is kept.

    Raises:
        FileExistsError: `path` exists.
        ValueError: a table lacks a column.
    """
    unfinished = begin_folder(path)
    np.save(unfinished / "tokens.npy", np.asarray(tokens, dtype=np.uint32), allow_pickle=False)
    write_table(_conform(chunks, CHUNKS, "chunks"), unfinished / "chunks.parquet", "chunks")
    write_table(_conform(segments, SEGMENTS, "segments"), unfinished / "segments.parquet", "segments")
    kept = DOCUMENTS if "text" in documents.column_names else DOCUMENTS.remove(4)
    write_table(_conform(documents, kept, "documents"), unfinished / "documents.parquet", "stored-documents")
    dropped = DROPPED.empty_table() if dropped is None else _conform(dropped, DROPPED, "dropped")
    write_table(dropped, unfinished / "dropped.parquet", "dropped")
    mentions = MENTIONS.empty_table() if mentions is None else _conform(mentions, MENTIONS, "mentions")
    write_table(mentions, unfinished / "mentions.parquet", "chunk-mentions")
    (unfinished / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    counts = {"num_chunks": len(chunks), "num_tokens": len(tokens), "num_documents": len(documents)}
    seal_store(unfinished, path, {**meta, **counts})


def begin_folder(path: str | Path) -> Path:
    """An empty folder `path.tmp` to write into.

    Raises:
        FileExistsError: `path` itself is there already and not empty.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{str(path)!r} exists: remove it or choose another place for the chunk store")
    unfinished = path.with_name(path.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def seal_store(unfinished: Path, path: str | Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` with the hashes of the folder's files and give the folder its name."""
    files = {file.name: hash_file(file) for file in sorted(unfinished.iterdir()) if file.is_file()}
    header = {"format": "chunk-store", "version": 1, "files": files}
    write_json({**meta, **header}, unfinished / "meta.json")
    os.replace(unfinished, path)


def hash_file(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _conform(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The table with the format's columns and types."""
    if missing := [column for column in schema.names if column not in table.column_names]:
        raise ValueError(f"the {name} table lacks the columns {missing}, it has {table.column_names}")
    return table.select(schema.names).cast(schema)
