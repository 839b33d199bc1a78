"""Results as people read them: on a terminal, or as a section of a report."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from entity_index.backend import Backend
from entity_index.query import Hit

Span = tuple[int, int]
WIDTH = 200
"""Characters of a passage."""


def print_hits(index: Backend, hits: Iterable[Hit]) -> None:
    """Print each hit: chunk, score, title, and a passage with the matching places."""
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    for hit in hits:
        chunk = index.chunk(hit.chunk_id)
        console.print(
            Text(f"chunk {hit.chunk_id}  score {hit.score:.2f}  {chunk.title or chunk.doc_id}", "cyan")
        )
        console.print(
            Text("   ").append_text(mark(*cut_passage(chunk.text, spans_of(hit), anchors_of(hit)), console))
        )


def spans_of(hit: Hit) -> list[Span]:
    """Where the query's entities and phrases stand in a hit, without overlaps."""
    return _merge({(m.char_start, m.char_end) for m in hit.mentions} | set(hit.phrases))


def anchors_of(hit: Hit) -> list[Span]:
    """What a passage must show: the first place of each entity, and of the phrases."""
    first: dict[str, Span] = {}
    for mention in hit.mentions:
        first.setdefault(mention.entity, (mention.char_start, mention.char_end))
    return _merge([*first.values(), *hit.phrases[:1]])


def cut_passage(
    text: str, spans: Sequence[Span], anchors: Sequence[Span], width: int = WIDTH
) -> tuple[str, list[Span]]:
    """The pieces of a text around the anchors, on one line, and the spans that lie in them.

    >>> cut_passage("one two three four five six", [(8, 13), (24, 27)], [(8, 13)], width=16)
    ('… two three four …', [(6, 11)])
    """
    anchors = anchors or [(0, 0)]
    pieces = _merge((_widen(text, anchor, width // len(anchors)) for anchor in anchors), gap=1)
    passage, inside = "", []
    for start, end in pieces:
        passage += " … " if passage else "… " * (start > 0)
        shift = len(passage) - start
        inside += [(left + shift, right + shift) for left, right in spans if start <= left and right <= end]
        passage += "".join(" " if character.isspace() else character for character in text[start:end])
    return passage + " …" * (pieces[-1][1] < len(text)), inside


def _widen(text: str, anchor: Span, width: int) -> Span:
    """A piece of about `width` characters with the anchor in its middle, cut between words."""
    margin = max(0, width - (anchor[1] - anchor[0])) // 2
    start = max(0, min(anchor[0] - margin, len(text) - width))
    end = min(len(text), max(anchor[1] + margin, start + width))
    while 0 < start < anchor[0] and not text[start - 1].isspace():
        start += 1
    while anchor[1] < end < len(text) and not text[end].isspace():
        end -= 1
    return start, end


def _merge(spans: Iterable[Span], *, gap: int = -1) -> list[Span]:
    """Sorted spans, joined where at most `gap` characters lie between them (-1: where they overlap)."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def mark(text: str, spans: Iterable[Span], console: Console) -> Text:
    """Emphasise spans: in bold on a terminal, in brackets elsewhere."""
    marked, done = Text(), 0
    left, right = ("", "") if console.is_terminal else ("[", "]")
    for start, end in spans:
        marked.append(text[done:start]).append(left + text[start:end] + right, style="bold yellow")
        done = end
    return marked.append(text[done:])


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | float]], *, title: str | None = None
) -> None:
    """Print a table as plain lines, numbers right-aligned."""
    rows = [list(row) for row in rows]
    lines = [list(columns), *([show_cell(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(isinstance(row[place], int | float) for row in rows) for place in range(len(columns))]
    if title is not None:
        print(title)
    for line in lines:
        cells = zip(line, widths, numeric, strict=True)
        print("  ".join(cell.rjust(n) if right else cell.ljust(n) for cell, n, right in cells).rstrip())


def show_cell(value: str | float) -> str:
    """A cell of a table: two decimals, thousands apart, text on one line."""
    if isinstance(value, str):
        return " ".join(value.split())
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def hit_record(index: Backend, hit: Hit) -> dict[str, Any]:
    """A hit for a program to read."""
    chunk = index.chunk(hit.chunk_id)
    return {**asdict(hit), "doc_id": chunk.doc_id, "title": chunk.title or None, "text": chunk.text}


def passage(index: Backend, hit: Hit) -> dict[str, Any]:
    """A hit for a report."""
    chunk = index.chunk(hit.chunk_id)
    text, spans = cut_passage(chunk.text, spans_of(hit), anchors_of(hit))
    return {
        "title": f"chunk {hit.chunk_id}, {chunk.title or chunk.doc_id}",
        "text": text,
        "spans": [[start, end, "subject"] for start, end in spans],
    }


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> dict[str, Any]:
    """A table for a report."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
