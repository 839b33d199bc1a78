"""Commands from probes and answers to when a fact was learned, and from which text."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from chunk_provenance.answers import read_answers
from chunk_provenance.cloze import check_ending, make_cloze_probes, read_aliases, write_probes
from chunk_provenance.dynamics import DEFAULT_BINS, check_join, facts_table, read_knowledge
from chunk_provenance.dynamics_section import describe_rho, dynamics_section, summary_rows
from chunk_provenance.exposures import find_exposures
from chunk_provenance.facts import (
    Evidence,
    FactChunks,
    distinct_facts,
    find_fact_chunks,
    read_fact_chunks,
    read_probes,
    write_fact_chunks,
)
from chunk_provenance.injection.items import injected_facts
from chunk_provenance.joining import check_free, join_files, load_dynamics, save_dynamics
from chunk_provenance.order import DataOrder
from chunk_provenance.published import open_order
from chunk_provenance.report import make_report, write_report
from chunk_provenance.sections import command_line, read_section, write_section
from chunk_provenance.sections import section as section_of
from chunk_provenance.store import open_store
from chunk_provenance.trace import PICKS, Trace, pick_facts, trace_fact
from chunk_provenance.trace_section import (
    curve_table,
    describe_passages,
    describe_trace,
    highlight,
    last_passages,
    passage_header,
    trace_section,
)

Section = Annotated[
    Path | None, typer.Option("--section", help="Also write the result as a report section (JSON).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
MaxRank = Annotated[int, typer.Option(help="A fact is known if its answer ranks so high.")]
Consecutive = Annotated[
    int, typer.Option(help="A fact is learned once it stays known for so many checkpoints.")
]
NAMES = ["subject_name", "relation", "answer_name"]


def fact_chunks(
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

    Example: chunk-provenance facts chunks store probes.parquet fact_chunks.parquet
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
    order: Annotated[Path, typer.Argument(help="Data order of the run, own or published.")],
    fact_chunks: Annotated[Path, typer.Argument(help="Fact chunks, as 'facts chunks' writes them.")],
    answers: Annotated[Path, typer.Argument(help="Answers per checkpoint: Parquet, JSONL or CSV.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    bins: Annotated[str, typer.Option(help="Where the bins of exposures begin, from 0 on.")] = ",".join(
        map(str, DEFAULT_BINS)
    ),
    intervals: Annotated[
        str | None, typer.Option(help="Checkpoints that bound the intervals, e.g. 0,100,200 (default: all).")
    ] = None,
    consecutive: Consecutive = 2,
    max_rank: MaxRank = 1,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap interval of rho.")] = 0,
    probes: Annotated[
        Path | None,
        typer.Option(help="Probes: injected items count for facts whose subject and answer they name."),
    ] = None,
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
        probes=probes,
    )
    save_dynamics(result, out, overwrite=overwrite)
    if probes is None and (items := result.info["summary"]["injected_items"]):
        words = "with --probes they count for facts whose subject and answer they name, too"
        print(f"{items:,} injected items count for the facts they were made of; {words}", file=sys.stderr)
    if section is not None:
        write_section(dynamics_section(result), section)
    if as_json:
        print_json(result.info["summary"])
        return
    rows = summary_rows(result.info)
    show_table(rows["title"], rows["columns"], rows["rows"])
    print(describe_rho(result.info["summary"]["earliness"]))


def trace(
    fact: Annotated[str | None, typer.Argument(help="A fact_id or probe_id.", show_default=False)] = None,
    *,
    store: Annotated[Path, typer.Option(help="Chunk store folder.")],
    order: Annotated[Path, typer.Option(help="Data order of the run, own or published.")],
    fact_chunks: Annotated[Path, typer.Option("--facts", help="Fact chunks, as 'facts chunks' writes them.")],
    answers: Annotated[Path, typer.Option(help="Answers per checkpoint.")],
    probes: Annotated[Path, typer.Option(help="Probes, Parquet or JSONL.")],
    show_list: Annotated[bool, typer.Option("--list", help="List facts worth a look, by kind.")] = False,
    pick: Annotated[
        str | None, typer.Option(help=f"Trace the first fact of a kind of --list: {', '.join(PICKS)}.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Passages to show (or facts a kind); the last ones.")
    ] = 10,
    consecutive: Consecutive = 2,
    max_rank: MaxRank = 1,
    section: Section = None,
    as_json: AsJson = False,
) -> None:
    """Show when a fact was known, and the passages that the run had read before it was learned.

    Mentions of the subject and of the answer are highlighted. Give one of FACT, --list and --pick.

    Example: chunk-provenance trace fact-7 --store store --order run/order --facts fact_chunks.parquet
    --answers answers.parquet --probes probes.parquet
    """
    if (fact is not None) + show_list + (pick is not None) != 1:
        raise ValueError("give one of FACT, --list and --pick")
    if pick is not None and pick not in PICKS:
        raise ValueError(f"--pick takes one of {list(PICKS)}, found {pick!r}")
    given = {
        "store": open_store(store),
        "order": open_order(order),
        "fact_chunks": read_fact_chunks(fact_chunks),
        "answers": read_answers(answers),
        "probes": read_probes(probes),
    }
    known_as: dict[str, Any] = {"max_rank": max_rank, "consecutive": consecutive}
    if fact is None:
        inputs = {name: given[name] for name in ("order", "fact_chunks", "answers", "probes")}
        picked = list_facts(**inputs, limit=limit, **known_as)
        if pick is None:
            show_facts(picked, given["probes"], as_json=as_json)
            return
        if not picked[pick]:
            show_no_fact(pick, section)
            return
        fact = picked[pick][0]["fact_id"]
    found = trace_fact(fact, **given, **known_as)
    if section is not None:
        write_section(trace_section(found, command=command_line(), limit=limit), section)
    if as_json:
        print_json(asdict(found))
    else:
        show_trace(found, limit=limit)


def cloze(
    store: Annotated[Path, typer.Argument(help="Chunk store folder, built with mentions and texts.")],
    out: Annotated[Path, typer.Argument(help="Probes to write, .parquet or .jsonl.")],
    aliases: Annotated[
        Path | None,
        typer.Option(help="Entities with their names and aliases, as entity-annotate writes them."),
    ] = None,
    max_probes: Annotated[int, typer.Option(min=1, help="A sample of so many probes.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make probes of links: a sentence cut before a link, whose target is the answer.

    The subject is the page that the sentence stands on, distractors are other link targets that look alike.

    Example: chunk-provenance cloze store probes.parquet --aliases wiki/entities.parquet
    """
    check_file_free(out, overwrite=overwrite)
    check_ending(out)
    known = None if aliases is None else read_aliases(aliases)
    probes = make_cloze_probes(open_store(store), aliases=known, max_probes=max_probes, seed=seed)
    if not probes.num_rows:
        raise ValueError(f"{str(store)!r} gives no probe: no sentence with a link has enough before it")
    write_probes(probes, out)
    print(f"{probes.num_rows} probes")


