"""Open an index and ask it: which chunks mention this, what a chunk mentions, which entity has this name."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_index.manifest import read_manifest
from entity_index.postings import Ids, Postings, Scores, best_per_chunk, best_ranked, contained, open_postings
from entity_index.query import (
    DEFAULT_THRESHOLDS,
    SOURCES,
    All,
    AnyOf,
    Clause,
    Entity,
    Hit,
    Mention,
    Not,
    Phrase,
    Query,
    Result,
    Thresholds,
)
from entity_index.strings import StringColumn, open_strings
from entity_index.texts import Chunk, Texts
from entity_index.words import lower_case, phrase_spans

Matches = tuple[Ids, Scores]
"""Chunk ids, ascending, each once, and their scores."""


@dataclass(frozen=True)
class EntityCount:
    """An entity, what it is mostly called, and in how many chunks it is."""

    entity: str
    name: str | None
    chunks: int


@dataclass(frozen=True)
class NameMatch(EntityCount):
    """An entity that a string names; `chunks` counts those in which `text` is its name."""

    text: str


class EntityIndex:
    """An opened index folder; make one with `open_index`. Nothing is read before it is asked for.

    `entities` are all entities, sorted, `postings` the mapped columns, `meta` is the folder's description.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        """Map the folder's files."""
        self.path, self.meta = path, meta
        self.postings: Postings = open_postings(path)
        self.entities: StringColumn = open_strings(path, "entities")
        self._names = open_strings(path, "entity_names")
        self._name_keys, self._name_texts = open_strings(path, "name_keys"), open_strings(path, "name_texts")

    @property
    def reference(self) -> str:
        """What it was opened by."""
        return str(self.path)

    @property
    def store_sha256(self) -> str | None:
        """Of the chunk store it was made from."""
        return str(self.meta["store_sha256"])

    @property
    def num_chunks(self) -> int:
        """How many chunks the store has, with and without mentions."""
        return self.postings.num_chunks

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.path / "text")

    # Queries

    def search(self, query: Query) -> Result:
        """The chunks that fulfil a query: how many, and the best of them with the places in them."""
        chunk_ids, scores = self._matches(query.where)
        best = best_ranked(scores, query.limit)
        positive = [(clause, self._number_of(clause)) for clause in _positive(query.where)]
        hits = (self._hit(int(chunk_ids[i]), float(scores[i]), positive) for i in best)
        return Result(len(chunk_ids), tuple(hits))

    def count(self, where: Clause) -> int:
        """How many chunks fulfil a condition."""
        return self._texts.count(where) if isinstance(where, Phrase) else len(self._matches(where)[0])

    def chunk_ids(self, where: Clause) -> Ids:
        """All chunks that fulfil a condition, ascending."""
        return self._matches(where)[0]

    def _matches(self, where: Clause) -> Matches:
        match where:
            case Entity():
                rows = self._rows_of(where)
                return best_per_chunk(self.postings.chunks(rows), self.postings.scores(rows))
            case Phrase():
                return _unscored(self._texts.chunks_with(where))
            case All():
                return self._all(where)
            case AnyOf():
                parts = [self._matches(part) for part in where.parts]
                chunk_ids, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
                order = np.argsort(chunk_ids, kind="stable")
                return best_per_chunk(chunk_ids[order], scores[order])
            case Not():
                return _unscored(self._without(np.arange(self.postings.num_chunks), [where]))
        raise TypeError(f"{where!r} is no clause of a query")

    def _all(self, where: All) -> Matches:
        """Intersect what must be there, beginning with the rarest; then take away what must not."""
        parts = [self._matches(part) for part in where.parts if not isinstance(part, Not)]
        by_size = sorted((chunk_ids for chunk_ids, _ in parts), key=len) or [
            np.arange(self.postings.num_chunks)
        ]
        common = by_size[0]
        for chunk_ids in by_size[1:]:
            common = common[contained(common, chunk_ids)]
        common = self._without(common, [part for part in where.parts if isinstance(part, Not)])
        total = np.zeros(len(common))
        for chunk_ids, scores in parts:
            total += scores[np.searchsorted(chunk_ids, common)]
        return common, total.astype(np.float32)

    def _without(self, chunk_ids: Ids, unwanted: list[Not]) -> Ids:
        for clause in unwanted:
            chunk_ids = chunk_ids[~contained(chunk_ids, self._matches(clause.part)[0])]
        return chunk_ids

    def _rows_of(self, clause: Entity) -> Ids:
        number = self._number(clause.entity)
        if number is None:
            return np.empty(0, dtype=np.int64)
        return self.postings.of_entity(number, clause.thresholds)

    def _hit(self, chunk_id: int, score: float, clauses: list[tuple[Entity | Phrase, int | None]]) -> Hit:
        """One result, with the places that the query's entities and phrases have in it."""
        mentions: set[Mention] = set()
        spans: set[tuple[int, int]] = set()
        text = self.chunk(chunk_id).text if any(isinstance(clause, Phrase) for clause, _ in clauses) else ""
        for clause, number in clauses:
            if isinstance(clause, Phrase):
                spans.update(phrase_spans(text, clause.text, case_sensitive=clause.case_sensitive))
            elif number is not None:
                rows = self.postings.of_entity_in_chunk(number, chunk_id)
                mentions.update(self._mentions(rows[self.postings.passing(rows, clause.thresholds)]))
        return Hit(chunk_id, score, tuple(sorted(mentions)), tuple(sorted(spans)))

    def _number_of(self, clause: Entity | Phrase) -> int | None:
        return self._number(clause.entity) if isinstance(clause, Entity) else None

    # One chunk

    def chunk(self, chunk_id: int) -> Chunk:
        """The text, title and document of a chunk."""
        self._check_chunk(chunk_id)
        return self._texts.chunk(chunk_id)

    def mentions_of(self, chunk_id: int, thresholds: Thresholds | None = None) -> tuple[Mention, ...]:
        """The mentions in a chunk by place; all candidates, or those that pass a threshold."""
        self._check_chunk(chunk_id)
        rows = self.postings.of_chunk(chunk_id)
        if thresholds is not None:
            rows = rows[self.postings.passing(rows, thresholds)]
        return tuple(sorted(self._mentions(rows)))

    def entities_of(self, chunk_id: int, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> list[str]:
        """The entities a chunk mentions, sorted."""
        self._check_chunk(chunk_id)
        rows = self.postings.of_chunk(chunk_id)
        rows = rows[self.postings.passing(rows, thresholds)]
        return [self.entities[int(number)] for number in np.unique(self.postings.entities(rows))]

    def _mentions(self, rows: Ids) -> Iterator[Mention]:
        names = ("char_start", "char_end", "score", *SOURCES, "mention_row")
        columns = [self.postings.columns[name][rows].tolist() for name in names]
        entities = [self.entities[int(number)] for number in self.postings.entities(rows)]
        for entity, (char_start, char_end, *rest) in zip(entities, zip(*columns, strict=True), strict=True):
            yield Mention(char_start, char_end, entity, *rest)

    def _check_chunk(self, chunk_id: int) -> None:
        if not 0 <= chunk_id < self.postings.num_chunks:
            raise ValueError(
                f"no chunk {chunk_id} in {str(self.path)!r}: it has 0 to {self.postings.num_chunks - 1}"
            )

    # Entities and names

    def chunk_counts(self, thresholds: Thresholds | None = None) -> Ids:
        """In how many chunks each entity is, (entities,). Other than default thresholds read all postings."""
        if thresholds is None or thresholds == DEFAULT_THRESHOLDS:
            return np.array(self._column("footprints"))
        return self.postings.count_chunks(thresholds)

    def name_of(self, entity: str) -> str | None:
        """What an entity is called most often; None where no mention says, or there is no such entity."""
        number = self._number(entity)
        return None if number is None else self._names[number] or None

    def names_of(self, entity: str) -> list[NameMatch]:
        """The strings that name an entity, the one in most chunks first. Pronouns are none."""
        number = self._number(entity)
        if number is None:
            return []
        start, end = self._column("names_of_offsets")[number : number + 2]
        return [self._name_match(int(row)) for row in self._column("names_of")[start:end]]

    def names(self, text: str, *, prefix: bool = False, limit: int | None = 10) -> list[NameMatch]:
        """The entities that a name may mean, case ignored; the one it names in most chunks first."""
        key = lower_case(text)
        start, end = self._name_keys.prefix_range(key) if prefix else self._name_keys.range_of(key)
        entities, chunks = (
            np.array(self._column(name)[start:end]) for name in ("name_entity", "name_chunks")
        )
        order = np.lexsort((np.arange(len(chunks)), -chunks, entities))
        firsts = order[np.unique(entities[order], return_index=True)[1]]  # the best spelling of each entity
        best = firsts[np.lexsort((entities[firsts], -chunks[firsts]))][:limit]
        return [self._name_match(int(start + row)) for row in best]

    def co_occurring(
        self, entity: str, thresholds: Thresholds = DEFAULT_THRESHOLDS, *, limit: int | None = 10
    ) -> list[EntityCount]:
        """The entities in the same chunks as this one, by the number of chunks they share, then by entity."""
        rows = self.postings.of_chunks(self.chunk_ids(Entity(entity, thresholds)))
        rows = rows[self.postings.passing(rows, thresholds)]
        pairs = np.stack([self.postings.entities(rows), self.postings.chunks(rows)], axis=1)
        numbers, counts = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
        others = np.flatnonzero(numbers != self._number(entity))
        best = others[np.lexsort((numbers[others], -counts[others]))][:limit]
        return [self._entity_count(int(numbers[i]), int(counts[i])) for i in best]

    def _number(self, entity: str) -> int | None:
        start, end = self.entities.range_of(entity)
        return start if end > start else None

    def _entity_count(self, number: int, chunks: int) -> EntityCount:
        return EntityCount(self.entities[number], self._names[number] or None, chunks)

    def _name_match(self, row: int) -> NameMatch:
        number, chunks = int(self._column("name_entity")[row]), int(self._column("name_chunks")[row])
        return NameMatch(self.entities[number], self._names[number] or None, chunks, self._name_texts[row])

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        column: npt.NDArray[np.int64] = np.load(self.path / f"{name}.npy", mmap_mode="r")
        return column


def open_index(path: str | Path) -> EntityIndex:
    """Open an index folder.

    Raises:
        FileNotFoundError: there is none.
        FormatError: this release does not read it.
    """
    return EntityIndex(Path(path), read_manifest(Path(path)))


def _positive(where: Clause) -> Iterator[Entity | Phrase]:
    """The entities and phrases whose places a hit shows: all but negated ones."""
    if isinstance(where, Entity | Phrase):
        yield where
    elif isinstance(where, All | AnyOf):
        for part in where.parts:
            yield from _positive(part)


def _unscored(chunk_ids: Ids) -> Matches:
    return chunk_ids, np.zeros(len(chunk_ids), dtype=np.float32)
