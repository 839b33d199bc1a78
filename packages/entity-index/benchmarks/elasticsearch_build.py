"""Both indices of a corpus on one server, built with LMEnt's settings and as this package builds them.

Run: uv run python packages/entity-index/benchmarks/elasticsearch_build.py [--chunks 100000] [--heap 4g]

100,000 chunks of 200 words with 38 mentions each, entities by Zipf's law; the server runs on the same
machine, started by tools/elasticsearch.py. With LMEnt's settings, one index after the other is sent in 4
threads of 250 documents each and refreshed every second: once with documents that are read from JSON and
written again by the client, as LMEnt's program does, once with those that this package puts together, so that
only the way of sending differs. The server is new for each build; the chunks are counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch, helpers

from entity_index.elastic.bulk import build_on_server
from entity_index.elastic.bulk_documents import documents_of
from entity_index.elastic.bulk_state import Plan
from entity_index.elastic.connection import Security, connect
from entity_index.elastic.mapping import CASED, mapping_of, settings_of
from entity_index.source import ChunkSource, store_source

NAME = "enwiki"
TOOL = Path(__file__).parents[3] / "tools" / "elasticsearch.py"


def as_lment_with_its_documents(client: Elasticsearch, source: ChunkSource) -> None:
    """Both indices as LMEnt's program makes them: each document a dictionary, read from JSON."""
    as_lment(client, source, read=json.loads, expand=helpers.expand_action)


def as_lment(
    client: Elasticsearch,
    source: ChunkSource,
    *,
    read: Callable[[bytes], Any] = bytes,
    expand: Any = None,
) -> None:
    """Both indices with LMEnt's settings, of documents that are put together as here."""
    from both_backends import as_line  # beside this file; importable only where this is the program

    for index, cased in ((NAME, False), (NAME + CASED, True)):
        settings = {**settings_of(case_sensitive=cased), "number_of_replicas": 0}
        client.indices.create(index=index, settings=settings, mappings=mapping_of(case_sensitive=cased))
        for _ in helpers.parallel_bulk(
            client.options(request_timeout=600),
            actions(source, index, read),
            thread_count=4,
            chunk_size=250,
            max_chunk_bytes=1 << 29,
            expand_action_callback=expand or as_line,
        ):
            pass
        client.indices.refresh(index=index)


def actions(source: ChunkSource, index: str, read: Callable[[bytes], Any]) -> Iterator[dict[str, Any]]:
    """The documents, one by one."""
    for batch in source.stream():
        documents = documents_of(batch)
        for chunk_id, line in zip(documents.chunk_ids, documents.lines, strict=True):
            yield {"_index": index, "_id": str(chunk_id), "_source": read(line)}


def as_here(client: Elasticsearch, source: ChunkSource) -> None:
    """Both indices as this package builds them."""
    build_on_server(client, Plan(source, NAME))


def measure(
    build: Callable[[Elasticsearch, ChunkSource], None], source: ChunkSource, folder: Path, heap: str
) -> tuple[float, float, float, int]:
    """A build on a server of its own: seconds, those of processors here and there, bytes on disk."""
    tool, server = [sys.executable, str(TOOL)], ["--folder", str(folder)]
    started = subprocess.run([*tool, "start", *server, "--heap", heap], capture_output=True, encoding="utf-8")
    if started.returncode:
        sys.exit(started.stderr)
    try:
        client = connect(started.stdout.split()[0], Security())
        began, used, used_there = time.perf_counter(), time.process_time(), processor_seconds(folder)
        build(client, source)
        took = time.perf_counter() - began
        used, used_there = time.process_time() - used, processor_seconds(folder) - used_there
        for index in (NAME, NAME + CASED):
            assert client.count(index=index)["count"] == source.num_chunks
        client.indices.flush()
        size = client.indices.stats(metric="store")["_all"]["total"]["store"]["size_in_bytes"]
        return took, used, used_there, size
    finally:
        subprocess.run([*tool, "stop", "--delete", *server], check=True, capture_output=True)


def processor_seconds(folder: Path) -> float:
    """What the server has used so far."""
    number = (folder / "node-1" / "pid").read_text(encoding="utf-8").strip()
    fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


WAYS = (
    ("LMEnt's settings, its documents", as_lment_with_its_documents),
    ("LMEnt's settings, ours", as_lment),
    ("as here", as_here),
)


def main() -> None:
    """Make the corpus, build it both ways."""
    from both_backends import write_corpus

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--heap", default="4g", help="of the server")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elasticsearch-build-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)  # the server's user must come in
        num_mentions = write_corpus(Path(folder) / "store", asked.chunks)
        source = store_source(Path(folder) / "store")
        print(f"{num_mentions:,} mentions in {asked.chunks:,} chunks, into two indices")
        print(f"{'built':32} {'s':>8} {'CPU s here':>10} {'there':>8} {'mentions/s':>11} {'B a mention':>12}")
        seconds = []
        for name, build in WAYS:
            took, here, there, size = measure(build, source, Path(folder) / "server", asked.heap)
            rates = f"{num_mentions / took:11,.0f} {size / num_mentions:12.1f}"
            print(f"{name:32} {took:8.1f} {here:10.1f} {there:8.1f} {rates}", flush=True)
            seconds.append(took)
        theirs, settings, ours = seconds
        print(f"{theirs / ours:.2f} times as fast, {settings / ours:.2f} with the same documents (aim: 1.5)")


if __name__ == "__main__":
    main()
