"""Clean wikitext into prose, keeping where every link is: `text[link.char_start:link.char_end]` is its label.

Links are replaced by their label between two marker characters that no XML can contain; every later step is a
regular expression over the whole text, and the offsets are counted last, when the markers leave. No step
looks at single characters in Python: reading and cleaning go at more than 20 MB of XML a second
(benchmarks/).
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from entity_annotate.markup import (
    decode_entities,
    drop_files,
    drop_opaque,
    drop_tables,
    drop_templates,
    restore,
)
from entity_annotate.namespaces import DEFAULT_NAMESPACES, Namespaces, prefix_key
from entity_annotate.titles import normalize_title, split_fragment, without_qualifier

_MARKERS = "\x01\x02\x03\x04\x05\x06\r"
_LINK = re.compile(r"\[\[([^\[\]|{}<>\n]*)(?:\|([^\[\]]*+(?:\[[^\[\]]*\][^\[\]]*+)*+))?\]\]")
_EXTERNAL = re.compile(r"\[(?:[a-z][a-z0-9+.-]{1,9}:|//)[^\s\[\]\x01\x02]*[ \t]*([^\[\]]*)\]", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:(br|hr|p|div|blockquote|center|li|ul|ol|dl|dd|dt|table|tr|td|th|caption|h[1-6])|abbr|b|bdi|bdo|big|cite|code|"
    r"data|del|dfn|em|font|i|includeonly|ins|kbd|mark|noinclude|nowiki|onlyinclude|poem|pre|q|rb|references|ref|rp|rt|"
    r"rtc|ruby|s|samp|section|small|span|strike|strong|sub|sup|time|tt|u|var|wbr|gallery|math)\b[^<>]*>",
    re.IGNORECASE,
)
_LABEL_MARKUP = re.compile(r"''|__|[\[&\n\u00a0]")
_QUOTES = re.compile("'{2,}")
_BOLD = re.compile(r"'''([^\n]+?)'''(?!')")
_HEADING = re.compile(r"\n(={1,6})[ \t]*([^\n]*?)[ \t]*\1[ \t]*(?=\n)")
_EMPTY_ITEM = re.compile(r"\n[*#:;]+[ \t]*(?=\n)")
_ITEM = re.compile(r"\n[*#:;]+[ \t]*")
_RULE = re.compile(r"\n-{4,}")
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_SPACES = re.compile("  +")
_BLANK_LINES = re.compile("\n\n\n+")
_SPACE = re.compile(r"[\s\u00a0]+")


class Link(NamedTuple):
    """A link in a clean text: the label is `text[char_start:char_end]`; a tuple, since a dump has "
    "millions."""

    char_start: int
    char_end: int
    target: str
    fragment: str = ""
    entity: str | None = None


@dataclass(frozen=True)
class CleanText:
    """What is left of a page: the text, its links, and the names in bold before the first heading."""

    text: str
    links: list[Link]
    bold: list[str]


def clean(wikitext: str) -> tuple[str, list[Link]]:
    """Return the prose of a wikitext and its links to articles, with offsets in code points.

    >>> text, links = clean("'''Ada''' met [[Charles Babbage|Babbage]]{{when}} in [[London]].")
    >>> text
    'Ada met Babbage in London.'
    >>> [(text[link.char_start : link.char_end], link.target) for link in links]
    [('Babbage', 'Charles Babbage'), ('London', 'London')]
    """
    page = clean_page(wikitext)
    return page.text, page.links


def clean_page(
    wikitext: str, *, namespaces: Namespaces = DEFAULT_NAMESPACES, first_letter: bool = True
) -> CleanText:
    """Clean one page: like `clean`, with the names in bold and the namespaces of its dump."""
    for marker in _MARKERS:
        if marker in wikitext:
            wikitext = wikitext.replace(marker, "\n" if marker == "\r" else "")
    text = "\n" + _drop_markup(wikitext, namespaces) + "\n"
    targets: list[tuple[str, str]] = []
    text = _mark_links(text, namespaces, first_letter, targets)
    if "[" in text:
        text = _EXTERNAL.sub(r"\1", text)
    bold = _bold_names(text)
    text = _shape(_drop_quotes(text))
    return _count_offsets(text, targets, bold)


def _drop_markup(text: str, namespaces: Namespaces) -> str:
    if "<" in text:
        text = drop_opaque(text)
    text = drop_templates(text)
    text = drop_tables("\n" + text)
    text = drop_files(text, namespaces)
    return _TAG.sub(_tag_space, text) if "<" in text else text


def _tag_space(match: re.Match[str]) -> str:
    if match[1] is None:
        return ""
    return "\n\n" if match[1] in "pP" else "\n"


