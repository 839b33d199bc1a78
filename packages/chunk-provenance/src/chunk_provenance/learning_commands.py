"""Commands from probes and answers to when a fact was learned, and from which text."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from chunk_provenance.dynamics import DEFAULT_BINS
from chunk_provenance.dynamics_section import describe_rho, dynamics_section, summary_rows
from chunk_provenance.facts import Evidence, distinct_facts, find_fact_chunks, read_probes, write_fact_chunks
from chunk_provenance.joining import check_free, join_files, save_dynamics
from chunk_provenance.sections import command_line, write_section
from chunk_provenance.store import open_store

Section = Annotated[
    Path | None, typer.Option("--section", help="Also write the result as a report section (JSON).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def facts(
    store: Annotated[Path, typer.Argument(help="Chunk store folder, built with mentions.")],
    probes: Annotated[Path, typer.Argument(help="Probes, Parquet or JSONL.")],
    out: Annotated[Path, typer.Argument(help="The fact-chunks file to write (Parquet).")],
    hyperlink: Annotated[float, typer.Option(help="A mention counts from this hyperlink score on.")] = 1.0,
    entity_linking: Annotated[float, typer.Option(help="... or from this entity-linking score on.")] = 0.6,
    coref: Annotated[float, typer.Option(help="... or from this coreference score on.")] = 0.6,
    coref_cluster: Annotated[float, typer.Option(help="... or from this cluster score on.")] = 0.6,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find the chunks that state each fact: those that mention its subject and its answer.

    A mention counts if one of its candidates reaches at least one threshold; a threshold above 1 leaves that
    source out.

    Example: chunk-provenance facts store probes.parquet fact_chunks.parquet
    """
    check_file_free(out, overwrite=overwrite)
    evidence = Evidence(hyperlink, entity_linking, coref, coref_cluster)
    opened = open_store(store)
    asked = read_probes(probes)
    table = find_fact_chunks(opened.mention_table, asked, evidence)
    source = "chunk mentions"
    write_fact_chunks(table, out, evidence=evidence, source=source, store_sha256=opened.sha256)
    summary = summarize_fact_chunks(table, num_facts=distinct_facts(asked).num_rows)
    if as_json:
        print_json(summary)
    else:
        show_table(
            "Fact chunks", ["chunks that mention", "facts with any", "median", "most"], summary["kinds"]
        )


def check_file_free(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file unless asked to."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another place or give --overwrite")


def summarize_fact_chunks(table: pa.Table, *, num_facts: int) -> dict[str, Any]:
    """How many facts have chunks, and how many."""
    rows = []
    for kind, words in (("subject", "the subject"), ("answer", "the answer"), ("shared", "both")):
        counts = (
            table.filter(pc.equal(table["kind"], kind))["fact_id"].value_counts().field("counts").to_numpy()
        )
        of_facts = np.pad(counts, (0, num_facts - len(counts)))
        rows.append(
            [words, len(counts), float(np.median(of_facts)) if num_facts else 0, int(of_facts.max(initial=0))]
        )
    return {"facts": num_facts, "kinds": rows}


def dynamics(
    order: Annotated[Path, typer.Argument(help="Data order folder of the run.")],
    fact_chunks: Annotated[Path, typer.Argument(help="Fact chunks, as 'facts' writes them.")],
    answers: Annotated[Path, typer.Argument(help="Answers per checkpoint: Parquet, JSONL or CSV.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    bins: Annotated[str, typer.Option(help="Where the bins of exposures begin, from 0 on.")] = ",".join(
        map(str, DEFAULT_BINS)
    ),
    intervals: Annotated[
        str | None, typer.Option(help="Checkpoints that bound the intervals, e.g. 0,100,200 (default: all).")
    ] = None,
    consecutive: Annotated[
        int, typer.Option(help="A fact is learned once it stays known for so many checkpoints.")
    ] = 2,
    max_rank: Annotated[int, typer.Option(help="A fact is known if its answer ranks so high.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap interval of rho.")] = 0,
    section: Section = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Join what was seen when with what is known when: learned, forgotten and known facts by exposures.

    Prints Spearman's rho between a fact's exposures in the run and how early it was learned; facts that the
    untrained model knew are left out, facts never learned are later than every step. A fact with several
    probes is known if one of them is answered.

    Example: chunk-provenance dynamics run/order fact_chunks.parquet answers.parquet dynamics
    """
    check_free(out, overwrite=overwrite)
    result = join_files(
        order,
        fact_chunks,
        answers,
        command=command_line(),
        max_rank=max_rank,
        consecutive=consecutive,
        edges=parse_numbers(bins, "--bins"),
        bounds=None if intervals is None else parse_numbers(intervals, "--intervals"),
        seed=seed,
    )
    save_dynamics(result, out, overwrite=overwrite)
    if section is not None:
        write_section(dynamics_section(result), section)
    if as_json:
        print_json(result.info["summary"])
        return
    rows = summary_rows(result.info)
    show_table(rows["title"], rows["columns"], rows["rows"])
    print(describe_rho(result.info["summary"]["earliness"]))


def parse_numbers(text: str, option: str) -> list[int]:
    """Numbers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes whole numbers separated by commas, found {text!r}") from None


def print_json(value: Any) -> None:
    """Print a result for a program to read."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table on stdout; first column left, the others right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row))
    Console(file=sys.stdout).print(table)
