import hashlib

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from entity_annotate.cli import app


@pytest.fixture(scope="module")
def annotated(encyclopedia, tmp_path_factory):
    out = tmp_path_factory.mktemp("annotated") / "wiki"
    result = CliRunner().invoke(app, ["wikipedia", str(encyclopedia / "dump.xml.bz2"), str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_the_cleaned_articles_are_the_texts_the_generator_meant(annotated, encyclopedia):
    documents = pq.read_table(annotated / "documents.parquet", columns=["id", "text"]).to_pylist()
    cleaned = {row["id"]: hashlib.sha256(row["text"].encode()).hexdigest() for row in documents}
    gold = pq.read_table(encyclopedia / "gold_mentions.parquet", columns=["doc_id", "text_sha256"])
    meant = dict(zip(gold["doc_id"].to_pylist(), gold["text_sha256"].to_pylist(), strict=True))
    assert meant == {doc_id: cleaned[doc_id] for doc_id in meant}


def test_every_link_of_the_generator_is_found_at_its_place(annotated, encyclopedia):
    mentions = pq.read_table(annotated / "mentions.parquet", filters=[("hyperlink", "==", 1.0)])
    gold = pq.read_table(encyclopedia / "gold_mentions.parquet", filters=[("kind", "==", "link")])
    key = ["doc_id", "char_start", "char_end", "entity"]
    found, meant = (
        {tuple(row.values()) for row in table.select(key).to_pylist()} for table in (mentions, gold)
    )
    assert found == meant
