"""What the command `build` does for the embedded index."""

import time
from pathlib import Path
from typing import Annotated

import typer

from chunk_provenance import open_store
from entity_index.build import Progress, build_from, estimate_from
from entity_index.estimate import Estimate, check_room
from entity_index.from_lment import Published, describe_found, lment_input, lment_source, open_published
from entity_index.index import open_index
from entity_index.inputs import Input, store_input
from entity_index.options import say
from entity_index.source import ChunkSource, store_source

FromLMEnt = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Build from LMEnt's dataset as downloaded, instead of STORE: its part-k-00000.npy and .csv.gz "
        "stay packed. Needs --tokenizer.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --from-lment: the tokenizer.json of LMEnt's models (dolma2)."),
]


def open_lment_options(folder: Path | None, tokenizer: Path | None) -> Published | None:
    """What `--from-lment` and `--tokenizer` name."""
    if folder is None:
        if tokenizer is not None:
            raise ValueError("--tokenizer goes with --from-lment: a chunk store has its own")
        return None
    if tokenizer is None:
        raise ValueError(
            "--from-lment needs --tokenizer, the tokenizer.json of LMEnt's models: it has the texts"
        )
    return open_published(folder, tokenizer)


def source_of(store: Path | None, published: Published | None) -> ChunkSource:
    """What to build from, for a server."""
    return lment_source(published) if published is not None else store_source(_given(store))


def input_of(store: Path | None, published: Published | None) -> Input:
    """What to build from, for a folder."""
    return lment_input(published) if published is not None else store_input(open_store(_given(store)))


def _given(store: Path | None) -> Path:
    if store is None:
        raise ValueError("nothing to build from: give STORE, a chunk store, or --from-lment")
    return store


def build_here(source: Input, index: Path, *, memory: str, overwrite: bool, progress: Progress) -> str:
    """Build the folder; returns what to say of it."""
    started = time.monotonic()
    built = build_from(source, index, memory=memory, overwrite=overwrite, progress=progress)
    meta = open_index(index).meta
    done = f"built in {time.monotonic() - started:.1f} s" if built else "is up to date"
    counts = f"{meta['num_postings']:,} mentions of {meta['num_entities']:,} entities"
    left_out = meta["num_mentions"] - meta["num_postings"]
    return f"{index} {done}: {counts} in {meta['num_chunks']:,} chunks ({left_out:,} without entity left out)"


def say_found(published: Published | None) -> None:
    """Say what was amiss in LMEnt's files."""
    for words in describe_found(published.found) if published is not None else []:
        say(words)


def print_estimate(source: Input, memory: str, index: Path | None) -> None:
    """Print what a build will take; refuse it where the disk or the memory will not do."""
    estimate = estimate_from(source, memory)
    print(describe_estimate(estimate))
    if index is not None:
        check_room(estimate, index.absolute())


def describe_estimate(estimate: Estimate) -> str:
    """What a build will take, in words.

    >>> print(describe_estimate(Estimate(2000, 76000, 2_000_000, 3_000_000, 2_500_000_000, 90.0)))
    about 76,000 mentions in 2,000 chunks
    disk    0.003 GB for the index, and 0.002 GB until it is finished
    memory  2.5 GB at most
    time    1.5 minutes
    """
    hours = estimate.seconds >= 2 * 3600
    took = f"{estimate.seconds / 3600:,.1f} hours" if hours else f"{estimate.seconds / 60:,.1f} minutes"
    index, parts = f"{estimate.index_bytes / 1e9:,.3f} GB", f"{estimate.parts_bytes / 1e9:,.3f} GB"
    return (
        f"about {estimate.mentions:,} mentions in {estimate.chunks:,} chunks\n"
        f"disk    {index} for the index, and {parts} until it is finished\n"
        f"memory  {estimate.memory_bytes / 1e9:,.1f} GB at most\n"
        f"time    {took}"
    )
