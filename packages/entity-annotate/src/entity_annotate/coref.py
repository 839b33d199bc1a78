"""Simple coreference without a model: partial names of people, and pronouns, by the evidence of the document.

It starts from the names that links and linker found, and abstains where the text gives no clear answer.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from entity_annotate.lexicon import Lexicon, main_gender
from entity_annotate.records import Cluster, Document, Failure, Mention, Span

TRUSTED = 0.6
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Dr|Mr|Ms|St|Jr|Sr|vs|ca))(?<![.!?])[.!?]++[\"')\]]*\s+(?=[\"'(]*[A-Z0-9])|\n+"
)
_CAPITALISED = re.compile(r"\b[^\W\d_a-z][\w\u2019]*(?:-\w+)*\b")
_PRONOUN = re.compile(
    r"\b(?:(he|him|his|himself)|(she|her|hers|herself)|(it|its|itself)|(they|them|their|theirs))\b",
    re.IGNORECASE,
)
_EMPTY_IT = re.compile(
    r" (?:(?:is|was|has been|may be|might be|can be|would be) (?:not |also |only |thus )*"
    r"(?:\w+ )?(?:that|to|if|whether|until|when|because|possible|likely)\b|"
    r"(?:seems?|appears?|rains?|takes|took|follows) )"
)
_GENDERS = ("he", "she", "it", "they")
_PARTICLES = "von van de der den la le du da di dos del della bin ibn al el ter zu"
_NAME_PARTICLES = frozenset(_PARTICLES.split())
_WORDS = (
    "The A An In On At By For From Of And But Or As It He She They His Her Its Their This That These Those "
    "There When While After Before During Sir Lady Lord Dr Mr Mrs Ms St Saint King Queen Prince Princess "
    "Emperor Empress Pope President Count Countess Duke Duchess Baron January February March April May June "
    "July August September October November December Monday Tuesday Wednesday Thursday Friday Saturday "
    "Sunday"
)
_NOT_NAMES = frozenset(_WORDS.split())


@dataclass
class _Entity:
    """An entity named in the document: its spans in order, and the pronoun it takes, if known."""

    spans: list[Span] = field(default_factory=list)
    gender: str | None = None
    parts: set[str] = field(default_factory=set)


class SimpleCoref:
    """Partial names and pronouns.

    >>> text = "Ada Lovelace was born in London. Lovelace met Babbage. She wrote."
    >>> doc = Document("1", text, title="Ada Lovelace", entity="Q7259")
    >>> coref = SimpleCoref(Lexicon(genders={"Q7259": "she"}))
    >>> clusters = coref.resolve([doc], [[Mention(0, 12, "Q7259", 0.95)]])
    >>> [[text[slice(*span)] for span in cluster] for cluster in clusters[0]]
    [['Ada Lovelace', 'Lovelace', 'She']]
    """

    name = "simple"

    def __init__(self, lexicon: Lexicon) -> None:
        """Take the lexicon, which knows the pronouns that pages use of their subjects."""
        self.fingerprint = hashlib.sha256(b"simple coreference 1").hexdigest()
        self._genders = lexicon.genders

    def resolve(
        self, docs: Sequence[Document], mentions: Sequence[Sequence[Mention]]
    ) -> list[Sequence[Cluster] | Failure]:
        """Return the clusters of each document: one per entity that is spoken of again."""
        return [
            _Resolution(doc, found, self._genders).clusters()
            for doc, found in zip(docs, mentions, strict=True)
        ]


class _Resolution:
    """The state of resolving one document: what is named where, and what each sentence speaks of."""

    def __init__(self, doc: Document, mentions: Sequence[Mention], genders: Mapping[str, str]) -> None:
        self.doc = doc
        self.named = _named_spans(doc, mentions)
        self.sentence_starts = [0] + [match.end() for match in _SENTENCE_END.finditer(doc.text)]
        self.entities: dict[str, _Entity] = {}
        for start, end, entity in self.named:
            self.entities.setdefault(entity, _Entity()).spans.append((start, end))
        for name, entity_state in self.entities.items():
            entity_state.gender = genders.get(name)
        if doc.entity is not None:
            subject = self.entities.setdefault(doc.entity, _Entity())
            subject.gender = genders.get(doc.entity) or main_gender(doc.text)

    def clusters(self) -> list[Cluster]:
        added: dict[str, list[Span]] = {}
        for start, end, entity in self._partial_names():
            added.setdefault(entity, []).append((start, end))
        self.named = sorted(
            self.named + [(s, e, entity) for entity, spans in added.items() for s, e in spans]
        )
        for start, end, entity in self._pronouns():
            added.setdefault(entity, []).append((start, end))
        clusters = [sorted(set(self.entities[entity].spans + spans)) for entity, spans in added.items()]
        return sorted(cluster for cluster in clusters if len(cluster) > 1)

    def _partial_names(self) -> list[tuple[int, int, str]]:
        """Return surnames and first names of people standing alone, of whoever was last named with them."""
        owners: dict[str, set[str]] = {}
        for name, entity in self.entities.items():
            if entity.gender in ("he", "she"):
                for part in self._parts(name, entity):
                    owners.setdefault(part, set()).add(name)
        if not owners:
            return []
        found = []
        taken = _Taken(self.named, self.doc)
        for match in _CAPITALISED.finditer(self.doc.text):
            span = _without_possessive(match)
            names = owners.get(self.doc.text[slice(*span)])
            if names and not taken.overlaps(span) and self._stands_alone(span):
                owner = self._last_named(names, span[0])
                if owner is not None:
                    found.append((*span, owner))
        return found

    def _parts(self, name: str, entity: _Entity) -> set[str]:
        full = {self.doc.text[slice(*span)] for span in entity.spans}
        if name == self.doc.entity:
            full |= {self.doc.title or "", *self.doc.names}
        return {part for surface in full for part in name_parts(surface)}

    def _stands_alone(self, span: Span) -> bool:
        before = self.doc.text[max(0, span[0] - 30) : span[0]]
        if before[-1:] in ("", "\n") and self.doc.text[span[1] : span[1] + 1] in ("", "\n"):
            return False  # a heading
        after = self.doc.text[span[1] : span[1] + 30]
        left = re.search(r"([\w.'\u2019]+)[ -]$", before)
        right = re.match(r"[ -]([\w]+)", after)
        if left and left[1][0].isupper() and left[1] not in _NOT_NAMES:
            first_word = re.search(r"(?:^|[.!?]\s+|\n)[\w.]+ $", before)
            ends_sentence = left[1].endswith(".") and len(left[1]) > 3
            if not (first_word or ends_sentence):
                return False
        return not (right and (right[1][0].isupper() or after[0] == "-"))

    def _last_named(self, names: set[str], position: int) -> str | None:
        """Return the one of these entities whose name stands last before the position."""
        latest = []
        for name in names:
            spans = self.entities[name].spans
            before = bisect_left(spans, (position, position))
            if before:
                latest.append((spans[before - 1], name))
        if latest:
            return max(latest)[1]
        return self.doc.entity if self.doc.entity in names else None

    def _pronouns(self) -> list[tuple[int, int, str]]:
        found = []
        taken = _Taken(self.named, self.doc)
        for match in _PRONOUN.finditer(self.doc.text):
            gender = _GENDERS[(match.lastindex or 1) - 1]
            if taken.overlaps(match.span()):
                continue
            entity = self._antecedent(match.start(), gender)
            if entity is not None and (gender in ("he", "she") or self._is_referring(match)):
                found.append((*match.span(), entity))
        return found

    def _antecedent(self, position: int, gender: str) -> str | None:
        """Return whom a pronoun means: who this or the last sentence is about, else the document's subject.

        Without either, the only one of that gender named there. Lines are looked at one by one.
        """
        line = self.doc.text.rfind("\n", 0, position) + 1
        index = bisect_left(self.sentence_starts, position + 1) - 1
        near = []
        for start in self.sentence_starts[max(0, index - 1) : index + 1][::-1]:
            if start < line:
                break
            near += self._names_between(start, position)
            if near and near[-1][0] == start and self._takes(near[-1], gender):
                return near[-1][2]
            position = start
        if self.doc.entity is not None and self.entities[self.doc.entity].gender == gender:
            return self.doc.entity
        known = {name for _, _, name in near if self.entities[name].gender == gender}
        return known.pop() if len(known) == 1 else None

    def _names_between(self, start: int, end: int) -> list[tuple[int, int, str]]:
        """Return the names in a part of the text, the last first."""
        low, high = (bisect_left(self.named, (place,)) for place in (start, end))
        return self.named[low:high][::-1]

    def _takes(self, named: tuple[int, int, str], gender: str) -> bool:
        """Tell whether a pronoun may mean this name: it does for others, or the name may be a person's."""
        known = self.entities[named[2]].gender
        if known is None:
            return gender in ("he", "she") and bool(name_parts(self.doc.text[named[0] : named[1]]))
        return known == gender

    def _is_referring(self, match: re.Match[str]) -> bool:
        """Tell whether `it` stands for something: possessives do, and It that begins a sentence mostly."""
        word = match[0].lower()
        if word != "it":
            return word != "them"
        following = self.doc.text[match.end() : match.end() + 40]
        return match[0] == "It" and not _EMPTY_IT.match(following)


