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
        self._names: dict[str, tuple[str, ...]] = {}  # up to the last word -> what may follow: "." in U.S.
        self._lengths: dict[str, tuple[int, ...]] = {}  # first word -> numbers of words, the largest first
        for name in names:
            self._add(name)

    def _add(self, name: str) -> None:
        words = list(_WORD.finditer(name))
        if not words or words[0].start() > 0 or len(words) > MAX_WORDS:
            return
        core, tail = name[: words[-1].end()], name[words[-1].end() :]
        first = words[0][0]
        lengths = self._lengths.get(first, ())
        if len(words) not in lengths:
            self._lengths[first] = tuple(sorted((*lengths, len(words)), reverse=True))
        if tail not in self._names.get(core, ()):
            self._names[core] = tuple(sorted((*self._names.get(core, ()), tail), key=len, reverse=True))

    def find(self, text: str, occupied: Iterable[Span] = ()) -> list[Span]:
        """Return the spans of names, the longest at each word, none touching an occupied span (sorted)."""
        found = []
        for low, high in _gaps(text, occupied):
            found += self._find_between(text, low, high)
        return found

    def _find_between(self, text: str, low: int, high: int) -> list[Span]:
        words = [word.span() for word in _WORD.finditer(text, low, high)]
        found = []
        position = low
        lengths_after = self._lengths.get
        tails_of = self._names.get
        for index, (start, end) in enumerate(words):
            lengths = lengths_after(text[start:end])
            if lengths is None or start < position:
                continue
            for length in lengths:
                if index + length > len(words):
                    continue
                end = words[index + length - 1][1]
                tails = tails_of(text[start:end])
                if tails is None:
                    continue
                tail = next((t for t in tails if text.startswith(t, end, high)), None)
                if tail is not None:
                    position = end + len(tail)
                    found.append((start, position))
                    break
        return found


def _gaps(text: str, occupied: Iterable[Span]) -> list[Span]:
    """Return the parts of the text between occupied spans, without the rest of a word that a link begins."""
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
