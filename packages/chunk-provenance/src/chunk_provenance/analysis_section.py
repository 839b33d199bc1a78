"""The tables and figures of an analysis, as report sections."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.analysis import Analysis
from chunk_provenance.dynamics import bin_labels
from chunk_provenance.sections import section

MIN_COUNT = 10  # a bar of fewer facts says nothing, and its whiskers hide the others
WORDS = {
    "shared_chunks": "chunks with both",
    "subject_chunks": "chunks with the subject",
    "answer_chunks": "chunks with the answer",
    "subject_popularity": "popularity of the subject",
    "answer_popularity": "popularity of the answer",
    "exposures": "exposures in the run",
}
ACCURACY_BY = {"exposures": "exposures_in_run"}
CHANGES = (("learned", "learned"), ("forgotten", "forgotten"), ("net", "net (learned - forgotten)"))
AT_RISK = (
    ("learned_at_risk", "learned (of not known)"),
    ("forgotten_at_risk", "forgotten (of known)"),
)
COMPUTE_SUMMARY = (
    "Share of questions answered at each checkpoint: all of them, and those about facts that many chunks "
    "name with subject and answer together. Bands are 95% intervals. {axis}"
)
PREDICTOR_SUMMARY = (
    "Share of questions answered at the last checkpoint, by how often the data name the subject, the answer "
    "and both, and by popularity. Bins are half-open: 10-99 holds 10 and not 100. Whiskers are 95% "
    f"intervals; bars of fewer than {MIN_COUNT} questions are left out of the figures, not of the table. The "
    "table of rank correlations says which number goes best with being known."
)
CHANGE_SUMMARY = (
    "Learned: not known at the first checkpoint of an interval, known at the second; forgotten: the "
    "reverse; net: their difference. A fact counts once per interval, in the bin of how often the run showed "
    "it within that interval (the last row: at least once). % are shares of all facts of the bin, risk % of "
    "those not known (learned) or known (forgotten) before. Whiskers are 95% intervals; bars of fewer than "
    f"{MIN_COUNT} facts are left out of the figures."
)
ONE_CHECKPOINT = "There are answers at one checkpoint only: learning and forgetting need two."
EXPOSURE_SUMMARY = (
    "Lines: the same facts at every checkpoint, by how often the run showed them in all. Bars: facts known "
    "at the last checkpoint, by how many updates ago they were last shown."
)


def introduction(analysis: Analysis) -> str:
    """What was joined."""
    info = analysis.info
    models = [model["model"] for model in info["models"] if model["model"]]
    names = (
        f"the models {', '.join(models)}"
        if len(models) > 1
        else f"the model {models[0]}"
        if models
        else "the model"
    )
    return (
        f"The text of every one of {info['num_updates']:,} training updates is known, and {names} answered "
        "questions at several checkpoints. This page joins the two: how often the data name a fact, when the "
        "run showed it, and when the model knew it. An exposure is one update on one chunk that names the "
        "fact's subject and its answer. A fact is known to a checkpoint that answers at least one of its "
        "questions."
    )


def cards(analysis: Analysis) -> list[tuple[str, str]]:
    """The numbers on top of the page."""
    models = analysis.info["models"]
    first, last = models[0], models[0]["steps"][-1]
    shares = " · ".join(f"{one['answered_at_end'] / one['questions']:.1%}" for one in models)
    names = ", ".join(one["model"] for one in models if one["model"])
    by = f" by {names}" if names else ""
    of_model = f" ({first['model']})" if len(models) > 1 else ""
    return [
        (shares, f"of {first['questions']:,} questions are answered{by} at the last checkpoint"),
        (f"{first['facts']:,}", f"facts were asked at {len(first['steps'])} checkpoints{of_model}"),
        (f"{first['facts_seen']:,}", f"of them were shown at least once up to step {last:,}"),
        (f"{first['known_at_end']:,}", f"are known at step {last:,}{of_model}"),
        (f"{analysis.info['num_updates']:,}", "updates are in the data order"),
    ]


def analysis_sections(analysis: Analysis) -> list[dict[str, Any]]:
    """The page's sections: accuracy and compute, predictors, changes, exposures, what does not match."""
    return [
        _compute_section(analysis),
        _predictor_section(analysis),
        _change_section(analysis),
        _exposure_section(analysis),
        _match_section(analysis),
    ]


def analysis_section(analysis: Analysis) -> dict[str, Any]:
    """All of it as one section of a larger page."""
    parts = analysis_sections(analysis)
    first = analysis.info["models"][0]
    return section(
        "Dynamics as in the LMEnt paper",
        command=analysis.info.get("command", ""),
        summary=f"{introduction(analysis)} {first['known_at_end']:,} of {first['facts']:,} facts are known "
        f"at step {first['steps'][-1]:,}.",
        tables=[table for part in parts for table in part["tables"]],
        figures=[figure for part in parts for figure in part["figures"]],
    )


def _rows(table: pa.Table, **equal: Any) -> pa.Table:
    for name, value in equal.items():
        table = table.filter(pc.equal(table[name], value))
    return table


