"""Write an analysis: every table as Parquet and as CSV, a summary, and one HTML page."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from chunk_provenance.analysis import Analysis
from chunk_provenance.analysis_section import analysis_sections, cards, introduction
from chunk_provenance.figures import can_draw
from chunk_provenance.formats import begin_folder, replace_folder, write_json, write_table
from chunk_provenance.joining import check_free
from chunk_provenance.report import make_page, write_report

TABLES = ("facts", "intervals", "intervals_summed", "accuracy", "predictors", "unmatched")
NO_FIGURES = "Figures are left out: pip install 'chunk-provenance[plot]' and run the command again."


def save_analysis(analysis: Analysis, path: str | Path, *, overwrite: bool = False) -> None:
    """Write an analysis folder (FORMAT.md), complete or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is not set, or it is something else.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite, kind="analysis")
    unfinished = begin_folder(path)
    for name in TABLES:
        table = getattr(analysis, name)
        write_table(table, unfinished / f"{name}.parquet", f"analysis-{name.replace('_', '-')}")
        write_csv(table, unfinished / f"{name}.csv")
    write_json({"format": "analysis", "version": 1, **analysis.info}, unfinished / "analysis.json")
    write_report(make_analysis_page(analysis), unfinished / "report.html")
    replace_folder(unfinished, path)


def make_analysis_page(analysis: Analysis) -> str:
    """The page as text; without matplotlib it has tables only, and says so."""
    parts = analysis_sections(analysis)
    words = introduction(analysis)
    if not can_draw():
        parts = [{**part, "figures": []} for part in parts]
        words = f"{words} {NO_FIGURES}"
    return make_page(words, cards(analysis), parts)


def write_csv(table: pa.Table, path: Path) -> None:
    """Write CSV atomically, without columns of lists."""
    flat = table.select([field.name for field in table.schema if not pa.types.is_list(field.type)])
    unfinished = path.with_name(path.name + ".tmp")
    pyarrow.csv.write_csv(flat, unfinished)
    os.replace(unfinished, path)
