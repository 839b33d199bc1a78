"""Commands for data that others published: their order, their facts, anyone's answers."""

from pathlib import Path
from typing import Annotated, Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import typer

from chunk_provenance.analysis import (
    PAPER_BINS,
    POPULARITY_BINS,
    RECENCY_BINS,
    Analysis,
    AnalysisSettings,
    analyze,
)
from chunk_provenance.analysis_files import NO_FIGURES, save_analysis, write_csv
from chunk_provenance.analysis_section import (
    accuracy_by_bins,
    analysis_section,
    analysis_sections,
    change_tables,
)
from chunk_provenance.answers import NAMES, read_answers
from chunk_provenance.figures import can_draw
from chunk_provenance.formats import write_table
from chunk_provenance.joining import check_free, hash_files
from chunk_provenance.learning_commands import (
    AsJson,
    Consecutive,
    MaxRank,
    Overwrite,
    Section,
    check_file_free,
    parse_numbers,
    print_json,
    show_table,
)
from chunk_provenance.published import open_order
from chunk_provenance.published.opening import Kind, published_files, recognise
from chunk_provenance.sampling import DECADES, bucket_of, decade_labels, stratified_sample
from chunk_provenance.sections import command_line, write_section
from chunk_provenance.studied import CHUNK_COLUMNS, POPULARITY, open_studied_facts


def words(numbers: Any) -> str:
    """Numbers as one gives them on the command line."""
    return ",".join(map(str, numbers))


