"""The commands that prepare the data of an ablation: `ablate partition` and `ablate decontaminate`."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from model_merge.corpus import SPLITS, Source, find_sources
from model_merge.partition import Keys
from model_merge.partition_files import Settings
from model_merge.partition_files import partition as cut
from model_merge.show import print_table, show_progress

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
IdKey = Annotated[str, typer.Option(help="The key of a document's id; dots lead into objects.")]
TextKey = Annotated[str, typer.Option(help="The key of its text.")]


def partition(
    documents: Annotated[
        Path,
        typer.Argument(
            help="JSONL(.gz/.zst) file, a folder of such, or units (UNIT/{train,val,test}/*.json.gz)."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder of units to make.")],
    units: Annotated[int | None, typer.Option(help="Make so many units in all.", min=1)] = None,
    unit_tokens: Annotated[
        int | None, typer.Option(help="Instead: make units of about so many tokens.", min=1)
    ] = None,
    field_key: Annotated[
        str,
        typer.Option(help="The key of a document's field; of a list the first is taken, without any: NA."),
    ] = "field",
    year_key: Annotated[
        str, typer.Option(help="The key of its year (1999, or a date that begins so).")
    ] = "year",
    tokens_key: Annotated[
        str | None,
        typer.Option(help="The key of its number of tokens; without it, words and punctuation marks count."),
    ] = None,
    id_key: IdKey = "id",
    text_key: TextKey = "text",
    val: Annotated[
        float, typer.Option(help="Share of the documents for validation, by a hash of the id.")
    ] = 0.05,
    test: Annotated[float, typer.Option(help="Share of the documents for testing, likewise.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Another seed: other documents in val and test.", min=0)] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cut a corpus into units of about equal size, by field and period.

    Writes OUT/Biology,1970-1993/{train,val,test}/00000.json.gz, ... and partition.json. What is already cut
    into units is cut anew, each document keeping its split.

    Example: model-merge ablate partition papers.jsonl.gz units --units 12 --year-key metadata.year
    """
    settings = Settings(
        num_units=units,
        unit_tokens=unit_tokens,
        val=val,
        test=test,
        seed=seed,
        id_key=id_key,
        text_key=text_key,
        keys=Keys(field_key, year_key, tokens_key),
    )
    summary = cut(find_sources(documents), out, settings, overwrite=overwrite, progress=show_reading)
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        show_units(summary)
    report_skipped(summary["num_skipped"], out / "skipped.jsonl")


def show_units(summary: dict[str, Any]) -> None:
    """The units as a table on stdout."""
    rows = [
        (
            unit["name"],
            f"{sum(unit['tokens'].values()):,}",
            *(f"{unit['documents'][split]:,}" for split in SPLITS),
        )
        for unit in summary["units"]
    ]
    print_table(f"{len(rows)} units", ("unit", ">tokens", *(f">{split}" for split in SPLITS)), rows)


def show_reading(sources: Sequence[Source]) -> Iterable[Source]:
    """The files, with a bar on a terminal."""
    return show_progress(sources, "reading")


def report_skipped(counts: dict[str, int], listing: Path) -> None:
    """How many documents were left out and why, on stderr."""
    if counts:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
        print(f"skipped {sum(counts.values()):,} documents ({reasons}): {listing}", file=sys.stderr)


def decontaminate(
    documents: Annotated[
        Path, typer.Argument(help="JSONL(.gz/.zst) file, a folder of such, or units (UNIT/{train,val,test}).")
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder to make; its files are named as those they come from.")
    ],
    against: Annotated[
        list[Path], typer.Option(help="An evaluation set: a file or a folder of such. Repeatable.")
    ],
    ngram: Annotated[
        int, typer.Option(help="Words of an n-gram, compared without case and punctuation.")
    ] = 13,
    min_matches: Annotated[
        int, typer.Option(help="A document goes if so many of its n-grams stand in evaluation sets ...")
    ] = 1,
    min_share: Annotated[
        float, typer.Option(help="... and they are at least this share of its n-grams, 0 to 1.")
    ] = 0.0,
    id_key: IdKey = "id",
    text_key: TextKey = "text",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Leave out documents that share n-grams of words with evaluation sets.

    Lists each in OUT/removed.jsonl with its number of matches and the first matching n-gram.

    Example: model-merge ablate decontaminate units clean --against paloma --against lambada.jsonl
    """
    from model_merge.decontaminate import Threshold  # here: --help needs no NumPy
    from model_merge.decontaminate import decontaminate as run_decontamination

    summary = run_decontamination(
        find_sources(documents),
        out,
        against,
        Threshold(ngram, min_matches, min_share),
        id_key=id_key,
        text_key=text_key,
        overwrite=overwrite,
        progress=show_reading,
    )
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        show_removals(summary)
    report_skipped(summary["num_skipped"], out / "skipped.jsonl")


def show_removals(summary: dict[str, Any]) -> None:
    """What was removed because of which evaluation set, as a table on stdout."""
    kept, removed = summary["num_kept"], summary["num_removed"]
    rows = [
        (found["name"], *(f"{found[key]:,}" for key in ("documents", "too_short", "removed")))
        for found in summary["evaluation_sets"]
    ]
    columns = ("evaluation set", ">its documents", ">too short to match", ">removed because of it first")
    print_table(f"kept {kept:,} documents, removed {removed:,}", columns, rows)
