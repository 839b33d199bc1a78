"""Tiny inputs made by hand."""

import pyarrow as pa
import pytest

from chunk_provenance import open_store, write_store

# One token per character, so that every number below can be read off the texts.
TEXTS = {"d1": "Ada met Bob.", "d2": "Bob ran."}
EOS, PAD = 256, 257


@pytest.fixture
def small_store(tmp_path):
    """Two documents in three chunks of at most eight tokens; Ada and Bob are mentioned."""
    tokens = [*map(ord, "Ada met Bob."), EOS, *map(ord, "Bob ran."), EOS]
    write_store(
        tmp_path / "store",
        tokens=tokens,
        chunks=pa.table(
            {
                "chunk_id": [0, 1, 2],
                "token_start": [0, 8, 13],
                "length": [8, 5, 9],
                "bucket": [8, 8, 16],
            }
        ),
        segments=pa.table(
            {
                "chunk_id": [0, 1, 2],
                "doc_id": ["d1", "d1", "d2"],
                "chunk_token_start": [0, 0, 0],
                "chunk_token_end": [8, 5, 9],
                "doc_token_start": [0, 8, 0],
                "char_start": [0, 8, 0],
                "char_end": [8, 12, 8],
            }
        ),
        documents=pa.table(
            {
                "doc_id": ["d1", "d2"],
                "title": ["Meeting", None],
                "source": ["book", "book"],
                "url": pa.nulls(2, pa.string()),
                "text": [TEXTS["d1"], TEXTS["d2"]],
            }
        ),
        mentions=mention_rows(
            [
                (0, 0, 3, "d1", 0, "Ada", "Q1"),
                (1, 0, 3, "d1", 8, "Bob", "Q2"),
                (2, 0, 3, "d2", 0, "Bob", "Q2"),
            ]
        ),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": PAD, "eos_id": EOS, "vocab_size": 258}},
    )
    return open_store(tmp_path / "store")


def mention_rows(rows):
    """Mentions where a character is a token: (chunk, start, end, document, its start, surface, entity)."""
    chunk, start, end, document, doc_start, surface, entity = map(list, zip(*rows, strict=True))
    return pa.table(
        {
            "chunk_id": chunk,
            "token_start": start,
            "token_end": end,
            "char_start": start,
            "char_end": end,
            "doc_id": document,
            "doc_char_start": doc_start,
            "doc_char_end": [at + len(words) for at, words in zip(doc_start, surface, strict=True)],
            "surface": surface,
            "entity": entity,
            "name": surface,
            "score": [0.9] * len(rows),
            "hyperlink": [1.0] * len(rows),
            "entity_linking": [0.0] * len(rows),
            "coref": [0.0] * len(rows),
            "coref_cluster": [0.0] * len(rows),
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )
