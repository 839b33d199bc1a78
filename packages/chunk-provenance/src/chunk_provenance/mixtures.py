"""Several chunk stores as one: a small folder that lists them, opened like a store.

A chunk of the i-th store has the id it has there plus the number of chunks of the stores before it, a
document `d` of the store `books` is `books:d`. Nothing is copied but the tokenizer. Which chunks an update
trains on is mixture_order.py's part.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.formats import FormatError, begin_folder, check_format, replace_folder, write_json
from chunk_provenance.hashing import hash_text
from chunk_provenance.order import Ids
from chunk_provenance.store import ChunkStore, StoredDocument, open_store


@dataclass(frozen=True)
class Part:
    """One store of a mixture."""

    name: str
    store: ChunkStore
    first_chunk: int
    """The id of its chunk 0 in the mixture."""
    multiplier: float
    """How often an epoch of the mixture sees each of its chunks, on average."""


@dataclass(frozen=True)
class MixtureStore(ChunkStore):
    """An opened mixture; `tokens` is empty, `chunk_tokens` reads from the store that a chunk belongs to."""

    parts: tuple[Part, ...] = ()
    replacement: bool = False
    """Whether chunks are drawn anew each time instead of all of a store before any comes again."""

    def locate(self, chunk_id: int) -> tuple[Part, int]:
        """The store a chunk belongs to, and its id there."""
        self.check_chunk(chunk_id)
        part = self.parts[int(np.searchsorted(self.first_chunks[:-1], chunk_id, side="right")) - 1]
        return part, chunk_id - part.first_chunk

    def ids_of(self, name: str, chunk_ids: Ids) -> Ids:
        """The ids in the mixture of chunks of one store.

        Raises:
            ValueError: there is no such store, or it has no such chunk.
        """
        part = next((part for part in self.parts if part.name == name), None)
        if part is None:
            raise ValueError(f"no store {name!r} in the mixture: it has {[part.name for part in self.parts]}")
        if len(chunk_ids):
            part.store.check_chunk(int(chunk_ids.min()))
            part.store.check_chunk(int(chunk_ids.max()))
        return chunk_ids + part.first_chunk

    @property
    def first_chunks(self) -> Ids:
        """Where each store's ids begin, and where the last one's end, (stores + 1,)."""
        return np.array([*(part.first_chunk for part in self.parts), self.num_chunks])

    def chunk_tokens(self, chunk_id: int) -> npt.NDArray[np.uint32]:
        """The tokens of one chunk, without padding, as a view of the mapped file of its store."""
        part, local = self.locate(chunk_id)
        return part.store.chunk_tokens(local)

    def chunk_text(self, chunk_id: int) -> str:
        """The text of a chunk, as its store gives it."""
        part, local = self.locate(chunk_id)
        return part.store.chunk_text(local)

    @property
    def has_text(self) -> bool:
        """Whether all stores keep the documents' texts."""
        return all(part.store.has_text for part in self.parts)

    def document(self, doc_id: str) -> StoredDocument:
        """A document `store:id`.

        Raises:
            ValueError: there is no such store, or it has no document of this id.
        """
        part, local = self._part_of(doc_id)
        if part is None:
            raise ValueError(
                f"no document {doc_id!r}: in a mixture its id is STORE:ID, the stores are "
                f"{', '.join(part.name for part in self.parts)}"
            )
        return replace(part.store.document(local), doc_id=doc_id)

    def has_document(self, doc_id: str) -> bool:
        """Whether there is a document `store:id`."""
        part, local = self._part_of(doc_id)
        return part is not None and part.store.has_document(local)

    def _part_of(self, doc_id: str) -> tuple[Part | None, str]:
        name, _, local = doc_id.partition(":")
        return next((part for part in self.parts if part.name == name), None), local

    @cached_property
    def segment_table(self) -> pa.Table:
        """All segments of all stores, in chunk order."""
        return self._stacked("segment_table")

    @cached_property
    def mention_table(self) -> pa.Table:
        """All mentions on all chunks of all stores, in chunk order."""
        return self._stacked("mention_table")

    @cached_property
    def dropped_table(self) -> pa.Table:
        """What of the documents is in no chunk."""
        return self._stacked("dropped_table")

    def _stacked(self, name: str) -> pa.Table:
        """A table of every store, one after the other, with chunk and document ids of the mixture."""
        return pa.concat_tables([_renamed(getattr(part.store, name), part) for part in self.parts])


def _renamed(table: pa.Table, part: Part) -> pa.Table:
    columns = {name: table[name] for name in table.column_names}
    if "chunk_id" in columns:
        columns["chunk_id"] = pc.add(columns["chunk_id"], part.first_chunk)
    columns["doc_id"] = pc.binary_join_element_wise(part.name, columns["doc_id"], ":")
    return pa.table(columns).cast(table.schema.remove_metadata())