def _mark_links(text: str, namespaces: Namespaces, first_letter: bool, targets: list[tuple[str, str]]) -> str:
    """Replace links by their labels, those to articles between markers; collect (page, fragment)."""

    def replace(match: re.Match[str]) -> str:
        target, label = match.groups()
        linked = True
        if ":" in target:
            kind = _kind(target, namespaces)
            if kind == "vanish":
                return ""
            linked = kind == "article"
            target = target.strip().removeprefix(":")
        if label is None:
            label = target
        elif not label:  # the pipe trick: [[Ada (name)|]] shows Ada
            label = without_qualifier(target.rpartition(":")[2].strip()).partition(", ")[0]
        if _LABEL_MARKUP.search(label):
            label = _clean_label(label)
        page, fragment = split_fragment(target) if "#" in target else (target, "")
        page = normalize_title(page, first_letter=first_letter)
        bare = label.strip()
        if not (linked and page and bare):
            return label
        targets.append((page, fragment))
        if bare == label:
            return f"\x01{label}\x02"
        before, after = label[: len(label) - len(label.lstrip())], label[len(label.rstrip()) :]
        return f"{before}\x01{bare}\x02{after}"

    return _LINK.sub(replace, text)


def _kind(target: str, namespaces: Namespaces) -> str:
    shown = target.lstrip().startswith(":")
    prefix = prefix_key(target.strip().removeprefix(":").partition(":")[0])
    if prefix in namespaces.file or prefix in namespaces.category or prefix in namespaces.language:
        return "label" if shown else "vanish"
    return "label" if prefix in namespaces.other else "article"


def _clean_label(label: str) -> str:
    """Do for a label what is later done for the text, so that no later step can empty it."""
    label = _MAGIC_WORD.sub("", _EXTERNAL.sub(r"\1", _QUOTES.sub("", label)))
    return _SPACE.sub(" ", decode_entities(label).replace("&", "\x05"))


def _bold_names(text: str) -> list[str]:
    end = text.find("\n=")
    names = []
    for name in _BOLD.findall(text[: end if end >= 0 else len(text)]):
        name = _QUOTES.sub("", name.replace("\x01", "").replace("\x02", ""))
        name = _SPACE.sub(" ", restore(decode_entities(name)).replace("\x05", "&")).strip()
        if name and len(name) <= 100 and name not in names:
            names.append(name)
    return names


def _drop_quotes(text: str) -> str:
    """Drop the apostrophes of bold and italics, keeping the one that is an apostrophe: ''The Times'''s."""
    if "''" not in text:
        return text
    if "'''" in text:
        text = _balance_lines(text)
    text = text.replace("'''''", "").replace("''''", "\x03")  # four: an apostrophe, then bold
    return text.replace("'''", "").replace("''", "")


def _balance_lines(text: str) -> str:
    pieces: list[str] = []
    position = done = 0
    while (found := text.find("'''", position)) >= 0:
        start = text.rfind("\n", 0, found) + 1
        position = text.find("\n", found)
        position = len(text) if position < 0 else position
        if text.count("'''", start, position) % 2 or text.find("''''", start, position) >= 0:
            pieces += (text[done:start], _balance(text[start:position]))
            done = position
    return "".join(pieces) + text[done:] if pieces else text


def _balance(line: str) -> str:
    """Turn one ''' into an apostrophe where a line opens bold and italics once too often, as MediaWiki "
    "does."""
    runs = list(_QUOTES.finditer(line))
    bold = [run for run in runs if len(run[0]) in (3, 4)]
    both = sum(len(run[0]) >= 5 for run in runs)
    italic = len(runs) - len(bold) - both
    if not ((len(bold) + both) % 2 and (italic + both) % 2 and bold):
        return line

    def preference(run: re.Match[str]) -> int:
        before = line[max(0, run.start() - 2) : run.start()]
        if before.endswith(" ") or not before:
            return 2
        return 0 if len(before) == 2 and before[0] == " " else 1

    chosen = min(bold, key=preference)
    return line[: chosen.start()] + "\x03" + line[chosen.end() :]


def _shape(text: str) -> str:
    """Bring headings, lists, entities and white space into the clean form."""
    if "\n=" in text:
        text = _HEADING.sub(r"\n\n\2\n\n", text)
    if "\n-" in text:
        text = _RULE.sub("\n", text)
    text = _ITEM.sub("\n", _EMPTY_ITEM.sub("", text))
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)
    return _collapse(restore(decode_entities(text)))


def _collapse(text: str) -> str:
    text = _SPACES.sub(" ", text.replace("\t", " ").replace("\u00a0", " "))
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    return _BLANK_LINES.sub("\n\n", text).strip("\n ")


def _count_offsets(text: str, targets: list[tuple[str, str]], bold: list[str]) -> CleanText:
    text = text.replace("\x03", "'").replace("\x05", "&")
    head, *marked = text.split("\x01")
    pieces = [head]
    links = []
    position = len(head)
    for piece, (page, fragment) in zip(marked, targets, strict=True):
        label, _, rest = piece.partition("\x02")
        end = position + len(label)
        links.append(Link(position, end, page, fragment))
        pieces += (label, rest)
        position = end + len(rest)
    return CleanText("".join(pieces), links, bold)
