"""Chunks as documents in LMEnt's layout."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
from entity_index.elastic.bulk_documents import article_id, documents_of, shortest
from entity_index.source import MENTIONS, ChunkBatch, stream_chunks


def test_a_document_has_lments_layout_and_what_our_answers_need_besides(make_store, row):
    scores = {"hyperlink": 1.0, "entity_linking": 0.25, "coref": 0.62, "coref_cluster": 1 / 3}
    mentions = [
        row(0, 0, 3, "Q1", name='A "quoted"\n\x00 name', score=0.71, **scores),
        row(0, 0, 3, "Q2", name=None),
        row(0, 4, 7, "title:Ünï 😀", surface='said\\"', coref=0.5),
        row(0, 8, 9, None, surface="x"),
    ]
    store = make_store(['Ada met "Bob"\t\\ é 東京 😀', "no mention"], mentions, ["A title", None])
    (batch,) = stream_chunks(store)
    found = documents_of(batch)
    assert found.chunk_ids == [0, 1]
    assert (found.num_mentions, found.num_dropped, found.has_long_text) == (2, 1, False)
    zeros = dict.fromkeys(("hyperlinks", "entity_linking", "coref", "coref_cluster"), 0.0)
    by_source = {"hyperlinks": 1.0, "entity_linking": 0.25, "coref": 0.62, "coref_cluster": 0.33333334}
    assert [json.loads(line) for line in found.lines] == [
        {
            "chunk_id": 0,
            "start": 0,
            "end": 1,
            "title": "A title",
            "metadata_source": "",
            "text": 'Ada met "Bob"\t\\ é 東京 😀',
            "doc_id": "d0",
            "entities": [
                {
                    "char_start": 0,
                    "char_end": 3,
                    "text_mention": "Ada",
                    "candidates": [
                        {
                            "qid": "Q1",
                            "name": 'A "quoted"\n\x00 name',
                            "aggregated_score": 0.71,
                            "scores_by_source": by_source,
                            "row": 0,
                        },
                        {
                            "qid": "Q2",
                            "name": "",
                            "aggregated_score": 0.0,
                            "scores_by_source": zeros,
                            "row": 1,
                        },
                    ],
                },
                {
                    "char_start": 4,
                    "char_end": 7,
                    "text_mention": 'said\\"',
                    "candidates": [
                        {
                            "qid": "title:Ünï 😀",
                            "name": "",
                            "aggregated_score": 0.5,
                            "scores_by_source": {**zeros, "coref": 0.5},
                            "row": 2,
                        }
                    ],
                },
            ],
        },
        {
            "chunk_id": 1,
            "start": 1,
            "end": 2,
            "title": "",
            "metadata_source": "",
            "text": "no mention",
            "doc_id": "d1",
            "entities": [],
        },
    ]


def test_random_documents_are_those_of_the_slow_obvious_twin():
    rng = np.random.default_rng(7)
    for size in (1, 2, 50):
        rows = [
            {
                "chunk_id": int(chunk),
                "char_start": int(start),
                "char_end": int(start) + 1,
                "surface": "ab"[rng.integers(2)],
                "entity": [None, "Q1", "Q2"][rng.integers(3)],
                "name": [None, "", "One"][rng.integers(3)],
                **{name: float(np.float32(rng.random())) for name in MENTIONS.names[7:]},
            }
            for chunk, start in sorted(
                zip(rng.integers(size, size=200), rng.integers(3, size=200), strict=True)
            )
        ]
        table = pa.Table.from_pylist([{"row": i, **row} for i, row in enumerate(rows)], schema=MENTIONS)
        ids, texts = np.arange(size), ["t"] * size
        batch = ChunkBatch(ids, texts, texts, texts, texts, ids, ids, table)
        found = documents_of(batch)
        expected = [slow_mentions(rows, chunk) for chunk in range(size)]
        assert [strip(json.loads(line)["entities"]) for line in found.lines] == expected
        spans = {k for k, _ in itertools.groupby(rows, key=place)}
        assert found.num_mentions == sum(map(len, expected))
        assert found.num_mentions + found.num_dropped >= len(spans)


def place(row):
    return row["chunk_id"], row["char_start"], row["char_end"], row["surface"]


def slow_mentions(rows, chunk):
    linked = [row for row in rows if row["chunk_id"] == chunk and row["entity"] is not None]
    return [
        (*key[1:], [(row["entity"], row["name"] or "", row["score"], row["coref"]) for row in of_span])
        for key, of_span in itertools.groupby(linked, key=place)
    ]


def strip(entities):
    return [
        (
            mention["char_start"],
            mention["char_end"],
            mention["text_mention"],
            [
                (
                    c["qid"],
                    c["name"],
                    float(np.float32(c["aggregated_score"])),
                    float(np.float32(c["scores_by_source"]["coref"])),
                )
                for c in mention["candidates"]
            ],
        )
        for mention in entities
    ]


def test_scores_are_the_same_in_float32_once_they_are_read():
    values = np.random.default_rng(0).random(20_000).astype(np.float32)
    for value in [*values, np.float32(1e-45), np.float32(1), np.float32(0.1)]:
        assert np.float32(json.loads(shortest(value))) == value


@pytest.mark.parametrize("doc_id", ["", "-1", "1.0", "٣", "1e3", " 1", "2147483648", "9" * 5000])
def test_a_document_id_that_is_no_32_bit_number_is_no_article_id(doc_id):
    assert article_id(doc_id) is None


def test_numbers_beyond_32_bits_are_left_out_and_long_texts_are_told():
    far = np.array([1 << 31], dtype=np.int64)
    zero = np.zeros(1, dtype=np.int64)
    batch = ChunkBatch(zero, ["é" * 16_384], ["12"], [""], [""], zero, far, MENTIONS.empty_table())
    found = documents_of(batch)
    document = json.loads(found.lines[0])
    assert (document["article_id"], document["start"], "end" in document) == (12, 0, False)
    assert found.has_long_text
