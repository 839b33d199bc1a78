import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError, Segment, StoredDocument, open_store, write_store


def test_a_store_reads_back_what_was_written(small_store):
    assert small_store.num_chunks == 3
    assert small_store.chunk_tokens(1).tolist() == [*map(ord, "Bob."), 256]
    assert small_store.segments(1) == [Segment("d1", 0, 5, 8, 12)]
    assert small_store.chunks_of_document("d1").tolist() == [0, 1]


def test_chunk_texts_join_to_the_document(small_store):
    assert [small_store.chunk_text(chunk) for chunk in range(3)] == ["Ada met ", "Bob.", "Bob ran."]


def test_a_document_is_found_by_its_id(small_store):
    assert small_store.document("d1") == StoredDocument("d1", "Meeting", "book", None, "Ada met Bob.")
    with pytest.raises(ValueError, match="no document 'd3'"):
        small_store.document("d3")


def test_mentions_are_found_by_chunk(small_store):
    assert small_store.mentions_of(1)["surface"].to_pylist() == ["Bob"]
    assert small_store.mention_table.num_rows == 3
    row = small_store.mentions_of(1).to_pylist()[0]
    assert small_store.chunk_text(1)[row["char_start"] : row["char_end"]] == row["surface"]


def test_rows_are_padded_and_tell_documents_apart(small_store):
    input_ids, doc_ids = small_store.rows(np.array([1, 0]))
    assert input_ids.tolist() == [[*map(ord, "Bob."), 256, 257, 257, 257], [*map(ord, "Ada met ")]]
    assert doc_ids.tolist() == [[0, 0, 0, 0, 0, -1, -1, -1], [0] * 8]


def test_meta_names_every_file_and_its_hash(small_store):
    meta = json.loads((small_store.path / "meta.json").read_text(encoding="utf-8"))
    files = {file.name for file in small_store.path.iterdir()} - {"meta.json"}
    assert set(meta["files"]) == files
    for name, digest in meta["files"].items():
        assert hashlib.sha256((small_store.path / name).read_bytes()).hexdigest() == digest
    assert pq.read_schema(small_store.path / "mentions.parquet").metadata[b"format"] == b"chunk-mentions"


def test_an_existing_folder_is_not_overwritten(small_store):
    with pytest.raises(FileExistsError, match="exists"):
        write_store(
            small_store.path,
            tokens=np.array([1]),
            chunks=pa.table({}),
            segments=pa.table({}),
            documents=pa.table({}),
            tokenizer_json="{}",
            meta={},
        )


def test_a_missing_store_and_an_unknown_version_are_refused(small_store, tmp_path):
    with pytest.raises(FileNotFoundError, match="no chunk store"):
        open_store(tmp_path)
    meta_file = small_store.path / "meta.json"
    meta_file.write_text(
        meta_file.read_text(encoding="utf-8").replace('"version": 1', '"version": 9'), encoding="utf-8"
    )
    with pytest.raises(FormatError, match="chunk-store version 9, this release reads 1"):
        open_store(small_store.path)


def test_unknown_chunks_are_refused(small_store):
    with pytest.raises(ValueError, match=r"no chunk 3 .* it has 0 to 2"):
        small_store.chunk_text(3)
