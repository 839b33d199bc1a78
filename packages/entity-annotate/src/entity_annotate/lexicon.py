"""What the corpus itself teaches about names: which pages they lead to, and how often they are linked.

Memory goes with the number of distinct names: about 300 bytes each, 0.1 GB for a hundred thousand articles'
links.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from entity_annotate.matcher import MAX_WORDS, Matcher
from entity_annotate.records import Document
from entity_annotate.titles import without_qualifier

TITLE_WEIGHT = 3  # a page's title counts like three links that use it
NAME_WEIGHT = 2  # so does a redirect, or a name in bold on the page itself, like two
_GENDERED = re.compile(
    r"\b(?:([Hh]e|[Hh]is|[Hh]im)|([Ss]he|[Hh]er|[Hh]ers)|([Ii]ts?)|([Tt]hey|[Tt]heir|[Tt]hem))\b"
)
GENDERS = ("he", "she", "it", "they")


@dataclass
class Lexicon:
    """Counts of names. `meanings[surface][entity]` adds links, titles and other names; `linked` links "
    "only."""

    meanings: dict[str, Counter[str]] = field(default_factory=dict)
    linked: Counter[str] = field(default_factory=Counter)
    occurrences: Counter[str] = field(default_factory=Counter)
    genders: dict[str, str] = field(default_factory=dict)

    def add_document(self, doc: Document) -> None:
        """Count a document's links and its own names."""
        for link in doc.links:
            if link.entity is not None:
                surface = doc.text[link.char_start : link.char_end]
                self._count(surface, link.entity, 1)
                self.linked[surface] += 1
        if doc.entity is not None:
            self.add_name(without_qualifier(doc.title or ""), doc.entity, TITLE_WEIGHT)
            for name in doc.names:
                self.add_name(name, doc.entity, NAME_WEIGHT)
            gender = main_gender(doc.text)
            if gender is not None:
                self.genders[doc.entity] = gender

    def add_name(self, name: str, entity: str, weight: int = NAME_WEIGHT) -> None:
        """Count a name of an entity that is not a link: a title, a redirect, a name in bold."""
        self._count(name, entity, weight)

    def _count(self, surface: str, entity: str, weight: int) -> None:
        if is_name(surface):
            self.meanings.setdefault(surface, Counter())[entity] += weight

    def matcher(self) -> Matcher:
        """Return a matcher of all names."""
        return Matcher(self.meanings)

    def counting_matcher(self) -> Matcher:
        """Return a matcher of all names and of the common words that some of them may be: Time and time."""
        words = {name.lower() for name in self.meanings if " " not in name}
        return Matcher(words | self.meanings.keys())

    def is_common_word(self, surface: str) -> bool:
        """Tell whether a name of one word is more often written as a common word."""
        word = surface.lower()
        return word != surface and self.occurrences[word] > self.occurrences[surface]

    def link_probability(self, surface: str) -> float:
        """Return how often the name is linked where it stands; 0 for one never linked."""
        linked = self.linked[surface]
        return linked / max(linked, self.occurrences[surface], 1)

    def aliases(self) -> dict[str, list[str]]:
        """Return the names of each entity that two links, a title or another name vouch for, most used "
        "first."""
        found: dict[str, list[tuple[int, str]]] = {}
        for surface, meanings in self.meanings.items():
            for entity, count in meanings.items():
                if count >= 2 or surface not in self.linked:
                    found.setdefault(entity, []).append((-count, surface))
        return {entity: [surface for _, surface in sorted(names)] for entity, names in found.items()}


def is_name(surface: str) -> bool:
    """Tell what may stand in the lexicon: something with a letter, not a sentence, beginning with a word."""
    return (
        1 < len(surface) <= 100
        and surface[0].isalnum()
        and any(character.isalpha() for character in surface)
        and "\n" not in surface
        and surface.count(" ") < MAX_WORDS
    )


def count_occurrences(docs: Iterable[Document], matcher: Matcher) -> Counter[str]:
    """Count how often each name stands in the texts, linked or not."""
    counts: Counter[str] = Counter()
    for doc in docs:
        counts.update(doc.text[start:end] for start, end in matcher.find(doc.text))
    return counts


def main_gender(text: str, *, lead: int = 1500) -> str | None:
    """Tell by which pronoun a page speaks of its subject: the first pronouns of its lead, if they agree.

    The first counts most (1, 1/2, 1/3 ...); "he" and "she" must also be the more frequent one on the whole
    page.

    >>> main_gender("Ada was a mathematician. She wrote the first program.")
    'she'
    """
    votes = dict.fromkeys(GENDERS, 0.0)
    total = 0.0
    for rank, match in enumerate(_GENDERED.finditer(text[:lead]), start=1):
        votes[_gender(match)] += 1 / rank
        total += 1 / rank
    if not total:
        return None
    gender = max(GENDERS, key=lambda name: votes[name])
    if votes[gender] < 0.6 * total:
        return None
    whole = Counter(_gender(match) for match in _GENDERED.finditer(text))
    rival = {"he": "she", "she": "he"}.get(gender)
    return gender if rival is None or whole[gender] >= whole[rival] else None


def _gender(match: re.Match[str]) -> str:
    return GENDERS[(match.lastindex or 1) - 1]


def redirect_names(redirects: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (name, page) for each redirect, its qualifier in brackets removed."""
    for title, page in redirects.items():
        yield without_qualifier(title), page
