"""The token set every checkpoint is asked: rows of ids, hashed, from a recorded order or own files.

Rows are kept without padding, in order, and cut into blocks of neighbouring rows; a batch never crosses a
block. Text is never decoded and encoded again. Memory: 8 bytes a token.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int
from numpy import ndarray


@dataclass(frozen=True)
class TokenSet:
    """Rows of token ids, one after the other."""

    ids: Int[ndarray, " token"]
    offsets: Int[ndarray, " boundary"]
    source: str
    """What it is, in words without paths."""
    seen_at: Int[ndarray, " row"] | None = None
    """The update that first trains on each row, where an order says so."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """How many tokens there are in all rows."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> Int[ndarray, " row"]:
        """How many tokens each row has."""
        return np.diff(self.offsets)

    @property
    def sha256(self) -> str:
        """Identifies the tokens and where rows end: little-endian int64 offsets, then uint32 ids."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.ids.astype("<u4").tobytes())
        return digest.hexdigest()

    @property
    def first_seen_step(self) -> int | None:
        """The step by which every row has been trained on at least once."""
        return None if self.seen_at is None else int(self.seen_at.max())

    def first(self, rows: int) -> "TokenSet":
        """The first `rows` rows."""
        return replace(
            self,
            ids=self.ids[: self.offsets[rows]],
            offsets=self.offsets[: rows + 1],
            seen_at=None if self.seen_at is None else self.seen_at[:rows],
        )


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest."""

    ids: Int[ndarray, "row seq"]
    mask: Bool[ndarray, "row seq"]


def from_rows(rows: Sequence[Any], *, source: str, seen_at: ndarray | None = None) -> TokenSet:
    """A token set of rows of ids, in that order.

    >>> from_rows([[5, 6], [7]], source="two rows").num_tokens
    3
    """
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows")
    lengths = [len(row) for row in rows]
    if min(lengths) == 0:
        raise ValueError(f"{source}: row {lengths.index(0)} has no tokens")
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    if ids.min() < 0:
        raise ValueError(f"{source} holds the token id {ids.min()}: expected ids from 0")
    return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]), source, seen_at)


def require_rows(tokens: TokenSet, rows: int | None) -> TokenSet:
    """Refuse a source with fewer rows than were asked for."""
    if rows is not None and tokens.num_rows < rows:
        raise ValueError(f"{rows} rows are asked for, there are {tokens.num_rows}")
    return tokens


def block_borders(num_rows: int, num_blocks: int) -> list[tuple[int, int]]:
    """Rows cut into at most `num_blocks` stretches of one length, the last one shorter.

    The first blocks are the blocks of the first rows: a pass that ends early can be repeated.

    >>> block_borders(5, 2)
    [(0, 3), (3, 5)]
    """
    size = -(-num_rows // num_blocks)
    return list(pairwise([*range(0, num_rows, size), num_rows]))


def batches(
    tokens: TokenSet, rows: tuple[int, int], *, max_tokens: int, pad_id: int = 0, length: int | None = None
) -> Iterator[Batch]:
    """The rows of a block, similar lengths together, at most `max_tokens` with padding (at least a row).

    `length` pads every row to it, as the published code does.
    """
    lengths = tokens.lengths
    waiting: list[int] = []
    for row in sorted(range(*rows), key=lambda row: (lengths[row], row)):
        if waiting and (length or lengths[row]) * (len(waiting) + 1) > max_tokens:
            yield _pad(tokens, waiting, pad_id, length)
            waiting = []
        waiting.append(row)
    yield _pad(tokens, waiting, pad_id, length)


def _pad(tokens: TokenSet, rows: list[int], pad_id: int, length: int | None) -> Batch:
    lengths = tokens.lengths[rows]
    mask = np.arange(length or lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows])
    return Batch(ids, mask)


# ---- readers


