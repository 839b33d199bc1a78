"""The whole way: a dump becomes documents and mentions, also when it is damaged or the run is killed."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from entity_annotate.records import Document, Failure, Mention
from entity_annotate.tables import DOCUMENTS, ENTITIES, MENTIONS, QUARANTINE
from entity_annotate.wikipedia import OUTPUTS, annotate_documents, annotate_wikipedia
from entity_annotate.wikitext import Link


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_dump_becomes_documents_with_resolved_links(small_dump, tmp_path):
    annotate_wikipedia(small_dump, tmp_path / "out", qids={"London": "Q84"})
    documents = rows(tmp_path / "out" / "documents.parquet")
    assert [(d["id"], d["title"], d["source"], d["url"]) for d in documents] == [
        ("1", "Ada Lovelace", "dump.xml", "https://en.example.org/wiki/Ada_Lovelace"),
        ("2", "Charles Babbage", "dump.xml", "https://en.example.org/wiki/Charles_Babbage"),
        ("3", "London", "dump.xml", "https://en.example.org/wiki/London"),
    ]
    assert documents[0]["text"] == (
        "Ada Lovelace was a mathematician. She met Charles Babbage in London.\n\nLife\n\n"
        "Lovelace's notes made her famous. Ada is a name."
    )
    links = [
        (d["text"][link["char_start"] : link["char_end"]], link["target"], link["entity"])
        for d in documents
        for link in d["links"]
    ]
    assert links == [
        ("Charles Babbage", "Charles Babbage", "title:Charles_Babbage"),
        ("London", "London", "Q84"),
        ("Ada", "Ada (given name)", None),  # a disambiguation page is nobody
        ("the Big Smoke", "The Big Smoke", "Q84"),
    ]


def test_mentions_carry_the_evidence_of_all_sources(small_dump, tmp_path):
    annotate_wikipedia(small_dump, tmp_path / "out", qids={"London": "Q84"})
    mentions = rows(tmp_path / "out" / "mentions.parquet")
    texts = {d["id"]: d["text"] for d in rows(tmp_path / "out" / "documents.parquet")}
    assert all(texts[m["doc_id"]][m["char_start"] : m["char_end"]] == m["surface"] for m in mentions)
    ada = [
        (
            m["surface"],
            m["entity"],
            round(m["hyperlink"], 2),
            round(m["entity_linking"], 2),
            round(m["coref_cluster"], 2),
        )
        for m in mentions
        if m["doc_id"] == "1"
    ]
    assert ada == [
        ("Ada Lovelace", "title:Ada_Lovelace", 0.0, 0.95, 1.0),
        ("She", "title:Ada_Lovelace", 0.0, 0.0, 1.0),
        ("Charles Babbage", "title:Charles_Babbage", 1.0, 0.0, 0.0),
        ("London", "Q84", 1.0, 0.0, 0.0),
        ("Lovelace", "title:Ada_Lovelace", 0.0, 0.0, 1.0),
        ("her", "title:Ada_Lovelace", 0.0, 0.0, 1.0),
    ]
    assert {m["name"] for m in mentions if m["entity"] == "Q84"} == {"London"}


def test_entities_have_names_and_aliases(small_dump, tmp_path):
    annotate_wikipedia(small_dump, tmp_path / "out")
    assert rows(tmp_path / "out" / "entities.parquet") == [
        {"entity": "title:Ada_Lovelace", "name": "Ada Lovelace", "aliases": ["Lady Lovelace"]},
        {"entity": "title:Charles_Babbage", "name": "Charles Babbage", "aliases": []},
        {"entity": "title:London", "name": "London", "aliases": ["The Big Smoke"]},
    ]


def test_everything_is_counted(small_dump, tmp_path):
    counts = annotate_wikipedia(small_dump, tmp_path / "out")
    assert counts == json.loads((tmp_path / "out" / "counts.json").read_text())
    assert counts["counts"] == {
        "pages": 7,
        "other_namespaces": 1,
        "other_models": 0,
        "redirects": 2,
        "articles": 4,
        "disambiguations": 1,
        "documents": 3,
        "links": 4,
        "mention_rows": 12,
        "mention_spans": 12,
        "mentions_hyperlink": 3,
        "mentions_entity_linking": 4,
        "mentions_coref": 4,
        "mentions_coref_cluster": 8,
        "entities": 3,
    }


def test_files_say_what_they_are_and_the_same_dump_gives_the_same_bytes(small_dump, tmp_path):
    for out in ("a", "b"):
        annotate_wikipedia(small_dump, tmp_path / out)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == sorted(OUTPUTS)
    schemas = (DOCUMENTS, MENTIONS, ENTITIES, QUARANTINE)
    for name, schema in zip(OUTPUTS[:4], schemas, strict=True):
        found = pq.read_schema(tmp_path / "a" / name)
        assert found.equals(schema, check_metadata=False)
        assert found.metadata[b"format"] == schema.metadata[b"format"]
        assert found.metadata[b"version"] == b"1"


def test_documents_do_not_depend_on_the_size_of_a_unit(small_dump, tmp_path):
    annotate_wikipedia(small_dump, tmp_path / "one")
    annotate_wikipedia(small_dump, tmp_path / "many", unit_characters=1)
    for name in OUTPUTS[:4]:
        assert rows(tmp_path / "one" / name) == rows(tmp_path / "many" / name)


class StopHereError(Exception):
    pass


def test_an_interrupted_run_ends_with_the_bytes_of_one_that_was_not(small_dump, tmp_path):
    stages = []
    annotate_wikipedia(
        small_dump, tmp_path / "whole", unit_characters=1, on_unit=lambda stage, n: stages.append((stage, n))
    )
    assert stages == [(stage, n) for stage in ("pages", "names", "mentions") for n in range(7)]
    for index, last in enumerate(stages):
        out = tmp_path / f"stopped-{index}"

        def stop(stage, number, last=last):
            if (stage, number) == last:
                raise StopHereError

        with pytest.raises(StopHereError):
            annotate_wikipedia(small_dump, out, unit_characters=1, on_unit=stop)
        annotate_wikipedia(small_dump, out, unit_characters=1)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_run_continues_and_ends_with_the_same_bytes(small_dump, tmp_path):
    command = [
        sys.executable,
        "-m",
        "entity_annotate",
        "wikipedia",
        str(small_dump),
        "--unit-megabytes",
        "0.0001",
    ]
    with subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("names: unit 2"):
                process.kill()
                break
    assert (tmp_path / "killed" / "units").is_dir()
    for out in ("killed", "whole"):
        annotate_wikipedia(small_dump, tmp_path / out, unit_characters=100)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_unit_is_done_again_when_its_pages_or_the_ids_changed(small_dump, tmp_path):
    def stop(stage, number):
        if stage == "mentions":
            raise StopHereError

    out = tmp_path / "out"
    with pytest.raises(StopHereError):
        annotate_wikipedia(small_dump, out, on_unit=stop)
    small_dump.write_text(small_dump.read_text().replace("was an inventor", "invented"))
    annotate_wikipedia(small_dump, out, qids={"London": "Q84"})
    annotate_wikipedia(small_dump, tmp_path / "fresh", qids={"London": "Q84"})
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_truncated_dump_keeps_its_pages_and_says_so(small_dump, tmp_path):
    data = small_dump.read_bytes()
    small_dump.write_bytes(data[: data.index(b"<title>London")])
    counts = annotate_wikipedia(small_dump, tmp_path / "out")
    assert [d["title"] for d in rows(tmp_path / "out" / "documents.parquet")] == [
        "Ada Lovelace",
        "Charles Babbage",
    ]
    assert "after 2 pages" in counts["dump_error"]
    assert counts["quarantined"] == {"read: damaged_dump": 1}
    assert [row["kind"] for row in rows(tmp_path / "out" / "quarantine.parquet")] == ["damaged_dump"]


def test_a_page_whose_id_was_there_before_is_quarantined(write_dump, make_page, tmp_path):
    path = write_dump([make_page(1, "A", "one"), make_page(1, "B", "two"), make_page(2, "C", "three")])
    counts = annotate_wikipedia(path, tmp_path / "out", unit_characters=1)
    assert [d["title"] for d in rows(tmp_path / "out" / "documents.parquet")] == ["A", "C"]
    assert counts["quarantined"] == {"read: duplicate_id": 1}
    (row,) = rows(tmp_path / "out" / "quarantine.parquet")
    assert (row["doc_id"], row["stage"], row["message"]) == ("1", "read", "page 'B' has id '1'")


def test_pages_of_another_model_are_counted_and_left_out(write_dump, make_page, tmp_path):
    item = make_page(1, "Q1", '{"labels": {}}').replace("wikitext</model>", "wikibase-item</model>")
    counts = annotate_wikipedia(write_dump([item, make_page(2, "A", "")]), tmp_path / "out")
    assert (counts["counts"]["other_models"], counts["counts"]["documents"]) == (1, 1)
    assert rows(tmp_path / "out" / "documents.parquet")[0]["text"] == ""


def test_what_is_no_dump_is_refused(tmp_path):
    path = tmp_path / "no.xml"
    path.write_text("<html></html>")
    with pytest.raises(ValueError, match="is no MediaWiki XML dump: it has no <page>"):
        annotate_wikipedia(path, tmp_path / "out")
    path.write_text("garbage")
    with pytest.raises(ValueError, match="is no MediaWiki XML dump: syntax error"):
        annotate_wikipedia(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no dump"):
        annotate_wikipedia(tmp_path / "nowhere.xml", tmp_path / "out")


def test_a_finished_result_stays_as_it_is_unless_overwriting_is_asked_for(small_dump, tmp_path):
    counts = annotate_wikipedia(small_dump, tmp_path / "out")
    before = contents(tmp_path / "out")

    def work(stage, number):
        raise AssertionError("nothing is left to do")

    assert annotate_wikipedia(small_dump, tmp_path / "out", on_unit=work) == counts
    qids = {"London": "Q84"}
    with pytest.raises(FileExistsError, match="already holds an annotation of other inputs"):
        annotate_wikipedia(small_dump, tmp_path / "out", qids=qids)
    assert contents(tmp_path / "out") == before
    annotate_wikipedia(small_dump, tmp_path / "out", qids=qids, overwrite=True)
    assert "Q84" in {row["entity"] for row in rows(tmp_path / "out" / "entities.parquet")}


def test_files_of_somebody_else_are_not_replaced(small_dump, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "documents.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match="that is not ours"):
        annotate_wikipedia(small_dump, tmp_path / "out")
    with pytest.raises(FileExistsError, match="is a file, expected a folder"):
        annotate_wikipedia(small_dump, tmp_path / "out" / "documents.parquet")


class Fixed:
    """A linker and resolver that gives what it was told to."""

    name = "fixed"
    fingerprint = "fixed"

    def __init__(self, *answers):
        self.answers = answers

    def link(self, docs):
        return list(self.answers)

    def resolve(self, docs, mentions):
        return list(self.answers)


def test_a_document_that_fails_is_quarantined_and_keeps_its_links():
    docs = [Document(str(n), "Ada ran.", links=[Link(0, 3, "Ada", entity="Q7259")]) for n in range(3)]
    linker = Fixed(Failure("timeout", "too slow"), [Mention(0, 99, "Q1", 0.9)], [Mention(4, 7, "Q2", 0.9)])
    mentions, record = annotate_documents(docs, linker, Fixed([], [[(0, 3), (5, 5)]], []))
    assert [(m["doc_id"], m["surface"], m["entity"]) for m in mentions] == [
        ("0", "Ada", "Q7259"),
        ("1", "Ada", "Q7259"),
        ("2", "Ada", "Q7259"),
        ("2", "ran", "Q2"),
    ]
    assert [(row["doc_id"], row["stage"], row["kind"]) for row in record["quarantine"]] == [
        ("0", "link", "timeout"),
        ("1", "link", "offset_mismatch"),
        ("1", "coref", "offset_mismatch"),
    ]