def report(
    dynamics_folder: Annotated[
        Path, typer.Argument(metavar="DYNAMICS", help="Folder that 'dynamics' wrote.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    sections: Annotated[
        list[Path] | None, typer.Option("--section", help="A further section of the page; may be repeated.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page about a run: its learning dynamics, then further sections in the given order.

    Sections are the JSON files that other commands write with --section. Prints Spearman's rho.

    Example: chunk-provenance report dynamics report.html --section trace.json
    """
    check_file_free(out, overwrite=overwrite)
    loaded = load_dynamics(dynamics_folder)
    page = make_report(loaded, [read_section(path) for path in sections or []])
    write_report(page, out, overwrite=overwrite)
    print(describe_rho(loaded.info["summary"]["earliness"]))


def list_facts(
    order: DataOrder,
    fact_chunks: FactChunks,
    answers: pa.Table,
    probes: pa.Table,
    *,
    limit: int,
    **known_as: Any,
) -> dict[str, list[dict[str, Any]]]:
    """The facts of each kind of `PICKS`, with their exposures and when they were learned."""
    knowledge = read_knowledge(answers)
    check_join(order.num_updates, knowledge, fact_chunks.table, injected=injected_facts(order))
    asked = distinct_facts(probes)
    exposures = find_exposures(order, fact_chunks.table, knowledge.fact_ids, facts=asked)
    table = facts_table(knowledge, exposures, **known_as)
    shown = table.select(["fact_id", "exposures", "learned_at"])
    return {
        kind: shown.take(pa.array(rows, pa.int64())).to_pylist()
        for kind, rows in pick_facts(table, count=limit).items()
    }


def show_facts(picked: dict[str, list[dict[str, Any]]], probes: pa.Table, *, as_json: bool) -> None:
    """Print the picked facts with their names."""
    names = {row["fact_id"]: row for row in probes.select(["fact_id", *NAMES]).to_pylist()}
    rows = [
        {"kind": kind, **row, **{name: names.get(row["fact_id"], {}).get(name) for name in NAMES}}
        for kind, facts_of_kind in picked.items()
        for row in facts_of_kind
    ]
    if as_json:
        print_json(rows)
        return
    columns = ["kind", "fact_id", "fact", "exposures", "learned at"]
    cells = [
        [
            row["kind"],
            row["fact_id"],
            ", ".join(str(row[name]) for name in NAMES),
            row["exposures"],
            row["learned_at"],
        ]
        for row in rows
    ]
    show_table("Facts worth a look", columns, cells)
    for kind, words in PICKS.items():
        print(f"{kind}: {words}")


def show_no_fact(pick: str, path: Path | None) -> None:
    """Say that the run has no fact of the wanted kind, in the section, too."""
    words = f"No fact of this run is of the kind {pick!r} ({PICKS[pick]})."
    if path is not None:
        write_section(section_of("Trace", command=command_line(), summary=words), path)
    print(words)


def show_trace(found: Trace, *, limit: int) -> None:
    """Print the curve and the passages with their mentions highlighted."""
    print(f"{found.fact_id}: {found.subject_name}, {found.relation}, {found.answer_name}")
    print(describe_trace(found))
    table = curve_table(found)
    show_table(table["title"], table["columns"], table["rows"])
    if words := describe_passages(found, limit):
        print(words)
    console = Console(file=sys.stdout, highlight=False)
    for passage in last_passages(found, limit):
        console.print()
        console.print(passage_header(passage), style="dim", markup=False)
        console.print(highlight(passage))


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
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row))
    Console(file=sys.stdout).print(table)
