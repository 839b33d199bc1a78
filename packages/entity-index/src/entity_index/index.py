"""Open an index and ask it: which chunks mention this, what a chunk mentions, which entity has this name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from entity_index.bits import Ids
from entity_index.manifest import read_manifest
from entity_index.names import Names, open_names
from entity_index.pieces import run_lengths
from entity_index.postings import Postings, Scores, best_per_chunk, best_ranked, contained, open_postings
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
from entity_index.records import RawMention
from entity_index.strings import StringColumn, open_strings
from entity_index.texts import Chunk, Texts
from entity_index.words import lower_case, phrase_spans

Matches = tuple[Ids, Scores]
"""Chunk ids, ascending, each once, and their scores."""

_PLACE = attrgetter(*(field.name for field in fields(Mention)))
"""As mentions are ordered; quicker than to compare two of them."""
CHUNKS_AT_ONCE, FEW_CHUNKS = 1 << 14, 1 << 12
"""Of so many chunks the pairs are in memory together; of few chunks they are looked up one by one."""


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
        layout = {**meta, **meta["layout"]}
        self.postings: Postings = open_postings(path, layout)
        self.entities: StringColumn = open_strings(path, "entities", layout["strings"]["entities"])
        self._names: Names = open_names(path, layout)

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
        if isinstance(query.where, Entity):
            return self._best_of(query.where, self.num_chunks if query.limit is None else query.limit)
        chunk_ids, scores = self._matches(query.where)
        best = best_ranked(scores, query.limit)
        positive = [(clause, self._number_of(clause)) for clause in _positive(query.where)]
        hits = (self._hit(int(chunk_ids[i]), float(scores[i]), positive) for i in best)
        return Result(len(chunk_ids), tuple(hits))

    def _best_of(self, clause: Entity, limit: int) -> Result:
        """As `search`, for one entity: its pairs with the best chunks need not be looked for."""
        number = self._number(clause.entity)
        if number is None:
            return Result(0, ())
        total, pairs, chunk_ids, scores = self.postings.best_of(number, clause.thresholds, limit)
        chunks = chunk_ids.tolist()
        mentions = self._mentions_of_pairs(pairs, chunks, clause)
        return Result(total, tuple(map(as_hit, chunks, scores.tolist(), mentions)))

    def count(self, where: Clause) -> int:
        """How many chunks fulfil a condition."""
        if isinstance(where, Phrase):
            return self._texts.count(where)
        if isinstance(where, Entity):
            number = self._number(where.entity)
            return 0 if number is None else self.postings.count(number, where.thresholds)
        return len(self._matches(where)[0])

    def chunk_ids(self, where: Clause) -> Ids:
        """All chunks that fulfil a condition, ascending."""
        return self._matches(where)[0]

    def _matches(self, where: Clause) -> Matches:
        match where:
            case Entity():
                number = self._number(where.entity)
                if number is None:
                    return _unscored(np.empty(0, dtype=np.int64))
                return self.postings.matches(number, where.thresholds)
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
            total += scores[contained(chunk_ids, common)]
        return common, total.astype(np.float32)

    def _without(self, chunk_ids: Ids, unwanted: list[Not]) -> Ids:
        for clause in unwanted:
            chunk_ids = chunk_ids[~contained(chunk_ids, self._matches(clause.part)[0])]
        return chunk_ids

    def _hit(self, chunk_id: int, score: float, clauses: list[tuple[Entity | Phrase, int | None]]) -> Hit:
        """One result, with the places that the query's entities and phrases have in it."""
        mentions: dict[int, Mention] = {}
        spans: set[tuple[int, int]] = set()
        text = self.chunk(chunk_id).text if any(isinstance(clause, Phrase) for clause, _ in clauses) else ""
        for clause, number in clauses:
            if isinstance(clause, Phrase):
                spans.update(phrase_spans(text, clause.text, case_sensitive=clause.case_sensitive))
            elif number is not None:
                pair = self.postings.pair_of(number, chunk_id)
                if pair is not None:
                    (found,) = self._mentions_of_pairs(np.array([pair]), [chunk_id], clause)
                    mentions.update((mention.row, mention) for mention in found)
        return Hit(chunk_id, score, tuple(sorted(mentions.values(), key=_PLACE)), tuple(sorted(spans)))

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
        pairs = self.postings.pairs_in(np.array([chunk_id]))
        entities = [self.entities[number] for number in self.postings.entities_of(pairs).tolist()]
        first_row = self.postings.first_row(chunk_id)
        passes = _test(thresholds)
        mentions = [
            as_mention(mention, entity, first_row)
            for entity, of_pair in zip(entities, self.postings.mentions_of(pairs), strict=True)
            for mention in of_pair
            if passes(mention)
        ]
        return tuple(sorted(mentions, key=_PLACE))

    def entities_of(self, chunk_id: int, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> list[str]:
        """The entities a chunk mentions, sorted."""
        self._check_chunk(chunk_id)
        pairs = self.postings.passing_pairs(self.postings.pairs_in(np.array([chunk_id])), thresholds)
        return [self.entities[number] for number in self.postings.entities_of(pairs).tolist()]

    def _mentions_of_pairs(
        self, pairs: Ids, chunk_ids: list[int], clause: Entity
    ) -> Iterator[tuple[Mention, ...]]:
        """The matching mentions of an entity in some chunks, by place."""
        passes = _PASSES if clause.thresholds is DEFAULT_THRESHOLDS else _test(clause.thresholds)
        entity, first_row = clause.entity, self.postings.first_row
        for chunk_id, raw in zip(chunk_ids, self.postings.mentions_of(pairs), strict=True):
            if len(raw) > 1:
                raw.sort()
            row = first_row(chunk_id)
            yield tuple([as_mention(mention, entity, row) for mention in raw if passes(mention)])

    def _check_chunk(self, chunk_id: int) -> None:
        if not 0 <= chunk_id < self.postings.num_chunks:
            raise ValueError(
                f"no chunk {chunk_id} in {str(self.path)!r}: it has 0 to {self.postings.num_chunks - 1}"
            )

    # Entities and names

    def chunk_counts(self, thresholds: Thresholds | None = None) -> Ids:
        """In how many chunks each entity is, (entities,). Other than default thresholds read all mentions."""
        return self.postings.count_chunks(thresholds or DEFAULT_THRESHOLDS)

    def name_of(self, entity: str) -> str | None:
        """What an entity is called most often; None where no mention says, or there is no such entity."""
        number = self._number(entity)
        return None if number is None else self._names.usual(number)

    def names_of(self, entity: str) -> list[NameMatch]:
        """The strings that name an entity, the one in most chunks first. Pronouns are none."""
        number = self._number(entity)
        return [] if number is None else [self._name_match(row) for row in self._names.of_entity(number)]

    def names(self, text: str, *, prefix: bool = False, limit: int | None = 10) -> list[NameMatch]:
        """The entities that a name may mean, case ignored; the one it names in most chunks first."""
        return [
            self._name_match(row) for row in self._names.find(lower_case(text), prefix=prefix, limit=limit)
        ]

    def co_occurring(
        self, entity: str, thresholds: Thresholds = DEFAULT_THRESHOLDS, *, limit: int | None = 10
    ) -> list[EntityCount]:
        """The entities in the same chunks as this one, by the number of chunks they share, then by entity."""
        number = self._number(entity)
        if number is None:
            return []
        chunk_ids = self.postings.matches(number, thresholds)[0]
        parts = np.split(chunk_ids, range(CHUNKS_AT_ONCE, len(chunk_ids), CHUNKS_AT_ONCE))
        pairs = map(self.postings.pairs_in, parts)
        if len(chunk_ids) < FEW_CHUNKS:
            passing = self.postings.passing_pairs(np.concatenate(list(pairs)), thresholds)
            numbers, found = run_lengths(np.sort(self.postings.entities_of(passing)))
        else:
            numbers = np.arange(self.postings.num_entities)
            found = self.postings.count_passing(pairs, thresholds)
        found[numbers == number] = 0
        best = best_ranked(found, limit)
        return [self._entity_count(int(numbers[i]), int(found[i])) for i in best.tolist() if found[i]]

    def _number(self, entity: str) -> int | None:
        return self.entities.find(entity)

    def _entity_count(self, number: int, chunks: int) -> EntityCount:
        return EntityCount(self.entities[number], self._names.usual(number), chunks)

    def _name_match(self, row: int) -> NameMatch:
        number = self._names.entity(row)
        return NameMatch(
            self.entities[number], self._names.usual(number), self._names.chunks(row), self._names.texts[row]
        )


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


# Frozen records are made past their constructors, which take three times as long.
_new, _set = object.__new__, object.__setattr__


def as_mention(raw: RawMention, entity: str, first_row: int) -> Mention:
    """A mention from what the postings hold of it."""
    start, end, score, hyperlink, entity_linking, coref, coref_cluster, place = raw
    mention = _new(Mention)
    content = {
        "char_start": start,
        "char_end": end,
        "entity": entity,
        "score": score,
        "hyperlink": hyperlink,
        "entity_linking": entity_linking,
        "coref": coref,
        "coref_cluster": coref_cluster,
        "row": first_row + place,
    }
    _set(mention, "__dict__", content)
    return mention


def as_hit(chunk_id: int, score: float, mentions: tuple[Mention, ...]) -> Hit:
    """A hit of an entity."""
    hit = _new(Hit)
    _set(hit, "__dict__", {"chunk_id": chunk_id, "score": score, "mentions": mentions, "phrases": ()})
    return hit


@lru_cache(maxsize=256)
def _test(thresholds: Thresholds | None) -> Callable[[RawMention], bool]:
    """Whether a mention passes at least one threshold, compared in float32, as scores are stored."""
    if thresholds is None:
        return lambda mention: True
    active = thresholds.active()
    h, e, c, k = (float(np.float32(active.get(source, np.inf))) for source in SOURCES)
    return lambda mention: mention[3] >= h or mention[4] >= e or mention[5] >= c or mention[6] >= k


_PASSES = _test(DEFAULT_THRESHOLDS)  # not to look for it in every query


def _unscored(chunk_ids: Ids) -> Matches:
    return chunk_ids, np.zeros(len(chunk_ids), dtype=np.float32)
