"""Reading dumps, good ones and damaged ones."""

import bz2
import gzip

import pytest

from entity_annotate.dump import Dump, Page


def ids(dump):
    return [page.id for page in dump]


@pytest.mark.parametrize("compress", [None, bz2.compress, gzip.compress])
def test_a_dump_is_read_whatever_its_compression_and_name(small_dump, tmp_path, compress):
    data = small_dump.read_bytes()
    path = tmp_path / "renamed"
    path.write_bytes(data if compress is None else compress(data))
    dump = Dump(path)
    pages = list(dump)
    assert [page.title for page in pages[:2]] == ["Ada Lovelace", "Charles Babbage"]
    assert pages[3] == Page("4", "The Big Smoke", 0, "#REDIRECT [[London]]", redirect="London")
    assert (dump.num_pages, dump.error, dump.base) == (7, None, "https://en.example.org/wiki/")
    assert ids(dump) == list("1234567")  # and once more


def test_several_bzip2_streams_in_one_file_are_one_dump(small_dump, tmp_path):
    data = small_dump.read_bytes()
    path = tmp_path / "multistream.bz2"
    path.write_bytes(bz2.compress(data[:900]) + bz2.compress(data[900:]))
    assert ids(Dump(path)) == list("1234567")


def test_missing_siteinfo_other_versions_and_no_xml_namespace_are_read(write_dump, make_page):
    path = write_dump([make_page(1, "A", "a")], siteinfo="")
    assert ids(Dump(path)) == ["1"]
    path.write_text(path.read_text().replace("export-0.11", "export-0.3"))
    assert ids(Dump(path)) == ["1"]
    path.write_text(path.read_text().replace(' xmlns="http://www.mediawiki.org/xml/export-0.3/"', ""))
    assert ids(Dump(path)) == ["1"]


def test_utf_16_is_read(small_dump):
    expected = list(Dump(small_dump))
    small_dump.write_bytes(
        ('<?xml version="1.0" encoding="UTF-16"?>' + small_dump.read_text()).encode("utf-16")
    )
    assert list(Dump(small_dump)) == expected


def test_text_may_be_missing_empty_or_self_closing(tmp_path):
    pages = (
        "<page><title>A</title><id>1</id><revision><text /></revision></page>"
        "<page><title>B</title><id>2</id><revision><text></text></revision></page>"
        "<page><title>C</title><id>3</id></page>"
    )
    path = tmp_path / "dump.xml"
    path.write_text(f"<mediawiki>{pages}</mediawiki>")
    assert [(page.title, page.text, page.namespace) for page in Dump(path)] == [
        ("A", "", 0),
        ("B", "", 0),
        ("C", "", 0),
    ]


def test_of_a_truncated_dump_the_finished_pages_are_kept(small_dump):
    data = small_dump.read_bytes()
    small_dump.write_bytes(data[: data.index(b"<title>London")])
    dump = Dump(small_dump)
    assert ids(dump) == ["1", "2"]
    assert "after 2 pages" in dump.error


def test_of_a_truncated_bzip2_file_the_finished_pages_are_kept(write_dump, make_page):
    path = write_dump(
        [make_page(n, f"Page {n}", f"{n * 7919 % 1000} " * 3000) for n in range(200)], "d.xml.bz2"
    )
    path.write_bytes(path.read_bytes()[:-200])
    dump = Dump(path)
    found = ids(dump)
    assert found == [str(n) for n in range(len(found))]
    assert f"after {len(found)} pages" in dump.error


def test_after_a_malformed_place_nothing_is_read(small_dump):
    small_dump.write_text(small_dump.read_text().replace("<title>London", "<title>London & <b"))
    dump = Dump(small_dump)
    assert ids(dump) == ["1", "2"]
    assert "not well-formed" in dump.error


@pytest.mark.parametrize(
    "data", [b"", b"no xml at all", b"BZh9 but no bzip2", b"\x1f\x8b nor gzip", b"\x00\xff\xfe" * 50]
)
def test_garbage_has_no_pages_and_an_error(tmp_path, data):
    path = tmp_path / "garbage"
    path.write_bytes(data)
    dump = Dump(path)
    assert (ids(dump), dump.num_pages) == ([], 0)
    assert dump.error


def test_a_case_sensitive_wiki_says_so(small_dump):
    small_dump.write_text(small_dump.read_text().replace("<case>first-letter", "<case>case-sensitive"))
    dump = Dump(small_dump)
    ids(dump)
    assert dump.first_letter is False
    assert "file" in dump.namespaces.file
