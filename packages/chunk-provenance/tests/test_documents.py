import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError
from chunk_provenance.documents import Document, Rejected, find_sources, read_documents

LINES = (
    b'\xef\xbb\xbf{"id": 7, "text": "first", "title": "T", "url": "u"}\n'
    b'{"id": "8", "text": "second", "source": "book"}\n'
    b"\n"
    b"{broken\n"
    b"[1, 2]\n"
    b'{"id": 7, "text": "again"}\n'
    b'{"id": 9}\n'
    b'{"id": 10, "text": null}\n'
    b'{"id": 11, "text": ""}\n'
    b'{"text": "no id"}\n'
    b'{"id": 12, "text": "\\ud800"}\n'
    b'{"id": 13, "text": "a\\u0000b"}\n'
    b'{"id": 14, "text": "\xff"}\n'
    b'{"id": 15, "text": ["list"]}\n'
    b'{"id": "\\udfff", "text": "x"}\n'
    b'{"id": 16, "text": "last"}'
)
DOCUMENTS = [
    Document("7", "first", "T", "docs.jsonl", "u"),
    Document("8", "second", None, "book"),
    Rejected("docs.jsonl line 4", "bad JSON"),
    Rejected("docs.jsonl line 5", "bad JSON"),
    Rejected("docs.jsonl line 6", "duplicate id", "7"),
    Rejected("docs.jsonl line 7", "missing text", "9"),
    Rejected("docs.jsonl line 8", "missing text", "10"),
    Rejected("docs.jsonl line 9", "empty text", "11"),
    Rejected("docs.jsonl line 10", "missing id"),
    Rejected("docs.jsonl line 11", "lone surrogate", "12"),
    Rejected("docs.jsonl line 12", "NUL character", "13"),
    Rejected("docs.jsonl line 13", "not UTF-8"),
    Rejected("docs.jsonl line 14", "missing text", "15"),
    Rejected("docs.jsonl line 15", "lone surrogate"),
    Document("16", "last", None, "docs.jsonl"),
]


def read(path, **options):
    return list(read_documents(find_sources(str(path)), **options))


def test_bad_lines_are_named_and_good_ones_read(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(LINES)
    assert read(path) == DOCUMENTS


def test_lines_nested_beyond_all_measure_are_bad_json(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n' + "[" * 100_000 + "\n", encoding="utf-8")
    assert read(path)[1] == Rejected("docs.jsonl line 2", "bad JSON")


def test_compressed_lines_are_read(tmp_path):
    line = b'{"id": 1, "text": "x"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line))
    with pa.CompressedOutputStream(str(tmp_path / "b.jsonl.zst"), "zstd") as stream:
        stream.write(line.replace(b"1", b"2"))
    assert read(tmp_path) == [
        Document("1", "x", None, "a.jsonl.gz"),
        Document("2", "x", None, "b.jsonl.zst"),
    ]


def test_a_cut_off_file_is_an_error_and_not_a_short_corpus(tmp_path):
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(LINES * 100)[:-20])
    with pytest.raises(FormatError, match="damaged or cut off"):
        read(path)


def test_parquet_is_read_with_numbers_as_ids(tmp_path):
    table = pa.table({"id": [1, 2, 2, None], "text": ["a", None, "b", "c"], "links": [[1], [2], [3], [4]]})
    pq.write_table(table, tmp_path / "docs.parquet")
    assert read(tmp_path / "docs.parquet") == [
        Document("1", "a", None, "docs.parquet"),
        Rejected("docs.parquet row 1", "missing text", "2"),
        Document("2", "b", None, "docs.parquet"),
        Rejected("docs.parquet row 3", "missing id"),
    ]


def test_parquet_text_that_is_not_utf8_is_rejected_alone(tmp_path):
    text = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"id": ["1", "2", "3"], "text": text}), tmp_path / "docs.parquet")
    found = read(tmp_path / "docs.parquet")
    assert found[1] == Rejected("docs.parquet row 1", "not UTF-8")
    assert [found[0].text, found[2].text] == ["a", "c"]


def test_another_format_is_refused(tmp_path):
    table = pa.table({"id": ["1"], "text": ["x"]}).replace_schema_metadata(
        {"format": "mentions", "version": "1"}
    )
    pq.write_table(table, tmp_path / "docs.parquet")
    with pytest.raises(FormatError, match="is a 'mentions' file, expected 'documents'"):
        read(tmp_path / "docs.parquet")


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.parquet"])
def test_columns_of_other_names_can_be_named_and_are_listed_if_not(tmp_path, name):
    path = tmp_path / name
    rows = [{"page": 1, "body": "x"}]
    if name.endswith("jsonl"):
        path.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(FormatError, match=r"no column 'id' for the id, its columns are \['page', 'body'\]"):
        read(path)
    with pytest.raises(FormatError, match=r"no column 'text' for the text.*give --column text=NAME"):
        read(path, columns={"id": "page"})
    with pytest.raises(FormatError, match="no column 'headline' for the title"):
        read(path, columns={"id": "page", "text": "body", "title": "headline"})
    assert read(path, columns={"id": "page", "text": "body"}) == [Document("1", "x", None, name)]


def test_documents_without_ids_can_be_numbered(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "x"}\n{"text": "y"}\n', encoding="utf-8")
    assert [document.doc_id for document in read(path, columns={"id": "#"})] == [
        "docs.jsonl:0",
        "docs.jsonl:1",
    ]


def test_places_without_documents_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no documents at"):
        find_sources(str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="files in the folder"):
        find_sources(str(tmp_path))
    (tmp_path / "docs.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no \.parquet, \.jsonl"):
        find_sources(str(tmp_path / "docs.txt"))


def test_a_saved_hugging_face_dataset_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"id": [1, 2], "text": ["x", "y"], "title": ["t", None]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    expected = [Document("1", "x", "t", "saved"), Document("2", "y", None, "saved")]
    assert read(tmp_path / "saved") == expected
    split = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})
    split.save_to_disk(str(tmp_path / "split"))
    assert [document.text for document in read(tmp_path / "split")] == ["x", "y"]


def test_the_fingerprint_of_a_source_follows_its_content(tmp_path):
    path = tmp_path / "docs.jsonl"
    prints = []
    for text in ("x", "y"):
        path.write_text(json.dumps({"id": 1, "text": text}), encoding="utf-8")
        prints.append(find_sources(str(path))[0].fingerprint())
    assert prints[0]["bytes"] == len('{"id": 1, "text": "x"}')
    assert prints[0]["sha256"] != prints[1]["sha256"]
