"""Who gets the end token: it follows every document's text, and a dropped end of a document takes it along.

With `--eos end` (the default) a document whose end is in no chunk has no end token. With `--eos last` the end
token then stands in the place of the last token of the document's last chunk, so that lengths and chunk ids
stay what they are.
"""

from dataclasses import dataclass

import numpy as np

from chunk_provenance.packing import Positions


@dataclass(frozen=True)
class Parts:
    """Parts of chunks, ascending: runs of tokens of one document each."""

    start: Positions  # (parts,)
    end: Positions
    chunk: Positions  # number of the chunk that holds the part
    chunk_token_start: Positions  # where the part begins inside it


def close_documents(start: Positions, end: Positions, doc_bounds: Positions) -> tuple[Parts, Positions]:
    """Give the last chunk of every document its end token.

    Args:
        start: first token of each chunk, ascending; each lies inside one document, (chunks,).
        end: one past its last token.
        doc_bounds: document `d` holds the tokens `doc_bounds[d] : doc_bounds[d + 1]`, the end token last.

    Returns:
        The parts of all chunks, and the numbers of the documents whose dropped end moved back by one token:
        its first token is now the one that gave way, and the end token no longer belongs to it.

    >>> parts, moved = close_documents(np.array([0, 4]), np.array([4, 6]), np.array([0, 9]))
    >>> parts.start.tolist(), parts.end.tolist(), parts.chunk.tolist(), moved.tolist()
    ([0, 4, 8], [4, 5, 9], [0, 1, 1], [0])
    """
    document = np.searchsorted(doc_bounds[1:], start, side="right")
    last = np.ones(len(document), dtype=bool)
    last[:-1] = document[1:] != document[:-1]
    stop = doc_bounds[document + 1]
    open_ = np.flatnonzero(last & (end < stop))
    shortened = end.copy()
    shortened[open_] -= 1
    starts, ends = np.concatenate([start, stop[open_] - 1]), np.concatenate([shortened, stop[open_]])
    chunk = np.concatenate([np.arange(len(start)), open_])
    inside = np.concatenate([np.zeros_like(start), shortened[open_] - start[open_]])
    order = np.argsort(starts, kind="stable")
    order = order[starts[order] < ends[order]]  # a chunk of one token is now its end token alone
    return Parts(starts[order], ends[order], chunk[order], inside[order]), document[open_]
