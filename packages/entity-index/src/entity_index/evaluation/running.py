"""Draw entities, find their chunks by every method, and have them judged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from entity_index.backend import Backend
from entity_index.evaluation.asking import Judge, Question, judge_chunks, questions_of
from entity_index.evaluation.methods import Method, Subject, make_subject
from entity_index.evaluation.sampling import class_of, count_for_strata, sample_entities, sample_ranks
from entity_index.query import Query

DEPTH = 100_000
"""Chunks that a method finds beyond this rank are counted but not judged."""


@dataclass(frozen=True)
class Judged:
    """What one method found for one entity."""

    found: int
    """Chunks in all."""
    ranks: tuple[int, ...]
    """Of the chunks that were judged, from 1."""
    chunk_ids: tuple[int, ...]
    right: tuple[bool | None, ...]
    """Whether such a chunk mentions the entity; None: the judge could not tell."""

    @property
    def num_right(self) -> int:
        """Chunks that were judged right."""
        return sum(verdict is True for verdict in self.right)

    @property
    def num_judged(self) -> int:
        """Chunks of which the judge could tell."""
        return sum(verdict is not None for verdict in self.right)


@dataclass(frozen=True)
class JudgedEntity:
    """An entity of the sample, and how every method did."""

    entity: str
    name: str
    count: int
    """The frequency it was drawn by."""
    kind: str
    """tail, torso or head."""
    methods: dict[str, Judged]


@dataclass(frozen=True)
class Evaluation:
    """The whole sample."""

    counted: str
    """What the frequencies count."""
    entities: tuple[JudgedEntity, ...]
    nameless: int
    """Entities that were drawn and left out, since they cannot be searched by name."""
    methods: tuple[str, ...]
    seed: int


Progress = Callable[[int, int], None]


def evaluate_retrieval(
    backend: Backend,
    judge: Judge,
    methods: dict[str, Method],
    *,
    size: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Judge the chunks that each method finds for a sample of entities.

    Args:
        backend: where to look.
        judge: who says what is right.
        methods: by their names; the first is the one that the others are compared with.
        size: how many entities to draw.
        seed: draws entities and chunks.
        progress: called with entities done, and all.
    """
    counts, counted = count_for_strata(backend)
    numbers = sample_entities(counts, size, seed=seed).tolist()
    judged: list[JudgedEntity] = []
    nameless = 0
    for done, number in enumerate(numbers):
        progress(done, len(numbers))
        subject = make_subject(backend, backend.entities[number])
        if subject is None:
            nameless += 1
            continue
        found = _judge_entity(backend, judge, methods, subject, seed=seed, number=number)
        count = int(counts[number])
        judged.append(JudgedEntity(subject.entity, subject.name, count, class_of(count), found))
    progress(len(numbers), len(numbers))
    return Evaluation(counted, tuple(judged), nameless, tuple(methods), seed)


def _judge_entity(
    backend: Backend, judge: Judge, methods: dict[str, Method], subject: Subject, *, seed: int, number: int
) -> dict[str, Judged]:
    """Retrieve by every method, then ask about all chunks together."""
    drawn = []
    questions: list[list[Question]] = []
    for place, (label, method) in enumerate(methods.items()):
        result = backend.search(Query(method(subject), limit=DEPTH))
        ranks = sample_ranks(len(result.hits), seed=seed, entity=number, method=place).tolist()
        hits = [result.hits[rank] for rank in ranks]
        drawn.append((label, result.total, ranks, hits))
        questions += [questions_of(backend, hit, subject.entity, subject.name) for hit in hits]
    verdicts = iter(judge_chunks(judge, questions))
    return {
        label: Judged(
            total,
            tuple(rank + 1 for rank in ranks),
            tuple(hit.chunk_id for hit in hits),
            tuple(next(verdicts) for _ in hits),
        )
        for label, total, ranks, hits in drawn
    }


def rows_of(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """One record for every entity and method, with every judged chunk."""
    for entity in evaluation.entities:
        for label, judged in entity.methods.items():
            yield {
                "entity": entity.entity,
                "name": entity.name,
                "count": entity.count,
                "class": entity.kind,
                "method": label,
                "found": judged.found,
                "ranks": list(judged.ranks),
                "chunk_ids": list(judged.chunk_ids),
                "right": list(judged.right),
            }
