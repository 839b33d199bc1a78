"""LMEnt's dataset as it lies on disk: tokens and chunk borders, memory-mapped.

    dataset-tokenized/part-k-00000.npy                               tokens, plain uint32
    dataset-cache/dataset-common/bucketed-doc-indices-part-k-00000.npy   chunk borders, plain uint32 pairs
    dataset-cache/dataset-HASH/instance-lengths.npy, bucketL-indices.npy     lengths, chunks by length
    dataset-metadata/part-k-00000.csv.gz                             documents, see lment_csv.py

A chunk id is the row number over the borders of all shards in the order of the shards' paths. Opening checks
the borders (0.2 s for LMEnt) and never touches the CSV files: the order and the text of a step need only the
tokens.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError
from chunk_provenance.lment import fingerprint
from chunk_provenance.published.npy_files import map_plain

Ints = npt.NDArray[np.int64]
TOKEN_PLACES = ("dataset-tokenized", ".", "dataset-cache")
BORDER_PLACES = ("dataset-cache/dataset-common", "dataset-common", ".")
CSV_PLACES = ("dataset-metadata", "dataset-tokenized", ".", "dataset-cache/dataset-metadata")
CACHE_PLACES = ("dataset-cache", ".")


@dataclass(frozen=True)
class LMEntShard:
    """One `part-k-00000`."""

    name: str
    tokens: npt.NDArray[np.uint32]  # (tokens,) memory-mapped
    borders: npt.NDArray[np.uint32]  # (chunks, 2) memory-mapped; first token of a chunk, one past its last
    csv: Path | None
    """Its documents, packed or not, where the file is there."""


@dataclass(frozen=True)
class LMEntDataset:
    """The opened dataset; make one with `open_lment`."""

    path: Path
    shards: tuple[LMEntShard, ...]
    first_chunks: Ints  # (shards + 1,) the chunk id at which each shard begins

    @property
    def num_chunks(self) -> int:
        """How many chunks there are; ids are 0 to this number minus one."""
        return int(self.first_chunks[-1])

    def chunk_place(self, chunk_id: int) -> tuple[int, int, int]:
        """The shard of a chunk (its number), its first token there and one past its last."""
        if not 0 <= chunk_id < self.num_chunks:
            raise ValueError(f"no chunk {chunk_id} in {str(self.path)!r}: it has 0 to {self.num_chunks - 1}")
        shard = int(np.searchsorted(self.first_chunks, chunk_id, side="right")) - 1
        start, end = self.shards[shard].borders[chunk_id - self.first_chunks[shard]].tolist()
        return shard, start, end

    def chunk_tokens(self, chunk_id: int) -> npt.NDArray[np.uint32]:
        """The tokens of a chunk, without padding, as a view of the mapped file."""
        shard, start, end = self.chunk_place(chunk_id)
        return self.shards[shard].tokens[start:end]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every chunk, without padding, (chunks,)."""
        parts = [shard.borders[:, 1] - shard.borders[:, 0] for shard in self.shards]
        return np.concatenate(parts).astype(np.int32)

    def fingerprint(
        self, *, min_length: int = 64, max_length: int = 2048, pad_id: int = 100277, eos_id: int = 100257
    ) -> str:
        """The hash that names the folder of these tokens' lengths and buckets, `dataset-HASH`."""
        files = [(f"{shard.name}.npy", shard.tokens.nbytes) for shard in self.shards]
        return fingerprint(files, min_length=min_length, max_length=max_length, pad_id=pad_id, eos_id=eos_id)

    @cached_property
    def sha256(self) -> str:
        """A hash of the chunk borders and the shards' names and sizes: what gives chunk ids their meaning."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name},{shard.tokens.nbytes}\n".encode())
            digest.update(np.ascontiguousarray(shard.borders).data)
        return digest.hexdigest()

    def read_buckets(self) -> dict[int, Ints]:
        """The chunk ids of each padded length, as `bucketL-indices.npy` lists them.

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: a file lists a chunk whose length is another, or that does not exist.
        """
        folder = _cache_folder(self.path)
        files = [] if folder is None else list(folder.glob("bucket*-indices.npy"))
        if not files:
            raise FileNotFoundError(f"no bucketL-indices.npy in {str(self.path)!r}")
        found = {int(file.name[len("bucket") : -len("-indices.npy")]): file for file in files}
        return {length: self._read_bucket(found[length], length) for length in sorted(found)}

    def _read_bucket(self, file: Path, length: int) -> Ints:
        ids = map_plain(file, dtype="<u4").astype(np.int64)
        if len(ids) and int(ids.max()) >= self.num_chunks:
            raise FormatError(f"{str(file)!r} lists the chunk {ids.max()}, there are {self.num_chunks:,}")
        other = np.flatnonzero(padded_lengths(self.lengths[ids]) != length)
        if len(other):
            chunk = ids[other[0]]
            raise FormatError(f"{str(file)!r} lists the chunk {chunk} of {self.lengths[chunk]} tokens")
        return ids


def padded_lengths(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The power of two that a chunk is padded to.

    >>> padded_lengths(np.array([1, 2, 3, 64, 65])).tolist()
    [1, 2, 4, 64, 128]
    """
    return np.exp2(np.ceil(np.log2(lengths))).astype(np.int32)


