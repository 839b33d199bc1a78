"""The commands that make an index: `build`, in a folder or on a server, and `restore`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from chunk_provenance import open_store
from entity_index.backend import check_client
from entity_index.build import Progress, build_from, estimate_from
from entity_index.estimate import Estimate, check_room
from entity_index.from_lment import Published, describe_found, lment_input, lment_source, open_published
from entity_index.index import open_index
from entity_index.inputs import Input, store_input
from entity_index.options import (
    AllowRejected,
    DryRun,
    Elasticsearch,
    IndexName,
    KeepReplicas,
    Rejected,
    Replicas,
    num_chunks,
    say,
    show_progress,
)
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


def build(
    store: Annotated[
        Path | None,
        typer.Argument(help="Chunk store, made by 'chunk-provenance build', or a mixture of several."),
    ] = None,
    index: Annotated[
        Path | None, typer.Argument(help="Folder to write the index to, unless --elasticsearch.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What the mentions may take in memory at a time; the rest is on disk.")
    ] = "2GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    from_lment: FromLMEnt = None,
    tokenizer: Tokenizer = None,
    elasticsearch: Elasticsearch = None,
    index_name: IndexName = None,
    replicas: Replicas = 0,
    keep_replicas: KeepReplicas = False,
    rejected: Rejected = None,
    allow_rejected: AllowRejected = False,
    dry_run: DryRun = False,
) -> None:
    """Build the entity index of a chunk store: postings by entity, names, and a text index.

    An index of the same store is kept. A run that was stopped left nothing under the final name and goes on
    with what it has finished, in INDEX.tmp or on the server.

    Example: entity-index build chunks index

    Example: entity-index build --from-lment LMEnt-Dataset --tokenizer tokenizer.json index

    Example: entity-index build chunks --elasticsearch http://localhost:9200 --index enwiki
    """
    published = open_lment_options(from_lment, tokenizer)
    if published is not None:  # its folder stands for STORE
        if index is not None:
            raise ValueError("give either STORE or --from-lment")
        store, index = None, store
    if elasticsearch is not None:
        if index is not None or index_name is None:
            raise ValueError("an index on a server has a name: give --index NAME, and no folder")
        build_on_server(
            source_of(store, published),
            elasticsearch,
            index_name,
            replicas=replicas,
            keep_replicas=keep_replicas,
            overwrite=overwrite,
            rejected=rejected,
            allow_rejected=allow_rejected,
            only_estimate=dry_run,
        )
        say_found(published)
        return
    if dry_run:
        print_estimate(input_of(store, published), memory, index)
        return
    if index is None:
        raise ValueError("nowhere to write to: give INDEX, a folder, or --elasticsearch and --index")
    with show_progress() as progress:
        done = build_here(
            input_of(store, published), index, memory=memory, overwrite=overwrite, progress=progress
        )
    say(done)
    say_found(published)


def build_on_server(
    source: ChunkSource, url: str, name: str, *, rejected: Path | None, only_estimate: bool, **plan: Any
) -> None:
    """Build both indices of a name on a server, and say what came of it."""
    check_client()
    from entity_index.elastic.bulk_command import build_and_report, dry_run  # the client is an extra

    if only_estimate:
        fits, lines = dry_run(source, url, name, replicas=plan["replicas"])
        print("\n".join(lines))
        if not fits:
            say("that is too little disk")
            raise typer.Exit(1)
        return

    report = rejected or Path(f"{name}.rejected.jsonl")
    with show_progress() as progress:
        published, words = build_and_report(
            source, url, name, report=report, progress=progress, tell=say, **plan
        )
    say(words)
    if not published:
        raise typer.Exit(1)


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


def restore(
    server: Annotated[
        str, typer.Argument(help="Address of the Elasticsearch server, such as http://localhost:9200.")
    ],
    folder: Annotated[
        str,
        typer.Argument(help="Folder of the snapshots, as the server sees it; its path.repo must allow it."),
    ],
    snapshot: Annotated[str | None, typer.Option(help="Which snapshot, where there are several.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Name for the index. Default: the name it has there."),
    ] = None,
) -> None:
    """Restore a published snapshot on an Elasticsearch server, to query it as it is.

    Both indices of the pair are restored, NAME and NAME_case_sensitive. What is there is never replaced.

    Example: entity-index restore http://localhost:9200 /data/snapshots/lment --as wikipedia
    """
    check_client()
    from entity_index.elastic.restore import restore_snapshot

    with show_progress() as progress:
        done = restore_snapshot(server, folder, snapshot=snapshot, name=name, progress=progress)
    indices = " and ".join(done.indices)
    say(f"{indices} restored from {done.snapshot}: {num_chunks(done.num_chunks)}")
    print(f"{server.rstrip('/')}/{done.indices[0]}")
