"""Both indices of a corpus on one server, built with LMEnt's settings and as this package builds them.

Run: uv run python packages/entity-index/benchmarks/elasticsearch_build.py [--chunks 100000] [--heap 4g]

100,000 chunks of 200 words with 38 mentions each, entities by Zipf's law; the server runs on the same
machine, started by tools/elasticsearch.py. With LMEnt's settings, one index after the other is sent in 4
threads of 250 documents each and refreshed every second. Both get the same documents, put together by this
package, so that only the way of sending differs. The server is new for each build; the chunks are counted.
"""

import argparse
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


def as_lment(client: Elasticsearch, source: ChunkSource) -> None:
    """Both indices with LMEnt's settings."""
    from both_backends import as_line  # beside this file; importable only where this is the program

    for index, cased in ((NAME, False), (NAME + CASED, True)):
        settings = {**settings_of(case_sensitive=cased), "number_of_replicas": 0}
        client.indices.create(index=index, settings=settings, mappings=mapping_of(case_sensitive=cased))
        for _ in helpers.parallel_bulk(
            client.options(request_timeout=600),
            actions(source, index),
            thread_count=4,
            chunk_size=250,
            max_chunk_bytes=1 << 29,
            expand_action_callback=as_line,
        ):
            pass
        client.indices.refresh(index=index)


def actions(source: ChunkSource, index: str) -> Iterator[dict[str, Any]]:
    """The documents, one by one."""
    for batch in source.stream():
        documents = documents_of(batch)
        for chunk_id, line in zip(documents.chunk_ids, documents.lines, strict=True):
            yield {"_index": index, "_id": str(chunk_id), "_source": line}


def as_here(client: Elasticsearch, source: ChunkSource) -> None:
    """Both indices as this package builds them."""
    build_on_server(client, Plan(source, NAME))


def measure(
    build: Callable[[Elasticsearch, ChunkSource], None], source: ChunkSource, folder: Path, heap: str
) -> tuple[float, int]:
    """Seconds that a build takes on a server of its own, and bytes on disk."""
    tool, server = [sys.executable, str(TOOL)], ["--folder", str(folder)]
    started = subprocess.run([*tool, "start", *server, "--heap", heap], capture_output=True, encoding="utf-8")
    if started.returncode:
        sys.exit(started.stderr)
    try:
        client = connect(started.stdout.split()[0], Security())
        began = time.perf_counter()
        build(client, source)
        took = time.perf_counter() - began
        for index in (NAME, NAME + CASED):
            assert client.count(index=index)["count"] == source.num_chunks
        client.indices.flush()
        size = client.indices.stats(metric="store")["_all"]["total"]["store"]["size_in_bytes"]
        return took, size
    finally:
        subprocess.run([*tool, "stop", "--delete", *server], check=True, capture_output=True)


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
        print(f"{'built':22} {'s':>8} {'chunks/s':>10} {'mentions/s':>12} {'bytes a mention':>16}")
        seconds = []
        for name, build in (("with LMEnt's settings", as_lment), ("as here", as_here)):
            took, size = measure(build, source, Path(folder) / "server", asked.heap)
            rates = f"{asked.chunks / took:10,.0f} {num_mentions / took:12,.0f} {size / num_mentions:16.1f}"
            print(f"{name:22} {took:8.1f} {rates}", flush=True)
            seconds.append(took)
        print(f"{seconds[0] / seconds[1]:.2f} times as fast (aim: 1.5)")


if __name__ == "__main__":
    main()
