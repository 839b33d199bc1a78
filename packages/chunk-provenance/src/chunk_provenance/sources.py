"""Where documents come from: files, folders, URLs, Hugging Face datasets; and the pieces they are encoded in.

A piece is a run of whole documents of one source: some row groups of a Parquet file, some rows of a dataset,
the lines that begin in a range of bytes of a plain JSONL file, or a whole compressed file. Pieces depend on
the sources alone, so that any number of machines agrees on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from chunk_provenance.formats import open_table
from chunk_provenance.hashing import hash_stream
from chunk_provenance.places import find_files, is_url, open_binary, size_of, version_of

LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
PIECE_BYTES = 64 << 20
PIECE_ROWS = 50_000  # of a dataset


@dataclass(frozen=True)
class Source:
    """A file of documents (a path or URL), or one split of a Hugging Face dataset."""

    name: str
    path: str | None
    dataset: Any = None

    def fingerprint(self) -> dict[str, Any]:
        """What tells its content from another; reads all of a file."""
        if self.path is None:
            return {"fingerprint": str(self.dataset._fingerprint)}
        with open_binary(self.path) as file:
            return {"bytes": size_of(self.path), "sha256": hash_stream(file)}

    def version(self) -> dict[str, Any]:
        """What tells whether it changed since yesterday, without reading it."""
        return self.fingerprint() if self.path is None else version_of(self.path)

    def open(self) -> BinaryIO:
        """The file's bytes."""
        if self.path is None:
            raise ValueError(f"{self.name} is no file")
        return open_binary(self.path)

    @property
    def compression(self) -> str | None:
        """How the file is compressed, by its name."""
        return next((codec for end, codec in COMPRESSIONS.items() if self._lower.endswith(end)), None)

    @property
    def is_parquet(self) -> bool:
        """Whether it is a Parquet file."""
        return self._lower.endswith(".parquet")

    @property
    def _lower(self) -> str:
        return (self.path or "").lower()


@dataclass(frozen=True)
class Piece:
    """A source from `start` to `stop`: bytes of a plain JSONL file, row groups, or rows of a dataset."""

    source: Source
    start: int = 0
    stop: int | None = None  # None: to the end
    first_row: int = 0
    """Rows of the source before it; of JSONL 0, they are counted when all pieces are there."""
    size: int = 0
    """Bytes, as a weight for progress; 0 where they are unknown."""

    @property
    def by_bytes(self) -> bool:
        """Whether it is one of several pieces of a plain JSONL file."""
        return self.source.path is not None and not self.source.is_parquet and self.stop is not None


def find_sources(where: str) -> list[Source]:
    """The sources behind a path, a URL or an `hf:` name, in a fixed order.

    Args:
        where: a JSONL(.gz/.zst) or Parquet file, a folder of such files, a folder saved by `save_to_disk`, a
            URL of a file or folder that fsspec can open, or `hf:NAME[:CONFIG][:SPLIT]` (split `train` unless
            named).

    Raises:
        FileNotFoundError: nothing is there, or a folder without such files.
        ValueError: a file of an unknown kind.
    """
    if where.startswith("hf:"):
        return [Source(where, None, _load_hub(where))]
    if not is_url(where) and _is_dataset(Path(where)):
        return [Source(Path(where).name, None, _load_folder(Path(where)))]
    files = find_files(where)
    if files is None:
        raise FileNotFoundError(f"no documents at {where!r}")
    if "" in files:  # a file itself
        if not _readable(where):
            raise ValueError(f"{where!r} is no .parquet, .jsonl, .jsonl.gz or .jsonl.zst file")
        return [Source(where.rstrip("/").rsplit("/", 1)[-1], where)]
    readable = {name: path for name, path in sorted(files.items()) if _readable(path)}
    if not readable:
        raise FileNotFoundError(f"no .parquet, .jsonl, .jsonl.gz or .jsonl.zst files in the folder {where!r}")
    return [Source(name, path) for name, path in readable.items()]


def find_pieces(sources: list[Source], *, numbered: bool = False) -> list[Piece]:
    """All pieces of the sources, in order. Where documents are numbered by row, a JSONL file is one piece."""
    return [piece for source in sources for piece in _cut(source, numbered)]


def _cut(source: Source, numbered: bool) -> Iterator[Piece]:
    if source.path is None:
        rows = len(source.dataset)
        for start in range(0, max(rows, 1), PIECE_ROWS):
            yield Piece(source, start, min(start + PIECE_ROWS, rows), first_row=start)
    elif source.is_parquet:
        yield from _cut_parquet(source)
    else:
        size = size_of(source.path)
        step = max(size, 1) if source.compression or numbered else PIECE_BYTES
        for start in range(0, max(size, 1), step):
            stop = min(start + step, size)
            yield Piece(source, start, stop if size > step else None, size=stop - start)


def _cut_parquet(source: Source) -> Iterator[Piece]:
    """Runs of row groups of about PIECE_BYTES, uncompressed."""
    with source.open() as file, open_table(source.name, "documents", [], file=file) as table:
        groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
    start = first_row = rows = size = 0
    for number, group in enumerate(groups, start=1):
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= PIECE_BYTES or number == len(groups):
            yield Piece(source, start, number, first_row=first_row, size=size)
            start, first_row, rows, size = number, first_row + rows, 0, 0
    if not groups:
        yield Piece(source, 0, 0)


def _readable(path: str) -> bool:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    return name.endswith(LINE_SUFFIXES) or path.lower().endswith(".parquet")


def _is_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _load_hub(where: str) -> Any:
    load_dataset = _datasets().load_dataset
    name, *rest = where.removeprefix("hf:").split(":")
    config, split = (rest[0] if len(rest) > 1 else None), (rest[-1] if rest else "train")
    return load_dataset(name, config, split=split)


def _load_folder(path: Path) -> Any:
    dataset = _datasets().load_from_disk(str(path))
    if hasattr(dataset, "column_names") and isinstance(dataset.column_names, dict):
        splits = list(dataset)
        if len(splits) > 1:
            raise ValueError(f"{str(path)!r} holds the splits {splits}: give the folder of one of them")
        return dataset[splits[0]]
    return dataset


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "reading Hugging Face datasets needs the extra: pip install 'chunk-provenance[datasets]'"
        ) from error
    return datasets
