"""Does an index mean the same text by a chunk id as a dataset? Decode random chunks and compare."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from chunk_provenance.chunk_lists import read_hits
from chunk_provenance.formats import FormatError
from chunk_provenance.store import ChunkStore
from chunk_provenance.tables import read_user_table, recorded_format

COLUMNS = pa.schema(
    [
        ("chunk_id", pa.int64()),
        ("text", pa.string()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("surface", pa.string()),
    ]
)
SHOWN = 3
WIDTH = 80
"""Characters of a difference that are kept."""


@dataclass(frozen=True)
class Difference:
    """A row of the index that the dataset does not bear out; both texts from where they part."""

    chunk_id: int
    index: str
    dataset: str


@dataclass(frozen=True)
class Alignment:
    """How many of the rows looked at agree, and the first that do not."""

    agree: int
    looked_at: int
    differences: list[Difference]


def read_index(path: Path) -> pa.Table:
    """Read `chunk_id` and `text`, or `chunk_id`, `char_start`, `char_end` and `surface`, or hits (.json).

    Raises:
        FormatError: it has neither, or no row.
    """
    table = _read(path)
    if not table.num_rows:
        raise FormatError(f"{str(path)!r} has no row to compare")
    for columns in (["text"], ["char_start", "char_end", "surface"]):
        if not any(table[name].null_count for name in columns):
            return table.select(["chunk_id", *columns])
    raise FormatError(
        f"{str(path)!r} must have a text in every row, or char_start, char_end and surface in every row"
    )


def _read(path: Path) -> pa.Table:
    if path.suffix == ".json":
        return pa.Table.from_pylist(read_hits(path)[0], schema=COLUMNS)
    name = recorded_format(path, ("chunk-mentions",), "index")
    return read_user_table(path, name, COLUMNS, optional=tuple(COLUMNS.names[1:]))


def check_alignment(store: ChunkStore, index: pa.Table, *, sample: int, seed: int = 0) -> Alignment:
    """Compare a random sample of the rows of `read_index` with the chunks of the same ids.

    The dataset's text of a chunk is its decoded tokens without end tokens or, where the store has texts, the
    documents' characters: a row may agree with either.
    """
    rows = np.random.default_rng(seed).permutation(index.num_rows)[:sample]
    differences = []
    for row in index.take(np.sort(rows)).to_pylist():
        if found := _compare(store, row):
            differences.append(found)
    return Alignment(len(rows) - len(differences), len(rows), differences[:SHOWN])


def _compare(store: ChunkStore, row: dict[str, object]) -> Difference | None:
    chunk_id = int(str(row["chunk_id"]))
    if not 0 <= chunk_id < store.num_chunks:
        last = store.num_chunks - 1
        return Difference(
            chunk_id, str(row.get("text", row.get("surface")))[:WIDTH], f"no chunk beyond {last}"
        )
    texts = [store.decode(chunk_id, eos=False)]
    if store.has_text:
        texts.append(store.chunk_text(chunk_id))
    if "text" in row:
        wanted = str(row["text"])
        if any(_bare(text) == _bare(wanted) for text in texts):
            return None
        return _difference(chunk_id, _bare(wanted), _bare(texts[0]))
    start, end, surface = int(str(row["char_start"])), int(str(row["char_end"])), str(row["surface"])
    if any(_stands(text, start, end, surface) for text in texts):
        return None
    return Difference(chunk_id, surface[:WIDTH], texts[0][max(start, 0) : max(end, 0)][:WIDTH])


def _bare(text: str) -> str:
    """Without what tokenizers and borders do to the ends: white space, characters cut in two."""
    return text.strip(" \t\r\n\ufffd")


def _stands(text: str, start: int, end: int, surface: str) -> bool:
    """Whether a surface stands at its place; at the chunk's borders, its part inside the chunk."""
    if not 0 <= start < end <= len(text):
        return False
    part = text[start:end]
    cut_off = (start == 0 and surface.endswith(part)) or (end == len(text) and surface.startswith(part))
    return part == surface or cut_off


def _difference(chunk_id: int, index: str, dataset: str) -> Difference:
    """Both texts from a little before the first character in which they differ."""
    pairs = zip(index, dataset, strict=False)
    parted = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(index), len(dataset)))
    begin = max(0, parted - WIDTH // 4)
    return Difference(chunk_id, index[begin : begin + WIDTH], dataset[begin : begin + WIDTH])
