"""Ways to find the chunks of an entity: by what it is, from several sources, or by what it is called."""

from collections.abc import Callable
from dataclasses import dataclass

from entity_index.backend import Backend
from entity_index.compare import plain_name
from entity_index.query import Clause, Entity, Thresholds, name_phrases, searchable_aliases


@dataclass(frozen=True)
class Subject:
    """An entity and what it is called."""

    entity: str
    name: str
    names: tuple[str, ...]
    """Its name and its further names that can be searched."""


def make_subject(backend: Backend, entity: str) -> Subject | None:
    """The entity with its names; None if it has none."""
    name = plain_name(backend.name_of(entity) or "")
    if not name or not any(map(str.isalnum, name)):
        return None
    further = searchable_aliases(match.text for match in backend.names_of(entity))
    return Subject(entity, name, tuple(dict.fromkeys([name, *further])))


Method = Callable[[Subject], Clause]


def by_entity(thresholds: Thresholds) -> Method:
    """Find the mentions that reach these thresholds."""
    return lambda subject: Entity(subject.entity, thresholds)


def by_name(*, aliases: bool, case_sensitive: bool) -> Method:
    """Find the name, or every name."""
    return lambda subject: name_phrases(
        subject.names if aliases else subject.names[:1], case_sensitive=case_sensitive
    )


ALL_SOURCES = "entity, all sources"


def methods_of(thresholds: Thresholds) -> dict[str, Method]:
    """The methods that are compared; the first is the one that the others are compared with."""
    links, linking = thresholds.hyperlink, thresholds.entity_linking
    found: dict[str, Method] = {ALL_SOURCES: by_entity(thresholds)}
    narrower = {
        "entity, no coreference": (links, linking),
        "entity, hyperlinks": (links, None),
        "entity, entity linking": (None, linking),
    }
    for label, (hyperlink, entity_linking) in narrower.items():
        if (hyperlink, entity_linking) != (None, None):
            found[label] = by_entity(Thresholds(hyperlink, entity_linking, None, None))
    for case_sensitive, case in ((True, "CS"), (False, "CI")):
        for aliases, names in ((False, "canonical"), (True, "extended")):
            found[f"string, {case} {names}"] = by_name(aliases=aliases, case_sensitive=case_sensitive)
    return found
