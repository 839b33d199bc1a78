"""The command `model-merge ablate report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from model_merge.mixture_commands import AsJson, Overwrite, check_free, needs_extra, say


def report(
    results: Annotated[Path, typer.Argument(help="Result table of merges, as 'ablate eval' writes it.")],
    joint: Annotated[
        Path,
        typer.Argument(help="Result table of jointly trained models, as 'ablate eval-models' writes it."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap.", min=1)] = 1000,
    unit_tokens: Annotated[
        float | None, typer.Option(help="Tokens that training on one part takes, for the cost table.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Parameters of the model, for the cost table.")
    ] = None,
    section: Annotated[
        Path | None, typer.Option("--section", help="Also write the result as a report section (JSON).")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """How well do merges predict models trained on the same mixtures? Correlations, choices, costs, a figure.

    OUT gets report.json, report.html, scatter.svg and .png, points.parquet, correlations.csv, decisions.csv.

    Example: model-merge ablate report results.parquet joint.parquet report --section section.json
    """
    with needs_extra("ablate"):
        from model_merge.ablation_report import make_report, points
        from model_merge.report_page import (
            chosen_proxy,
            csv_lines,
            make_page,
            make_section,
            scatter_labels,
            summary,
            write_bytes,
            write_text,
        )
        from model_merge.results import read_results, write_json, write_rows
        from model_merge.scatter import draw_scatter

    check_free(out / "report.json", overwrite=overwrite)
    found, comparison = make_report(
        read_results(results),
        read_results(joint),
        seed=seed,
        resamples=resamples,
        unit_tokens=unit_tokens,
        parameters=parameters,
    )
    out.mkdir(parents=True, exist_ok=True)
    proxy = chosen_proxy(found)
    labels = scatter_labels(found, proxy)
    figures = {form: draw_scatter(comparison, proxy, labels, form=form) for form in ("svg", "png")}
    for form, content in figures.items():
        write_bytes(content, out / f"scatter.{form}")
    write_rows(points(comparison), out / "points.parquet", "ablation-points")
    for name in ("correlations", "decisions"):
        write_text(csv_lines(found[name]), out / f"{name}.csv")
    write_text(make_page(found, figures["svg"].decode()), out / "report.html")
    if section is not None:
        write_json(make_section(found), section)
    write_json(found, out / "report.json")
    for sentence in found["left_out"]:
        say(f"not compared: {sentence}")
    print(json.dumps(found) if as_json else summary(found))
