"""First stage: from the pages of a dump to clean documents, in units of about 16 MB of text."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from entity_annotate.dump import Dump, Page
from entity_annotate.records import Document
from entity_annotate.titles import is_disambiguation, normalize_title, redirect_target, split_fragment
from entity_annotate.wikitext import Link, clean_page

PAGES_VERSION = 1  # raise it whenever cleaning changes: unfinished runs then start again
_LINK = pa.struct(
    [(name, pa.int64()) for name in ("char_start", "char_end")]
    + [(name, pa.string()) for name in ("target", "fragment")]
)
PAGES = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "title", "url", "text")),
        ("names", pa.list_(pa.string())),
        ("links", pa.list_(_LINK)),
    ]
)
COUNTS = (
    "pages",
    "other_namespaces",
    "other_models",
    "redirects",
    "articles",
    "disambiguations",
    "documents",
    "links",
)


@dataclass
class PageUnit:
    """What one unit of pages became."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    disambiguations: list[str] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def record(self) -> dict[str, Any]:
        """Return all but the rows, for the unit's JSON."""
        return {
            "redirects": self.redirects,
            "disambiguations": self.disambiguations,
            "quarantine": self.quarantine,
            "counts": self.counts,
        }


def split_pages(pages: Iterable[Page], unit_characters: int) -> Iterator[list[Page]]:
    """Group pages into units, each closed by the page that fills it."""
    unit: list[Page] = []
    size = 0
    for page in pages:
        unit.append(page)
        size += len(page.text) + 500
        if size >= unit_characters:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def hash_pages(pages: Iterable[Page], dump: Dump) -> str:
    """Return the content address of a unit: its pages, the dump's conventions and the version of the "
    "cleaner."""
    settings = (
        PAGES_VERSION,
        dump.base,
        dump.first_letter,
        sorted(dump.namespaces.file),
        sorted(dump.namespaces.other),
    )
    digest = hashlib.sha256(repr(settings).encode())
    for page in pages:
        digest.update(
            repr((page.id, page.title, page.namespace, page.redirect, page.model, len(page.text))).encode()
        )
        digest.update(page.text.encode("utf-8"))
    return digest.hexdigest()


def sort_pages(pages: Iterable[Page], dump: Dump, seen: set[str]) -> tuple[PageUnit, list[Page]]:
    """Count the pages, set aside redirects and disambiguations, and return the articles that are left.

    `seen` holds the ids of earlier units: a page whose id was there before is quarantined.
    """
    unit = PageUnit()
    articles = []
    for page in pages:
        unit.counts["pages"] += 1
        if page.id in seen or not page.id or not page.title:
            kind = "duplicate_id" if page.id in seen else "incomplete_page"
            unit.quarantine.append(
                quarantined(page.id, "read", kind, f"page {page.title!r} has id {page.id!r}", page.text)
            )
            continue
        seen.add(page.id)
        if _is_article(page, dump, unit):
            articles.append(page)
    return unit, articles


def _is_article(page: Page, dump: Dump, unit: PageUnit) -> bool:
    title = normalize_title(page.title, first_letter=dump.first_letter)
    target = page.redirect or redirect_target(page.text)
    if page.redirect is not None or target is not None:
        unit.counts["redirects"] += 1
        if target and page.namespace == 0:
            unit.redirects[title] = normalize_title(split_fragment(target)[0], first_letter=dump.first_letter)
    elif page.namespace != 0:
        unit.counts["other_namespaces"] += 1
    elif page.model != "wikitext":
        unit.counts["other_models"] += 1
    else:
        unit.counts["articles"] += 1
        if not is_disambiguation(page.text):
            return True
        unit.counts["disambiguations"] += 1
        unit.disambiguations.append(title)
    return False


def clean_articles(unit: PageUnit, articles: Iterable[Page], dump: Dump) -> None:
    """Clean the articles into the unit's rows."""
    for page in articles:
        title = normalize_title(page.title, first_letter=dump.first_letter)
        cleaned = clean_page(page.text, namespaces=dump.namespaces, first_letter=dump.first_letter)
        unit.counts["documents"] += 1
        unit.counts["links"] += len(cleaned.links)
        unit.rows.append(
            {
                "id": page.id,
                "title": title,
                "url": dump.base + quote(title.replace(" ", "_"), safe="/:,;@!$*()'") if dump.base else None,
                "text": cleaned.text,
                "names": cleaned.bold,
                "links": [dict(zip(Link._fields[:4], link, strict=False)) for link in cleaned.links],
            }
        )


def documents_of(table: pa.Table) -> Iterator[Document]:
    """Yield the documents of a unit, their links still without entities."""
    for row in table.to_pylist():
        links = [
            Link(link["char_start"], link["char_end"], link["target"], link["fragment"])
            for link in row["links"]
        ]
        yield Document(row["id"], row["text"], row["title"], links, names=row["names"], url=row["url"])


def quarantined(doc_id: str | None, stage: str, kind: str, message: str, text: str | None) -> dict[str, Any]:
    """Return one row of the quarantine file."""
    digest = None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"doc_id": doc_id, "stage": stage, "kind": kind, "message": message, "text_sha256": digest}
