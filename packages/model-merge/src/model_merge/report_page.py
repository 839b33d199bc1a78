"""An ablation report for people: one HTML page with its figure, and a report section (JSON)."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from model_merge.ablation_report import CENTRED, MEASURES, POOLED

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 0 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
td.number { text-align: right; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto }
code { background: #f3f3f3; padding: .1rem .3rem }
"""
SCOPE_NAMES = {POOLED: "all domains pooled", CENTRED: "all domains, each one's mean taken off"}

Table = dict[str, Any]


def summary(report: Mapping[str, Any]) -> str:
    """The finding in a paragraph."""
    proxy, *others = dict.fromkeys(row["proxy"] for row in report["correlations"])
    choice = next(
        row for row in report["decisions"] if row["proxy"] == proxy and row["scope"] == "mean of domains"
    )
    loss = f"{choice['regret']:.4f} nats a token worse than the best, of {choice['spread']:.4f} to the worst"
    compared = "; ".join(f"{other}: {_interval(_centred(report, other, 'spearman'))}" for other in others)
    return (
        f"{report['mixtures']} mixtures of {len(report['parts'])} parts on {len(report['domains'])} domains. "
        f"Log-perplexity of the {proxy} against the jointly trained model, each domain's mean taken off: "
        f"r = {_interval(_centred(report, proxy, 'pearson'))}, "
        f"rho = {_interval(_centred(report, proxy, 'spearman'))}. Of two mixtures it names "
        f"the better one in {_number(choice['decision_accuracy'])} of the cases (mean over domains); the "
        f"mixture it chooses is {'the best one' if choice['regret'] == 0 else loss}."
        + (f" For comparison, rho of the {compared}." if others else "")
    )


def _centred(report: Mapping[str, Any], proxy: str, statistic: str) -> Mapping[str, Any]:
    """The row of a proxy's log-perplexity over all domains, each one's mean taken off."""
    wanted = (proxy, CENTRED, MEASURES[0], statistic)
    rows: list[dict[str, Any]] = report["correlations"]
    return next(
        row for row in rows if (row["proxy"], row["scope"], row["measure"], row["statistic"]) == wanted
    )


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The report's tables, as a report section has them."""
    return [
        *(_correlation_table(report, measure) for measure in MEASURES),
        _decision_table(report),
        {
            "title": "Cost, in units of training (one part once)",
            "columns": report["costs"]["columns"],
            "rows": report["costs"]["rows"],
        },
    ]


def _correlation_table(report: Mapping[str, Any], measure: str) -> Table:
    rows: dict[tuple[str, str], list[str]] = {}
    for row in report["correlations"]:
        if row["measure"] == measure:
            rows.setdefault((row["proxy"], row["scope"]), []).append(_interval(row))
    return {
        "title": f"Correlation of {measure}, proxy against jointly trained (95% bootstrap interval)",
        "columns": ["proxy", "domain", "Pearson r", "Spearman rho", "Kendall tau"],
        "rows": [[proxy, SCOPE_NAMES.get(scope, scope), *found] for (proxy, scope), found in rows.items()],
    }


def _decision_table(report: Mapping[str, Any]) -> Table:
    tops = [key for key in report["decisions"][0] if key.startswith("top_")]
    rows = [
        [
            row["proxy"],
            row["scope"],
            _number(row["decision_accuracy"]),
            row["chosen"],
            row["best"],
            _number(row["regret"], 4),
            _number(row["spread"], 4),
            *(_number(row[top]) for top in tops),
        ]
        for row in report["decisions"]
    ]
    names = [f"{top.replace('_', ' ')} agreement" for top in tops]
    columns = ["proxy", "domain", "pairs ordered right", "chosen", "best", "regret", "best to worst", *names]
    return {
        "title": "Choosing a mixture by the proxy (regret in nats a token)",
        "columns": columns,
        "rows": rows,
    }


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "not defined"
    return f"{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _number(value: float | None, digits: int = 3) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def make_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report section, which `chunk-provenance report` puts into a page."""
    centred = [
        row
        for row in report["correlations"]
        if row["measure"] == MEASURES[0] and row["statistic"] == "spearman" and row["value"] is not None
    ]
    proxies = list(dict.fromkeys(row["proxy"] for row in centred))
    series = []
    for proxy in proxies:
        rows = [row for row in centred if row["proxy"] == proxy]
        values = {
            key: [row[name] for row in rows] for key, name in (("y", "value"), ("low",) * 2, ("high",) * 2)
        }
        series.append({"label": proxy, "x": [row["scope"] for row in rows], **values})
    figure = {
        "title": "Spearman's rho between proxies and jointly trained models",
        "kind": "bar",
        "x_label": "domain",
        "y_label": "rho",
        "series": series,
    }
    return {
        "format": "report-section",
        "version": 1,
        "title": "Merged proxies against jointly trained models",
        "command": command_line(),
        "summary": summary(report),
        "tables": tables(report),
        "figures": [figure],
    }


def command_line() -> str:
    """The command that is running, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def make_page(report: Mapping[str, Any], scatter: str) -> str:
    """One HTML page that needs nothing beside it.

    Args:
        report: as `make_report` gives it.
        scatter: the figure, as SVG.
    """
    svg = scatter[scatter.index("<svg") :]
    left_out = "".join(f"<li>Not compared: {escape(sentence)}.</li>" for sentence in report["left_out"])
    soup = report["greedy_soup"]
    if soup is not None:
        left_out += f"<li>Greedy soup by the mean over domains: {escape('+'.join(soup['members']))}.</li>"
    body = "".join(_html_table(table) for table in tables(report))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        "<title>Merged proxies against jointly trained models</title>\n"
        f"<style>{STYLE}</style>\n<h1>Merged proxies against jointly trained models</h1>\n"
        f"<p>{escape(summary(report))}</p>\n<ul>{left_out}</ul>\n{svg}\n{body}"
        f"<p>Made by <code>{escape(command_line())}</code>. Intervals: {report['bootstrap']['resamples']} "
        f"resamples of the mixtures, seed {report['bootstrap']['seed']}.</p>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table["columns"])
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table["rows"])
    return f"<h2>{escape(table['title'])}</h2>\n<table>\n<tr>{head}</tr>\n{rows}</table>\n"


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f'<td class="number">{value:,.6g}</td>' if isinstance(value, float) else _whole(value)
    return f"<td>{escape(str(value))}</td>"


def _whole(value: int) -> str:
    return f'<td class="number">{value:,}</td>'


def chosen_proxy(report: Mapping[str, Any]) -> str:
    """The proxy that the scatter shows: the first kind of merge."""
    first: str = report["correlations"][0]["proxy"]
    return first


def scatter_labels(report: Mapping[str, Any], proxy: str) -> dict[str, str]:
    """Below each domain's name: r and rho of log-perplexity."""
    labels: dict[str, list[str]] = {}
    symbols = {"pearson": "r", "spearman": "rho"}
    for row in report["correlations"]:
        if (row["proxy"], row["measure"]) == (proxy, MEASURES[0]) and row["statistic"] in symbols:
            labels.setdefault(row["scope"], []).append(
                f"{symbols[row['statistic']]} = {_number(row['value'], 2)}"
            )
    return {scope: ", ".join(parts) for scope, parts in labels.items()}


def write_text(text: str, path: Path) -> None:
    """Write a text atomically."""
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write bytes atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def csv_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; lists with + between their items."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(["+".join(v) if isinstance(v, list) else v for v in row.values()])
    return out.getvalue()
