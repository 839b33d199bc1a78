"""The command that makes a chunk store, on one machine or on many."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chunk_provenance.bucket_checks import check_buckets
from chunk_provenance.build import Packing, build_store, differences
from chunk_provenance.encoding import EncodedBatch, encode_piece, read_part
from chunk_provenance.estimate import Estimate, Sample, check_room, estimate_build, timed
from chunk_provenance.formats import FormatError, open_table
from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.mentions import REQUIRED, MentionFile
from chunk_provenance.piecework import (
    Job,
    begin,
    encode_missing,
    first_pieces,
    missing_pieces,
    pieces_of,
    read_fingerprints,
    read_parts,
    share_of,
)
from chunk_provenance.places import download_folder, exists, is_url, local_copy, remove_folder, upload_folder
from chunk_provenance.retention import count_retention, retention_section, retention_tables
from chunk_provenance.sections import command_line, write_section
from chunk_provenance.sources import PIECE_BYTES, Piece, Source
from chunk_provenance.store import ChunkStore, open_store
from chunk_provenance.store_commands import (
    SECONDS_BETWEEN_LINES,
    AsJson,
    Column,
    Documents,
    Overwrite,
    parse_columns,
    say,
    show_table,
)
from chunk_provenance.store_writer import check_free
from chunk_provenance.tokenizing import TextEncoder, load_encoder


class PackingKind(StrEnum):
    """Values of --packing."""

    buckets = "buckets"
    fixed = "fixed"
    lment = "lment"


class EndTokens(StrEnum):
    """Values of --eos."""

    end = "end"
    last = "last"


class Tails(StrEnum):
    """Values of --tails."""

    keep = "keep"
    drop = "drop"


PackingOption = Annotated[
    PackingKind,
    typer.Option(
        help="buckets: one document a chunk, padded to a power of two; fixed: --max-length each; lment: "
        "powers of two as LMEnt cuts them (its limits: 64 and 2048), which drops ends of documents."
    ),
]
TailsOption = Annotated[
    Tails,
    typer.Option(
        help="What to do with ends of documents shorter than --min-length (--packing lment drops them)."
    ),
]
EosOption = Annotated[
    EndTokens,
    typer.Option(
        help="Which chunk gets a document's end token. end: the one that holds the document's end, none if "
        "that is dropped; last: the document's last chunk, for its last token where the end is dropped."
    ),
]
BatchTokensToCheck = Annotated[
    int | None,
    typer.Option(help="Also check that chunks of every length can fill an update of so many tokens.", min=1),
]
ValidationFraction = Annotated[
    float,
    typer.Option(
        help="Share of the documents, chosen by a hash of their id, for STORE/validation.", min=0, max=1
    ),
]
EosToken = Annotated[
    str | None, typer.Option(help="The tokenizer's end token, where it is not one of the usual.")
]
Section = Annotated[
    Path | None, typer.Option("--section", help="Also write the result as a report section (JSON).")
]
Processes = Annotated[
    int | None, typer.Option(help="Encode so many pieces at a time; all cores, if not given.", min=1)
]
Rank = Annotated[
    int | None, typer.Option(help="Encode only this rank's share of the documents, counted from 0.", min=0)
]
Ranks = Annotated[int, typer.Option(help="How many ranks share the encoding.", min=1)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what disk, memory and time the build will take, and stop.")
]


def build(
    documents: Documents,
    store: Annotated[str, typer.Argument(help="The chunk store folder to make, a path or URL.")],
    tokenizer: Annotated[str, typer.Option(help="A tokenizer.json.")],
    mentions: Annotated[str | None, typer.Option(help="Mentions (Parquet), projected on the chunks.")] = None,
    packing: PackingOption = PackingKind.buckets,
    min_length: Annotated[int, typer.Option(help="Smallest padded chunk length, in tokens.")] = 16,
    max_length: Annotated[int, typer.Option(help="Largest chunk length, in tokens.")] = 256,
    tails: TailsOption = Tails.keep,
    eos: EosOption = EndTokens.end,
    batch_tokens: BatchTokensToCheck = None,
    validation_fraction: ValidationFraction = 0.0,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Keep the documents' texts in the store.")
    ] = True,
    eos_token: EosToken = None,
    column: Column = None,
    processes: Processes = None,
    rank: Rank = None,
    ranks: Ranks = 1,
    dry_run: DryRun = False,
    section: Section = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a chunk store: encode documents, cut them into chunks, note where every token comes from.

    Prints what became of the text. A store that is there already, of the same inputs and settings, is left as
    it is; a different one is refused unless --overwrite is given. A build that was killed goes on where it
    was: what has been encoded lies in STORE.parts until the store is finished.

    On many machines that share a file system or a bucket, --rank and --ranks share out the encoding, which is
    nearly all of the work; the same command without --rank then makes the store, the same bytes for any
    split. With Slurm: sbatch --array=0-63 --wrap 'chunk-provenance build docs store --tokenizer t.json
    --rank $SLURM_ARRAY_TASK_ID --ranks 64'

    Example: chunk-provenance build documents.parquet store --tokenizer t.json --mentions mentions.parquet
    """
    columns = parse_columns(column)
    settings = Packing(packing.value, min_length, max_length, tails.value, eos.value)
    settings.check()
    with ExitStack() as files:
        encoder = load_encoder(files.enter_context(local_copy(tokenizer)), eos_token=eos_token)
        mention_path = None if mentions is None else files.enter_context(local_copy(mentions))
        recipe = Recipe(encoder, settings, mention_path, text, validation_fraction, columns)
        parts = f"{store.rstrip('/')}.parts"
        job = Job(documents, tuple(sorted(columns.items())), encoder.content, eos_token, parts)
        pieces = pieces_of(job)
        processes = processes or min(len(pieces), os.cpu_count() or 1)
        if dry_run:
            show_estimate(recipe.estimate(pieces, processes=processes), len(pieces), as_json=as_json)
            return
        if overwrite or not is_up_to_date(store, recipe, pieces):
            check_places(store, mention_path, overwrite=overwrite)
            if rank is None and total_bytes(pieces) > PIECE_BYTES and not exists(f"{parts}/plan.json"):
                place = Path(tempfile.gettempdir() if is_url(store) else store).absolute()
                check_room(recipe.estimate(pieces, processes=processes), place.parent)
            begin(job, pieces, overwrite=overwrite)
            wanted = range(len(pieces)) if rank is None else share_of(len(pieces), rank=rank, ranks=ranks)
            with show_pieces(pieces, wanted) as done:
                encode_missing(job, pieces, wanted, processes=processes, done=done)
            if rank is not None:
                report_rank(job, len(pieces), wanted, rank=rank, ranks=ranks)
                return
            join(store, job, pieces, recipe, overwrite=overwrite)
        with opened(store) as finished:
            report_build(finished, batch_tokens=batch_tokens, section=section, as_json=as_json)


