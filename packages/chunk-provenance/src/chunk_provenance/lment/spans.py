"""Token spans of mentions, and the mentions of a chunk, as LMEnt's code finds them.

Its rule takes the first token that holds a mention's first character and the first that holds its last. A
character may be split over several tokens; a mention that ends in such a one is cut short, and LMEnt's code
then fails an assertion and drops the whole document without a word. `find_token_spans` says which mentions
these are. Stores built by this package take the last token of the last character instead (`find_tokens` in
projecting.py), also with `--packing lment`, and drop no document.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chunk_provenance.packing import Positions

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenSpans:
    """Tokens of mentions in their document, half-open."""

    start: Positions  # (mentions,) -1 where the mention has no token
    end: Positions
    found: Flags
    """No token holds the mention's first or last character; LMEnt leaves the mention out."""
    cut_short: Flags
    """It ends in a character that has more tokens; LMEnt drops the whole document."""


def find_token_spans(
    char_start: Positions, char_end: Positions, *, mention_start: Positions, mention_end: Positions
) -> TokenSpans:
    """Token spans of the mentions of one document.

    Args:
        char_start: first character of each token, ascending, without the end token, (tokens,).
        char_end: one past its last character, ascending.
        mention_start: first character of each mention, (mentions,).
        mention_end: one past its last.

    The tokens of "a東b" where 東 is split in two:

    >>> found = find_token_spans(np.array([0, 1, 1, 2]), np.array([1, 2, 2, 3]),
    ...                          mention_start=np.array([0, 1]), mention_end=np.array([2, 3]))
    >>> found.start.tolist(), found.end.tolist(), found.cut_short.tolist()
    ([0, 1], [2, 4], [True, False])
    """
    num_tokens = len(char_start)
    first = np.searchsorted(char_end, mention_start, side="right")
    last = np.searchsorted(char_end, mention_end, side="left")
    found = (first < num_tokens) & (last < num_tokens)
    if num_tokens:
        found &= char_start[np.minimum(first, num_tokens - 1)] <= mention_start
        found &= char_start[np.minimum(last, num_tokens - 1)] < mention_end
    beyond = np.searchsorted(char_start, mention_end, side="left")
    cut_short = found & (beyond > last + 1)
    return TokenSpans(np.where(found, first, -1), np.where(found, last + 1, -1), found, cut_short)


def spans_in_chunk(
    char_start: Positions,
    char_end: Positions,
    *,
    token_start: int,
    token_end: int,
    mention_start: Positions,
    mention_end: Positions,
) -> tuple[Positions, Positions, Positions]:
    """Which mentions of a document lie wholly inside a chunk, and where.

    Args:
        char_start: first character of each token of the document, without the end token, (tokens,).
        char_end: one past its last.
        token_start: the chunk's first token in the document.
        token_end: one past its last, the end token included if it holds it.
        mention_start: first character of each mention in the document, (mentions,).
        mention_end: one past its last.

    Returns:
        Numbers of the mentions, and their first and one past their last characters inside the chunk's text.
    """
    first = char_start[token_start]
    stop = char_end[min(token_end, len(char_end)) - 1]
    inside = np.flatnonzero((first <= mention_start) & (mention_end <= stop))
    return inside, mention_start[inside] - first, mention_end[inside] - first
