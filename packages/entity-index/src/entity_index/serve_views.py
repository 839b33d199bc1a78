"""What the pages show: questions as they stand in an address, and the backend's answers to them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode

from entity_index.backend import Backend
from entity_index.index import NameMatch
from entity_index.marking import Piece, excerpt_parts, mark_pieces
from entity_index.query import (
    DEFAULT_THRESHOLDS,
    SOURCES,
    All,
    Clause,
    Entity,
    Hit,
    Mention,
    Query,
    Thresholds,
)

PAGE = 10
"""Chunks on one page."""
LAST_PAGE = 20
"""An answer needs all hits before its own, and has 50 ms."""
ANY_MENTION = Thresholds(hyperlink=0.0)
"""Thresholds that every candidate passes."""
OFF = 1.05
"""Where a slider leaves its source out: one step above 1."""


@dataclass(frozen=True)
class Question:
    """An entity by id or name, perhaps a second one, from which evidence, and which page of the answer."""

    q: str = ""
    also: str = ""
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    page: int = 1

    def address(self, path: str = "/", **changes: str | int) -> str:
        """The address of this question, or of one that differs; defaults are left out.

        >>> Question("Q1").address(page=2), Question("Q1", page=2).address(also="Q 2")
        ('/?q=Q1&page=2', '/?q=Q1&also=Q+2&page=2')
        """
        changed = replace(self, **changes)  # type: ignore[arg-type]
        words: dict[str, str | int] = {"q": changed.q, "also": changed.also}
        standard = asdict(DEFAULT_THRESHOLDS)
        for source, least in asdict(changed.thresholds).items():
            words[source] = "" if least == standard[source] else "none" if least is None else f"{least:g}"
        words["page"] = changed.page if changed.page > 1 else ""
        return f"{path}?{urlencode({name: word for name, word in words.items() if word != ''})}"


def read_question(words: Mapping[str, str]) -> Question:
    """The question that an address asks.

    Raises:
        ValueError: a threshold or the page is no number, or outside its range.
    """
    thresholds = Thresholds(**{source: _read_threshold(words, source) for source in SOURCES})
    page = words.get("page", "1")
    if not page.isascii() or not page.isdecimal() or not 1 <= int(page[:9]) <= LAST_PAGE:
        raise ValueError(f"page {page!r} is no number from 1 to {LAST_PAGE}")
    return Question(words.get("q", "").strip(), words.get("also", "").strip(), thresholds, int(page))


def _read_threshold(words: Mapping[str, str], source: str) -> float | None:
    standard: float = getattr(DEFAULT_THRESHOLDS, source)
    word = words.get(source, "") or str(standard)
    if word == "none":
        return None
    try:
        least = float(word)
    except ValueError as error:
        raise ValueError(f"threshold {source} = {word!r} is no number") from error
    return None if least == OFF else least


@dataclass(frozen=True)
class Slider:
    """A threshold as the page lets one set it."""

    source: str
    label: str
    value: float

    @property
    def words(self) -> str:
        """The threshold in words; 0 lets every mention pass."""
        return "off" if self.value == OFF else f"≥ {self.value:.2f}"


LABELS = {
    "hyperlink": "Hyperlink",
    "entity_linking": "Entity linking",
    "coref": "Coreference",
    "coref_cluster": "Coreference cluster",
}


def sliders_of(thresholds: Thresholds) -> list[Slider]:
    """The four sliders."""
    values = asdict(thresholds)
    return [
        Slider(source, label, OFF if values[source] is None else values[source])
        for source, label in LABELS.items()
    ]


@dataclass(frozen=True)
class Subject:
    """An entity as a page names it."""

    entity: str
    name: str
    names: tuple[NameMatch, ...]
    """What it is called, the most frequent first."""
    others: tuple[NameMatch, ...] = ()
    """What else the words could have meant."""


@dataclass(frozen=True)
class Shown:
    """A chunk in a list: where it comes from and its text around the mentions."""

    chunk_id: int
    title: str
    score: float | None
    parts: tuple[tuple[Piece, ...], ...]
    cut_before: bool
    cut_after: bool


@dataclass(frozen=True)
class Answer:
    """The chunks of one page."""

    subject: Subject
    also: Subject | None
    total: int
    chunks: tuple[Shown, ...]
    num_pages: int

    @property
    def shown(self) -> int:
        """Chunks on all pages."""
        return min(self.total, LAST_PAGE * PAGE)


def find_subject(backend: Backend, text: str) -> Subject | None:
    """The entity with this id, else the one that this name means in most chunks; None if there is neither."""
    if names := backend.names_of(text):
        return Subject(text, backend.name_of(text) or text, tuple(names[:12]))
    if matches := backend.names(text, limit=6):
        best, *others = matches
        names = backend.names_of(best.entity)
        return Subject(best.entity, best.name or best.entity, tuple(names[:12]), tuple(others))
    if backend.count(Entity(text, ANY_MENTION)):
        return Subject(text, text, ())
    return None


def answer(backend: Backend, question: Question, subject: Subject, also: Subject | None) -> Answer:
    """The chunks that mention the subject (and the second entity), one page of them."""
    clauses: list[Clause] = [Entity(subject.entity, question.thresholds)]
    if also is not None:
        clauses.append(Entity(also.entity, question.thresholds))
    result = backend.search(Query(All(*clauses), limit=question.page * PAGE))
    hits = result.hits[(question.page - 1) * PAGE :]
    chunks = tuple(_show(backend, hit, question.thresholds) for hit in hits)
    return Answer(subject, also, result.total, chunks, min(-(-result.total // PAGE), LAST_PAGE))


def _show(backend: Backend, hit: Hit, thresholds: Thresholds) -> Shown:
    chunk = backend.chunk(hit.chunk_id)
    parts = excerpt_parts(chunk.text, hit.mentions)
    pieces = tuple(tuple(mark_pieces(chunk.text, hit.mentions, thresholds, part)) for part in parts)
    title = chunk.title or chunk.doc_id
    cut_after = parts[-1][1] < len(chunk.text)
    return Shown(hit.chunk_id, title, hit.score, pieces, parts[0][0] > 0, cut_after)


@dataclass(frozen=True)
class WholeChunk:
    """A chunk with all that counts as mentioned in it."""

    chunk_id: int
    title: str
    doc_id: str
    pieces: tuple[Piece, ...]
    mentions: tuple[Mention, ...]
    text: str
    names: Mapping[str, str]
    """What each mentioned entity is mostly called."""


def whole_chunk(backend: Backend, chunk_id: int, thresholds: Thresholds) -> WholeChunk:
    """One chunk, with the mentions that pass the thresholds.

    Raises:
        ValueError: there is no such chunk.
    """
    chunk, mentions = backend.chunk(chunk_id), backend.mentions_of(chunk_id, thresholds)
    names = {entity: backend.name_of(entity) or "" for entity in {mention.entity for mention in mentions}}
    pieces = tuple(mark_pieces(chunk.text, mentions, thresholds))
    return WholeChunk(chunk_id, chunk.title, chunk.doc_id, pieces, mentions, chunk.text, names)
