"""golden/README.md says how the files were made."""

from pathlib import Path

import pytest

from chunk_provenance import Segment, open_store
from chunk_provenance.build import Packing, build_store
from chunk_provenance.documents import find_sources, read_documents
from chunk_provenance.encoding import encode_documents
from chunk_provenance.mentions import MentionFile
from chunk_provenance.tokenizing import load_encoder

GOLDEN = Path(__file__).parent / "golden" / "build"
TEXTS = [
    "Ada Lovelace wrote the first program. ",
    "She was born in London in 1815, and met ",
    "Charles Babbage",
    "東京 (Tokyo) is larger than London.",
]


@pytest.fixture(params=["golden", "built again"])
def store(request, tmp_path):
    """The golden store, and one made of the same files now."""
    if request.param == "golden":
        return open_store(GOLDEN / "store")
    encoder = load_encoder(GOLDEN / "store" / "tokenizer.json")
    build_store(
        tmp_path / "store",
        encode_documents(read_documents(find_sources(str(GOLDEN / "docs.jsonl"))), encoder),
        encoder=encoder,
        packing=Packing("buckets", 8, 32, "drop"),
        mentions=MentionFile(GOLDEN / "mentions.parquet"),
    )
    return open_store(tmp_path / "store")


def test_the_golden_store_keeps_its_meaning(store):
    assert [store.chunk_text(chunk) for chunk in range(store.num_chunks)] == TEXTS
    assert store.bucket.tolist() == [32, 32, 16, 32]
    assert store.token_start.tolist() == [0, 32, 62, 75]
    assert store.segments(2) == [Segment("1", 0, 13, 78, 93)]
    assert store.document("2").title == "東京"
    assert (store.eos_id, store.pad_id, store.vocab_size) == (0, 1, 270)
    assert store.tokens.tolist() == open_store(GOLDEN / "store").tokens.tolist()


def test_the_golden_mentions_keep_their_meaning(store):
    columns = [
        "chunk_id",
        "char_start",
        "char_end",
        "doc_id",
        "doc_char_start",
        "surface",
        "entity",
        "cluster_id",
    ]
    assert [tuple(row.values()) for row in store.mention_table.select(columns).to_pylist()] == [
        (0, 0, 12, "1", 0, "Ada Lovelace", "Q7259", 0),
        (1, 0, 3, "1", 38, "She", "Q7259", 0),
        (1, 16, 22, "1", 54, "London", "Q84", None),
        (2, 0, 15, "1", 78, "Charles Babbage", "Q46633", None),
        (3, 0, 2, "2", 0, "東京", "Q1490", None),
        (3, 4, 9, "2", 4, "Tokyo", "Q1490", None),
        (3, 26, 32, "2", 26, "London", "Q84", None),
    ]
    scores = (
        store.mentions_of(1).select(["hyperlink", "entity_linking", "coref", "coref_cluster"]).to_pydict()
    )
    assert {name: [round(value, 6) for value in values] for name, values in scores.items()} == {
        "hyperlink": [0.0, 1.0],
        "entity_linking": [0.0, 0.0],
        "coref": [0.7, 0.0],
        "coref_cluster": [0.9, 0.0],
    }


def test_the_golden_losses_keep_their_meaning(store):
    assert store.dropped_table.select(
        ["doc_id", "char_start", "char_end", "num_tokens", "reason", "place"]
    ).to_pylist() == [
        dict(
            doc_id="2",
            char_start=0,
            char_end=0,
            num_tokens=0,
            reason="duplicate id",
            place="docs.jsonl line 3",
        ),
        dict(
            doc_id="3",
            char_start=0,
            char_end=0,
            num_tokens=0,
            reason="missing text",
            place="docs.jsonl line 4",
        ),
        dict(
            doc_id="1",
            char_start=93,
            char_end=100,
            num_tokens=6,
            reason="shorter than the smallest bucket",
            place=None,
        ),
    ]
