"""How fast `entity-index serve` answers, over HTTP on this machine, page by page.

Run: uv run python packages/entity-index/benchmarks/pages.py [INDEX] [--requests 50]
Without INDEX (a folder or an Elasticsearch index) it makes the corpus of benchmark.py, of 100,000 chunks.
"""

import argparse
import http.client
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import uvicorn

from entity_index import build_index
from entity_index.backend import Backend, open_backend
from entity_index.serve_app import make_app
from entity_index.serve_command import listen

FREQUENCIES = (None, 1000, 100, 10)
"""Entities in about so many chunks; None: the one in most."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", nargs="?")
    parser.add_argument("--requests", type=int, default=50, help="different questions of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference = arguments.index or make_index(Path(folder))
        backend = open_backend(reference)
        server = uvicorn.Server(
            uvicorn.Config(make_app(backend, title="benchmark"), log_level="critical", lifespan="on")
        )
        listening = listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        report(backend, listening.getsockname()[1], arguments.requests)
        server.should_exit = True
        thread.join()


def make_index(folder: Path) -> str:
    """The corpus of benchmark.py."""
    from benchmark import write_corpus  # beside this file; importable only where this is the program

    write_corpus(folder / "chunks", num_chunks=100_000, num_mentions=3_000_000)
    build_index(folder / "chunks", folder / "index")
    return str(folder / "index")


def report(backend: Backend, port: int, requests: int) -> None:
    """Ask each kind of page and print how long it took."""
    counts = backend.chunk_counts()
    print(f"{backend.num_chunks:,} chunks, {len(counts):,} entities; milliseconds over HTTP")
    print("page                                               median     95%    most")
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for frequency in FREQUENCIES:
        near = np.abs(counts - (frequency or counts.max())).argsort(kind="stable")[:requests]
        if frequency is None:
            near = near[:5]
        entities = [backend.entities[int(number)] for number in near]
        about = f"{counts[near].min():,} to {counts[near].max():,} chunks"
        for label, address in (
            ("search", "/?q={}"),
            ("page 20", "/?q={}&page=20"),
            ("together", "/together?q={}"),
        ):
            if label != "page 20" or counts[near].min() > 190:
                print_line(
                    f"{label}, entity in {about}", connection, [address.format(quote(e)) for e in entities]
                )
    step = max(1, backend.num_chunks // requests)
    print_line("chunk", connection, [f"/chunk/{number}" for number in range(0, backend.num_chunks, step)])
    names = [match.text for number in near for match in backend.names_of(backend.entities[int(number)])[:1]]
    for letters in (1, 3, 6):
        addresses = [f"/suggest?q={quote(name[:letters])}" for name in names]
        print_line(f"suggest after {letters} letters", connection, addresses)


def print_line(label: str, connection: http.client.HTTPConnection, addresses: list[str]) -> None:
    """Ask all addresses once and print the times."""
    times = []
    for address in addresses:
        started = time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - started)
        assert answer.status == 200, (address, answer.status)
    median, most, slowest = np.percentile(times, [50, 95, 100]) * 1000
    print(f"{label:48} {median:8.1f} {most:7.1f} {slowest:7.1f}")


if __name__ == "__main__":
    main()
