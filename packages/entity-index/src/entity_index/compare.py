"""What a search for a name misses, and what it finds wrongly, measured against the entity query.

The entity query is taken as the truth here, so these are differences, not precision and recall.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from entity_index.backend import Backend
from entity_index.query import (
    DEFAULT_THRESHOLDS,
    Entity,
    Hit,
    Query,
    Thresholds,
    name_phrases,
    searchable_aliases,
)

EXAMINED = 1000
"""Of so many differing chunks at most the texts are read."""


@dataclass(frozen=True)
class NameSearch:
    """A search for names in place of the entity: how many chunks it finds."""

    names: tuple[str, ...]
    found: int
    agreed: int
    """Chunks that the entity query finds, too."""
    missed: int
    """Chunks that only the entity query finds."""
    extra: int
    """Chunks that only the names find."""


@dataclass(frozen=True)
class Comparison:
    """The entity query beside the search for its name, and for all its names."""

    entity: str
    name: str
    total: int
    canonical: NameSearch
    extended: NameSearch
    missed_surfaces: dict[str, int]
    """What the entity is called in chunks that its name does not find, the most frequent first."""
    extra_meanings: dict[str, int]
    """Which entity the name means in chunks that the entity query leaves out, the most frequent first."""
    missed_hits: tuple[Hit, ...]
    extra_hits: tuple[Hit, ...]


def compare_with_names(
    index: Backend,
    entity: str,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    *,
    case_sensitive: bool = False,
    examples: int = 5,
) -> Comparison:
    """Find an entity's chunks by the entity, by its most frequent name, and by all its names in the index.

    A name loses its parentheses ("Ada (ship)"). Names are searched as they are and with 's; of the further
    names those that find too much are left out (`searchable_aliases`).

    Raises:
        ValueError: the index does not know the entity, or no name of it.
    """
    name = plain_name(index.name_of(entity) or "")
    if not name:
        raise ValueError(f"the index knows no name of {entity!r}: see 'entity-index names'")
    where = Entity(entity, thresholds)
    further = searchable_aliases(match.text for match in index.names_of(entity))
    canonical = _search_names(index, where, [name], case_sensitive=case_sensitive)
    extended = _search_names(index, where, [name, *further], case_sensitive=case_sensitive)
    phrases = name_phrases([name], case_sensitive=case_sensitive)
    missed = index.search(Query(where & ~phrases, limit=EXAMINED)).hits
    extra = index.search(Query(phrases & ~where, limit=EXAMINED)).hits
    surfaces = [_surfaces(index, hit) for hit in missed]
    meanings = [[_meaning(index, hit, thresholds)] for hit in extra]
    return Comparison(
        entity,
        name,
        index.count(where),
        canonical,
        extended,
        missed_surfaces=_count(surfaces),
        extra_meanings=_count(meanings),
        missed_hits=_varied(missed, surfaces)[:examples],
        extra_hits=_varied(extra, meanings)[:examples],
    )


def plain_name(title: str) -> str:
    """A name without the parentheses that tell its bearers apart.

    >>> plain_name("Ada (programming language)")
    'Ada'
    """
    return re.sub(r"(?<=\S) \([^()]*\)$", "", title)


def _search_names(index: Backend, where: Entity, names: Iterable[str], *, case_sensitive: bool) -> NameSearch:
    names = tuple(dict.fromkeys(names))
    phrases = name_phrases(names, case_sensitive=case_sensitive)
    total, found, agreed = index.count(where), index.count(phrases), index.count(where & phrases)
    return NameSearch(names, found, agreed, missed=total - agreed, extra=found - agreed)


def _count(kinds: list[list[str]]) -> dict[str, int]:
    return dict(Counter(itertools.chain(*kinds)).most_common())


def _varied(hits: tuple[Hit, ...], kinds: list[list[str]]) -> tuple[Hit, ...]:
    """Those hits first that show a kind of thing no earlier one shows."""
    seen: set[str] = set()
    first: list[Hit] = []
    rest: list[Hit] = []
    for hit, of_hit in zip(hits, kinds, strict=True):
        (rest if seen.issuperset(of_hit) else first).append(hit)
        seen.update(of_hit)
    return (*first, *rest)


def _surfaces(index: Backend, hit: Hit) -> list[str]:
    text = index.chunk(hit.chunk_id).text
    return [text[mention.char_start : mention.char_end] for mention in hit.mentions]


def _meaning(index: Backend, hit: Hit, thresholds: Thresholds) -> str:
    """The best entity at the first place of the phrase, or that there is none."""
    start, end = hit.phrases[0]
    mentions = index.mentions_of(hit.chunk_id, thresholds)
    there = [mention for mention in mentions if mention.char_start < end and start < mention.char_end]
    if not there:
        return "no mention"
    best = max(there, key=lambda mention: (mention.score, mention.entity))
    return f"{index.name_of(best.entity) or best.entity} ({best.entity})"
