"""Cut text into words, for searching phrases, as Lucene's standard tokenizer does.

That is Unicode's word segmentation (UAX #29) with what Lucene adds: letters and digits make words, with the
underscores beside them; an apostrophe, a full stop or a colon between two letters ("Ada's", "e.g") and a
comma or full stop between two digits ("1,024.5") stay inside; marks belong to what they stand on; an
ideograph, a hiragana and an emoji (with all its parts) is a word by itself; Thai, Lao, Khmer and Burmese are
cut at spaces only. Everything else separates. About 25 MB/s of ASCII, 3 MB/s of other text.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

MAX_WORD_LENGTH = 255
"""Longer words are cut into pieces of so many UTF-16 code units, which is how Lucene counts."""

SPACE_IN_WORD, STAND_IN = "\u202f", "\ue000"
"""The one space that a word may hold (in "10 000"), and the character that no word can hold."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """Half-open character spans of the words of a text, in order.

    >>> word_spans("Ada's no. 1,024!")
    [(0, 5), (6, 8), (10, 15)]
    """
    if text.isascii():
        spans = [match.span() for match in _ascii_word().finditer(text)]
        if "_" in text:
            spans = [(start, end) for start, end in spans if text[start:end].strip("_")]
        if max((end - start for start, end in spans), default=0) <= MAX_WORD_LENGTH:
            return spans
    return list(_word_spans(text))


def words(text: str) -> list[str]:
    """The words of a text, as they are written.

    >>> words("Ada's no. 1,024!")
    ["Ada's", 'no', '1,024']
    """
    if text.isascii() and "_" not in text:
        found: list[str] = _ascii_word().findall(text)
        if max(map(len, found), default=0) <= MAX_WORD_LENGTH:
            return found
    return [text[start:end] for start, end in word_spans(text)]


def spaced_words(text: str) -> str:
    """The words of a text with one space between them, and none inside.

    >>> spaced_words("Ada's no. 1,024!")
    "Ada's no 1,024"
    """
    return " ".join(words(text)).replace(SPACE_IN_WORD, STAND_IN)


def lower_case(text: str) -> str:
    """Lower case as Lucene makes it: character by character, each to one.

    >>> lower_case("\u0130STANBUL"), lower_case("ΟΔΟΣ")
    ('istanbul', 'οδοσ')
    """
    if "\u0130" not in text and "Σ" not in text:  # all others do not depend on what stands beside them
        return text.lower()
    return "".join("i" if character == "\u0130" else character.lower() for character in text)


def phrase_spans(text: str, phrase: str, *, case_sensitive: bool = False) -> list[tuple[int, int]]:
    """Where a phrase occurs in a text: half-open character spans, in order, which may overlap.

    >>> phrase_spans("A rose is a rose", "a ROSE")
    [(0, 6), (10, 16)]
    """
    spans, wanted = word_spans(text), words(phrase)
    found = [text[start:end] for start, end in spans]
    if not case_sensitive:
        found, wanted = [lower_case(word) for word in found], [lower_case(word) for word in wanted]
    size = len(wanted)
    starts = [i for i, word in enumerate(found) if word == wanted[0] and found[i : i + size] == wanted]
    return [(spans[i][0], spans[i + size - 1][1]) for i in starts]


@cache
def _ascii_word() -> re.Pattern[str]:
    """One word of ASCII, or underscores alone: what is left of the rules where all else cannot occur."""
    joint = r"(?:(?<=[A-Za-z])['.:](?=[A-Za-z])|(?<=\d)['.,;](?=\d))"
    return re.compile(rf"\w+(?:{joint}\w+)*", re.ASCII)


def _word_spans(text: str) -> Iterator[tuple[int, int]]:
    """The general way: a string with the class of each character, and the rules as a pattern over it."""
    classes = _classes(text)
    for match in _word().finditer(classes):
        start, end = match.span()
        if match.lastgroup == "junk":
            continue
        if end - start > MAX_WORD_LENGTH // 2 and _window(text, start) < end:
            yield from _pieces(text, classes, start, end)
        else:
            yield start, end


def _pieces(text: str, classes: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The words in a word that is too long: from each place the longest that the tokenizer can see."""
    while start < end:
        match = _word().match(classes, start, min(_window(text, start), end))
        if match is None or match.lastgroup == "junk":
            start += 1
        else:
            yield match.span()
            start = match.end()


