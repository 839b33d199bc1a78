"""Questions to a judge: does this mention mean this entity?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from entity_index.backend import Backend
from entity_index.evaluation.windows import Window, window_around
from entity_index.query import Hit, Mention

MENTIONS = 3
"""Of a chunk at most so many mentions are judged."""


@dataclass(frozen=True)
class Question:
    """Does the mention at this place of a chunk mean this entity?"""

    entity: str
    name: str
    """What the entity is called."""
    chunk_id: int
    char_start: int
    char_end: int
    window: Window


class Judge(Protocol):
    """Says whether mentions mean entities."""

    def judge(self, questions: Sequence[Question]) -> list[bool | None]:
        """Yes, no, or None where it cannot tell; one answer for each question, in order."""
        ...


def questions_of(backend: Backend, hit: Hit, entity: str, name: str) -> list[Question]:
    """What to ask about a chunk that was found: its surest mentions, or the first places of the strings."""
    text = backend.chunk(hit.chunk_id).text
    spans = surest(hit.mentions) if hit.mentions else longest(hit.phrases)
    return [
        Question(entity, name, hit.chunk_id, start, end, window_around(text, start, end))
        for start, end in spans[:MENTIONS]
    ]


def surest(mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans by aggregated score, highest first, then by place; each once."""
    ordered = sorted(mentions, key=lambda mention: (-mention.score, mention.char_start, mention.char_end))
    return list(dict.fromkeys((mention.char_start, mention.char_end) for mention in ordered))


def longest(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans by place, without those inside another: "Ada" in "Ada Lovelace" is no place of its own.

    >>> longest([(0, 3), (0, 12), (20, 23)])
    [(0, 12), (20, 23)]
    """
    kept: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or end > kept[-1][1]:
            kept.append((start, end))
    return kept


def judge_chunks(judge: Judge, chunks: Sequence[Sequence[Question]]) -> list[bool | None]:
    """For every chunk whether one of its mentions is right; a chunk is done with its first yes.

    None: the judge could tell of none of its mentions. Every question is asked once, also where several
    chunks (of several methods) lead to it.
    """
    known: dict[Question, bool | None] = {}
    verdicts: list[bool | None] = [None] * len(chunks)
    for turn in range(MENTIONS):
        open_ones = [i for i, asked in enumerate(chunks) if len(asked) > turn and verdicts[i] is not True]
        new = list(dict.fromkeys(chunks[i][turn] for i in open_ones if chunks[i][turn] not in known))
        known.update(zip(new, judge.judge(new), strict=True))
        for i in open_ones:
            answer = known[chunks[i][turn]]
            verdicts[i] = verdicts[i] if answer is None else answer
    return verdicts
