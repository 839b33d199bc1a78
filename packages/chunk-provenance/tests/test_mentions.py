import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError
from chunk_provenance.mentions import SCHEMA, MentionFile

OWN = {"doc_id": ["a", "b", "a", "c"], "char_start": [0, 1, 2, 3], "char_end": [1, 2, 3, 4]}
OWN |= {"surface": list("wxyz"), "entity": ["Q1", None, "Q1", "Q2"]}


def write(tmp_path, columns, **options):
    pq.write_table(pa.table(columns), tmp_path / "mentions.parquet", **options)
    return tmp_path / "mentions.parquet"


@pytest.mark.parametrize("rows_a_group", [1, 3, 100])
def test_rows_are_found_by_document_wherever_they_are(tmp_path, rows_a_group):
    mentions = MentionFile(write(tmp_path, OWN, row_group_size=rows_a_group))
    table, owner = mentions.rows_of(["c", "nobody", "a"])
    assert (table["surface"].to_pylist(), owner.tolist()) == (["z", "w", "y"], [0, 2, 2])
    assert mentions.unclaimed() == (1, ["b"])
    table, owner = mentions.rows_of(["nobody"])
    assert (table.num_rows, owner.tolist()) == (0, [])


def test_a_users_own_file_needs_only_place_and_entity(tmp_path):
    table, _ = MentionFile(write(tmp_path, OWN)).rows_of(["b"])
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist()[0]["hyperlink"] is None


def test_the_file_is_checked_where_it_enters(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mentions file at"):
        MentionFile(tmp_path / "mentions.parquet")
    with pytest.raises(FormatError, match=r"lacks the mentions columns \['entity'\]"):
        MentionFile(write(tmp_path, {name: column for name, column in OWN.items() if name != "entity"}))
    with pytest.raises(FormatError, match="has mentions without doc_id"):
        MentionFile(write(tmp_path, {**OWN, "doc_id": ["a", None, "a", "c"]}))
    with pytest.raises(FormatError, match="has mentions without char_end"):
        MentionFile(write(tmp_path, {**OWN, "char_end": [1, None, 3, 4]})).rows_of(["a"])
    with pytest.raises(FormatError, match="char_start is string, expected int64"):
        MentionFile(write(tmp_path, {**OWN, "char_start": list("wxyz")})).rows_of(["a"])
