"""Where a chunk's mentions stand in its text, cut into pieces that a page can show one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from entity_index.query import SOURCES, Mention, Thresholds

MARGIN = 160
"""Characters of text on both sides of a mention in an excerpt."""
WHOLE = 500
"""A text up to so many characters is shown as it is."""


@dataclass(frozen=True)
class Piece:
    """Text that belongs to one mention, or to none."""

    text: str
    mention: Mention | None = None
    source: str = ""
    """The first of the four sources that makes the mention count."""


def source_of(mention: Mention, thresholds: Thresholds) -> str:
    """The source that is named as a mention's evidence: the first that passes; empty where none does.

    >>> source_of(Mention(0, 3, "Q1", 0.6, 0.0, 0.7, 0.9, 0.9, 0), Thresholds())
    'entity_linking'
    """
    active = thresholds.active()
    passing = (
        source
        for source in SOURCES
        if source in active and np.float32(getattr(mention, source)) >= np.float32(active[source])
    )
    return next(passing, "")


def mark_pieces(
    text: str, mentions: Sequence[Mention], thresholds: Thresholds, part: tuple[int, int] | None = None
) -> list[Piece]:
    """Cut a text (or the half-open part of it) at its mentions; where they overlap, the shortest shows.

    >>> ada = Mention(0, 12, "Q7259", 0.9, 1.0, 0.0, 0.0, 0.0, 0)
    >>> [(piece.text, piece.source) for piece in mark_pieces("Ada Lovelace met", [ada], Thresholds())]
    [('Ada Lovelace', 'hyperlink'), (' met', '')]
    """
    start, end = part or (0, len(text))
    owner = np.full(len(text), -1)
    longest_first = sorted(
        mentions, key=lambda mention: (mention.char_start - mention.char_end, mention.score)
    )
    for number, mention in enumerate(longest_first):
        owner[mention.char_start : mention.char_end] = number
    shown = owner[start:end]
    cuts = [start, *(np.flatnonzero(np.diff(shown)) + start + 1).tolist(), end]
    pieces = []
    for left, right in pairwise(cuts):
        if left < right:
            found = longest_first[owner[left]] if owner[left] >= 0 else None
            source = "" if found is None else source_of(found, thresholds)
            pieces.append(Piece(text[left:right], found, source))
    return pieces


def excerpt_parts(
    text: str, mentions: Sequence[Mention], *, margin: int = MARGIN, limit: int = 3
) -> list[tuple[int, int]]:
    """Half-open parts of a text to show around its first mentions: at most `limit`, cut between words.

    >>> met = Mention(6, 9, "Q1", 0.9, 1.0, 0.0, 0.0, 0.0, 0)
    >>> excerpt_parts("Never met " + "again " * 100, [met], margin=8)
    [(0, 15)]
    """
    if len(text) <= WHOLE:
        return [(0, len(text))]
    spans = sorted((mention.char_start, mention.char_end) for mention in mentions) or [(0, 0)]
    parts: list[tuple[int, int]] = []
    for char_start, char_end in spans:
        start, end = _widen(text, char_start, char_end, margin)
        if parts and start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], max(end, parts[-1][1]))
        elif len(parts) < limit:
            parts.append((start, end))
    return parts


def _widen(text: str, start: int, end: int, margin: int) -> tuple[int, int]:
    """A span with a margin on both sides that ends between words."""
    left, right = max(0, start - margin), min(len(text), end + margin)
    while 0 < left < start and not text[left - 1].isspace():
        left += 1
    while end < right < len(text) and not text[right].isspace():
        right -= 1
    return left, right