def parse_weights(words: Sequence[str]) -> list[tuple[Path, float, bool]]:
    """Stores and weights from words like "books=0.3" or "books=2x", as (path, weight, is a multiplier).

    Raises:
        ValueError: a word is neither, both kinds are mixed, or two folders have one name.
    """
    found = []
    for word in words:
        path, equals, weight = word.rpartition("=")
        try:
            number = float(weight.removesuffix("x"))
        except ValueError:
            number = 0.0
        if not equals or not path or not 0 < number < float("inf"):
            raise ValueError(
                f"{word!r}: expected STORE=SHARE (books=0.3) or STORE=TIMES (books=2x), a number above 0"
            )
        found.append((Path(path), number, weight.endswith("x")))
    if len({times for _, _, times in found}) > 1:
        raise ValueError("give shares (books=0.3) or times (books=2x) for all stores, not both")
    names = [path.resolve().name for path, _, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two stores are called {twice[0]!r}: documents are told apart by it, rename a folder"
        )
    return found


def multipliers_of_shares(shares: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """How often an epoch sees each store so that the tokens trained have these shares, and none twice.

    >>> multipliers_of_shares([1, 3], [1000, 1000])
    [0.3333333333333333, 1.0]
    """
    rates = [share / count for share, count in zip(shares, tokens, strict=True)]
    return [rate / max(rates) for rate in rates]


def write_mixture(
    path: str | Path, words: Sequence[str], *, replacement: bool = False, overwrite: bool = False
) -> None:
    """Write a mixture folder of stores and weights ("books=0.3", or "books=2x").

    Raises:
        FileExistsError: `path` exists and is no mixture that may be overwritten.
        ValueError: a weight cannot be read, or the stores have different tokenizers.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "mixture.json").is_file()):
        raise FileExistsError(f"{str(path)!r} exists: remove it or choose another place for the mixture")
    weights = parse_weights(words)
    stores = [open_store(place) for place, _, _ in weights]
    _check_tokenizers(stores)
    if any(isinstance(store, MixtureStore) for store in stores):
        raise ValueError("a mixture is made of chunk stores, not of mixtures: name their stores")
    tokens = [int(store.length.sum(dtype=np.int64)) for store in stores]
    if not all(tokens):
        raise ValueError(f"{str(weights[tokens.index(0)][0])!r} holds no chunk: leave it out of the mixture")
    given = [weight for _, weight, _ in weights]
    multipliers = given if weights[0][2] else multipliers_of_shares(given, tokens)
    trained = [times * count for times, count in zip(multipliers, tokens, strict=True)]
    listed = [
        {
            "name": store.path.resolve().name,
            "path": Path(os.path.relpath(store.path.resolve(), path.resolve())).as_posix(),
            "sha256": store.sha256,
            "num_chunks": store.num_chunks,
            "num_tokens": count,
            "multiplier": times,
            "share": part / sum(trained),
        }
        for store, count, times, part in zip(stores, tokens, multipliers, trained, strict=True)
    ]
    unfinished = begin_folder(path)
    shutil.copyfile(stores[0].path / "tokenizer.json", unfinished / "tokenizer.json")
    content = {"format": "mixture", "version": 1, "replacement": replacement, "stores": listed}
    write_json(content, unfinished / "mixture.json")
    replace_folder(unfinished, path)


def _check_tokenizers(stores: Sequence[ChunkStore]) -> None:
    for store in stores[1:]:
        if store.meta["tokenizer"] != stores[0].meta["tokenizer"]:
            raise ValueError(
                f"{str(store.path)!r} has another tokenizer than {str(stores[0].path)!r}: a model has one, "
                "build both with it"
            )


def open_mixture(path: Path) -> MixtureStore:
    """Open a mixture folder and its stores.

    Its hash says which stores in which order, not their weights: ids mean the same in mixtures of equal hash.

    Raises:
        FileNotFoundError: a store is not where it was.
        FormatError: it has another version, or a store is another one now.
    """
    try:
        content = json.loads((path / "mixture.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path / 'mixture.json')!r} is no JSON: {error}") from error
    check_format(path, content.get("format"), content.get("version"), "mixture")
    parts: list[Part] = []
    first_chunk = 0
    for listed in content["stores"]:
        store = open_store(path / listed["path"])
        if store.sha256 != listed["sha256"]:
            raise FormatError(
                f"{str(path)!r} mixes the chunk store {listed['sha256'][:12]}, at {str(store.path)!r} is "
                f"{store.sha256[:12]}: mix again, chunk ids may mean other text now"
            )
        parts.append(Part(listed["name"], store, first_chunk, float(listed["multiplier"])))
        first_chunk += store.num_chunks
    return _join(path, tuple(parts), replacement=bool(content["replacement"]))


def _join(path: Path, parts: tuple[Part, ...], *, replacement: bool) -> MixtureStore:
    stores = [part.store for part in parts]
    counts: dict[str, Any] = {
        name: sum(store.meta[name] for store in stores)
        for name in ("num_chunks", "num_tokens", "num_documents")
        if all(name in store.meta for store in stores)
    }
    before = np.cumsum([0, *(len(store.tokens) for store in stores)])
    return MixtureStore(
        path=path,
        meta={"tokenizer": stores[0].meta["tokenizer"], **counts},
        sha256=hash_text("".join(f"{store.sha256}\n" for store in stores)),
        tokens=np.empty(0, dtype=np.uint32),
        token_start=np.concatenate(
            [store.token_start + start for store, start in zip(stores, before, strict=False)]
        ),
        length=np.concatenate([store.length for store in stores]),
        bucket=np.concatenate([store.bucket for store in stores]),
        parts=parts,
        replacement=replacement,
    )
