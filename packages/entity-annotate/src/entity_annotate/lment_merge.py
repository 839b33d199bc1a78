"""Merge four sources of evidence exactly as LMEnt's published code does, its faults included.

`merge.py` is the native way. What differs here: coverage may exceed 1, and with it a `coref` score; of two
linker scores for one span and entity the last counts, of two clusters the last; scores are rounded to two
decimals, where a cluster score takes part as NumPy rounds (to even), else as Python does; a linker mention
without confidence is an error. Candidates, which that code leaves in the order of a set, come best first.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from entity_annotate.merge import PRONOUNS, THRESHOLD, WEIGHTS, longest_common_substring

SOURCES = ("hyperlinks", "entity_linking", "coref", "coref_cluster")
LEFT_OUT = frozenset(("44471088", "62180015", "67215817"))
"""Pages that the published code skips without saying why."""

_ARTICLE = re.compile(r"(?:a|an|the)\b\s*", re.IGNORECASE)
_POSSESSIVE = re.compile(r"'s?$")


class Candidate(NamedTuple):
    """A link, or a mention of the linker, with its entity."""

    char_start: int
    char_end: int
    text: str
    entity: str
    name: str
    confidence: float


class Covering(NamedTuple):
    """A candidate that overlaps a coreferent mention, and the share of the mention that it covers."""

    candidate: Candidate
    coverage: float


@dataclass
class CorefMention:
    """One mention of a cluster and what is found out about it."""

    char_start: int
    char_end: int
    text: str
    linked: list[Covering] = field(default_factory=list)
    links: list[Covering] = field(default_factory=list)
    scores: dict[str, float] | None = None
    """By entity; None for a pronoun."""


@dataclass(frozen=True)
class ScoredCluster:
    """A cluster in which some mention has a candidate."""

    number: int
    mentions: list[CorefMention]
    entity_scores: dict[str, float]

    @property
    def is_kept(self) -> bool:
        """Whether any mention is sure enough of its entity."""
        return max((s for m in self.mentions for s in (m.scores or {}).values()), default=0.0) >= THRESHOLD


@dataclass(frozen=True)
class RecordEvidence:
    """The annotations of a document as the merge needs them."""

    links: list[Candidate]
    linked: list[Candidate]
    clusters: list[list[CorefMention]]


def merge_record(record: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Merge the annotations of a document; the value of its field `entities`.

    Args:
        record: with `hyperlinks_clean`, `entity_linking` and `coref`.
        labels: names of entities, where the annotations give none.

    Raises:
        ValueError: an annotation is not what it should be.

    >>> link = {"start": 0, "end": 3, "surface_form": "Ada", "uri": "Ada_Lovelace", "qcode": "Q7259"}
    >>> merge_record({"hyperlinks_clean": [link]}, {})[0]["candidates"][0]["aggregated_score"]
    0.4
    """
    evidence = read_evidence(record, labels)
    clusters = score_clusters(evidence)
    spans = _Spans()
    for source, candidates in (("hyperlinks", evidence.links), ("entity_linking", evidence.linked)):
        for found in candidates:
            spans.add(source, found[:3], found.entity, found.confidence, found.name)
    for cluster in clusters:
        for mention in cluster.mentions if cluster.is_kept else ():
            place = (mention.char_start, mention.char_end, mention.text)
            for entity, score in (mention.scores or {}).items():
                spans.add("coref", place, entity, score, labels.get(entity))
            for entity, score in cluster.entity_scores.items():
                spans.add("coref_cluster", place, entity, score, labels.get(entity))
    return spans.items()