def analyze_command(
    order: Annotated[
        Path,
        typer.Argument(
            help="LMEnt's batch_indices.npy (or the folder of all epochs), OLMo's, Pythia's, own."
        ),
    ],
    facts: Annotated[
        Path,
        typer.Argument(help="popqa-kas (Parquet), or a table of fact_id, chunk_id and, optionally, kind."),
    ],
    answers: Annotated[Path, typer.Argument(help="Answers per checkpoint: Parquet, JSONL or CSV.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: tables, report.html.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A column of ANSWERS with a name of its own, e.g. correct=em. Known: {', '.join(NAMES)}."
        ),
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Intervals of so many steps, e.g. 20000.")] = None,
    intervals: Annotated[
        str | None, typer.Option(help="Checkpoints that bound the intervals, e.g. 0,20000 (default: all).")
    ] = None,
    bins: Annotated[str, typer.Option(help="Where bins of chunks and exposures begin.")] = words(PAPER_BINS),
    popularity_bins: Annotated[str, typer.Option(help="Where bins of popularity begin.")] = words(
        POPULARITY_BINS
    ),
    recency_bins: Annotated[
        str, typer.Option(help="Where bins of updates since the last exposure begin.")
    ] = words(RECENCY_BINS),
    flops_per_step: Annotated[
        list[str] | None, typer.Option(help="Draw accuracy over compute: FLOPs of a step; or MODEL=FLOPs.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(help="The same as 6 x parameters x tokens: the parameters; or MODEL=N."),
    ] = None,
    tokens_per_step: Annotated[float | None, typer.Option(help="Tokens of a step, for --parameters.")] = None,
    kind: Annotated[
        Kind | None, typer.Option(help=f"What ORDER is, if it does not show: {', '.join(get_args(Kind))}.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Instances of an update (OLMo's files need it).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of ORDER (LMEnt, OLMo).")] = None,
    updates: Annotated[int | None, typer.Option(help="Only so many updates of ORDER (OLMo, Pythia).")] = None,
    consecutive: Consecutive = 2,
    max_rank: MaxRank = 1,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.")] = 0,
    section: Section = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Published order + published facts + anyone's answers -> the LMEnt paper's tables and figures.

    Nothing else is needed on disk. ANSWERS has a row per question and checkpoint: step (a number, or a name
    such as LMEnt-1B-6E:step10000), question (popqa-kas: its id) or fact_id, optionally model, and one of
    correct (0/1), rank (1 = best) and output (text, scored as PopQA does). What does not match is counted,
    printed and stored.

    Example: chunk-provenance analyze batch_indices.npy popqa-kas.parquet answers.csv analysis --every 20000
    """
    check_free(out, overwrite=overwrite, kind="analysis")
    if every is not None and intervals is not None:
        raise ValueError("give one of --every and --intervals")
    flops = parse_flops(flops_per_step, parameters, tokens_per_step)
    opened = open_order(order, kind=kind, batch_size=batch_size, epochs=epochs, updates=updates)
    studied = open_studied_facts(facts)
    given = read_answers(answers, columns=parse_columns(column), questions=studied.questions)
    settings = AnalysisSettings(
        edges=parse_numbers(bins, "--bins"),
        popularity_edges=parse_numbers(popularity_bins, "--popularity-bins"),
        recency_edges=parse_numbers(recency_bins, "--recency-bins"),
        bounds=find_bounds(every, intervals, given, opened.num_updates),
        max_rank=max_rank,
        consecutive=consecutive,
        seed=seed,
    )
    result = analyze(opened, studied, given, settings=settings, flops_per_step=flops)
    result.info.update(
        command=command_line(),
        inputs={name: hash_input(path) for name, path in (("facts", facts), ("answers", answers))},
    )
    result.info["inputs"]["order"] = hash_order(order, kind)
    save_analysis(result, out, overwrite=overwrite)
    if section is not None:
        write_section(analysis_section(result), section)
    show_analysis(result, out, as_json=as_json)


def parse_columns(given: list[str] | None) -> dict[str, str]:
    """Pairs NAME=THEIRS."""
    pairs = [one.partition("=") for one in given or []]
    if wrong := [
        one for one, (name, _, theirs) in zip(given or [], pairs, strict=True) if not (name and theirs)
    ]:
        raise ValueError(f"--column takes NAME=COLUMN, found {wrong[0]!r}; names: {', '.join(NAMES)}")
    return {name: theirs for name, _, theirs in pairs}


def parse_flops(
    flops_per_step: list[str] | None, parameters: list[str] | None, tokens_per_step: float | None
) -> dict[str, float]:
    """FLOPs of a step by model, "" = all models.

    >>> parse_flops(None, ["small=1e6", "large=2e6"], 1000.0)
    {'small': 6000000000.0, 'large': 12000000000.0}
    """
    if flops_per_step and parameters:
        raise ValueError("give one of --flops-per-step and --parameters")
    if bool(parameters) != (tokens_per_step is not None):
        raise ValueError(
            "--parameters and --tokens-per-step belong together: FLOPs = 6 x parameters x tokens"
        )
    if parameters:
        tokens = 6 * (tokens_per_step or 0)
        return {model: number * tokens for model, number in _by_model(parameters, "--parameters").items()}
    return _by_model(flops_per_step or [], "--flops-per-step")


def _by_model(given: list[str], option: str) -> dict[str, float]:
    found = {}
    for one in given:
        model, _, number = one.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"{option} takes a number above 0, or MODEL=NUMBER, found {one!r}")
        found[model] = value
    return found


def find_bounds(
    every: int | None, intervals: str | None, answers: pa.Table, num_updates: int
) -> list[int] | None:
    """The checkpoints that bound the intervals; None = all."""
    if intervals is not None:
        return parse_numbers(intervals, "--intervals")
    if every is None:
        return None
    in_order = answers["step"].filter(pc.less_equal(answers["step"], num_updates))
    last = pc.max(in_order).as_py() or 0
    if last < every:
        raise ValueError(f"--every {every} is beyond the last checkpoint, step {last}")
    return list(range(0, last + 1, every))


def hash_input(path: Path) -> str:
    """Hex sha256 of a file, or over the Parquet files of a folder."""
    return hash_files(sorted(path.rglob("*.parquet")) if path.is_dir() else [path])


def hash_order(path: Path, kind: Kind | None) -> str | None:
    """Hex sha256 of the order's files; None where it has none."""
    found = kind or recognise(path)
    if found == "own":
        return hash_files(sorted(file for file in path.iterdir() if file.is_file()))
    files = published_files(path, found)
    return hash_files(files) if files else None


def show_analysis(result: Analysis, out: Path, *, as_json: bool) -> None:
    """Print the tables of the page, and what did not match."""
    if as_json:
        print_json(result.info)
        return
    last = analysis_sections(result)[-1]
    shared = accuracy_by_bins(result, ["shared_chunks"])
    title = f"{shared['title']}, by shared chunks"
    show_table(title, shared["columns"][1:], [row[1:] for row in shared["rows"]])
    for table in (*change_tables(result), *last["tables"]):
        show_table(table["title"], table["columns"], table["rows"])
    for note in result.info["notes"]:
        print(f"{note}.")
    page = out / "report.html"
    print(f"{page}{'' if can_draw() else f' ({NO_FIGURES})'}")


def sample(
    facts: Annotated[
        Path, typer.Argument(help="popqa-kas (Parquet), or a table of fact_id, chunk_id, kind.")
    ],
    out: Annotated[Path, typer.Argument(help="The facts drawn, .parquet or .csv.")],
    size: Annotated[int, typer.Option(min=1, help="How many facts to draw.")] = 1000,
    by: Annotated[
        str, typer.Option(help=f"Draw equally over: {', '.join((*CHUNK_COLUMNS, *POPULARITY))}.")
    ] = "shared_chunks",
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw facts to ask a model for, rare and frequent ones alike.

    Buckets are the powers of ten: 1-10, 11-100, ... Each gives as many; what one lacks, the others add in
    proportion to what they have to spare. Facts of frequency 0 are never drawn.

    Example: chunk-provenance sample popqa-kas.parquet sample.parquet --size 1000
    """
    check_file_free(out, overwrite=overwrite)
    table = open_studied_facts(facts).facts
    if by not in (*CHUNK_COLUMNS, *POPULARITY) or table[by].null_count == table.num_rows:
        known = [name for name in (*CHUNK_COLUMNS, *POPULARITY) if table[name].null_count < table.num_rows]
        raise ValueError(f"--by takes a number that {str(facts)!r} has, one of {known}, found {by!r}")
    counts = table[by].fill_null(0).to_numpy()
    places, bucket = stratified_sample(counts, size, seed=seed)
    labels = decade_labels(DECADES)
    drawn = table.take(places).append_column("bucket", pa.array(labels).take(bucket))
    if out.suffix == ".csv":
        write_csv(drawn, out)
    elif out.suffix == ".parquet":
        write_table(drawn, out, "facts-sample", by=by, seed=str(seed))
    else:
        raise ValueError(f"{str(out)!r} must end in .parquet or .csv")
    there = bucket_of(counts)
    rows = [
        [label, int((there == number).sum()), int((bucket == number).sum())]
        for number, label in enumerate(labels)
    ]
    outside = int((there < 0).sum())
    if as_json:
        print_json({"buckets": rows, "outside": outside})
        return
    show_table(f"Facts drawn by {by}", ["bucket", "facts", "drawn"], rows)
    if outside:
        print(f"{outside:,} facts are in no bucket (0, unknown or above {DECADES[-1]:,}).")
