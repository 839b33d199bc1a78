"""How fast a dump is read and cleaned, beside iterparse alone and mwparserfromhell, in one process.

    uv run packages/entity-annotate/benchmarks/cleaning.py DUMP

Takes a dump of some megabytes, decompresses it first, and prints MB of XML a second of processor time, the
best of several runs (mwparserfromhell: one run over a tenth of the articles).
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

from entity_annotate.dump import Dump, open_dump
from entity_annotate.wikitext import clean_page


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "dump.xml"
        with open_dump(Path(sys.argv[1])) as source:
            xml.write_bytes(source.read())
        size = xml.stat().st_size / 1e6
        articles = [page for page in Dump(xml) if page.redirect is None]
        print(f"{size:.2f} MB of XML, {len(articles)} articles")
        report("iterparse alone", size, best(lambda: parse_only(xml)))
        report("read pages", size, best(lambda: sum(1 for _ in Dump(xml))))
        report("read, clean, count link offsets", size, best(lambda: read_and_clean(xml)))
        sample = articles[::10]
        share = sum(len(page.text) for page in sample) / sum(len(page.text) for page in articles)
        seconds = best(lambda: [mwparserfromhell.parse(page.text).strip_code() for page in sample], repeats=1)
        report("mwparserfromhell parse and strip", size * share, seconds)


def parse_only(xml: Path) -> None:
    """Parse the XML and forget it."""
    for _, element in ElementTree.iterparse(xml):
        element.clear()


def read_and_clean(xml: Path) -> None:
    """Read the pages and clean the articles, as `entity-annotate wikipedia` does."""
    dump = Dump(xml)
    for page in dump:
        if page.redirect is None:
            clean_page(page.text, namespaces=dump.namespaces, first_letter=dump.first_letter)


def best(function: Callable[[], object], *, repeats: int = 7) -> float:
    """Return the least processor time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def report(name: str, megabytes: float, seconds: float) -> None:
    """Print one line."""
    print(f"{name:34s} {megabytes / seconds:8.1f} MB/s")


if __name__ == "__main__":
    main()
