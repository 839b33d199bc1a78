"""The command that builds on a server: what it says, and the list of chunks that were refused."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from entity_index.elastic.bulk import PATIENCE, Outcome, Progress, build_on_server
from entity_index.elastic.bulk_estimate import describe, estimate, free_bytes
from entity_index.elastic.bulk_send import Rejection, Server, Tell
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import connect
from entity_index.source import ChunkSource


def build_and_report(
    source: ChunkSource,
    url: str,
    name: str,
    *,
    replicas: int,
    keep_replicas: bool,
    overwrite: bool,
    allow_rejected: bool,
    report: Path,
    progress: Progress,
    tell: Tell,
) -> tuple[bool, str]:
    """Build both indices of a name; whether they are there now, and what happened, in words.

    Chunks that an index refused are listed in the file `report`.
    """
    plan = Plan(source, name, replicas, keep_replicas, overwrite, allow_rejected)
    started = time.monotonic()
    with connect(url) as client:
        outcome = build_on_server(client, plan, progress=progress, tell=tell)
    if not outcome.built:
        return True, f"{name} on {url} is up to date: {source.num_chunks:,} chunks"
    published = allow_rejected or not outcome.rejected
    words = f"{name} on {url} built in {time.monotonic() - started:.1f} s: " if published else ""
    words += f"{outcome.num_mentions:,} mentions in {outcome.num_chunks:,} chunks ({outcome.num_dropped:,} "
    words += "without entity left out)"
    if not outcome.rejected:
        return True, words
    write_rejected(report, outcome.rejected)
    return published, f"{words}; {_refused(outcome, report, published=published)}"


def dry_run(source: ChunkSource, url: str, name: str, *, replicas: int) -> tuple[bool, list[str]]:
    """What a build will take, in lines; False where the server has too little disk."""
    plan = Plan(source, name, replicas)
    with connect(url) as client:
        found = estimate(plan, Server(client, PATIENCE, lambda sentence: None).ask(free_bytes))
    return found.fits, describe(found, plan)


def _refused(outcome: Outcome, report: Path, *, published: bool) -> str:
    chunks = len({rejection.chunk_id for rejection in outcome.rejected})
    what = f"chunks refused: {chunks:,}, listed with their reasons in {report}"
    if published:
        return what
    return f"{what}; nothing is published under the name (--allow-rejected does it without them)"


def write_rejected(path: Path, rejected: list[Rejection]) -> None:
    """List refused chunks, one JSON object a line, by index and chunk."""
    unfinished = path.with_name(path.name + ".tmp")
    ordered = sorted(rejected, key=lambda rejection: (rejection.index, rejection.chunk_id))
    lines = [json.dumps(asdict(rejection), ensure_ascii=False) + "\n" for rejection in ordered]
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, path)