def read_store(store: Path, *, rows: int | None = None, order: Path | None = None) -> TokenSet:
    """Chunks of a chunk store: its first ones, or the first rows of a data order over it."""
    check_json(store / "meta.json", "chunk-store")
    chunks = _read_columns(store / "chunks.parquet", ["token_start", "length"])
    flat = np.load(store / "tokens.npy", mmap_mode="r", allow_pickle=False)
    if order is None:
        wanted, seen_at, source = np.arange(len(chunks["length"])), None, "chunks"
    else:
        wanted, seen_at = read_order(order, rows=rows)
        source = "rows of a data order"
        if len(wanted) and wanted.max() >= len(chunks["length"]):
            raise ValueError(
                f"data order {str(order)!r} names chunk {wanted.max()}, the store {str(store)!r} has "
                f"{len(chunks['length'])}: they do not belong together"
            )
    wanted = wanted[:rows]
    starts, lengths = chunks["token_start"][wanted], chunks["length"][wanted]
    pieces = [flat[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return from_rows(pieces, source=f"{len(wanted)} {source}", seen_at=seen_at)


def read_order(order: Path, *, rows: int | None) -> tuple[ndarray, ndarray]:
    """The first rows of a data order that are trained on, and the update (from 1) that first does so.

    Rows that an injection plan put in are not in the store, and held-out rows are not trained on: both are
    passed over.
    """
    check_json(order / "order.json", "data-order")
    offsets = np.load(order / "offsets.npy", allow_pickle=False)
    ids = np.load(order / "ids.npy", mmap_mode="r", allow_pickle=False)
    held_out = _read_held_out(order / "masked.parquet")
    enough = None if rows is None else rows + len(held_out["update"])
    chosen = np.flatnonzero(np.asarray(ids) >= 0)[:enough]
    updates, chunk_ids = np.searchsorted(offsets, chosen, side="right"), np.asarray(ids)[chosen]
    trained = ~_is_held_out(updates, chunk_ids, held_out)
    updates, chunk_ids = updates[trained][:rows], chunk_ids[trained][:rows]
    _, first, inverse = np.unique(chunk_ids, return_index=True, return_inverse=True)
    return chunk_ids, updates[first][inverse].astype(np.int64)


def _read_held_out(path: Path) -> dict[str, ndarray]:
    """Which (update, chunk) an order masks; one without the file masks nothing."""
    if not path.is_file():
        return {"update": np.empty(0, np.int64), "chunk_id": np.empty(0, np.int64)}
    return _read_columns(path, ["update", "chunk_id"])


def _is_held_out(updates: ndarray, chunk_ids: ndarray, held_out: dict[str, ndarray]) -> ndarray:
    width = max(chunk_ids.max(initial=0), held_out["chunk_id"].max(initial=0)) + 1
    return np.isin(updates * width + chunk_ids, held_out["update"] * width + held_out["chunk_id"])


def check_json(path: Path, expected: str) -> dict[str, Any]:
    """Read the JSON that names a folder's format; refuse another format or version."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path.parent)!r} is no {expected}: it has no {path.name}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = content.get("format"), content.get("version")
    if found != (expected, 1):
        raise ValueError(
            f"{str(path)!r} is {found[0]!r} version {found[1]!r}, this release reads {expected!r} version 1"
        )
    return content


def _read_columns(path: Path, names: list[str]) -> dict[str, ndarray]:
    try:
        table = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from error
    return {name: table[name].to_numpy() for name in names}


def read_npy(path: Path, *, rows: int | None = None, pad_id: int | None = None) -> TokenSet:
    """Rows of a two-dimensional array of ids; `pad_id` at the end of a row is padding."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no plain .npy array: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{str(path)!r} is {array.dtype} of shape {array.shape}: expected integers, row by token"
        )
    chosen = np.asarray(array[:rows])
    if pad_id is None:
        return from_rows(list(chosen), source=f"{len(chosen)} rows of an array")
    kept = [
        row[: np.flatnonzero(row != pad_id)[-1] + 1] if (row != pad_id).any() else row[:0] for row in chosen
    ]
    return from_rows(kept, source=f"{len(kept)} rows of an array")


def read_jsonl(
    path: Path, *, tokenizer: Path | None = None, rows: int | None = None, max_length: int | None = None
) -> TokenSet:
    """Rows of JSON with `input_ids`, or with `text` and a tokenizer.json; cut at `max_length` tokens.

    Also one JSON list, the form of the published `first_1k.json`.
    """
    records = list(_records(path, rows))
    encode = None
    if any("input_ids" not in record for record in records):
        encode = _encoder(path, tokenizer)
    kept = []
    for number, record in enumerate(records, start=1):
        if "input_ids" in record:
            kept.append(record["input_ids"][:max_length])
        elif encode is None or not isinstance(record.get("text"), str):
            raise ValueError(f"{str(path)!r} record {number} has neither 'input_ids' nor 'text'")
        else:
            kept.append(encode(record["text"])[:max_length])
    return from_rows(kept, source=f"{len(kept)} texts" if encode else f"{len(kept)} rows of ids")


def _records(path: Path, rows: int | None) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            yield from json.loads(text)[:rows]
            return
        lines = [line for line in text.split("\n") if line.strip()][:rows]
        yield from (json.loads(line) for line in lines)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON lines: {error}") from error


def _encoder(path: Path, tokenizer: Path | None) -> Any:
    if tokenizer is None:
        raise ValueError(f"{str(path)!r} holds text: give --tokenizer, a tokenizer.json")
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{str(tokenizer)!r} is no tokenizer.json: {error}") from error
    return lambda text: loaded.encode(text).ids
