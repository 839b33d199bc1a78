"""Write a chunk store: a folder that appears complete, with the hashes of its files, or not at all.

Rows are appended batch by batch and reach the disk as Parquet row groups of a few megabytes: a corpus may be
larger than memory.
"""

import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chunk_provenance.formats import begin_folder, replace_folder, write_json
from chunk_provenance.hashing import hash_file
from chunk_provenance.store import CHUNKS, DOCUMENTS, DROPPED, MENTIONS, SEGMENTS

GROUP_ROWS = 1 << 17
GROUP_BYTES = 8 << 20


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
    writer = StoreWriter(path, with_text="text" in documents.column_names)
    writer.append(
        tokens=tokens,
        chunks=chunks,
        segments=segments,
        documents=documents,
        dropped=dropped,
        mentions=mentions,
    )
    writer.seal(tokenizer_json=tokenizer_json, meta=meta)


class StoreWriter:
    """Appends to the files of an unfinished store, the folder `path.tmp`; `seal` gives it its name.

    Left as a context manager before that, it removes the unfinished folder.

    Raises:
        FileExistsError: `path` is there already and not empty, and no store that may be overwritten.
    """

    def __init__(self, path: str | Path, *, with_text: bool, overwrite: bool = False) -> None:
        """Begin the folder; `with_text` says whether documents come with their texts."""
        self.path = Path(path)
        check_free(self.path, overwrite=overwrite)
        self.folder = begin_folder(self.path)
        self.num_chunks = self.num_tokens = self.num_documents = 0
        self._tokens = (self.folder / "tokens.npy").open("wb")
        self._write_header()
        documents = DOCUMENTS if with_text else DOCUMENTS.remove(DOCUMENTS.get_field_index("text"))
        self._chunks = _Rows(self.folder / "chunks.parquet", CHUNKS, "chunks")
        self._segments = _Rows(self.folder / "segments.parquet", SEGMENTS, "segments")
        self._documents = _Rows(self.folder / "documents.parquet", documents, "stored-documents")
        self._dropped = _Rows(self.folder / "dropped.parquet", DROPPED, "dropped")
        self._mentions = _Rows(self.folder / "mentions.parquet", MENTIONS, "chunk-mentions")

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is unfinished."""
        try:
            self._close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def append(
        self,
        *,
        tokens: npt.NDArray[np.uint32] | None = None,
        chunks: pa.Table | None = None,
        segments: pa.Table | None = None,
        documents: pa.Table | None = None,
        dropped: pa.Table | None = None,
        mentions: pa.Table | None = None,
    ) -> None:
        """Add rows to any of the files, in the order the format asks for."""
        if tokens is not None:
            np.asarray(tokens, dtype="<u4").tofile(self._tokens)
            self.num_tokens += len(tokens)
        self.num_chunks += self._chunks.append(chunks)
        self._segments.append(segments)
        self.num_documents += self._documents.append(documents)
        self._dropped.append(dropped)
        self._mentions.append(mentions)

    def seal(self, *, tokenizer_json: str, meta: dict[str, Any]) -> None:
        """Close the files, write `meta.json` with their hashes and give the folder its name."""
        self._tokens.seek(0)
        self._write_header()
        self._close()
        (self.folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        files = {file.name: hash_file(file) for file in sorted(self.folder.iterdir()) if file.is_file()}
        counts = {
            "num_chunks": self.num_chunks,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
        }
        header = {"format": "chunk-store", "version": 1, "files": files}
        write_json({**meta, **counts, **header}, self.folder / "meta.json")
        replace_folder(self.folder, self.path)

    def _close(self) -> None:
        for rows in (self._chunks, self._segments, self._documents, self._dropped, self._mentions):
            rows.close()
        self._tokens.close()

    def _write_header(self) -> None:
        """The .npy header; it has the same size whatever the number of tokens."""
        header = {"descr": "<u4", "fortran_order": False, "shape": (self.num_tokens,)}
        np.lib.format.write_array_header_1_0(self._tokens, header)


class _Rows:
    """A Parquet file that grows; rows are gathered into row groups."""

    def __init__(self, path: Path, schema: pa.Schema, name: str) -> None:
        self._name = name
        self._schema = schema.with_metadata({"format": name, "version": "1"})
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0

    def append(self, table: pa.Table | None) -> int:
        if table is None:
            return 0
        if missing := [column for column in self._schema.names if column not in table.column_names]:
            raise ValueError(
                f"the {self._name} table lacks the columns {missing}, it has {table.column_names}"
            )
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self._rows += len(table)
        self._bytes += self._waiting[-1].nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()
        return len(table)

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting).combine_chunks()  # the same bytes whatever the batches
            self._writer.write_table(rows, row_group_size=GROUP_ROWS)
            self._waiting, self._rows, self._bytes = [], 0, 0


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, unless by a chunk store that may be overwritten."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "meta.json").is_file():
        raise FileExistsError(f"{str(path)!r} exists and is no chunk store: choose another place")
    if not overwrite:
        raise FileExistsError(f"{str(path)!r} exists: remove it or choose another place for the chunk store")
