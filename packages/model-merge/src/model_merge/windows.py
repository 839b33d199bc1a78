"""Cut documents into the windows that a language model is scored on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

WORD_BORDER = re.compile(r"\s+")


@dataclass(frozen=True)
class Window:
    """What a model reads in one go, and how many of its last predictions count."""

    document: int
    """Position of the document among those that are scored."""
    tokens: tuple[int, ...]
    """Context and targets; the model reads all but the last."""
    num_scored: int
    """The last so many tokens are targets."""

    @property
    def context(self) -> tuple[int, ...]:
        """The tokens before the targets."""
        return self.tokens[: -self.num_scored]

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.tokens[-self.num_scored :]


def cut_document(tokens: Sequence[int], *, prefix: int, length: int, document: int = 0) -> list[Window]:
    """Windows that score every token once, as OLMo-Eval and lm-eval's rolling windows do.

    The first window predicts from `prefix`. Later ones are full too: a short last one gets as much of the
    text before it as fits.

    Args:
        tokens: the document's.
        prefix: the token that stands before a text, the end token.
        length: the most tokens that the model reads.
        document: the number that the windows carry.

    >>> [(window.context, window.targets) for window in cut_document([11, 12, 13, 14], prefix=2, length=3)]
    [((2,), (11, 12, 13)), ((11, 12, 13), (14,))]
    """
    windows = []
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        read = [prefix, *tokens[:end]] if start == 0 else tokens[end - length - 1 : end]
        windows.append(Window(document, tuple(read), end - start))
    return windows


def pack(documents: Sequence[Sequence[int]], *, end: int, length: int) -> list[Window]:
    """Chunks of the documents laid end to end, each closed by `end`; the last, shorter chunk is dropped.

    The first token of a chunk is not scored, as in the validation loss of a training run.

    >>> [window.tokens for window in pack([[11, 12], [13, 14, 15]], end=2, length=3)]
    [(11, 12, 2), (13, 14, 15)]
    """
    stream = [token for document in documents for token in (*document, end)]
    starts = range(0, len(stream) - length + 1, length)
    return [Window(0, tuple(stream[start : start + length]), length - 1) for start in starts]


def batch_windows(
    windows: Sequence[Window], *, most_windows: int = 32, most_tokens: int = 20480
) -> list[list[Window]]:
    """Windows of similar length together, the longest first; a batch holds at most so many padded tokens."""
    ordered = sorted(windows, key=lambda window: -len(window.tokens))
    batches = []
    while ordered:
        size = max(1, min(most_windows, most_tokens // (len(ordered[0].tokens) - 1)))
        batches.append(ordered[:size])
        ordered = ordered[size:]
    return batches


def count_words(text: str) -> int:
    r"""Pieces between white space as OLMo-Eval counts them: an empty end counts too.

    >>> count_words("two words"), count_words("a line\n"), count_words("")
    (2, 3, 1)
    """
    return len(WORD_BORDER.split(text))
