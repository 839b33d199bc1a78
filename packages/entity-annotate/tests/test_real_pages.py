"""The cleaner against mwparserfromhell on real pages: which links there are, and what their labels say."""

import re

import mwparserfromhell
import pytest

from entity_annotate.dump import Dump
from entity_annotate.namespaces import DEFAULT_NAMESPACES, prefix_key
from entity_annotate.titles import normalize_title, split_fragment
from entity_annotate.wikitext import clean_page

EXCERPT = "wiki/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
MINIDUMPS = {"en": 24, "de": 2, "ar": 3, "ja": 1, "zh": 1}
DROPPED_TAGS = "ref math chem gallery timeline score hiero imagemap references".split()


def oracle_links(wikitext: str) -> list[tuple[str, str]]:
    """Return (page, label) of the links to articles that mwparserfromhell sees outside of what is dropped."""
    # Rows of tables left behind by templates, and "{|" not at a line's start, are no tables to mwparserfromhell.
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    for node in code.filter_templates(recursive=True) + code.filter_comments(recursive=True):
        try:
            code.remove(node)
        except ValueError:
            continue  # inside a node that is gone already
    for tag in code.filter_tags(recursive=True):
        if str(tag.tag).lower().strip() in (*DROPPED_TAGS, "table"):
            try:
                code.remove(tag)
            except ValueError:
                continue
    links = []
    for link in code.filter_wikilinks(recursive=True):
        target = str(link.title).strip()
        prefix = prefix_key(target.removeprefix(":").partition(":")[0]) if ":" in target else ""
        known = (DEFAULT_NAMESPACES.file, DEFAULT_NAMESPACES.category, DEFAULT_NAMESPACES.language)
        if prefix and any(prefix in names for names in (*known, DEFAULT_NAMESPACES.other)):
            if prefix in DEFAULT_NAMESPACES.file and not target.startswith(":"):
                links.append(("file", str(link)))
            continue
        page = normalize_title(split_fragment(target.removeprefix(":"))[0])
        label = str(link.text) if link.text is not None else target.removeprefix(":")
        if page and "\n" not in target:
            links.append((page, plain(label)))
    inside_files = [
        pair for page, markup in links if page == "file" for pair in oracle_links(markup.removeprefix("[["))
    ]
    found = [pair for pair in links if pair[0] != "file"]
    for pair in inside_files:
        if pair in found:
            found.remove(pair)
    return found


def plain(label: str) -> str:
    label = re.sub("'{2,}", "", label)
    return re.sub(r"\s+", " ", mwparserfromhell.parse(label).strip_code().replace("\u00a0", " ")).strip()


def compare(wikitext: str) -> tuple[int, int, int]:
    """Return how many links both see, only mwparserfromhell, only we."""
    page = clean_page(wikitext)
    ours = [(link.target, page.text[link.char_start : link.char_end]) for link in page.links]
    theirs = oracle_links(wikitext)
    shared = 0
    rest = list(theirs)
    for pair in ours:
        if pair in rest:
            rest.remove(pair)
            shared += 1
    return shared, len(rest), len(ours) - shared


def articles(path) -> list:
    return [page for page in Dump(path) if page.redirect is None and page.namespace == 0]


@pytest.mark.parametrize("language", MINIDUMPS)
def test_links_of_the_minidumps_are_those_that_mwparserfromhell_sees(shared_data, language):
    pages = articles(shared_data / f"wiki/dbpedia-minidumps/{language}-wiki.xml.bz2")
    results = {page.title: compare(page.text) for page in pages}
    shared, missed, extra = (sum(result[i] for result in results.values()) for i in range(3))
    print(language, len(pages), shared, missed, extra, {t: r for t, r in results.items() if r[1] or r[2]})
    assert missed + extra <= 0.01 * shared
