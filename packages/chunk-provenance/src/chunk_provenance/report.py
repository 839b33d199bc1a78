"""One HTML page of a run: the learning dynamics, then the sections that other commands wrote.

The page needs nothing else: style and figures are inside, there are no scripts, every text is escaped.
"""

import base64
import os
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from chunk_provenance.dynamics_section import dynamics_section
from chunk_provenance.figures import LARGE, SMALL, draw_svg
from chunk_provenance.joining import Dynamics

NUMBER = ' class="number"'
INTRODUCTION = (
    "A language model was trained on text whose every passage is known, and asked the same questions at many "
    "checkpoints. This page joins the two: when the run had read a fact, and when the model knew it. "
    "An exposure is one training update on one passage that mentions the fact's subject and its answer. "
    "A fact is known if the right answer is the most likely of all candidates, and learned at the first "
    "checkpoint from which it stays known for $consecutive checkpoints in a row."
)
RHO_WORDS = (
    "Spearman's rho between exposures and how early a fact was learned$interval; "
    "1 if facts seen more often are always learned earlier, 0 if exposures say nothing"
)


def make_report(dynamics: Dynamics, sections: list[dict[str, Any]]) -> str:
    """The page as text: the dynamics first, then the sections in the given order.

    Args:
        dynamics: what `load_dynamics` reads.
        sections: what `read_section` reads.
    """
    consecutive = dynamics.info["parameters"]["consecutive"]
    return make_page(
        Template(INTRODUCTION).substitute(consecutive=consecutive),
        headline(dynamics.info),
        [dynamics_section(dynamics), *sections],
    )


def make_page(introduction: str, cards: list[tuple[str, str]], parts: list[dict[str, Any]]) -> str:
    """A page of sections.

    Args:
        introduction: what the page is about, in plain text.
        cards: the numbers that stand on top, each with what it is; the first one is the largest.
        parts: sections, as `section` makes them.
    """
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    contents = "".join(
        f'<li><a href="#section-{number}">{escape(part["title"])}</a></li>\n'
        for number, part in enumerate(parts, start=1)
    )
    return template.substitute(
        introduction=escape(introduction),
        cards="".join(_card(number, words) for number, words in cards),
        contents=contents,
        sections="".join(_section_html(number, part) for number, part in enumerate(parts, start=1)),
    )


