"""The cleaner against mwparserfromhell on real pages: which links there are, and what their labels say."""

import re
from collections import Counter

import mwparserfromhell
import pytest

from entity_annotate.dump import Dump, Page
from entity_annotate.namespaces import DEFAULT_NAMESPACES, prefix_key
from entity_annotate.titles import normalize_title, split_fragment
from entity_annotate.wikitext import clean_page

MINIDUMP = "wiki/dbpedia-minidumps/{}-wiki.xml.bz2"
EXCERPT = "wiki/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
DROPPED_TAGS = {
    "ref",
    "references",
    "math",
    "chem",
    "gallery",
    "timeline",
    "score",
    "hiero",
    "imagemap",
    "table",
}
NAMES = DEFAULT_NAMESPACES
NO_ARTICLES = NAMES.file | NAMES.category | NAMES.language | NAMES.other


def oracle_links(wikitext: str) -> Counter[tuple[str, str]]:
    """Count the (page, label) of links to articles that mwparserfromhell sees outside of what is dropped."""
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    tags = [tag for tag in code.filter_tags(recursive=True) if str(tag.tag).strip().lower() in DROPPED_TAGS]
    for node in [*code.filter_templates(), *code.filter_comments(), *tags, *files(code)]:
        if code.contains(node):
            code.remove(node)
    links = Counter()
    for link in code.filter_wikilinks():
        target = str(link.title).strip()
        if prefix(target) not in NO_ARTICLES:
            page = normalize_title(split_fragment(target.removeprefix(":"))[0])
            label = target.removeprefix(":") if link.text is None else str(link.text)
            links[page, plain(label)] += bool(page)
    return +links


def files(code) -> list:
    return [link for link in code.filter_wikilinks() if prefix(str(link.title)) in NAMES.file]


def prefix(target: str) -> str:
    head, colon, _ = target.strip().removeprefix(":").partition(":")
    return prefix_key(head) if colon else ""


def plain(label: str) -> str:
    label = mwparserfromhell.parse(re.sub("'{2,}", "", label)).strip_code()
    return " ".join(label.split())


def compare(page: Page) -> tuple[Counter, Counter]:
    """Return the links that only mwparserfromhell sees, and those that only we see."""
    cleaned = clean_page(page.text)
    found = Counter((link.target, cleaned.text[link.char_start : link.char_end]) for link in cleaned.links)
    expected = oracle_links(page.text)
    return expected - found, found - expected


def articles(path) -> list[Page]:
    return [page for page in Dump(path) if page.redirect is None and page.namespace == 0]


@pytest.mark.parametrize("language", ["ar", "zh"])
def test_links_of_pages_in_other_languages_are_those_of_mwparserfromhell(shared_data, language):
    for page in articles(shared_data / MINIDUMP.format(language)):
        assert compare(page) == (Counter(), Counter())


@pytest.mark.slow
@pytest.mark.parametrize("language", ["de", "ja"])
def test_links_of_long_pages_in_other_languages_are_those_of_mwparserfromhell(shared_data, language):
    for page in articles(shared_data / MINIDUMP.format(language)):
        assert compare(page) == (Counter(), Counter())


@pytest.mark.slow
def test_links_of_english_pages_are_those_of_mwparserfromhell(shared_data):
    differences = {}
    for page in articles(shared_data / MINIDUMP.format("en")):
        missed, extra = compare(page)
        if missed or extra:
            differences[page.title] = (list(missed), list(extra))
    # The label of [[Kyrios|... ['Lord']]]: mwparserfromhell lets the first bracket close the link.
    assert differences == {
        "Arthur Schopenhauer": ([("Kyrios", "κύριος ['Lord'")], [("Kyrios", "κύριος ['Lord']")])
    }


@pytest.mark.slow
def test_links_of_the_excerpt_are_those_of_mwparserfromhell(shared_data):
    pages = articles(shared_data / EXCERPT)[::4]
    num_links = sum(len(clean_page(page.text).links) for page in pages)
    differences = {page.title: found for page in pages if any(found := compare(page))}
    # Four labels there are a template and nothing else: we show the title, as for [[29th parallel north|]].
    titles = ("29th parallel north", "39th parallel north", "60th meridian east", "75th meridian east")
    expected = Counter((title, "") for title in titles), Counter((title, title) for title in titles)
    assert (num_links, differences) == (7940, {"Afghanistan": expected})
