"""Lists of chunks that a user brings: fact chunks, an entity's chunks, or plain ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance.facts import KINDS
from chunk_provenance.formats import FormatError
from chunk_provenance.order import DataOrder, Ids
from chunk_provenance.tables import read_user_table, recorded_format

COLUMNS = pa.schema(
    [("chunk_id", pa.int64()), ("fact_id", pa.string()), ("kind", pa.string()), ("entity", pa.string())]
)


@dataclass(frozen=True)
class ChunkList:
    """Chunk ids, each once per group; a group is a fact or an entity, where the file names them."""

    chunk_ids: Ids
    group: Ids
    """The number of each id's group."""
    names: list[str]
    """Of the groups, ascending; "" for ids of no fact and no entity."""

    @property
    def distinct(self) -> Ids:
        """The chunk ids, ascending, each once."""
        return np.unique(self.chunk_ids)


def read_chunk_list(
    path: Path, *, order: DataOrder | None = None, kind: str = "shared", facts: list[str] | None = None
) -> ChunkList:
    """Read a column `chunk_id` (Parquet, JSONL, CSV), a `.txt` with one id a line, or entity-index's `.json`.

    Args:
        path: the file. Where it has `fact_id` or `entity`, the chunks of each are a group.
        order: refuse a file whose metadata name another chunk store than that of this order.
        kind: of a file with a column `kind` (fact chunks), only these rows.
        facts: of a file with `fact_id`, only these facts.

    Raises:
        FormatError: a value is no chunk id, or nothing is left.
    """
    if path.suffix in (".txt", ".json"):
        ids = np.unique(_read_lines(path) if path.suffix == ".txt" else _read_hits(path))
        return ChunkList(ids, np.zeros_like(ids), [""])
    name = recorded_format(path, ("fact-chunks", "chunk-mentions", "chunk-steps"), "chunk list")
    table = read_user_table(path, name, COLUMNS, optional=("fact_id", "kind", "entity"))
    if order is not None and path.suffix == ".parquet":
        _check_same_store(path, order)
    if table["kind"].null_count < table.num_rows:
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r} of fact chunks: there are {', '.join(KINDS)}")
        table = table.filter(pc.equal(table["kind"], kind))
    if facts is not None:
        if missing := sorted(set(facts) - set(table["fact_id"].to_pylist())):
            raise ValueError(f"{str(path)!r} has no {kind} chunks of the facts {missing[:8]}")
        table = table.filter(pc.is_in(table["fact_id"], pa.array(facts, pa.string())))
    if not table.num_rows:
        raise FormatError(f"{str(path)!r} lists no chunk")
    ids = table["chunk_id"].to_numpy()
    _check_ids(path, ids)
    coded = pc.fill_null(pc.coalesce(table["fact_id"], table["entity"]), "").combine_chunks()
    names = sorted(pc.unique(coded).to_pylist())
    group = pc.index_in(coded, pa.array(names, pa.string())).to_numpy().astype(np.int64)
    by_group = np.lexsort((ids, group))
    ids, group = ids[by_group], group[by_group]
    new = np.concatenate([[True], (ids[1:] != ids[:-1]) | (group[1:] != group[:-1])])
    return ChunkList(ids[new], group[new], names)


def _read_lines(path: Path) -> Ids:
    lines = path.read_text(encoding="utf-8").split()
    try:
        ids = np.array([int(line) for line in lines], dtype=np.int64)
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no list of chunk ids, one a line: {error}") from error
    if not len(ids):
        raise FormatError(f"{str(path)!r} lists no chunk")
    _check_ids(path, ids)
    return ids


def _read_hits(path: Path) -> Ids:
    """All the chunks that a query found."""
    hits, total = read_hits(path)
    if len(hits) < total:
        raise FormatError(
            f"{str(path)!r} lists {len(hits)} of {total} chunks: ask again with --limit {total}"
        )
    if not hits:
        raise FormatError(f"{str(path)!r} lists no chunk")
    ids = np.array([hit["chunk_id"] for hit in hits], dtype=np.int64)
    _check_ids(path, ids)
    return ids


def read_hits(path: Path) -> tuple[list[dict[str, Any]], int]:
    """What `entity-index query --json` printed: hits with `chunk_id` and `text`, and how many there are.

    Raises:
        FormatError: the file is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        hits = [{"chunk_id": int(hit["chunk_id"]), "text": hit.get("text")} for hit in found["hits"]]
        return hits, int(found["total"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{str(path)!r} is not what 'entity-index query --json' prints, total and hits with chunk_id: "
            f"{error!r}"
        ) from error


def _check_ids(path: Path, ids: Ids) -> None:
    if ids.min() < 0:
        raise FormatError(f"{str(path)!r} lists {ids.min()}, a chunk id counts from 0")


def _check_same_store(path: Path, order: DataOrder) -> None:
    theirs = (pq.read_schema(path).metadata or {}).get(b"store_sha256", b"").decode()
    ours = order.info.get("store_sha256")
    if theirs and ours and theirs != ours:
        raise FormatError(
            f"{str(path)!r} lists chunks of the store {theirs[:12]}, the data order belongs to {ours[:12]}: "
            "chunk ids mean different text there"
        )


def read_steps(words: list[str], *, num_updates: int) -> list[int]:
    """Updates from words like "7" or "7-9" (both ends included), in the order given.

    >>> read_steps(["7-9", "2"], num_updates=9)
    [7, 8, 9, 2]
    """
    return [step for word in words for step in range(*read_range(word, num_updates=num_updates))]


def read_range(word: str, *, num_updates: int) -> tuple[int, int]:
    """First update and the one after the last of "7", "7-9" (both included) or "80%-100%" of an order.

    >>> read_range("80%-100%", num_updates=50)
    (41, 51)
    """
    first, _, last = word.partition("-")
    percent = word.endswith("%")
    try:
        if percent:
            low, high = (float(end.removesuffix("%")) / 100 for end in (first, last))
            begin, end = round(low * num_updates) + 1, round(high * num_updates)
        else:
            begin, end = int(first), int(last or first)
    except ValueError as error:
        raise ValueError(f"{word!r} is no step: expected 7, 7-9 or 80%-100%") from error
    if not 1 <= begin <= end <= num_updates:
        raise ValueError(f"no updates {word!r}: the order has updates 1 to {num_updates}")
    return begin, end + 1
