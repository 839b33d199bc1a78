"""Cut what is no prose out of wikitext: comments, references, templates, tables, files.

Every function takes a whole text and returns a whole text. The scanners look only at brackets and never at
single characters, so that their cost goes with the amount of markup: together about 12 ms a megabyte of
articles.
"""

import html
import html.entities
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from entity_annotate.namespaces import Namespaces, prefix_key

# Opened by a tag and opaque up to its closing tag; MediaWiki takes whichever opens first.
_OPAQUE = re.compile(
    r"<(?:!--|(nowiki|pre|ref|references|math|chem|ce|gallery|timeline|score|hiero|graph|imagemap|inputbox|categorytree|"
    r"mapframe|maplink|syntaxhighlight|source|templatestyles|templatedata|indicator|includeonly|section)\b)",
    re.IGNORECASE,
)
_VERBATIM = ("nowiki", "pre")
_TABLE_BORDER = re.compile(r"\n[ \t:*#]*(\{\|)|\n[ \t]*\|\}")
_TABLE_REST = re.compile(r"\n[ \t]*(?:\||\{\|)[^\n]*")
_EMPTY_PARENTHESES = re.compile(r"\([ \t]*\x04[\x04 \t;,:]*\)")
_PARENTHESIS_START = re.compile(r"\((?:[ \t]*\x04[\x04 \t]*[;,:])+[ \t]*")
_PARENTHESIS_END = re.compile(r"\x04[\x04 \t;,:]*\)")
_PREFIX = re.compile(r"\[\[([^\[\]|:\n<>{}]{1,40}+):")
_LINK_BORDER = re.compile(r"\[\[|\]\]")

# Characters that mean something in wikitext, and stand-ins which no XML can contain, for text under <nowiki>.
_MARKUP = "[]{}|'<>=*#:;_&-!"
_STAND_INS = "".join(chr(0x0E + i) for i in range(len(_MARKUP)))
_PROTECT = str.maketrans(_MARKUP, _STAND_INS)
_RESTORE = str.maketrans(_STAND_INS, _MARKUP)


_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|([a-zA-Z][a-zA-Z0-9]{1,31}));")


def decode_entities(text: str) -> str:
    """Decode &amp; and the like; white space of any kind becomes a space, an unknown name stays."""
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(match: re.Match[str]) -> str:
    if match[1] is not None and match[1] + ";" not in html.entities.html5:
        return match[0]
    character = html.unescape(match[0])
    return " " if character.isspace() else character


def protect(text: str) -> str:
    """Replace the characters of markup by stand-ins that later steps do not see; \\x06 says there are any."""
    text = decode_entities(text).replace("\x06", "")
    rest = text.lstrip()
    return text[: len(text) - len(rest)] + "\x06" + rest.translate(_PROTECT) if rest else text


def restore(text: str) -> str:
    """Undo `protect`, wherever in the text it was used."""
    return text.translate(_RESTORE).replace("\x06", "") if "\x06" in text else text


def without_ranges(text: str, ranges: Iterable[tuple[int, int]], filler: str = "") -> str:
    """Return the text without the given ranges (sorted, disjoint), each replaced by the filler."""
    pieces = []
    position = 0
    for start, end in ranges:
        pieces.append(text[position:start])
        position = end
    pieces.append(text[position:])
    return filler.join(pieces)


def drop_opaque(text: str) -> str:
    """Drop comments, references and other tags whose content is not prose; protect what stands in "
    "<nowiki>."""
    pieces: list[str] = []
    position = 0
    unclosed: set[str] = set()
    for match in _OPAQUE.finditer(text):
        start = match.start()
        if start < position:
            continue
        end, kept = _opaque_end(text, match, unclosed)
        pieces += (text[position:start], kept)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _opaque_end(text: str, match: re.Match[str], unclosed: set[str]) -> tuple[int, str]:
    """Return where an opaque region ends, and what of it is kept."""
    if match[1] is None:  # a comment; one never closed runs to the end
        end = text.find("-->", match.end())
        return (len(text) if end < 0 else end + 3), ""
    opened = text.find(">", match.end())
    if opened < 0:
        return match.end(), match[0]
    tag = match[1].lower()
    if text[opened - 1] == "/" or tag in unclosed:
        return opened + 1, ""
    closing = _closing(tag).search(text, opened)
    if closing is None:
        unclosed.add(tag)
        return opened + 1, ""
    content = text[opened + 1 : closing.start()]
    return closing.end(), protect(content) if tag in _VERBATIM else ""