def _window(text: str, start: int) -> int:
    """Where the longest possible word ends."""
    units = 0
    for place in range(start, min(start + MAX_WORD_LENGTH + 1, len(text))):
        units += 2 if text[place] > "\uffff" else 1
        if units > MAX_WORD_LENGTH:
            return place
    return len(text)


def _classes(text: str) -> str:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    letters: npt.NDArray[np.uint8] = _class_table()[codes]
    return letters.tobytes().decode("ascii")


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    """The class of every code point as a letter, (1114112,)."""
    table = np.full(0x110000, ord(" "), dtype=np.uint8)
    lines = files("entity_index").joinpath("word_classes.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("#"):
            codes, letter = line.split()
            first, _, last = codes.partition("..")
            table[int(first, 16) : int(last or first, 16) + 1] = ord(letter)
    return table


@cache
def _word() -> re.Pattern[str]:
    """One word over the letters of `word_classes.txt`.

    Every alternative is greedy and takes the longest word that begins there. The named group `junk` is what
    looks like the beginning of a word and is none; matching it keeps the search linear.
    """
    extend = "[xtzcvemTC]*"
    letter, digit, katakana, underscores = f"[ahi]{extend}", f"d{extend}", f"k{extend}", f"(?:_{extend})*"
    # a Hebrew letter keeps an apostrophe behind it, and a double quote before another one
    hebrew = f"h{extend}'{extend}", f'h{extend}"{extend}h{extend}'
    more_letters = f"{underscores}(?!{'|'.join(hebrew)}){letter}|[:.']{extend}{letter}"
    run_of_letters = f"{letter}(?:{more_letters})*"
    run_of_digits = f"{digit}(?:{underscores}{digit}|[,.']{extend}{digit})*"
    run = f"(?:{'|'.join(hebrew)}|{run_of_digits}|{run_of_letters})+"
    core = f"(?:{katakana}(?:{underscores}{katakana})*|{run})"
    word = f"{underscores}{core}(?:(?:_{extend})+{core})*{underscores}"
    sign = f"H{extend}|[st][sxtzcvemTC]*|R{extend}R{extend}"
    junk = "(?P<junk>(?:_(?:[xcveTC]|z(?!z*[pi]))*)+|z+)"
    return re.compile("|".join([_emoji_from_letter(), word, sign, _emoji(), junk]))


_MARKS = "[xtcmTCz]*"


def _emoji_tail(pictographs: str) -> str:
    """What may follow in an emoji: others behind a joiner, with skin tones and variation selectors."""
    behind = f"(?<=z)[{pictographs}]{_MARKS}"
    return f"(?:{behind}|ez+[{pictographs}]{_MARKS}|ezm{_MARKS}{behind})"


def _emoji() -> str:
    """An emoji, flag of a region or keycap."""
    rest = f"{_emoji_tail('pi')}*(?:e(?:zm{_MARKS})?)?"
    pictograph = f"(?:z*p|z+i){_MARKS}(?:eT+C|{rest})"
    skin_tone = f"m{_MARKS}(?:(?<=z)[pi]{_MARKS}{rest})?"
    keycap = "#[xtzmTC]*(?:c[xtzcmTC]*(?:ec[xtzcmTC]*)?|ec[xtzcmTC]*)"
    return f"{pictograph}|{skin_tone}|{keycap}"


def _emoji_from_letter() -> str:
    """A pictograph that is a letter, where the emoji is longer than the word: it holds one that is none."""
    rest = f"{_emoji_tail('pi')}*(?:e(?:zm{_MARKS})?)?"
    return f"i{_MARKS}{_emoji_tail('i')}*{_emoji_tail('p')}{rest}"