@dataclass(frozen=True)
class Recipe:
    """How encoded documents become a store."""

    encoder: TextEncoder
    packing: Packing
    mentions: Path | None
    text: bool
    validation_fraction: float
    columns: dict[str, str]

    def inputs(self, fingerprints: dict[str, Any]) -> dict[str, Any]:
        """What the store is made from, for its `meta.json`."""
        return {
            "documents": fingerprints,
            "mentions_sha256": None if self.mentions is None else hash_file(self.mentions),
            "tokenizer_sha256": hash_text(self.encoder.content),
            "eos_id": self.encoder.eos_id,
            "packing": asdict(self.packing),
            "columns": self.columns,
            "text": self.text,
            "validation_fraction": self.validation_fraction,
        }

    def build(
        self,
        path: Path,
        batches: Iterable[EncodedBatch],
        fingerprints: dict[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        """Make the store."""
        build_store(
            path,
            batches,
            encoder=self.encoder,
            packing=self.packing,
            mentions=None if self.mentions is None else MentionFile(self.mentions),
            with_text=self.text,
            validation_fraction=self.validation_fraction,
            inputs=self.inputs(fingerprints),
            overwrite=overwrite,
        )

    def estimate(self, pieces: Sequence[Piece], *, processes: int) -> Estimate:
        """What the whole build will take."""
        sources = [piece.source for piece in first_pieces(pieces)]
        return estimate_build(sources, self._measure, processes=processes)

    def _measure(self, source: Source, folder: Path) -> Sample:
        """Build a small source."""
        part, store = str(folder / "part"), folder / "store"
        piece = Piece(source)
        sample = replace(self, validation_fraction=0.0)
        encode, cpu = timed(
            lambda: encode_piece(piece, self.encoder, self.columns, part, first_of_source=False)
        )
        join, _ = timed(lambda: sample.build(store, read_part(piece, part, lines_before=0), {}))
        opened_store = open_store(store)
        return Sample(
            documents=opened_store.meta["num_documents"],
            characters=sum(batch_chars(batch) for batch in read_part(piece, part, lines_before=0)),
            tokens=opened_store.meta["num_tokens"],
            chunks=opened_store.num_chunks,
            parts_bytes=(folder / "part.arrow").stat().st_size,
            store_bytes=sum(file.stat().st_size for file in store.iterdir()),
            encode_seconds=encode,
            encode_cpu_seconds=cpu,
            join_seconds=join,
        )


def check_places(store: str, mentions: Path | None, *, overwrite: bool) -> None:
    """Find out before the work what would stop it at the end."""
    if not is_url(store):
        check_free(Path(store), overwrite=overwrite)
    if mentions is not None:
        open_table(mentions, "mentions", REQUIRED).close()


def join(store: str, job: Job, pieces: Sequence[Piece], recipe: Recipe, *, overwrite: bool) -> None:
    """Make the store of the encoded pieces, then remove them."""
    fingerprints = read_fingerprints(job, pieces)
    batches = show_batches(read_parts(job, pieces))
    if is_url(store):
        with tempfile.TemporaryDirectory() as folder:
            recipe.build(Path(folder) / "store", batches, fingerprints)
            remove_folder(store)
            upload_folder(Path(folder) / "store", store, last="meta.json")
    else:
        recipe.build(Path(store), batches, fingerprints, overwrite=overwrite)
    remove_folder(job.parts)


@contextmanager
def opened(store: str) -> Iterator[ChunkStore]:
    """The finished store; a copy of one at a URL."""
    if not is_url(store):
        yield open_store(store)
        return
    with tempfile.TemporaryDirectory() as folder:
        download_folder(store, Path(folder) / "store")
        yield open_store(Path(folder) / "store")


def report_rank(job: Job, num_pieces: int, wanted: Sequence[int], *, rank: int, ranks: int) -> None:
    """Say what one rank has done and what is still to do."""
    missing = len(missing_pieces(job, num_pieces))
    rest = (
        f"{missing:,} of {num_pieces:,} pieces are still missing: the other ranks encode them"
        if missing
        else "all pieces are there: run the same command without --rank and --ranks to make the store"
    )
    print(f"rank {rank} of {ranks}: {len(wanted):,} of {num_pieces:,} pieces are encoded; {rest}")


def show_estimate(estimate: Estimate, num_pieces: int, *, as_json: bool) -> None:
    """Print what a build will take."""
    if as_json:
        print(json.dumps({**asdict(estimate), "pieces": num_pieces}, indent=2))
        return
    rows = [
        ["pieces to encode", f"{num_pieces:,}"],
        ["documents", f"{estimate.documents:,}"],
        ["characters", f"{estimate.characters:,}"],
        ["tokens in chunks", f"{estimate.tokens:,}"],
        ["chunks", f"{estimate.chunks:,}"],
        ["disk for the store", f"{estimate.store_bytes / 1e6:,.1f} MB"],
        ["disk for its parts, meanwhile", f"{estimate.parts_bytes / 1e6:,.1f} MB"],
        ["memory", f"{estimate.memory_bytes / 1e6:,.0f} MB"],
        ["time", f"{estimate.seconds:,.0f} s"],
    ]
    show_table("What the build will take", ["from a sample", "about"], rows)


@contextmanager
def show_pieces(pieces: Sequence[Piece], wanted: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
    """Progress of the encoding on stderr: a moving line on a terminal, else a line now and then."""
    console = Console(stderr=True)
    began = told = time.monotonic()
    characters = finished = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("encoding", total=sum(pieces[number].size or 1 for number in wanted))

        def done(number: int, more: int) -> None:
            nonlocal characters, finished, told
            characters, finished, now = characters + more, finished + 1, time.monotonic()
            rate = characters / max(now - began, 1e-9) / 1e6
            words = f"encoded {finished:,} of {len(wanted):,} pieces, {rate:.2f} M characters/s"
            progress.update(task, description=words, advance=pieces[number].size or 1)
            if not console.is_terminal and now - told > SECONDS_BETWEEN_LINES:
                say(words)
                told = now

        yield done


def show_batches(batches: Iterable[EncodedBatch]) -> Iterator[EncodedBatch]:
    """The same batches, with a line on stderr now and then while they are joined."""
    told = time.monotonic()
    characters = 0
    for batch in batches:
        yield batch
        characters += batch_chars(batch)
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            say(f"joined {characters / 1e6:,.0f} M characters")
            told = time.monotonic()


def batch_chars(batch: EncodedBatch) -> int:
    """Characters of a batch."""
    return sum(len(document.text) for document in batch.documents)


def total_bytes(pieces: Sequence[Piece]) -> int:
    """Bytes of all pieces, as far as they are known."""
    return sum(piece.size for piece in pieces)


def report_build(store: ChunkStore, *, batch_tokens: int | None, section: Path | None, as_json: bool) -> None:
    """Print what became of the text; then refuse buckets that could never be trained."""
    counts = count_retention(store, batch_tokens=batch_tokens)
    if section is not None:
        write_section(retention_section(counts, command=command_line()), section)
    if as_json:
        print(json.dumps(counts, indent=2))
    else:
        for table in retention_tables(counts):
            show_table(table["title"], table["columns"], table["rows"])
    if batch_tokens is not None:
        check_buckets({row["length"]: row["chunks"] for row in counts["buckets"]}, batch_tokens=batch_tokens)


def is_up_to_date(store: str, recipe: Recipe, pieces: Sequence[Piece]) -> bool:
    """Whether a store of these inputs is there already; one of others is refused."""
    if not exists(f"{store}/meta.json"):
        return False
    inputs = recipe.inputs({piece.source.name: piece.source.fingerprint() for piece in first_pieces(pieces)})
    with local_copy(f"{store}/meta.json") as file:
        found = json.loads(file.read_text(encoding="utf-8")).get("inputs") or {}
    if ends := differences(found, json.loads(json.dumps(inputs))):
        raise FormatError(
            f"{store!r} was built from other inputs ({'; '.join(ends)}): "
            "give --overwrite to build it again, or choose another place"
        )
    say(f"{store} is up to date")
    return True