def _models(analysis: Analysis) -> list[tuple[str, int, str]]:
    """Every model, its last step, and what to call it beside a label."""
    models = analysis.info["models"]
    return [(one["model"], one["steps"][-1], one["model"] if len(models) > 1 else "") for one in models]


def _percents(column: pa.ChunkedArray) -> list[float | None]:
    return [None if share is None else round(100 * share, 1) for share in column.to_pylist()]


def _band(table: pa.Table, names: Iterable[str] = ("accuracy", "low", "high")) -> dict[str, Any]:
    return {key: _percents(table[name]) for key, name in zip(("y", "low", "high"), names, strict=True)}


def _label(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _compute_section(analysis: Analysis) -> dict[str, Any]:
    has_flops = analysis.accuracy["flops"].null_count == 0
    large = bin_labels(analysis.info["parameters"]["edges"])[-2:]
    subsets = [("all", "all", "all questions")]
    subsets += [("shared_chunks", label, f"{label} shared chunks") for label in large]
    accuracy = _rows(analysis.accuracy, unit="question")
    figures = []
    several = len(_models(analysis)) > 1
    series = []
    for by, label, words in subsets:
        for model, _, name in _models(analysis):
            rows = _rows(accuracy, by=by, bin=label, model=model)
            rows = rows.filter(pc.greater_equal(rows["count"], MIN_COUNT))
            if has_flops:
                rows = rows.filter(pc.greater(rows["step"], 0))
            if rows.num_rows:
                x = rows["flops" if has_flops else "step"].to_pylist()
                series.append({"label": name if several else words, "x": x, **_band(rows)})
        if several or words == subsets[-1][2]:
            title = f"Accuracy: {words}" if several else "Accuracy over training"
            figures.append(_line_figure(title, series, has_flops=has_flops))
            series = []
    axis = "The x axis is training compute in FLOPs." if has_flops else "The x axis is the training step."
    return section(
        "Accuracy and compute", command="", summary=COMPUTE_SUMMARY.format(axis=axis), figures=figures
    )


def _line_figure(title: str, series: list[dict[str, Any]], *, has_flops: bool) -> dict[str, Any]:
    return {
        "title": title,
        "kind": "line",
        "x_label": "training compute (FLOPs)" if has_flops else "step",
        "x_scale": "log" if has_flops else "symlog",
        "y_label": "accuracy (%)",
        "series": series,
    }


def _predictor_section(analysis: Analysis) -> dict[str, Any]:
    at_end = _rows(analysis.accuracy, unit="question")
    figures = []
    for by, words in WORDS.items():
        series = []
        for model, last, name in _models(analysis):
            here = _rows(at_end, by=ACCURACY_BY.get(by, by), model=model, step=last)
            here = here.filter(pc.greater_equal(here["count"], MIN_COUNT))
            if here.num_rows:
                series.append({"label": name or "answered", "x": here["bin"].to_pylist(), **_band(here)})
        if series:
            figures.append(
                {
                    "title": f"By {words}",
                    "kind": "bar",
                    "x_label": words,
                    "y_label": "accuracy (%)",
                    "series": series,
                }
            )
    tables = [accuracy_by_bins(analysis, WORDS), predictor_table(analysis)]
    return section(
        "Which facts are known", command="", summary=PREDICTOR_SUMMARY, tables=tables, figures=figures
    )


def accuracy_by_bins(analysis: Analysis, numbers: Iterable[str]) -> dict[str, Any]:
    """Accuracy at each model's last checkpoint by bins of some numbers, a column a model."""
    at_end = _rows(analysis.accuracy, unit="question")
    cells: dict[tuple[str, str], list[Any]] = {}
    for place, (model, last, _) in enumerate(_models(analysis)):
        here = _rows(at_end, model=model, step=last)
        for by in numbers:
            for row in _rows(here, by=ACCURACY_BY.get(by, by)).to_pylist():
                key = (WORDS[by], row["bin"])
                cells.setdefault(key, [None] * (1 + len(analysis.info["models"])))
                if row["count"]:
                    cells[key][0] = max(row["count"], cells[key][0] or 0)
                    cells[key][place + 1] = _share(row)
    rows = [[*key, *values] for key, values in cells.items() if values[0]]
    columns = ["by", "bin", "questions", *(name or "% (95% interval)" for *_, name in _models(analysis))]
    return {"title": "Questions answered at the end, %", "columns": columns, "rows": rows}


def _share(row: dict[str, Any]) -> str:
    share, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
    return f"{share:.1f} ({low:.0f}-{high:.0f})"


def predictor_table(analysis: Analysis) -> dict[str, Any]:
    """Rank correlations, a column a model."""
    rho = {
        (row["predictor"], row["model"]): f"{row['rho']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        for row in analysis.predictors.to_pylist()
        if row["rho"] is not None
    }
    models = _models(analysis)
    rows = [[words, *(rho.get((by, model)) for model, *_ in models)] for by, words in WORDS.items()]
    return {
        "title": "Rank correlation (Spearman's rho) with being known at the last checkpoint",
        "columns": ["number of a fact", *(name or "rho (95% interval)" for *_, name in models)],
        "rows": [row for row in rows if any(row[1:])],
    }


def _change_section(analysis: Analysis) -> dict[str, Any]:
    figures = []
    for model, _, name in _models(analysis):
        here = _rows(analysis.intervals_summed, model=model)
        if not here.num_rows:
            continue
        by_bin = here.filter(pc.and_(pc.is_null(here["step_from"]), pc.is_valid(here["exposures"])))
        by_interval = here.filter(pc.is_valid(here["step_from"]))
        for title, changes in (
            ("Learned and forgotten", CHANGES),
            ("Learned and forgotten, of those at risk", AT_RISK),
        ):
            figures.append(_change_bars(_label(f"{title}, by exposures", name), by_bin, changes))
        figures.append(
            _change_over_intervals(_label("Learned and forgotten, by interval", name), by_interval)
        )
    return section(
        "Learned and forgotten",
        command="",
        summary=CHANGE_SUMMARY if figures else ONE_CHECKPOINT,
        tables=change_tables(analysis),
        figures=figures,
    )


def change_tables(analysis: Analysis) -> list[dict[str, Any]]:
    """A table a model: learned, forgotten and net by exposures in the interval, all intervals together."""
    columns = ["shown", "facts", "learned", "%", "risk %", "forgot", "%", "risk %", "net %"]
    tables = []
    for model, _, name in _models(analysis):
        here = _rows(analysis.intervals_summed, model=model)
        rows = here.filter(pc.is_null(here["step_from"])).to_pylist()
        if not rows:
            continue
        title = _label("Learned and forgotten by exposures in the interval", name)
        tables.append({"title": title, "columns": columns, "rows": [_change_cells(row) for row in rows]})
    return tables


def _change_cells(row: dict[str, Any]) -> list[Any]:
    def percent(name: str) -> float | None:
        return None if row[name] is None else round(100 * row[name], 1) + 0.0  # no -0.0

    return [
        row["exposures"] or "1+",
        row["facts"],
        row["learned"],
        percent("learned_rate"),
        percent("learned_at_risk_rate"),
        row["forgotten"],
        percent("forgotten_rate"),
        percent("forgotten_at_risk_rate"),
        percent("net_rate"),
    ]


def _change_bars(title: str, rows: pa.Table, changes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    rows = rows.filter(pc.greater_equal(rows["facts"], MIN_COUNT))
    return {
        "title": title,
        "kind": "bar",
        "x_label": "exposures in the interval",
        "y_label": "facts per interval (%)",
        "series": [
            {"label": label, "x": rows["exposures"].to_pylist(), **_band(rows, _rate_names(name))}
            for name, label in changes
        ],
    }


def _rate_names(name: str) -> list[str]:
    return [f"{name}_{suffix}" for suffix in ("rate", "low", "high")]


def _change_over_intervals(title: str, rows: pa.Table) -> dict[str, Any]:
    rows = rows.filter(pc.greater_equal(rows["facts"], MIN_COUNT))
    return {
        "title": title,
        "kind": "line",
        "x_label": "step at the end of the interval",
        "y_label": "facts shown in the interval (%)",
        "series": [
            {"label": label, "x": rows["step_to"].to_pylist(), **_band(rows, _rate_names(name))}
            for name, label in CHANGES
        ],
    }


def _exposure_section(analysis: Analysis) -> dict[str, Any]:
    accuracy, figures = _rows(analysis.accuracy, unit="fact"), []
    labels = bin_labels(analysis.info["parameters"]["edges"])
    for model, _, name in _models(analysis):
        series = []
        for label in labels:
            rows = _rows(accuracy, by="exposures_in_run", model=model, bin=label)
            if pc.min(rows["count"]).as_py() >= MIN_COUNT:
                series.append({"label": label, "x": rows["step"].to_pylist(), **_band(rows)})
        title = _label("Facts known at each checkpoint, by exposures in the run", name)
        figures.append({**_line_figure(title, series, has_flops=False), "legend": "exposures"})
    bars = []
    for model, last, name in _models(analysis):
        rows = _rows(accuracy, by="updates_since_last", model=model, step=last)
        rows = rows.filter(pc.greater_equal(rows["count"], MIN_COUNT))
        bars.append({"label": name or "known", "x": rows["bin"].to_pylist(), **_band(rows)})
    figures.append(
        {
            "title": "Facts known at the last checkpoint, by how long ago they were last shown",
            "kind": "bar",
            "x_label": "updates since the last exposure",
            "y_label": "facts known (%)",
            "series": bars,
        }
    )
    return section("Exposures and recency", command="", summary=EXPOSURE_SUMMARY, figures=figures)


def _match_section(analysis: Analysis) -> dict[str, Any]:
    info = analysis.info
    rows = [[row["reason"], row["rows"], row["answers"]] for row in info["unmatched"]]
    notes = " ".join(f"{note}." for note in info["notes"])
    summary = "Everything matched." if not rows else "The table unmatched lists each of them."
    return section(
        "What did not match",
        command=info.get("command", ""),
        summary=f"{summary} {notes}".strip(),
        tables=[{"title": "Left out or not counted", "columns": ["what", "rows", "answers"], "rows": rows}]
        if rows
        else [],
    )
