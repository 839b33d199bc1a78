"""Project mentions on chunks: pure functions on the positions of a batch of documents laid end to end.

A mention's tokens are all those that cover a character of it: from the first token of its first character to
the last token of its last (a character may be split over several tokens). A mention that crosses a border is
kept in every chunk that holds a part of it, clipped; `Projection.clipped` tells which.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """The kept parts of documents, one segment of a chunk each; positions in the batch, ascending."""

    token_start: Positions  # (pieces,)
    token_end: Positions
    char_start: Positions
    char_end: Positions
    chunk_token_start: Positions  # where the piece begins inside its chunk
    chunk_char_start: Positions


@dataclass(frozen=True)
class Projection:
    """One row per (mention, piece): the spans inside the piece's chunk."""

    mention: Positions  # (rows,) number of the mention
    piece: Positions  # (rows,) number of the piece
    token_start: Positions
    token_end: Positions
    char_start: Positions
    char_end: Positions
    clipped: npt.NDArray[np.bool_]
    """The chunk holds only a part of the mention."""


def find_tokens(
    char_start: Positions, char_end: Positions, *, mention_start: Positions, mention_end: Positions
) -> tuple[Positions, Positions]:
    """Token spans of character spans.

    Args:
        char_start: first character of each token, ascending, (tokens,).
        char_end: one past its last, ascending, (tokens,).
        mention_start: first character of each mention, (mentions,).
        mention_end: one past its last.

    The tokens of "a東b" where 東 is split in two:

    >>> find_tokens(np.array([0, 1, 1, 2]), np.array([1, 2, 2, 3]),
    ...             mention_start=np.array([1]), mention_end=np.array([2]))
    (array([1]), array([3]))
    """
    first = np.searchsorted(char_end, mention_start, side="right")
    last = np.searchsorted(char_start, mention_end, side="left")
    return first, last


def project(
    pieces: Pieces,
    *,
    token_start: Positions,
    token_end: Positions,
    char_start: Positions,
    char_end: Positions,
) -> Projection:
    """Where mentions, given by their token and character spans in the batch, stand inside the pieces.

    Rows come by piece, then by the mention's place in it; mentions in no piece have none.
    """
    first = np.searchsorted(pieces.token_end, token_start, side="right")
    beyond = np.searchsorted(pieces.token_start, token_end, side="left")
    counts = np.maximum(beyond - first, 0)
    mention = np.repeat(np.arange(len(token_start)), counts)
    within = np.arange(len(mention)) - np.repeat(np.cumsum(counts) - counts, counts)
    piece = first[mention] + within
    rows = Projection(
        mention,
        piece,
        *_clip(token_start[mention], token_end[mention], pieces.token_start[piece], pieces.token_end[piece]),
        *_clip(char_start[mention], char_end[mention], pieces.char_start[piece], pieces.char_end[piece]),
        clipped=(token_start[mention] < pieces.token_start[piece])
        | (token_end[mention] > pieces.token_end[piece]),
    )
    return _sort(rows, pieces)


def _clip(start: Positions, end: Positions, low: Positions, high: Positions) -> tuple[Positions, Positions]:
    """Spans cut to their pieces, counted from the pieces' starts."""
    return np.maximum(start, low) - low, np.minimum(end, high) - low


def _sort(rows: Projection, pieces: Pieces) -> Projection:
    """Rows by piece and place, the candidates of a span in their order, with spans inside the chunk."""
    order = np.lexsort((rows.char_end, rows.char_start, rows.piece))
    piece = rows.piece[order]
    tokens_before, chars_before = pieces.chunk_token_start[piece], pieces.chunk_char_start[piece]
    return Projection(
        rows.mention[order],
        piece,
        rows.token_start[order] + tokens_before,
        rows.token_end[order] + tokens_before,
        rows.char_start[order] + chars_before,
        rows.char_end[order] + chars_before,
        clipped=rows.clipped[order],
    )
