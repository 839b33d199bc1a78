import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance.formats import FormatError
from chunk_provenance.studied import open_studied_facts

ROWS = [
    # Two questions about one pair, one about another, one whose answer has no id.
    {
        "id": 11,
        "s_uri": "http://w/Q1",
        "o_uri": "http://w/Q9",
        "s_pop": 50,
        "o_pop": 7,
        "question": "Ada's town?",
    },
    {
        "id": 12,
        "s_uri": "http://w/Q1",
        "o_uri": "http://w/Q9",
        "s_pop": 50,
        "o_pop": 7,
        "question": "Ada's home?",
    },
    {
        "id": 13,
        "s_uri": "http://w/Q2",
        "o_uri": "http://w/Q9",
        "s_pop": 3,
        "o_pop": 7,
        "question": "Bob's home?",
    },
    {"id": 14, "s_uri": "http://w/Q3", "o_uri": None, "s_pop": None, "o_pop": None, "question": "Cy's home?"},
]
CHUNKS = [([0, 1, 2], [1, 2, 5]), ([0, 1, 2], [1, 2, 5]), ([3], [1, 2, 5]), ([], [])]


@pytest.fixture
def popqa(tmp_path):
    rows = [
        {
            **row,
            "possible_answers": ["Rome"],
            "subject_chunks": pa.array(subject, pa.int64()).to_pylist(),
            "answer_chunks": answer,
            "shared_chunks": sorted({*subject} & {*answer}),
        }
        for row, (subject, answer) in zip(ROWS, CHUNKS, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "popqa.parquet")
    return tmp_path / "popqa.parquet"


def test_questions_with_the_same_subject_and_answer_are_one_fact(popqa):
    studied = open_studied_facts(popqa)
    assert studied.facts.to_pylist() == [
        {
            "fact_id": "Q1|Q9",
            "subject": "Q1",
            "answer": "Q9",
            "subject_chunks": 3,
            "answer_chunks": 3,
            "shared_chunks": 2,
            "subject_popularity": 50,
            "answer_popularity": 7,
        },
        {
            "fact_id": "Q2|Q9",
            "subject": "Q2",
            "answer": "Q9",
            "subject_chunks": 1,
            "answer_chunks": 3,
            "shared_chunks": 0,
            "subject_popularity": 3,
            "answer_popularity": 7,
        },
        {
            "fact_id": "14",
            "subject": "Q3",
            "answer": None,
            "subject_chunks": 0,
            "answer_chunks": 0,
            "shared_chunks": 0,
            "subject_popularity": None,
            "answer_popularity": None,
        },
    ]
    assert studied.questions.select(["probe_id", "fact_id"]).to_pydict() == {
        "probe_id": ["11", "12", "13", "14"],
        "fact_id": ["Q1|Q9", "Q1|Q9", "Q2|Q9", "14"],
    }
    shared = studied.chunks.table.filter(pa.compute.equal(studied.chunks.table["kind"], "shared"))
    assert set(zip(shared["fact_id"].to_pylist(), shared["chunk_id"].to_pylist(), strict=True)) == {
        ("Q1|Q9", 1),
        ("Q1|Q9", 2),
    }
    assert studied.notes == (
        "4 questions ask for 3 (subject, answer) pairs",
        "2 facts have no chunk that names both subject and answer",
    )


def test_a_table_of_chunks_is_the_same_from_every_form_and_kind_may_be_left_out(tmp_path):
    rows = [("a", 4), ("a", 2), ("a", 4), ("b", 1 << 40)]
    (tmp_path / "f.csv").write_text(
        "fact_id,chunk_id\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8"
    )
    lines = "".join(json.dumps({"fact_id": a, "chunk_id": b}) + "\n" for a, b in rows)
    (tmp_path / "f.jsonl").write_text(lines, encoding="utf-8")
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table({"fact_id": columns[0], "chunk_id": columns[1]}), tmp_path / "f.parquet")
    for name in ("f.csv", "f.jsonl", "f.parquet"):
        studied = open_studied_facts(tmp_path / name)
        assert studied.facts.select(["fact_id", "shared_chunks", "subject_chunks"]).to_pylist() == [
            {"fact_id": "a", "shared_chunks": 2, "subject_chunks": None},  # chunk 4 is listed twice
            {"fact_id": "b", "shared_chunks": 1, "subject_chunks": None},
        ]
        assert studied.chunks.table["kind"].to_pylist() == ["shared"] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fact,chunk_id\na,1\n",
            r"lacks the fact-chunks columns \['fact_id'\], it has \['fact', 'chunk_id'\]",
        ),
        ("fact_id,chunk_id\na,one\n", "is no fact-chunks table"),
        ("fact_id,chunk_id\na,-1\n", "negative chunk ids"),
        ("fact_id,kind,chunk_id\na,shared,1\nb,,2\n", r"has the kinds \[''\], expected"),
        ("fact_id,kind,chunk_id\na,both,1\n", r"has the kinds \['both'\], expected"),
        ("fact_id,chunk_id\na,1\nb\n", "Expected 2 columns, got 1"),
    ],
)
def test_a_mistake_in_the_table_of_chunks_is_named(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        open_studied_facts(tmp_path / "f.csv")


def test_a_file_that_is_neither_is_refused_with_the_columns_it_has(tmp_path):
    pq.write_table(pa.table({"id": [1], "question": ["?"]}), tmp_path / "f.parquet")
    message = r"lacks the fact-chunks columns \['fact_id', 'chunk_id'\], it has \['id', 'question'\]"
    with pytest.raises(FormatError, match=message):
        open_studied_facts(tmp_path / "f.parquet")