@lru_cache(maxsize=64)
def _closing(tag: str) -> re.Pattern[str]:
    return re.compile(rf"</{tag}\s*>", re.IGNORECASE)


def drop_templates(text: str) -> str:
    """Drop {{templates}} and {{{parameters}}}, nested ones too, and the parentheses they leave empty.

    Braces that are never closed stay, as in MediaWiki.
    """
    ranges = _template_ranges(text)
    if not ranges:
        return text
    text = without_ranges(text, ranges, "\x04")
    if "(\x04" in text or "( \x04" in text:
        text = _EMPTY_PARENTHESES.sub("\x05", text).replace(" \x05", "").replace("\x05", "")
        text = _PARENTHESIS_START.sub("(", text)
    if "\x04)" in text:
        text = _PARENTHESIS_END.sub("\x05)", text)
        for separator in ("; ", ", ", ": ", ";", ","):
            text = text.replace(separator + "\x05)", ")")
        text = text.replace("\x05", "")
    return text.replace("\x04", "")


def _template_ranges(text: str) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    open_runs: list[tuple[int, int]] = []  # (start, number of braces)
    for start, end in _brace_runs(text):
        if text[start] == "{":
            open_runs.append((start, end - start))
            continue
        while end - start >= 2 and open_runs:
            opened, count = open_runs.pop()
            matched = min(count, end - start, 3)
            opened += count - matched  # the innermost braces of the run match first
            start += matched
            while ranges and ranges[-1][0] > opened:
                ranges.pop()
            ranges.append((opened, start))
            if count - matched >= 2:
                open_runs.append((opened - count + matched, count - matched))
    return ranges


def _brace_runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield the runs of two and more equal braces in order; two `find`s are eight times as fast as one "
    "pattern."""
    opening, closing = text.find("{{"), text.find("}}")
    while closing >= 0:
        if 0 <= opening < closing:
            end = _run_end(text, opening + 2, "{")
            yield opening, end
            opening = text.find("{{", end)
        else:
            end = _run_end(text, closing + 2, "}")
            yield closing, end
            closing = text.find("}}", end)


def _run_end(text: str, position: int, brace: str) -> int:
    while text[position : position + 1] == brace:
        position += 1
    return position


def drop_tables(text: str) -> str:
    """Drop {| tables |}, nested ones too, and rows left over by templates that opened or closed one."""
    if "{|" in text:
        text = without_ranges(text, _table_ranges(text), "\n")
    return _TABLE_REST.sub("", text)


def _table_ranges(text: str) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    opened: list[int] = []
    for match in _TABLE_BORDER.finditer(text):
        if match[1]:
            opened.append(match.start())
        elif opened:
            start = opened.pop()
            while ranges and ranges[-1][0] > start:
                ranges.pop()
            ranges.append((start, match.end()))
    return ranges


def drop_files(text: str, namespaces: Namespaces) -> str:
    """Drop [[File:...]] with its caption and the links inside it."""
    ranges = []
    position = 0
    closed: dict[int, int] | None = None  # looked up once a file is never closed, so that many cost no more
    for match in _PREFIX.finditer(text):
        if match.start() < position or prefix_key(match[1]) not in namespaces.file:
            continue
        end = link_end(text, match.end()) if closed is None else closed.get(match.start())
        if end is not None:
            ranges.append((match.start(), end))
            position = end
        elif closed is None:
            closed = link_ends(text)
    return without_ranges(text, ranges) if ranges else text


def link_end(text: str, position: int) -> int | None:
    """Return where the link ends whose inside begins at the position, or None if it is never closed."""
    depth = 1
    for match in _LINK_BORDER.finditer(text, position):
        depth += 1 if match[0] == "[[" else -1
        if depth == 0:
            return _run_end(text, match.end(), "]")  # "...[http://x y]]]": the first closes the inner link
    return None


def link_ends(text: str) -> dict[int, int]:
    """Return where each link that is closed ends, by where it starts."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for match in _LINK_BORDER.finditer(text):
        if match[0] == "[[":
            opened.append(match.start())
        elif opened:
            ends[opened.pop()] = _run_end(text, match.end(), "]")
    return ends
