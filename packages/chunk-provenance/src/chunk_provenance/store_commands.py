"""Commands from documents to chunks and their order, and the look-ups between them."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from chunk_provenance.build import differences
from chunk_provenance.documents import Document, Rejected, find_sources, read_documents
from chunk_provenance.lment.curriculum import Curriculum
from chunk_provenance.lment.from_store import order_store, retained_table, warnings_of
from chunk_provenance.mixture_order import compute_store_order, count_trained, trained_table
from chunk_provenance.mixtures import MixtureStore
from chunk_provenance.order import (
    DataOrder,
    load_order,
    save_order,
)
from chunk_provenance.published import open_order
from chunk_provenance.store import open_store
from chunk_provenance.tokenizing import train_tokenizer
from chunk_provenance.verify import verify_log

SECONDS_BETWEEN_LINES = 30

Documents = Annotated[
    str,
    typer.Argument(
        help="JSONL(.gz/.zst) or Parquet file, a folder of such, a folder saved by datasets' save_to_disk, "
        "or hf:NAME[:CONFIG][:SPLIT]."
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="FIELD=NAME: a field (id, text, title, source, url) has another name in the files; id='#' "
        "numbers the documents. Repeatable."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class CurriculumKind(StrEnum):
    """Values of --curriculum."""

    grow_p2 = "grow_p2"
    grow_linear = "grow_linear"
    natural = "natural"


def tokenizer(
    documents: Documents,
    out: Annotated[Path, typer.Argument(help="The tokenizer.json to write.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, 256 bytes and 2 special tokens included.")] = 4096,
    column: Column = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a byte-level BPE tokenizer with the special tokens <|endoftext|> and <|padding|>.

    The same documents give the same file, byte for byte.

    Example: chunk-provenance tokenizer documents.parquet tokenizer.json --vocab-size 4096
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: remove it, choose another place or give --overwrite")
    found = read_documents(find_sources(documents), columns=parse_columns(column))
    texts = (document.text for document in show_progress(found) if isinstance(document, Document))
    content = train_tokenizer(texts, vocab_size=vocab_size)
    unfinished = out.with_name(out.name + ".tmp")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(out)
    trained = len(json.loads(content)["model"]["vocab"])
    say(f"trained a tokenizer of {trained:,} tokens: {out}")


def order(
    store: Annotated[Path, typer.Argument(help="A chunk store.")],
    out: Annotated[Path, typer.Argument(metavar="ORDER", help="The data order folder to make.")],
    batch_tokens: Annotated[int, typer.Option(help="Tokens of an update, padding included.", min=1)],
    epochs: Annotated[int | None, typer.Option(help="See every chunk so often.", min=1)] = None,
    updates: Annotated[int | None, typer.Option(help="Stop after so many updates.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Same store, sizes and seed: same order.", min=0)] = 0,
    curriculum: Annotated[
        CurriculumKind | None,
        typer.Option(
            help="Order by length as LMEnt and OLMo-core do. grow_p2, grow_linear: from short to long chunks "
            "in every cycle; natural: all updates shuffled. What does not fill an epoch is left out of it."
        ),
    ] = None,
    cycles: Annotated[
        int | None, typer.Option(help="Cycles of an epoch with --curriculum [8 if not given].", min=1)
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="With --curriculum: as many updates of every length.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Decide which chunks every update trains on, before any training.

    An update holds chunks of one padded length. What an epoch leaves over of a length opens the next epoch,
    but for a --curriculum, which prints what an epoch trains of every length and leaves out.

    Example: chunk-provenance order store order --batch-tokens 4096 --epochs 2
    """
    opened = open_store(store)
    asked: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "seed": seed,
        "epochs": epochs,
        "updates": updates,
    }
    if curriculum is None:
        if cycles is not None or balanced:
            raise ValueError("--cycles and --balanced belong to a --curriculum")
        wanted = compute_store_order(opened, **asked)
    elif isinstance(opened, MixtureStore):
        raise ValueError("a --curriculum orders one chunk store, this is a mixture: order it without")
    else:
        wanted = order_store(opened, Curriculum(curriculum.value, cycles or 8, balanced), **asked)
        show_table("An epoch", *retained_table(wanted.info))
        for sentence in warnings_of(wanted.info):
            say(f"warning: {sentence}")
    if not overwrite and (out / "order.json").is_file():
        check_same_order(load_order(out), wanted, out)
        say(f"{out} is up to date")
    else:
        save_order(wanted, out, overwrite=overwrite)
    num_epochs = len(wanted.epoch_starts)
    if isinstance(opened, MixtureStore):
        show_table(*trained_table(count_trained(wanted, opened)))
    print(f"{wanted.num_updates:,} updates in {num_epochs} epochs, {len(wanted.ids):,} chunks, {out}")


def check_same_order(found: DataOrder, wanted: DataOrder, path: Path) -> None:
    """Refuse an order that is there already and differs."""
    ends = differences(found.info, wanted.info)
    if not ends and not (np.array_equal(found.ids, wanted.ids) and found.masked is None):
        ends = ["other chunks or masks"]
    if ends:
        raise FileExistsError(
            f"{str(path)!r} is another data order ({'; '.join(ends)}): "
            "give --overwrite or choose another place"
        )


def verify(
    order: Annotated[Path, typer.Argument(help="A data order.")],
    metrics: Annotated[Path, typer.Argument(help="The metrics.jsonl that the training run wrote.")],
) -> None:
    """Check that a training run really trained on the batches of a data order; exit code 1 if it did not.

    Example: chunk-provenance verify run/order run/metrics.jsonl
    """
    result = verify_log(open_order(order), metrics)
    if result.step is not None:
        expected = result.expected or "has no such update"
        print(f"step {result.step} differs: the log says {result.logged}, the order {expected}")
        raise typer.Exit(1)
    missing = (
        f", {result.num_missing:,} later or unlogged ones are not in the log" if result.num_missing else ""
    )
    print(f"all {result.num_verified:,} logged updates trained on the batches of the order{missing}")


def parse_columns(options: list[str] | None) -> dict[str, str]:
    """Values of --column."""
    columns = {}
    for option in options or []:
        field, equals, name = option.partition("=")
        if not equals or not name or field not in ("id", "text", "title", "source", "url"):
            raise ValueError(
                f"--column {option!r}: expected id, text, title, source or url, '=' and a column's name"
            )
        columns[field] = name
    return columns


def show_progress(documents: Iterable[Document | Rejected]) -> Iterator[Document | Rejected]:
    """The same documents, with progress on stderr: a moving line on a terminal, else a line now and then."""
    console = Console(stderr=True)
    characters = 0
    began = told = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("reading")
        for number, document in enumerate(documents, start=1):
            yield document
            characters += len(document.text) if isinstance(document, Document) else 0
            now = time.monotonic()
            rate = characters / (now - began) / 1e6
            words = f"{number:,} documents, {characters / 1e6:,.1f} M characters, {rate:.2f} M/s"
            progress.update(task, description=words)
            if not console.is_terminal and now - told > SECONDS_BETWEEN_LINES:
                say(words)
                told = now


def say(words: str) -> None:
    """Words to the user, on stderr."""
    print(words, file=sys.stderr)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout; the first column left, the others right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout).print(table)
