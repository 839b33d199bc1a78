"""What a judge reads of a chunk: a mention and the text around it."""

from dataclasses import dataclass

WIDTH = 130
"""Characters around a mention, half of them on each side."""


@dataclass(frozen=True)
class Window:
    """A mention with the text before and after it, on one line."""

    before: str
    mention: str
    after: str

    @property
    def text(self) -> str:
        """The whole window."""
        return self.before + self.mention + self.after


def window_around(text: str, char_start: int, char_end: int, width: int = WIDTH) -> Window:
    """Half of `width` on each side; what one side lacks at a border of the text, the other gets.

    White space is collapsed after the cut: each run of it becomes one space, none is left at the ends.

    >>> window_around("one two\\n three four five", 9, 14, width=8)
    Window(before='wo ', mention='three', after=' fou')
    >>> window_around("one two three four five", 0, 3, width=8)
    Window(before='', mention='one', after=' two thr')
    """
    left, right = char_start - width // 2, char_end + width - width // 2
    if left < 0:
        left, right = 0, right - left
    if right > len(text):
        left, right = max(0, left - (right - len(text))), len(text)
    before, mention, after = text[left:char_start], text[char_start:char_end], text[char_end:right]
    return Window(_collapse(before).lstrip(), _collapse(mention), _collapse(after).rstrip())


def _collapse(text: str) -> str:
    """Every run of white space as one space."""
    words = " ".join(text.split())
    if not words:
        return " " if text else ""
    return " " * text[0].isspace() + words + " " * text[-1].isspace()
