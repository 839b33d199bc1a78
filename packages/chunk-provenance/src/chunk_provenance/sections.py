"""Report sections: a command's result as one small JSON file, which `chunk-provenance report` turns into a
page.

Any program may write one; FORMAT.md says how.
"""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chunk_provenance.formats import FormatError, check_format, write_json

FIGURE_KINDS = ("line", "bar", "heatmap")
SCALES = ("linear", "log", "symlog")
SPAN_KINDS = ("subject", "answer")


def command_line() -> str:
    """The command that is running, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def section(
    title: str,
    *,
    command: str,
    summary: str = "",
    tables: Sequence[dict[str, Any]] = (),
    figures: Sequence[dict[str, Any]] = (),
    passages: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A section as `write_section` writes it; numbers that are not finite become null."""
    content = {
        "format": "report-section",
        "version": 1,
        "title": title,
        "command": command,
        "summary": summary,
        "tables": list(tables),
        "figures": list(figures),
        "passages": list(passages),
    }
    cleaned: dict[str, Any] = _finite(content)
    return cleaned


def write_section(content: dict[str, Any], path: str | Path) -> None:
    """Write a report section, with the folders above it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(content, path)


def read_section(path: str | Path) -> dict[str, Any]:
    """Read a report section and check all that the report relies on.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no report section, or a part of it is not as FORMAT.md says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no report section at {str(path)!r}: a command's --section writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{str(path)!r} is no report section: it holds a {type(content).__name__}")
    check_format(path, content.get("format"), content.get("version"), "report-section")
    parts = {name: content.get(name, []) for name in ("tables", "figures", "passages")}
    if problem := _find_problem(content, parts):
        raise FormatError(f"{str(path)!r} is not as FORMAT.md says: {problem}")
    texts = {name: content.get(name) or "" for name in ("title", "command", "summary")}
    return {**texts, **parts}


def _find_problem(content: dict[str, Any], parts: dict[str, Any]) -> str | None:
    """What is wrong with a section, if anything."""
    for name in ("title", "command", "summary"):
        if not isinstance(content.get(name, ""), str):
            return f"{name!r} is {content[name]!r}, expected text"
    for name, check in (
        ("tables", _table_problem),
        ("figures", _figure_problem),
        ("passages", _passage_problem),
    ):
        if not isinstance(parts[name], list):
            return f"{name!r} is a {type(parts[name]).__name__}, expected a list"
        for number, part in enumerate(parts[name], start=1):
            problem = check(part) if isinstance(part, dict) else f"it is a {type(part).__name__}"
            if problem:
                return f"{name[:-1]} {number}: {problem}"
    return None


def _table_problem(table: dict[str, Any]) -> str | None:
    columns, rows = table.get("columns"), table.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return "needs the lists 'columns' and 'rows'"
    uneven = [row for row in rows if not isinstance(row, list) or len(row) != len(columns)]
    return f"the row {uneven[0]!r} has not {len(columns)} values" if uneven else None


def _figure_problem(figure: dict[str, Any]) -> str | None:
    if figure.get("kind") not in FIGURE_KINDS:
        return f"the kind {figure.get('kind')!r} is none of {FIGURE_KINDS}"
    if figure.get("x_scale", "linear") not in SCALES:
        return f"the x_scale {figure['x_scale']!r} is none of {SCALES}"
    if not isinstance(figure.get("series"), list):
        return "needs a list 'series'"
    return next(filter(None, (_series_problem(series, figure["kind"]) for series in figure["series"])), None)


def _series_problem(series: Any, kind: str) -> str | None:
    if not isinstance(series, dict) or not isinstance(series.get("x"), list):
        return f"the series {str(series)[:60]!r} needs the lists 'x' and 'y'"
    length = len(series["x"])
    for name in ("y", "low", "high"):
        values = series.get(name, None if name == "y" else [None] * length)
        if not isinstance(values, list) or len(values) != length:
            return f"the series {series.get('label')!r} needs {length} values in {name!r}, as in 'x'"
        if not all(value is None or _is_number(value) for value in values):
            return f"the series {series.get('label')!r} has something else than numbers in {name!r}"
    if kind == "line" and not all(_is_number(value) for value in series["x"]):
        return f"the series {series.get('label')!r} has something else than numbers in 'x'"
    return None


def _passage_problem(passage: dict[str, Any]) -> str | None:
    text, spans = passage.get("text"), passage.get("spans", [])
    if not isinstance(text, str) or not isinstance(spans, list):
        return "needs a 'text', and 'spans' must be a list"
    for span in spans:
        if not (
            isinstance(span, list)
            and len(span) == 3
            and all(isinstance(position, int) for position in span[:2])
            and 0 <= span[0] <= span[1] <= len(text)
            and span[2] in SPAN_KINDS
        ):
            return f"the span {span!r} is not [start, end, {' or '.join(SPAN_KINDS)}] inside its text"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
