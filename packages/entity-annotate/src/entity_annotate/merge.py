"""Merge four sources of evidence into scored candidates: links, linker, coreference and its clusters.

The rules are those of LMEnt's aggregation (its native reading here; README, "The merge"): coverage never
exceeds 1, a span in two clusters keeps the better score, nothing is rounded, and the order of candidates is
fixed.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from entity_annotate.records import Cluster, Mention, Span

_PRONOUNS = "he she it they we i you him her us them me my your his their our its mine yours hers ours theirs"
PRONOUNS = frozenset(_PRONOUNS.split())
SOURCES = ("hyperlink", "entity_linking", "coref", "coref_cluster")
WEIGHTS = (4.0, 3.0, 2.0, 1.0)
THRESHOLD = 0.3

_ARTICLE = re.compile(r"(?:a|an|the)\b\s*", re.IGNORECASE)
_POSSESSIVE = re.compile(r"'s?\Z")


class Candidate(NamedTuple):
    """A linked or recognised span that may give its entity to a coreferent mention."""

    char_start: int
    char_end: int
    text: str
    entity: str
    confidence: float


@dataclass(frozen=True)
class Evidence:
    """One candidate entity of one span with its four scores; `cluster_id` counts the clusters of the "
    "document."""

    char_start: int
    char_end: int
    entity: str
    hyperlink: float = 0.0
    entity_linking: float = 0.0
    coref: float = 0.0
    coref_cluster: float = 0.0
    cluster_id: int | None = None

    @property
    def score(self) -> float:
        """Return the weighted sum (4H + 3EL + 2C + 1CC) / 10, at most 1."""
        scores = (self.hyperlink, self.entity_linking, self.coref, self.coref_cluster)
        return min(1.0, max(0.0, sum(w * s for w, s in zip(WEIGHTS, scores, strict=True)) / 10))


def merge_evidence(
    text: str, links: Sequence[Mention], linked: Sequence[Mention], clusters: Sequence[Cluster]
) -> list[Evidence]:
    """Merge a document's hyperlinks, linker mentions and clusters; sorted by span, then score, then entity.

    >>> text = "Ada wrote. She coded."
    >>> for e in merge_evidence(text, [Mention(0, 3, "Q7259", 1.0)], [], [[(0, 3), (11, 14)]]):
    ...     print(text[e.char_start:e.char_end], e.entity, e.hyperlink, e.coref, e.coref_cluster, e.score)
    Ada Q7259 1.0 1.0 1.0 0.7
    She Q7259 0.0 0.0 1.0 0.1
    """
    scores: dict[tuple[int, int, str], list[float]] = {}
    cluster_of: dict[Span, int] = {}
    for source, mentions in ((0, links), (1, linked)):
        for mention in mentions:
            _keep_best(scores, mention[:2], source, mention.entity, mention.score)
    nearby = _overlaps(text, linked, links)
    for number, cluster in enumerate(clusters):
        spans = list(dict.fromkeys(cluster))
        by_span, by_cluster = score_cluster(text, spans, nearby)
        if max((s for found in by_span.values() for s in found.values()), default=0.0) < THRESHOLD:
            continue
        for span in spans:
            cluster_of.setdefault(span, number)
            for entity, score in by_span.get(span, {}).items():
                _keep_best(scores, span, 2, entity, score)
            for entity, score in by_cluster.items():
                _keep_best(scores, span, 3, entity, score)
    rows = [
        Evidence(start, end, entity, link, linker, coref, cluster, cluster_of.get((start, end)))
        for (start, end, entity), (link, linker, coref, cluster) in scores.items()
    ]
    return sorted(rows, key=lambda row: (row.char_start, row.char_end, -row.score, row.entity))


def _keep_best(
    scores: dict[tuple[int, int, str], list[float]], span: Span, source: int, entity: str, score: float
) -> None:
    if score > 0:
        found = scores.setdefault((*span, entity), [0.0] * len(SOURCES))
        found[source] = max(found[source], score)


Overlaps = Callable[[Span], tuple[list[Candidate], list[Candidate]]]


def _overlaps(text: str, linked: Sequence[Mention], links: Sequence[Mention]) -> Overlaps:
    """Return a function from a span to the linker's candidates and the links that overlap it."""

    def prepare(mentions: Sequence[Mention]) -> tuple[list[Candidate], int]:
        found = sorted(Candidate(m[0], m[1], text[m[0] : m[1]], m.entity, m.score) for m in mentions)
        return found, max((c.char_end - c.char_start for c in found), default=0)

    tables = prepare(linked), prepare(links)

    def lookup(span: Span) -> tuple[list[Candidate], list[Candidate]]:
        first, second = (overlapping(span, *table) for table in tables)
        return first, second

    return lookup


