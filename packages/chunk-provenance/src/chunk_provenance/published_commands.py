"""The command `import`: what LMEnt, OLMo and Pythia published, made our own files."""

import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chunk_provenance.build_command import Section, report_build
from chunk_provenance.documents import Rejected
from chunk_provenance.order import save_order
from chunk_provenance.published.importing import check_belongs, order_with_sources
from chunk_provenance.published.lment_dataset import open_lment
from chunk_provenance.published.lment_documents import LMEntDocument, stream_documents
from chunk_provenance.published.lment_store import import_lment
from chunk_provenance.store import open_store
from chunk_provenance.store_commands import SECONDS_BETWEEN_LINES, Overwrite, say
from chunk_provenance.tokenizing import load_encoder

app = typer.Typer(
    name="import",
    no_args_is_help=True,
    help="Make own files of what LMEnt, OLMo and Pythia published: a data order, a chunk store, fact chunks.",
)
"""The group of commands; cli.py adds it."""


class OrderKind(StrEnum):
    """Values of --kind."""

    lment = "lment"
    olmo = "olmo"
    olmo_core = "olmo-core"
    pythia = "pythia"


@app.command("order")
def import_order(
    file: Annotated[
        str,
        typer.Argument(
            help="batch_indices*.npy or a folder of them, global_indices*.npy, *_shuffle_idx.npy, "
            "document.idx; or without any file pythia:UPDATES, olmo-core:INSTANCES:SEED, olmo:INSTANCES:SEED."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="ORDER", help="The data order folder to make.")],
    kind: Annotated[
        OrderKind | None, typer.Option(help="What the file is, where it does not show by itself.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Instances of an update: OLMo needs it, Pythia's is 1024.", min=1)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="So many epochs; a single file is repeated.", min=1),
    ] = None,
    updates: Annotated[
        int | None, typer.Option(help="OLMo, Pythia: only the first updates (memory: 8 bytes an id).", min=1)
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The chunk store of its dataset: refuse an order of another one.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="LMEnt's dataset folder: refuse an order of another one.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an own data order of a published one, with the file's hash; nothing in the file is executed.

    Ids that are out of range or stand twice in an epoch are refused, with their update. Only the tokens and
    chunk borders of --dataset are read, never its metadata.

    Example: chunk-provenance import order LMEnt-Dataset/dataset-cache order --epochs 6
    Example: chunk-provenance import order global_indices.npy order --batch-size 2048 --updates 10000
    Example: chunk-provenance import order pythia:143000 order
    """
    order = order_with_sources(
        file,
        kind=None if kind is None else kind.value,
        batch_size=batch_size,
        epochs=epochs,
        updates=updates,
    )
    if dataset is not None:
        order = check_belongs(order, open_lment(dataset), Path(file))
    if store is not None:
        order = check_belongs(order, open_store(store), Path(file))
    save_order(order, out, overwrite=overwrite)
    count = len(order.epoch_starts)
    epochs_told = f"{count} epoch{'s' * (count > 1)}"
    print(f"{order.num_updates:,} updates in {epochs_told}, {len(order.ids):,} chunks, {out}")


@app.command("lment")
def import_lment_dataset(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="LMEnt's dataset as downloaded.")],
    store: Annotated[Path, typer.Argument(help="The chunk store folder to make.")],
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer.json of LMEnt's models (dolma2).")],
    min_length: Annotated[int, typer.Option(help="The dataset's smallest padded length.", min=1)] = 64,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Keep the documents' texts in the store.")
    ] = True,
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata",
            help="Without: no CSV file is read; documents have no id, title or mention of their own.",
        ),
    ] = True,
    section: Section = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a chunk store of LMEnt's dataset: same chunk ids, texts decoded, mentions from its CSV files.

    The CSV files may stay packed (.csv.gz); they are read once, as a stream. A line that cannot be read costs
    its mentions and title, no chunk, and is listed in the store. An order needs none of this.

    Example: chunk-provenance import lment LMEnt-Dataset store --tokenizer tokenizer.json
    """
    dataset = open_lment(folder)
    encoder = load_encoder(tokenizer)
    documents = stream_documents(dataset, eos_id=encoder.eos_id, metadata=metadata)
    import_lment(
        dataset,
        store,
        encoder=encoder,
        min_length=min_length,
        with_text=text,
        overwrite=overwrite,
        inputs={"lment_sha256": dataset.sha256, "shards": [shard.name for shard in dataset.shards]},
        documents=watch(documents),
    )
    report_build(open_store(store), batch_tokens=None, section=section, as_json=False)
    for words in describe_import(open_store(store).meta["lment"]):
        print(words)


def describe_import(counts: dict[str, int]) -> list[str]:
    """What an import found besides documents and chunks, in sentences; nothing where it found nothing."""
    sentences = {
        "bad_lines": "lines of the CSV could not be used, they are listed in dropped.parquet",
        "documents_without_line": "documents have no line of the CSV: no title and no mentions",
        "other_offsets": "documents have other offsets in the CSV than their tokens: no mentions",
        "never_trained": "chunks are of half the smallest padded length or less: LMEnt never trains on them",
    }
    return [f"{counts[name]:,} {words}" for name, words in sentences.items() if counts[name]]


def watch(documents: Iterable[LMEntDocument | Rejected]) -> Iterator[LMEntDocument | Rejected]:
    """The same documents, with progress on stderr: a moving line on a terminal, else a line now and then."""
    console = Console(stderr=True)
    began = told = time.monotonic()
    tokens = 0
    with console.status("reading") as status:
        for number, document in enumerate(documents, start=1):
            yield document
            tokens += len(document.tokens) if isinstance(document, LMEntDocument) else 0
            now = time.monotonic()
            if now - told > (1 if console.is_terminal else SECONDS_BETWEEN_LINES):
                rate = tokens / (now - began) / 1e6
                words = f"{number:,} documents, {tokens / 1e6:,.1f} M tokens, {rate:.2f} M/s"
                told = now
                if console.is_terminal:
                    status.update(words)
                else:
                    say(words)