class _Taken:
    """Which characters belong to a name or a link already."""

    def __init__(self, named: Sequence[tuple[int, int, str]], doc: Document) -> None:
        spans = sorted({(start, end) for start, end, _ in named} | {link[:2] for link in doc.links})
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def overlaps(self, span: Span) -> bool:
        index = bisect_left(self._starts, span[1])
        return index > 0 and self._ends[index - 1] > span[0]


def _named_spans(doc: Document, mentions: Sequence[Mention]) -> list[tuple[int, int, str]]:
    """Return the trusted names in order, none overlapping: links, then the linker's best candidates."""
    spans = {(link.char_start, link.char_end): link.entity for link in doc.links if link.entity is not None}
    for mention in mentions:
        if mention.score >= TRUSTED:
            spans.setdefault(mention[:2], mention.entity)
    return sorted((start, end, entity) for (start, end), entity in spans.items())


def name_parts(surface: str) -> set[str]:
    """Return the words of a person's name that may stand for it alone.

    >>> sorted(name_parts("Ada King-Noel, Countess of Lovelace"))
    ['Ada', 'King-Noel']
    """
    words = surface.partition(",")[0].partition(" (")[0].split()
    while words and words[0] in _NOT_NAMES:
        words = words[1:]
    for index, word in enumerate(words):
        if word in ("of", "the"):
            words = words[:index]
            break
    if len(words) < 2 or not all(word[0].isupper() or word in _NAME_PARTICLES for word in words):
        return set()
    names = [
        word
        for word in (words[0], words[-1])
        if word[0].isupper() and not re.fullmatch(r"[A-Z.]+|Jr\.?|Sr\.?", word)
    ]
    return set(names) - _NOT_NAMES


def _without_possessive(match: re.Match[str]) -> Span:
    start, end = match.span()
    if match[0].endswith("\u2019s"):
        end -= 2
    return start, end