def read_evidence(record: Mapping[str, Any], labels: Mapping[str, str]) -> RecordEvidence:
    """Read the annotations of a document; annotations without an entity are left out.

    Raises:
        ValueError: an annotation is not what it should be.
    """
    step = "hyperlinks_clean"
    try:
        links = [
            Candidate(m["start"], m["end"], m["surface_form"], m["qcode"], m["uri"].replace("_", " "), 1.0)
            for m in record.get(step) or []
            if m.get("qcode")
        ]
        step = "entity_linking"
        linked = [_read_linked(m, labels) for m in record.get(step) or [] if _entity_of(m)]
        step = "coref"
        coref = record.get(step) or {"clusters_char_offsets": [], "clusters_char_text": []}
        clusters = [
            [CorefMention(start, end, text) for (start, end), text in zip(spans, texts, strict=True)]
            for spans, texts in zip(coref["clusters_char_offsets"], coref["clusters_char_text"], strict=True)
        ]
        _check_types([*links, *linked], clusters)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"its {step!r} is not as LMEnt writes it: {what}") from error
    return RecordEvidence(links, linked, clusters)


def _entity_of(mention: Mapping[str, Any]) -> str | None:
    return (mention.get("predicted_entity") or {}).get("wikidata_entity_id")


def _read_linked(mention: Mapping[str, Any], labels: Mapping[str, str]) -> Candidate:
    predicted = mention["predicted_entity"]
    entity = predicted["wikidata_entity_id"]
    confidence = mention.get("entity_linking_model_confidence_score")
    if not isinstance(confidence, int | float):
        raise ValueError(f"the mention {mention['text']!r} has no confidence (LMEnt's code stops here, too)")
    name = predicted.get("human_readable_name") or labels.get(entity) or ""
    start = mention["start"]
    return Candidate(start, start + mention["ln"], mention["text"], entity, name, confidence)


def _check_types(candidates: list[Candidate], clusters: list[list[CorefMention]]) -> None:
    mentions: list[Candidate | CorefMention] = [*candidates, *chain.from_iterable(clusters)]
    for found in mentions:
        if not (isinstance(found.char_start, int) and isinstance(found.char_end, int)):
            raise TypeError(f"offsets {found.char_start!r} and {found.char_end!r} are no whole numbers")
        if not isinstance(found.text, str):
            raise TypeError(f"the text {found.text!r} is no string")


def score_clusters(evidence: RecordEvidence) -> list[ScoredCluster]:
    """Score all clusters in which some mention overlaps a candidate, weak ones included."""
    tables = [_by_place(evidence.linked), _by_place(evidence.links)]
    scored = []
    for number, mentions in enumerate(evidence.clusters):
        for mention in mentions:
            mention.linked, mention.links = (_overlapping(mention, table) for table in tables)
        if any(mention.linked or mention.links for mention in mentions):
            scored.append(ScoredCluster(number, mentions, _score_mentions(mentions)))
    return scored


_Table = tuple[list[tuple[int, int, Candidate]], int]


def _by_place(candidates: Sequence[Candidate]) -> _Table:
    """Candidates by start, with their numbers, and the longest one's length."""
    table = sorted((found.char_start, number, found) for number, found in enumerate(candidates))
    return table, max((found.char_end - found.char_start for found in candidates), default=0)


def _overlapping(mention: CorefMention, table: _Table) -> list[Covering]:
    """The candidates that share a character with a mention, in the order they were given."""
    candidates, longest = table
    first = bisect_left(candidates, mention.char_start - longest, key=lambda row: row[0])
    beyond = bisect_left(candidates, mention.char_end, key=lambda row: row[0])
    reaching = [(number, c) for _, number, c in candidates[first:beyond] if c.char_end > mention.char_start]
    return [Covering(found, coverage(mention, found)) for _, found in sorted(reaching)]


