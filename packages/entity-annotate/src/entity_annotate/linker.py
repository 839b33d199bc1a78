"""Link names to entities with a lexicon learned from the corpus' own links; no downloads, no model.

A document's own links and names come first, the corpus' prior second. Confidence is made so that trustworthy
answers pass 0.6: a name this document itself links, or one that nearly always means one entity and was seen
often enough.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from entity_annotate.lexicon import Lexicon
from entity_annotate.matcher import Matcher
from entity_annotate.records import Document, Failure, Mention, Span, misplaced
from entity_annotate.titles import without_qualifier

LOCAL = 0.95  # the document itself says what the name means
NEAR = 0.85  # the document links to the entity under another name
DOUBTFUL = 0.55  # the document links the name to something the corpus seldom means by it
MAX_CANDIDATES = 3
MIN_SCORE = 0.1
MIN_LINK_PROBABILITY = 0.05  # below it a word is a common word that somebody once linked


class LexiconLinker:
    """Links every known name that is not already a link of the document.

    >>> from entity_annotate.wikitext import Link
    >>> link = Link(0, 12, "Ada Lovelace", entity="Q7259")
    >>> doc = Document("1", "Ada Lovelace wrote. Ada Lovelace coded.", links=[link])
    >>> lexicon = Lexicon()
    >>> lexicon.add_document(doc)
    >>> LexiconLinker(lexicon).link([doc])
    [[Mention(char_start=20, char_end=32, entity='Q7259', score=0.95)]]
    """

    name = "lexicon"

    def __init__(self, lexicon: Lexicon, *, fingerprint: str = "") -> None:
        """Take the lexicon, and what identifies the corpus it was learned from."""
        self.lexicon = lexicon
        self.fingerprint = hashlib.sha256(f"lexicon 1 {fingerprint}".encode()).hexdigest()
        self._matcher = lexicon.matcher()

    def link(self, docs: Sequence[Document]) -> list[Sequence[Mention] | Failure]:
        """Return the mentions of each document, sorted by place, the best candidate of a span first."""
        return [misplaced(doc, [link[:2] for link in doc.links]) or self._link_one(doc) for doc in docs]

    def _link_one(self, doc: Document) -> list[Mention]:
        local = LocalNames(doc)
        occupied: list[Span] = [link[:2] for link in doc.links]
        spans = self._matcher.find(doc.text, occupied)
        unknown = [name for name in local.meanings if name not in self.lexicon.meanings]
        if unknown:
            spans = sorted(spans + Matcher(unknown).find(doc.text, sorted(occupied + spans)))
        known: dict[str, list[tuple[str, float]]] = {}
        mentions = []
        for start, end in spans:
            surface = doc.text[start:end]
            if _is_cut(doc.text, start, end):
                continue
            if surface not in known:
                known[surface] = self.candidates(surface, local)
            mentions += [Mention(start, end, *found) for found in known[surface]]
        return mentions

    def candidates(self, surface: str, local: "LocalNames") -> list[tuple[str, float]]:
        """Return what a name may mean in a document, with confidence, the best first.

        Three cases: the document says what it means; it names an entity that the document links to under
        another name; or only the corpus speaks.
        """
        meanings = self.lexicon.meanings.get(surface, Counter())
        entity, confidence = local.meaning(surface, meanings)
        keyphraseness = self._keyphraseness(surface)
        if entity is None and self.lexicon.is_common_word(surface):  # Time at the start of a sentence
            keyphraseness = self.lexicon.link_probability(surface)
        if keyphraseness < MIN_LINK_PROBABILITY:
            return []
        found = [(entity, confidence * min(1.0, 2 * keyphraseness))] if entity is not None else []
        total = meanings.total()
        for candidate, count in meanings.most_common(MAX_CANDIDATES):
            if candidate != entity:
                found.append((candidate, count / (total + 1) * keyphraseness * (1 - confidence / 2)))
        best = sorted((item for item in found if item[1] >= MIN_SCORE), key=lambda item: (-item[1], item[0]))
        return best[:MAX_CANDIDATES]

    def _keyphraseness(self, surface: str) -> float:
        """Return how surely the words name something: proper names of several words do, common words "
        "seldom."""
        probability = self.lexicon.link_probability(surface)
        if not is_proper(surface):
            return probability
        words = surface.count(" ") + 1
        return max(probability, 1.0 if words > 1 else min(0.9, 0.5 + 4 * probability))


class LocalNames:
    """What names mean in one document: its title and bold names, then the labels of its links."""

    def __init__(self, doc: Document) -> None:
        """Collect the names; of a label with several targets the most frequent counts."""
        counts: dict[str, Counter[str]] = {}
        for link in doc.links:
            if link.entity is not None:
                counts.setdefault(doc.text[link.char_start : link.char_end], Counter())[link.entity] += 1
        self.meanings = {surface: found.most_common(1)[0][0] for surface, found in counts.items()}
        self.linked = {entity for found in counts.values() for entity in found}
        self.subject = doc.entity
        if doc.entity is not None:
            names = [name for name in (without_qualifier(doc.title or ""), *doc.names) if len(name) > 1]
            self.meanings.update(dict.fromkeys(names, doc.entity))

    def meaning(self, surface: str, meanings: Counter[str]) -> tuple[str | None, float]:
        """Return the entity the document gives a name, and how sure that is; (None, 0) if it says nothing."""
        entity = self.meanings.get(surface)
        if entity is None and self.subject in meanings and is_proper(surface):
            entity = self.subject  # a redirect or alias of the page itself
        if entity is not None:
            rival = max((count for other, count in meanings.items() if other != entity), default=0)
            doubtful = entity != self.subject and rival > 3 * meanings[entity]
            return entity, DOUBTFUL if doubtful else LOCAL
        near = [
            name for name in meanings if name in self.linked and meanings[name] >= 0.15 * meanings.total()
        ]
        return (near[0], NEAR) if len(near) == 1 and is_proper(surface) else (None, 0.0)


def is_proper(surface: str) -> bool:
    """Tell whether the words are written as a proper name: a capital or a digit in front of each main word.

    >>> is_proper("University of Oxford"), is_proper("sovereign state"), is_proper("The end of history")
    (True, False, False)
    """
    words = [word for word in surface.split() if len(word) > 3 or not word.islower()]
    return bool(words) and not any(word[0].islower() for word in words)


def _is_cut(text: str, start: int, end: int) -> bool:
    """Tell whether the span is one part of a hyphenated word: York in New-York."""
    before = text[start - 2 : start] if start >= 2 else ""
    after = text[end : end + 2]
    return (before[1:] == "-" and before[:1].isalnum()) or (after[:1] == "-" and after[1:].isalnum())
