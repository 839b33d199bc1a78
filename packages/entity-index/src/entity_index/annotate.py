"""The chunks of every fact in a table, with all else that stands in the table: popqa-kas' columns.

A subject or answer is an entity's id, a Wikidata address of one, or a name; a name is the entity that it
means in most chunks, and which one that was is written beside it. Nothing is left out: a row whose names mean
nothing here gets empty lists. Rows come and go in batches; what was looked up is kept up to a limit.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa

from entity_index.backend import Backend
from entity_index.postings import Ids, contained
from entity_index.query import Entity, Thresholds
from entity_index.row_files import Row

ROLES = ("subject", "answer")
LISTS = (*ROLES, "shared")
KNOWN = {
    "subject": ("s_uri", "subject", "subj", "subject_name"),
    "answer": ("o_uri", "answer", "obj", "answer_name"),
}
"""Columns looked for, as PopQA and our probes have them; the first that has a value counts."""
ADDED = (
    *(f"{kind}{ending}" for kind in LISTS for ending in ("_chunks", "_num_chunks")),
    *(f"{role}{ending}" for role in ROLES for ending in ("_entity", "_found_by")),
)
"""What is written beside a row; columns of these names in the table are replaced."""
IDS_AT_ONCE = 2_000_000
"""Chunk ids of rows that are written together."""
IDS_KEPT = 20_000_000
"""Chunk ids of entities that are kept for rows to come."""
ANY_MENTION = Thresholds(hyperlink=0.0)
QID = re.compile(r"(?:https?://(?:www\.)?wikidata\.org/(?:entity|wiki)/)?(Q\d+)")

FoundBy = Literal["id", "name"]


@dataclass(frozen=True)
class Found:
    """What a subject or answer is, and its chunks."""

    text: str | None
    """As the table has it."""
    entity: str | None
    found_by: FoundBy | None
    chunks: Ids
    problem: str | None = None
    """Why there is nothing to find, in words."""


@dataclass(frozen=True)
class Fact:
    """One fact."""

    row: Row
    subject: Found
    answer: Found

    @cached_property
    def shared(self) -> Ids:
        """The chunks that mention both."""
        return self.subject.chunks[contained(self.subject.chunks, self.answer.chunks)]


@dataclass
class Tally:
    """How the rows fared."""

    rows: int = 0
    found_by: dict[str, dict[str, int]] = field(
        default_factory=lambda: {role: {"id": 0, "name": 0, "nothing": 0} for role in ROLES}
    )
    """Of each role: by what its entity was found; "nothing": no value, or no such name or id here."""
    facts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LISTS, 0))
    """Facts with any chunk of the kind."""
    pairs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LISTS, 0))
    """(fact, chunk) pairs of the kind."""

    def add(self, fact: Fact) -> None:
        """Count one fact."""
        self.rows += 1
        for role, found in (("subject", fact.subject), ("answer", fact.answer)):
            self.found_by[role]["nothing" if found.problem else found.found_by or "nothing"] += 1
        for kind, chunks in (
            ("subject", fact.subject.chunks),
            ("answer", fact.answer.chunks),
            ("shared", fact.shared),
        ):
            self.facts[kind] += bool(len(chunks))
            self.pairs[kind] += len(chunks)


def choose_columns(names: Collection[str], chosen: str | None, role: str) -> list[str]:
    """The columns that may hold a role's id or name.

    >>> choose_columns(["subj", "s_uri", "prop"], None, "subject")
    ['s_uri', 'subj']

    Raises:
        ValueError: the table has none.
    """
    if chosen is not None:
        if chosen not in names:
            raise ValueError(f"the table has no column {chosen!r}, it has {', '.join(names)}")
        return [chosen]
    if found := [name for name in KNOWN[role] if name in names]:
        return found
    raise ValueError(
        f"the table has none of the columns {', '.join(KNOWN[role])}, it has {', '.join(names)}: "
        f"say which holds the {role} with --{role} COLUMN"
    )


class Lookup:
    """Finds entities and their chunks, each once as long as memory allows."""

    def __init__(self, backend: Backend, thresholds: Thresholds) -> None:
        """Nothing is looked up yet."""
        self.backend, self.thresholds = backend, thresholds
        self.resolve = lru_cache(maxsize=100_000)(self._resolve)
        self._kept: OrderedDict[str, Ids] = OrderedDict()
        self._num_kept = 0

    def find(self, row: Row, columns: list[str]) -> Found:
        """The entity that the first of these columns with a value means."""
        text = next((str(row[name]) for name in columns if row.get(name) not in (None, "")), None)
        nothing = np.empty(0, dtype=np.int64)
        if text is None:
            return Found(None, None, None, nothing, "no value")
        entity, found_by, problem = self.resolve(text)
        chunks = nothing if entity is None or problem else self.chunks_of(entity)
        return Found(text, entity, found_by, chunks, problem)

    def _resolve(self, text: str) -> tuple[str | None, FoundBy | None, str | None]:
        wikidata = QID.fullmatch(text.strip())
        entity = wikidata.group(1) if wikidata else text
        if self.backend.count(Entity(entity, ANY_MENTION)):
            return entity, "id", None
        if wikidata:
            return entity, "id", "no mention of this id"
        matches = self.backend.names(text, limit=1)
        if not matches:
            return None, None, "no such id or name"
        return matches[0].entity, "name", None

    def chunks_of(self, entity: str) -> Ids:
        """All chunks that mention an entity, ascending."""
        if entity in self._kept:
            self._kept.move_to_end(entity)
            return self._kept[entity]
        chunks = self.backend.chunk_ids(Entity(entity, self.thresholds))
        self._kept[entity] = chunks
        self._num_kept += len(chunks)
        while self._num_kept > IDS_KEPT and len(self._kept) > 1:
            self._num_kept -= len(self._kept.popitem(last=False)[1])
        return chunks


def annotate_rows(
    batches: Iterable[list[Row]], lookup: Lookup, *, subject: list[str], answer: list[str]
) -> Iterator[list[Fact]]:
    """Every row with its chunks, in order, in batches of bounded size.

    Args:
        batches: rows of the table.
        lookup: where to look.
        subject: columns that may hold the subject, the first with a value counts.
        answer: the same for the answer.
    """
    for rows in batches:
        waiting: list[Fact] = []
        num_ids = 0
        for row in rows:
            fact = Fact(row, lookup.find(row, subject), lookup.find(row, answer))
            waiting.append(fact)
            num_ids += len(fact.subject.chunks) + len(fact.answer.chunks) + len(fact.shared)
            if num_ids >= IDS_AT_ONCE:
                yield waiting
                waiting, num_ids = [], 0
        if waiting:
            yield waiting


def added_columns(facts: list[Fact]) -> dict[str, pa.Array]:
    """The columns written beside the rows, in the order of `ADDED`."""
    lists = {
        "subject": [fact.subject.chunks for fact in facts],
        "answer": [fact.answer.chunks for fact in facts],
        "shared": [fact.shared for fact in facts],
    }
    columns: dict[str, pa.Array] = {}
    for kind, chunks in lists.items():
        sizes = np.array([len(ids) for ids in chunks], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        values = np.concatenate([np.empty(0, dtype=np.int64), *chunks])
        columns[f"{kind}_chunks"] = pa.ListArray.from_arrays(offsets, values)
        columns[f"{kind}_num_chunks"] = pa.array(sizes)
    for role in ROLES:
        found: list[Found] = [getattr(fact, role) for fact in facts]
        columns[f"{role}_entity"] = pa.array([one.entity for one in found], pa.string())
        columns[f"{role}_found_by"] = pa.array([one.found_by for one in found], pa.string())
    return columns


def unresolved(facts: list[Fact], first_row: int) -> Iterator[Row]:
    """One record for every subject and answer that is nothing here."""
    for number, fact in enumerate(facts, start=first_row):
        for role in ROLES:
            found: Found = getattr(fact, role)
            if found.problem:
                yield {"row": number, "role": role, "text": found.text, "problem": found.problem}