def headline(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers that stand on top, each with what it is."""
    summary, early, steps = info["summary"], info["summary"]["earliness"], info["steps"]
    rho, interval = "undefined", ""
    if early["rho"] is not None:
        rho = f"{early['rho']:.2f}"
        interval = f" (95% interval {early['low']:.2f} to {early['high']:.2f})"
    asked = f"facts, asked with {summary['probes']:,} probes at {len(steps)} checkpoints"
    return [
        (rho, Template(RHO_WORDS).substitute(interval=interval)),
        (f"{summary['facts']:,}", asked),
        (f"{summary['facts_seen']:,}", f"of them were seen at least once up to step {steps[-1]:,}"),
        (
            f"{summary['learned']:,}",
            f"were learned; {early['known_at_start']:,} more were known before training",
        ),
        (f"{summary['known_at_end']:,}", f"are known at the last checkpoint, step {steps[-1]:,}"),
    ]


def _card(number: str, words: str) -> str:
    return f'<div class="card"><b>{escape(number)}</b><span>{escape(words)}</span></div>\n'


def _section_html(number: int, part: dict[str, Any]) -> str:
    pieces = [f'<section id="section-{number}">\n<h2>{escape(part["title"])}</h2>\n']
    if part["summary"]:
        pieces.append(f"<p>{escape(part['summary'])}</p>\n")
    if part["figures"]:
        # Figures that explain themselves stand side by side.
        small = len(part["figures"]) > 1 and not any(figure.get("note") for figure in part["figures"])
        figures = "".join(_figure_html(figure, small=small) for figure in part["figures"])
        pieces.append(f'<div class="figures{" small" if small else ""}">\n{figures}</div>\n')
    if part["passages"]:
        in_order = any(passage.get("step") is not None for passage in part["passages"])
        pieces.append(f"<h3>Passages{', in the order of reading' if in_order else ''}</h3>\n")
        if any(kind == "answer" for passage in part["passages"] for *_, kind in passage.get("spans", [])):
            pieces.append('<p class="legend"><mark class="subject">subject</mark> <mark>answer</mark></p>\n')
        pieces += [_passage_html(passage) for passage in part["passages"]]
    pieces += [_table_html(table) for table in part["tables"]]
    if part["command"]:
        pieces.append(f'<p class="command">Made by <code>{escape(part["command"])}</code></p>\n')
    return "".join([*pieces, "</section>\n"])


def _figure_html(figure: dict[str, Any], *, small: bool) -> str:
    svg = base64.b64encode(draw_svg(figure, size=SMALL if small else LARGE).encode()).decode()
    title, note = figure.get("title", ""), figure.get("note", "")
    return (
        f"<figure>\n<figcaption><h3>{escape(title)}</h3></figcaption>\n"
        f'<img alt="{escape(describe_figure(figure))}" src="data:image/svg+xml;base64,{svg}">\n'
        + (f"<p>{escape(note)}</p>\n" if note else "")
        + "</figure>\n"
    )


def describe_figure(figure: dict[str, Any]) -> str:
    """A figure in words, for those who cannot see it: what it shows, where each series begins and ends."""
    kind = {"line": "Line chart", "bar": "Bar chart", "heatmap": "Heat map"}[figure["kind"]]
    words = [
        f"{kind}: {figure.get('title', '')}. {figure.get('y_label', '')} by {figure.get('x_label', '')}."
    ]
    for series in figure["series"]:
        points = [(x, y) for x, y in zip(series["x"], series["y"], strict=True) if y is not None]
        if points:
            shown = points if len(points) <= 8 else [points[0], points[-1]]
            values = ", ".join(f"{y:g} at {_one_line(x)}" for x, y in shown)
            words.append(f"{series.get('label', '')}: {values}.")
    return " ".join(words)


def _one_line(x: Any) -> str:
    return str(x).replace("\n", " ")


def _table_html(table: dict[str, Any]) -> str:
    numeric = [False, *_numeric_columns(table)[1:]]  # the first column names its row
    head = "".join(
        f'<th scope="col"{NUMBER if right else ""}>{escape(str(column))}</th>'
        for column, right in zip(table["columns"], numeric, strict=True)
    )
    rows = "".join(_row_html(row, numeric) for row in table["rows"])
    caption = f"<caption>{escape(table['title'])}</caption>" if table.get("title") else ""
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>"
    return f'<div class="table" tabindex="0"><table>{caption}\n{body}</table></div>\n'


def _row_html(row: list[Any], numeric: list[bool]) -> str:
    first = f'<th scope="row">{escape(show_value(row[0]))}</th>' if row else ""
    cells = (
        f"<td{NUMBER if right else ''}>{escape(show_value(value))}</td>"
        for value, right in zip(row[1:], numeric[1:], strict=True)
    )
    return f"<tr>{first}{''.join(cells)}</tr>\n"


def _numeric_columns(table: dict[str, Any]) -> list[bool]:
    columns = [[row[place] for row in table["rows"]] for place in range(len(table["columns"]))]
    return [any(isinstance(value, int | float) for value in column) for column in columns]


def show_value(value: Any) -> str:
    """A value of a table as one reads it.

    >>> [show_value(value) for value in (None, True, 12345, 0.123456, "a")]
    ['-', 'yes', '12,345', '0.1235', 'a']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _passage_html(passage: dict[str, Any]) -> str:
    text, pieces, at = passage["text"], [], 0
    for start, end, kind in sorted(passage.get("spans", [])):
        if start < at:  # a span inside an earlier one
            continue
        mark = '<mark class="subject">' if kind == "subject" else "<mark>"
        pieces.append(f"{escape(text[at:start])}{mark}{escape(text[start:end])}</mark>")
        at = end
    again = ", again at " + ", ".join(map(str, passage["again"])) if passage.get("again") else ""
    step = f"<b>step {passage['step']}{escape(again)}</b>" if passage.get("step") is not None else ""
    named = [escape(str(passage[name])) for name in ("title", "source") if passage.get(name)]
    return (
        f'<blockquote><p class="source">{" · ".join(filter(None, [step, *named]))}</p>\n'
        f"<p>{''.join(pieces)}{escape(text[at:])}</p></blockquote>\n"
    )


def write_report(page: str, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the page atomically.

    Raises:
        FileExistsError: `path` exists and `overwrite` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists: choose another place or give --overwrite")
    unfinished = path.with_name(path.name + ".tmp")
    # A lone surrogate, as broken text may hold, has no UTF-8.
    unfinished.write_bytes(page.encode("utf-8", errors="replace"))
    os.replace(unfinished, path)
