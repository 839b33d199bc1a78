"""Read MediaWiki XML dumps page by page, plain or compressed, whole or damaged; memory stays at one page."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from entity_annotate.namespaces import DEFAULT_NAMESPACES, Namespaces


@dataclass(frozen=True)
class Page:
    """One page of a dump as it stands there; `redirect` is the target as written, None for other pages."""

    id: str
    title: str
    namespace: int
    text: str
    redirect: str | None = None
    model: str = "wikitext"


@dataclass
class Dump:
    """Iterate over the pages of a dump; then `error` says where and why reading stopped early, if it did.

    `namespaces`, `first_letter` and `base` (of a page's address) are those of the siteinfo once it has been
    read, before the first page.
    """

    path: Path
    namespaces: Namespaces = DEFAULT_NAMESPACES
    first_letter: bool = True
    base: str = ""
    num_pages: int = 0
    error: str | None = field(default=None)

    def __iter__(self) -> Iterator[Page]:
        """Yield the finished pages, in order; what is after a damaged place is not read."""
        self.num_pages, self.error = 0, None
        try:
            with open_dump(self.path) as source:
                yield from self._pages(source)
        except (ElementTree.ParseError, EOFError, zlib.error) as error:
            self.error = f"{error} (after {self.num_pages} pages)"
        except OSError as error:
            if error.errno is not None:  # a disk that fails, not a file that is damaged
                raise
            self.error = f"{error} (after {self.num_pages} pages)"

    def _pages(self, source: IO[bytes] | gzip.GzipFile) -> Iterator[Page]:
        root = None
        for event, element in ElementTree.iterparse(source, events=("start", "end")):
            if event == "start":
                root = element if root is None else root
                continue
            name = _local(element.tag)
            if name == "siteinfo":
                self._read_siteinfo(element)
            elif name == "page":
                self.num_pages += 1
                yield _page(element)
                element.clear()
                if root is not None:
                    root.clear()

    def _read_siteinfo(self, siteinfo: ElementTree.Element) -> None:
        declared = [
            (int(element.get("key", "0")), element.text or "")
            for element in siteinfo.iter()
            if _local(element.tag) == "namespace" and element.get("key", "").lstrip("-").isdigit()
        ]
        self.namespaces = DEFAULT_NAMESPACES.including(declared)
        case = next((element.text for element in siteinfo if _local(element.tag) == "case"), None)
        self.first_letter = case != "case-sensitive"
        base = next((element.text or "" for element in siteinfo if _local(element.tag) == "base"), "")
        self.base = base.rpartition("/")[0] + "/" if "/" in base else ""


def open_dump(path: Path) -> IO[bytes] | gzip.GzipFile:
    """Open a dump for reading bytes, decompressing by what the file begins with, not by its name."""
    with path.open("rb") as raw:
        magic = raw.read(3)
    if magic == b"BZh":
        return bz2.open(path)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(path)
    return path.open("rb")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _page(element: ElementTree.Element) -> Page:
    fields: dict[str, str] = {}
    redirect = None
    for child in element:
        name = _local(child.tag)
        if name == "revision":
            for part in child:
                fields["revision_" + _local(part.tag)] = part.text or ""
        elif name == "redirect":
            redirect = child.get("title", "")
        else:
            fields.setdefault(name, child.text or "")
    namespace = fields.get("ns", "").strip()
    return Page(
        id=fields.get("id", "").strip(),
        title=fields.get("title", "").strip(),
        namespace=int(namespace) if namespace.lstrip("-").isdigit() else 0,
        text=fields.get("revision_text", ""),
        redirect=redirect,
        model=fields.get("revision_model", "wikitext"),
    )