def overlapping(span: Span, candidates: list[Candidate], longest: int) -> list[Candidate]:
    """Return the candidates (sorted) that share a character with the span; none is longer than `longest`."""
    start, end = span
    low, high = 0, len(candidates)
    while low < high:  # the first candidate that could reach into the span
        middle = (low + high) // 2
        if candidates[middle].char_start <= start - longest:
            low = middle + 1
        else:
            high = middle
    found = []
    for candidate in candidates[low:]:
        if candidate.char_start >= end:
            break
        if candidate.char_end > start:
            found.append(candidate)
    return found


def score_cluster(
    text: str, spans: Iterable[Span], nearby: Overlaps
) -> tuple[dict[Span, dict[str, float]], dict[str, float]]:
    """Score one cluster: per span and entity, and per entity for the whole cluster (a softmax)."""
    counts: dict[str, float] = {}
    counted: set[tuple[str, int, int]] = set()
    scores: dict[Span, dict[str, float]] = {}
    anchors: list[Candidate] = []
    named = []
    for span in spans:
        surface = text[slice(*span)]
        if surface.lower() in PRONOUNS:
            continue
        linked, links = nearby(span)
        anchors += links + linked
        if not (linked or links):
            named.append((span, surface))
            continue
        found = scores.setdefault(span, {})
        for candidate in links + linked:
            weight = candidate.confidence * coverage(span, surface, candidate)
            found[candidate.entity] = max(found.get(candidate.entity, 0.0), weight)
            key = (candidate.entity, candidate.char_start, candidate.char_end)
            if key not in counted:
                counted.add(key)
                counts[candidate.entity] = counts.get(candidate.entity, 0.0) + weight
    for span, surface in named:
        best, entity = _most_similar(surface, anchors)
        if entity is not None and best > THRESHOLD:
            scores[span] = {entity: best}
            counts[entity] = counts.get(entity, 0.0) + best
    return scores, softmax(counts)


def _most_similar(surface: str, anchors: Iterable[Candidate]) -> tuple[float, str | None]:
    best, entity = 0.0, None
    for anchor in dict.fromkeys((a.text, a.confidence, a.entity) for a in anchors):
        score = similarity(surface, anchor[0]) * anchor[1]
        if score > best:
            best, entity = score, anchor[2]
    return best, entity


def softmax(counts: Mapping[str, float]) -> dict[str, float]:
    """Return exp(count) / sum of exp(counts), for each entity."""
    if not counts:
        return {}
    largest = max(counts.values())
    weights = {entity: math.exp(count - largest) for entity, count in counts.items()}
    total = sum(weights.values())
    return {entity: weight / total for entity, weight in weights.items()}


def normalize_mention(text: str) -> str:
    """Drop a leading article and a trailing possessive.

    >>> normalize_mention("the boy's"), normalize_mention("The 's")
    ('boy', '')
    """
    return _POSSESSIVE.sub("", _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text)


def coverage(span: Span, surface: str, candidate: Candidate) -> float:
    """Return the share of the mention, without article and possessive, that the candidate covers; at most "
    "1."""
    wanted = normalize_mention(surface)
    if not wanted:
        return 0.0
    start = span[0] + surface.find(wanted)
    candidate_start = candidate.char_start + max(0, candidate.text.find(normalize_mention(candidate.text)))
    shared = min(span[1], candidate.char_end) - max(start, candidate_start)
    return min(1.0, max(0, shared) / len(wanted))


@lru_cache(maxsize=65536)
def similarity(mention: str, anchor: str) -> float:
    """Return the harmonic mean of the shares of both texts that their longest common substring covers.

    >>> round(similarity("the Bills", "Buffalo Bills"), 4)
    0.5556
    """
    u, v = normalize_mention(mention).lower(), normalize_mention(anchor).lower()
    shared = longest_common_substring(u, v)
    if not shared:
        return 0.0
    a, b = shared / len(v), shared / len(u)
    return 2 * a * b / (a + b)


def longest_common_substring(u: str, v: str) -> int:
    """Return its length.

    >>> longest_common_substring("bills", "buffalo bills")
    5
    """
    best = 0
    previous = [0] * (len(v) + 1)
    for character in u:
        current = [0]
        for j, other in enumerate(v):
            current.append(previous[j] + 1 if character == other else 0)
        best = max(best, *current)
        previous = current
    return best