def _score_mentions(mentions: list[CorefMention]) -> dict[str, float]:
    """Set the scores of a cluster's mentions; the scores of its entities."""
    counts: dict[str, float] = {}
    counted: set[tuple[str, int, int]] = set()
    named = [mention for mention in mentions if mention.text.lower() not in PRONOUNS]
    anchors = [mention for mention in named if mention.linked or mention.links]
    for mention in anchors:
        mention.scores = {}
        for found, share in mention.links + mention.linked:
            weight = found.confidence * share
            mention.scores[found.entity] = max(weight, mention.scores.get(found.entity, 0.0))
            key = (found.entity, found.char_start, found.char_end)
            if key not in counted:
                counted.add(key)
                counts[found.entity] = counts.get(found.entity, 0.0) + weight
    for mention in named:
        if mention.scores is None:
            mention.scores = _best_match(mention.text, anchors)
            for entity, score in mention.scores.items():
                counts[entity] = counts.get(entity, 0.0) + score
    exponentials = {entity: math.exp(count) for entity, count in counts.items()}
    total = sum(exponentials.values())
    return {entity: value / total for entity, value in exponentials.items()}


def _best_match(text: str, anchors: Iterable[CorefMention]) -> dict[str, float]:
    """The entity of the most similar candidate with its score, if it is similar enough."""
    best, entity = 0.0, ""
    for anchor in anchors:
        for found, _ in anchor.links + anchor.linked:
            score = similarity(text, found.text) * found.confidence
            if score > best:
                best, entity = score, found.entity
    return {entity: best} if best > THRESHOLD else {}


def normalize(text: str) -> str:
    """Drop a leading article and a trailing possessive.

    >>> normalize("the boy's")
    'boy'
    """
    return _POSSESSIVE.sub("", _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text)


def coverage(mention: CorefMention, found: Candidate) -> float:
    """Return the share of a mention that a candidate covers; more than 1 where both end in a possessive."""
    wanted = normalize(mention.text)
    if not wanted:
        return 0.0
    start = mention.char_start + mention.text.find(wanted)
    found_start = found.char_start + found.text.find(normalize(found.text))
    shared = min(mention.char_end, found.char_end) - max(start, found_start)
    return max(0, shared) / len(wanted)


@lru_cache(maxsize=65536)
def similarity(mention: str, anchor: str) -> float:
    """Return the harmonic mean of the shares of both texts that their longest common substring covers.

    >>> similarity("Marie's", "Marie Curie")
    0.625
    """
    u, v = normalize(mention), normalize(anchor)
    shared = longest_common_substring(u.lower(), v.lower())
    if not shared:
        return 0.0
    a, b = shared / len(v), shared / len(u)
    return 2 * a * b / (a + b)


class _Spans:
    """What is known of each span, in the order of their first appearance."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, int], str] = {}
        self._scores: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
        self._names: dict[tuple[int, int, str], str] = {}

    def add(
        self, source: str, place: tuple[int, int, str], entity: str, score: float, name: str | None
    ) -> None:
        """Note a score; a later one replaces an earlier one, the first name stays."""
        if score == 0:
            return
        start, end, text = place
        self._texts.setdefault((start, end), text)
        rounded = round(score * 100) / 100 if source == "coref_cluster" else round(score, 2)
        self._scores.setdefault((start, end), {}).setdefault(entity, {})[source] = rounded
        if name:
            self._names.setdefault((start, end, entity), name)

    def items(self) -> list[dict[str, Any]]:
        """The merged mentions in LMEnt's form."""
        return [
            {
                "char_start": start,
                "char_end": end,
                "text_mention": text,
                "candidates": sorted(
                    (self._candidate(start, end, entity) for entity in self._scores[start, end]),
                    key=lambda candidate: (-candidate["aggregated_score"], candidate["qid"]),
                ),
            }
            for (start, end), text in self._texts.items()
        ]

    def _candidate(self, start: int, end: int, entity: str) -> dict[str, Any]:
        found = self._scores[start, end][entity]
        scores = {source: found.get(source, 0.0) for source in SOURCES}
        weighted = sum(weight * score for weight, score in zip(WEIGHTS, scores.values(), strict=True))
        share = max(0.0, min(1.0, weighted / 10))
        aggregated = round(share * 100) / 100 if "coref_cluster" in found else round(share, 2)
        return {
            "qid": entity,
            "name": self._names.get((start, end, entity), ""),
            "scores_by_source": scores,
            "aggregated_score": aggregated,
        }