def open_lment(path: str | Path) -> LMEntDataset:
    """Open LMEnt's dataset, or any part of its layout that holds whole shards.

    Raises:
        FileNotFoundError: there are no tokens, or a shard's chunk borders are missing.
        FormatError: a file is cut off, or borders and tokens contradict each other.
    """
    path = Path(path)
    token_files = next((files for place in TOKEN_PLACES if (files := _shard_files(path / place))), [])
    if not token_files:
        raise FileNotFoundError(
            f"no LMEnt dataset at {str(path)!r}: expected dataset-tokenized/part-0-00000.npy and "
            "dataset-cache/dataset-common/bucketed-doc-indices-part-0-00000.npy"
        )
    shards = tuple(_open_shard(path, file) for file in token_files)
    first_chunks = np.cumsum([0] + [len(shard.borders) for shard in shards], dtype=np.int64)
    dataset = LMEntDataset(path, shards, first_chunks)
    _check_lengths(dataset)
    return dataset


def is_lment(path: Path) -> bool:
    """Whether a folder has the layout."""
    return any(_shard_files(path / place) for place in TOKEN_PLACES)


def _shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*-*.npy"), key=lambda file: file.name)


def _open_shard(path: Path, token_file: Path) -> LMEntShard:
    name = token_file.stem
    border_file = _find(path, BORDER_PLACES, f"bucketed-doc-indices-{name}.npy")
    if border_file is None:
        raise FileNotFoundError(
            f"no bucketed-doc-indices-{name}.npy in {str(path / BORDER_PLACES[0])!r}: only it says where the "
            "chunks are"
        )
    tokens: Any = map_plain(token_file, dtype="<u4")
    numbers: Any = map_plain(border_file, dtype="<u4")
    if len(numbers) % 2:
        raise FormatError(f"{str(border_file)!r} holds {len(numbers):,} numbers, no pairs: it is cut off")
    borders = numbers.reshape(-1, 2)
    _check_borders(borders, len(tokens), border_file)
    csv = _find(path, CSV_PLACES, f"{name}.csv.gz") or _find(path, CSV_PLACES, f"{name}.csv")
    return LMEntShard(name, tokens, borders, csv)


def _find(path: Path, places: tuple[str, ...], name: str) -> Path | None:
    return next((file for place in places if (file := path / place / name).is_file()), None)


def _check_borders(borders: npt.NDArray[np.uint32], num_tokens: int, file: Path) -> None:
    """Chunks ascend, do not overlap, and end inside the tokens."""
    start, end = borders[:, 0], borders[:, 1]
    wrong = start >= end
    wrong[1:] |= start[1:] < end[:-1]
    wrong |= end > num_tokens
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{str(file)!r} row {row} is {start[row]} to {end[row]}: chunks ascend, do not overlap and end "
            f"inside the {num_tokens:,} tokens of their shard"
        )


def _cache_folder(path: Path) -> Path | None:
    """The folder `dataset-HASH`."""
    folders = [
        file.parent
        for place in CACHE_PLACES
        for file in (path / place).glob("dataset-*/instance-lengths.npy")
    ]
    return folders[0] if folders else None


def _check_lengths(dataset: LMEntDataset) -> None:
    """Compare `instance-lengths.npy`, where it is there, with the borders.

    LMEnt takes the smallest type that holds the longest length minus one, so 256 may stand there as 0.
    """
    folder = _cache_folder(dataset.path)
    if folder is None or dataset.num_chunks == 0:
        return
    file = folder / "instance-lengths.npy"
    size = file.stat().st_size / dataset.num_chunks
    if size not in (1, 2, 4):
        raise FormatError(
            f"{str(file)!r} has {file.stat().st_size:,} bytes for {dataset.num_chunks:,} chunks: "
            "it is cut off or belongs to another dataset"
        )
    listed = map_plain(file, dtype=f"<u{int(size)}")
    differ = np.flatnonzero(listed != dataset.lengths.astype(listed.dtype))
    if len(differ):
        chunk = differ[0]
        raise FormatError(
            f"{str(file)!r} says that chunk {chunk} has {listed[chunk]} tokens, its borders say "
            f"{dataset.lengths[chunk]}: they belong to different datasets"
        )
