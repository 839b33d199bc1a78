"""Titles of pages: their canonical form, redirects to a fixed point, disambiguation pages, entity ids."""

import csv
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

_SPACES = re.compile(r"[ _\u00a0\u200e\u200f]+")
_REDIRECT = re.compile(r"\s*#[^\W\d_]+\s*:?\s*\[\[([^\[\]|{}<>\n]+)", re.IGNORECASE)
_QUALIFIER = re.compile(r"(?<=\S) \([^()]*\)$")

_DISAMBIGUATION_TEMPLATES = (
    "disambig disambiguation disamb dab disam disambig-cleanup disambiguation_cleanup disambiguation_page "
    "dabpage hndis hndisambig human_name_disambiguation hndab geodis geo-dis place_name_disambiguation "
    "numberdis number_disambiguation letter_disambiguation letter-numbercombdisambig schooldis "
    "school_disambiguation mathdab mathematical_disambiguation airport_disambiguation airport_disambig "
    "callsigndis hospitaldis hospital_disambiguation roaddis road_disambiguation stationdis "
    "station_disambiguation shipdis tndis species_latin_name_disambiguation latin_name_disambiguation "
    "genus_disambiguation taxonomy_disambiguation biology_disambiguation chemistry_disambiguation "
    "molformdisambig chemdisambig music_disambiguation opus_disambiguation military_unit_disambiguation "
    "political_party_disambiguation church_disambiguation synagogue_disambiguation caselaw_disambiguation "
    "title_disambiguation phonetics_disambiguation wikipedia_disambiguation surname surnames given_name "
    "given_names nickname set_index "
    # other languages
    "begriffsklärung bkl homonymie patronyme desambiguación desambiguação disambigua förgrening dp "
    "doorverwijspagina ujednoznacznienie rozcestník egyért неоднозначность многозначность багатозначність "
    "пояснение вишезначна_одредница aimai 曖昧さ回避 消歧义 消歧義 消歧义页 "
    "동음이의 توضيح ابهام‌زدایی פירושונים täsmennyssivu"
)
_DISAMBIGUATION = frozenset(name.replace("_", " ") for name in _DISAMBIGUATION_TEMPLATES.split())
_TEMPLATE_NAME = re.compile(r"\{\{([^{}|\n<>\[\]]{2,60})")


def normalize_title(title: str, *, first_letter: bool = True) -> str:
    """Return the canonical form of a title as MediaWiki stores it, with spaces.

    >>> normalize_title("ada_lovelace ")
    'Ada lovelace'
    >>> normalize_title("AT&amp;T"), normalize_title("Caf%C3%A9")
    ('AT&T', 'Café')
    """
    if "&" in title:
        title = html.unescape(title)
    if "%" in title:
        title = unquote(title, errors="replace")
    if "_" in title or "  " in title or not title.isascii():
        title = _SPACES.sub(" ", title)
    title = title.strip()
    return title[:1].upper() + title[1:] if first_letter and not title[:1].isupper() else title


def split_fragment(target: str) -> tuple[str, str]:
    """Split a link target into page and section: `Paris#History` into ("Paris", "History")."""
    page, _, fragment = target.partition("#")
    return page, fragment.strip()


def without_qualifier(title: str) -> str:
    """Return the name in a title: `Mercury (planet)` names Mercury.

    >>> without_qualifier("Mercury (planet)")
    'Mercury'
    """
    return _QUALIFIER.sub("", title)


def redirect_target(text: str) -> str | None:
    """Return the target of a redirect page as written, or None where the text is no redirect.

    >>> redirect_target("#REDIRECT [[Ada Lovelace#Life]]")
    'Ada Lovelace#Life'
    """
    if not text.lstrip().startswith("#"):
        return None
    match = _REDIRECT.match(text)
    return match[1] if match else None


def is_disambiguation(wikitext: str) -> bool:
    """Tell a disambiguation page by __DISAMBIG__ or one of its templates, whatever their case.

    >>> is_disambiguation("'''Ada''' may be:{{Hndis|Ada}}")
    True
    """
    if "__DISAMBIG__" in wikitext:
        return True
    names = {name.strip().lower().replace("_", " ") for name in _TEMPLATE_NAME.findall(wikitext)}
    return not names.isdisjoint(_DISAMBIGUATION)


class Redirects:
    """Redirects followed to a fixed point; a cycle leads nowhere, so its titles stay themselves.

    >>> Redirects({"Ada": "Ada King", "Ada King": "Ada Lovelace"}).resolve("Ada")
    'Ada Lovelace'
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        """Take the table of one-step redirects, both sides normalised titles."""
        self.targets = targets

    def resolve(self, title: str) -> str:
        """Return the page a title leads to."""
        seen = {title}
        page = title
        while (target := self.targets.get(page)) is not None:
            if target in seen:
                return title
            seen.add(target)
            page = target
        return page


def entity_of(title: str, qids: Mapping[str, str]) -> str:
    """Return the entity id of a page: its QID where known, else `title:Canonical_Title`.

    >>> entity_of("Ada Lovelace", {})
    'title:Ada_Lovelace'
    """
    return qids.get(title) or "title:" + title.replace(" ", "_")


def read_qids(path: Path) -> dict[str, str]:
    """Read the table title<TAB>QID, one page a line, no header."""
    with path.open(encoding="utf-8", newline="") as lines:
        return dict(_qid_rows(path, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)))


def _qid_rows(path: Path, rows: Iterable[list[str]]) -> Iterable[tuple[str, str]]:
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != 2 or not re.fullmatch(r"Q[1-9]\d*", row[1].strip()):
            found = "\t".join(row)
            raise ValueError(
                f"line {number} of {str(path)!r} is {found!r}: expected a title, a tab and a QID such as Q42"
            )
        yield normalize_title(row[0]), row[1].strip()
