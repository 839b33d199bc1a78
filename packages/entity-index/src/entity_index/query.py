"""The question and the answer: one query object and one result, the same for every backend.

A query is built from `Entity` and `Phrase` with `&`, `|` and `~` (or `All`, `AnyOf`, `Not`):

>>> Query(Entity("Q7259") & ~Phrase("Lord Byron"), limit=5).limit
5

Scores: an entity scores a chunk with the best aggregated score among its matching mentions there; a phrase or
a negation adds nothing (0); `All` adds its parts up, `AnyOf` takes the best (in float64, rounded to float32).
Hits are ranked by score, then by chunk id ascending. So a pair of entities ranks by the sum of both scores.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from entity_index.words import words

SOURCES = ("hyperlink", "entity_linking", "coref", "coref_cluster")
"""The four kinds of evidence that a mention is of an entity, each with a score in [0, 1]."""

_SHORT_ALIASES = {"US", "USA", "UK", "UAE"}


@dataclass(frozen=True)
class Thresholds:
    """Least score per source; a mention counts if it passes at least one. None: the source does not count.

    Compared in float32, as the scores are stored.

    >>> Thresholds(coref=None, coref_cluster=None).active()
    {'hyperlink': 1.0, 'entity_linking': 0.6}
    """

    hyperlink: float | None = 1.0
    entity_linking: float | None = 0.6
    coref: float | None = 0.6
    coref_cluster: float | None = 0.6

    def __post_init__(self) -> None:
        """Refuse what no score could be compared with."""
        for source, least in self.active().items():
            if not 0 <= least <= 1:
                raise ValueError(f"threshold {source} = {least} is outside [0, 1], the range of the scores")
        if not self.active():
            raise ValueError("at least one source needs a threshold, else no mention can count")

    def active(self) -> dict[str, float]:
        """The sources that count, with their thresholds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {source: least for source, least in values.items() if least is not None}


DEFAULT_THRESHOLDS = Thresholds()


class Clause:
    """A condition on chunks; combine with `&`, `|`, `~`."""

    def __and__(self, other: "Clause") -> "All":
        """Chunks that fulfil both."""
        return All(self, other)

    def __or__(self, other: "Clause") -> "AnyOf":
        """Chunks that fulfil one or both."""
        return AnyOf(self, other)

    def __invert__(self) -> "Not":
        """Chunks that do not fulfil this one."""
        return Not(self)


@dataclass(frozen=True)
class Entity(Clause):
    """Chunks with a mention whose candidate is this entity and passes one of the thresholds."""

    entity: str
    thresholds: Thresholds = DEFAULT_THRESHOLDS


@dataclass(frozen=True)
class Phrase(Clause):
    """Chunks in which these words follow each other; what stands between words does not matter."""

    text: str
    case_sensitive: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a phrase without a word, which would match nothing or everything."""
        if not words(self.text):
            raise ValueError(f"the phrase {self.text!r} has no words to search for")


@dataclass(frozen=True, init=False)
class All(Clause):
    """Chunks that fulfil every part."""

    parts: tuple[Clause, ...]

    def __init__(self, *parts: Clause) -> None:
        """Join one or more clauses."""
        object.__setattr__(self, "parts", _at_least_one(parts))


@dataclass(frozen=True, init=False)
class AnyOf(Clause):
    """Chunks that fulfil at least one part."""

    parts: tuple[Clause, ...]

    def __init__(self, *parts: Clause) -> None:
        """Join one or more clauses."""
        object.__setattr__(self, "parts", _at_least_one(parts))


@dataclass(frozen=True)
class Not(Clause):
    """Chunks that do not fulfil a clause."""

    part: Clause


def _at_least_one(parts: tuple[Clause, ...]) -> tuple[Clause, ...]:
    if not parts:
        raise ValueError("a query needs at least one entity or phrase")
    return parts


@dataclass(frozen=True)
class Query:
    """What to look for and how many hits to return (None: all)."""

    where: Clause
    limit: int | None = 10

    def __post_init__(self) -> None:
        """Refuse a negative limit."""
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit {self.limit} is negative: give 0 or more, or None for all hits")


@dataclass(frozen=True, order=True)
class Mention:
    """A place in a chunk's text, in characters, with an entity that is a candidate for it."""

    char_start: int
    char_end: int
    entity: str
    score: float
    hyperlink: float
    entity_linking: float
    coref: float
    coref_cluster: float
    row: int
    """Row of the store's chunk mentions it comes from; -1 where the index does not say."""


@dataclass(frozen=True)
class Hit:
    """A chunk that fulfils the query, and where."""

    chunk_id: int
    score: float
    mentions: tuple[Mention, ...] = ()
    """Matching mentions of the query's entities, by place."""
    phrases: tuple[tuple[int, int], ...] = ()
    """Character spans of the query's phrases, by place."""


@dataclass(frozen=True)
class Result:
    """How many chunks fulfil the query (exactly), and the best of them in order."""

    total: int
    hits: tuple[Hit, ...]


def name_phrases(names: Iterable[str], *, case_sensitive: bool = False) -> AnyOf:
    """Search by name instead of by entity: each name, also with 's, straight or typographic.

    >>> [part.text for part in name_phrases(["Ada"]).parts][:2]
    ['Ada', "Ada's"]
    """
    variants = [name + ending for name in names for ending in ("", "'s", "\u2019s")]
    return AnyOf(*(Phrase(text, case_sensitive=case_sensitive) for text in dict.fromkeys(variants)))


def searchable_aliases(aliases: Iterable[str]) -> list[str]:
    """Leave out aliases that find too much: up to three characters (but US, USA, UK, UAE), or without a word.

    >>> searchable_aliases(["Ada Lovelace", "Ada", "UK", "!!!!"])
    ['Ada Lovelace', 'UK']
    """
    return [
        alias for alias in aliases if (len(alias) > 3 or alias in _SHORT_ALIASES) and re.search(r"\w", alias)
    ]
