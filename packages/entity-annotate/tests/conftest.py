"""Tiny dumps, and where the shared test data is."""

import bz2
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

SITEINFO = """<siteinfo><base>https://en.example.org/wiki/Main_Page</base><case>first-letter</case><namespaces>
<namespace key="0" /><namespace key="1">Talk</namespace><namespace key="6">File</namespace>
<namespace key="14">Category</namespace></namespaces></siteinfo>"""


def page(number: int, title: str, text: str, *, namespace: int = 0, redirect: str | None = None) -> str:
    target = "" if redirect is None else f'<redirect title="{escape(redirect)}" />'
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{target}<revision><id>{number}</id>"
        f'<model>wikitext</model><text xml:space="preserve">{escape(text)}</text></revision></page>'
    )


def dump_xml(pages: Sequence[str], *, siteinfo: str = SITEINFO) -> str:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">'
    return f"{head}{siteinfo}{''.join(pages)}</mediawiki>"


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark also where the tests run without the workspace."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture
def make_page() -> Callable[..., str]:
    """Return a function that writes one page as XML."""
    return page


@pytest.fixture
def write_dump(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes pages as a dump and gives its path."""

    def write(pages: Sequence[str], name: str = "dump.xml", *, siteinfo: str = SITEINFO) -> Path:
        data = dump_xml(pages, siteinfo=siteinfo).encode()
        path = tmp_path / name
        path.write_bytes(bz2.compress(data) if name.endswith(".bz2") else data)
        return path

    return write


@pytest.fixture
def small_dump(write_dump: Callable[..., Path]) -> Path:
    """Return a dump of three articles, two redirects, a disambiguation page and a talk page."""
    return write_dump(
        [
            page(
                1,
                "Ada Lovelace",
                "'''Ada Lovelace''' was a mathematician. She met [[Charles Babbage]] in [[London]]{{cn}}.\n\n"
                "== Life ==\nLovelace's notes made her famous. [[Ada (given name)|Ada]] is a name.",
            ),
            page(
                2,
                "Charles Babbage",
                "'''Charles Babbage''' was an inventor. He was born in [[the Big Smoke]].",
            ),
            page(3, "London", "'''London''' is a city. It is large. Charles Babbage lived there."),
            page(4, "The Big Smoke", "#REDIRECT [[London]]", redirect="London"),
            page(5, "Ada (given name)", "'''Ada''' may be:\n* [[Ada Lovelace]]\n{{disambiguation}}"),
            page(6, "Talk:London", "Hello", namespace=1),
            page(7, "Lady Lovelace", "#REDIRECT [[Ada Lovelace]]", redirect="Ada Lovelace"),
        ]
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the shared test data; tests on it are skipped where it is not."""
    beside = Path(__file__).resolve().parents[3].parent / "shared"
    folder = Path(os.environ.get("SHARED_DATA", str(beside)))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data in {str(folder)!r}: set SHARED_DATA to the folder that holds data/wiki")
    return folder / "data"
