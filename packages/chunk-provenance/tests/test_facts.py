import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.answers import read_answers
from chunk_provenance.facts import (
    SOURCES,
    Evidence,
    distinct_facts,
    find_fact_chunks,
    read_fact_chunks,
    read_probes,
    write_fact_chunks,
)
from chunk_provenance.formats import FormatError


@pytest.fixture
def mentions():
    """Builds chunk mentions from (chunk, entity, score of one source)."""

    def build(rows, source="hyperlink"):
        columns = {name: [0.0] * len(rows) for name in SOURCES}
        columns[source] = [score for _, _, score in rows]
        return pa.table(
            {
                "chunk_id": pa.array([chunk for chunk, _, _ in rows], pa.int64()),
                "entity": pa.array([entity for _, entity, _ in rows], pa.string()),
                **{name: pa.array(scores, pa.float32()) for name, scores in columns.items()},
            }
        )

    return build


@pytest.fixture
def probes():
    """Builds probes from (fact_id, subject, answer), with the probe ids p0, p1, ..."""

    def build(rows):
        return pa.Table.from_pylist(
            [
                {
                    "fact_id": fact_id,
                    "probe_id": f"p{number}",
                    "relation": "r",
                    "subject": subject,
                    "answer": answer,
                    "subject_name": subject,
                    "answer_name": answer,
                    "prompt": "x",
                    "answers": ["y"],
                    "distractors": ["z"],
                }
                for number, (fact_id, subject, answer) in enumerate(rows)
            ]
        )

    return build


def test_shared_chunks_are_those_that_mention_subject_and_answer(mentions, probes):
    found = find_fact_chunks(
        mentions([(0, "Q1", 1), (0, "Q2", 1), (1, "Q1", 1), (2, "Q2", 1), (2, "Q2", 1), (3, None, 1)]),
        probes([("b", "Q1", "Q2"), ("a", "Q2", "Q9"), ("b", "Q1", "Q2")]),
        Evidence(),
    )
    assert found.to_pydict() == {
        "fact_id": ["b", "b", "b", "b", "b", "a", "a"],
        "kind": ["subject", "subject", "answer", "answer", "shared", "subject", "subject"],
        "chunk_id": [0, 1, 0, 2, 0, 0, 2],
    }


def test_one_candidate_must_pass_one_threshold_compared_as_float32(mentions, probes):
    rows = [(0, "Q1", 0.6), (1, "Q1", 0.59), (2, "Q1", 1.0)]
    asked = probes([("a", "Q1", "Q1")])

    def chunks(source, **thresholds):
        table = find_fact_chunks(mentions(rows, source), asked, Evidence(**thresholds))
        return table.filter(pa.compute.equal(table["kind"], "shared"))["chunk_id"].to_pylist()

    assert chunks("hyperlink") == [2]
    assert chunks("entity_linking") == chunks("coref") == chunks("coref_cluster") == [0, 2]
    assert chunks("coref", coref=1.1) == []
    assert chunks("coref", coref=0.5) == [0, 1, 2]


def test_two_candidates_below_the_threshold_do_not_add_up(probes):
    below = pa.table(
        {
            "chunk_id": [0, 0],
            "entity": ["Q1", "Q1"],
            **{name: pa.array([0.5, None], pa.float32()) for name in SOURCES},
        }
    )
    assert find_fact_chunks(below, probes([("a", "Q1", "Q1")]), Evidence()).num_rows == 0


def test_no_mentions_and_no_probes_give_an_empty_table(mentions, probes):
    assert find_fact_chunks(mentions([]), probes([("a", "Q1", "Q2")]), Evidence()).num_rows == 0
    empty = probes([("a", "Q1", "Q2")]).slice(0, 0)
    assert find_fact_chunks(mentions([(0, "Q1", 1)]), empty, Evidence()).num_rows == 0


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_every_mention_passes_is_refused(threshold):
    with pytest.raises(ValueError, match=r"must be above 0, found \{'coref':"):
        Evidence(coref=threshold)


def slow_fact_chunks(mentions, facts):
    """The twin: sets of chunks, one Python loop a fact."""
    of_entity = {}
    for row in mentions.to_pylist():
        if row["hyperlink"] >= 1:
            of_entity.setdefault(row["entity"], set()).add(row["chunk_id"])
    rows = []
    for fact_id, subject, answer in facts:
        subjects, answers = of_entity.get(subject, set()), of_entity.get(answer, set())
        for kind, chunks in (("subject", subjects), ("answer", answers), ("shared", subjects & answers)):
            rows += [{"fact_id": fact_id, "kind": kind, "chunk_id": chunk} for chunk in sorted(chunks)]
    return rows


@given(st.data())
def test_fact_chunks_equal_the_slow_twin(data):
    entity = st.sampled_from(["Q1", "Q2", "Q3", None])
    rows = data.draw(st.lists(st.tuples(st.integers(0, 6), entity, st.sampled_from([0.0, 1.0])), max_size=30))
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(["Q1", "Q2", "Q7"]), st.sampled_from(["Q3", "Q1"]))))
    mentions = pa.table(
        {
            "chunk_id": pa.array([chunk for chunk, _, _ in rows], pa.int64()),
            "entity": pa.array([name for _, name, _ in rows], pa.string()),
            **{name: pa.array([score for _, _, score in rows], pa.float32()) for name in SOURCES},
        }
    )
    facts = [(f"f{number}", *pair) for number, pair in enumerate(pairs)]
    columns = {name: pa.array(list(values), pa.string()) for name, values in _columns(facts).items()}
    assert find_fact_chunks(mentions, pa.table(columns), Evidence()).to_pylist() == slow_fact_chunks(
        mentions, facts
    )


def _columns(facts):
    return {name: [fact[i] for fact in facts] for i, name in enumerate(("fact_id", "subject", "answer"))}


def test_fact_chunks_are_read_back_with_their_rule_and_store(tmp_path):
    table = pa.table({"fact_id": ["a", "a"], "kind": ["subject", "shared"], "chunk_id": [0, 3]})
    for _ in range(2):
        write_fact_chunks(
            table, tmp_path / "f.parquet", evidence=Evidence(coref=0.8), source="mine", store_sha256="ab"
        )
    back = read_fact_chunks(tmp_path / "f.parquet")
    assert back.table.to_pydict() == table.to_pydict()
    assert (back.evidence, back.source, back.store_sha256) == (Evidence(coref=0.8), "mine", "ab")
    assert pq.read_metadata(tmp_path / "f.parquet").metadata[b"format"] == b"fact-chunks"


def test_fact_chunks_of_a_user_need_no_metadata(tmp_path):
    pq.write_table(pa.table({"fact_id": ["a"], "kind": ["shared"], "chunk_id": [0]}), tmp_path / "f.parquet")
    back = read_fact_chunks(tmp_path / "f.parquet")
    assert (back.evidence, back.source, back.store_sha256) == (Evidence(), "unknown", None)


def test_fact_chunks_with_an_unknown_kind_or_id_are_refused(tmp_path):
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"fact_id": ["a"], "kind": ["both"], "chunk_id": [0]}), path)
    with pytest.raises(FormatError, match=r"has the kinds \['both'\]"):
        read_fact_chunks(path)
    pq.write_table(pa.table({"fact_id": ["a"], "kind": ["shared"], "chunk_id": [-1]}), path)
    with pytest.raises(FormatError, match="negative chunk ids"):
        read_fact_chunks(path)
    pq.write_table(pa.table({"fact_id": ["a"], "kind": ["shared"], "chunk_id": ["one"]}), path)
    with pytest.raises(FormatError, match="is no fact-chunks table"):
        read_fact_chunks(path)


def test_probes_are_the_same_from_parquet_and_jsonl(tmp_path, probes):
    table = probes([("a", "Q1", "Q2"), ("b", "Q2", "Q3")])
    rows = [{**row, "comment": {"any": "thing"}} for row in table.to_pylist()]
    pq.write_table(table.append_column("more", pa.array([1, 2])), tmp_path / "p.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("p.parquet", "p.jsonl", "p.jsonl.gz"):
        assert read_probes(tmp_path / name).to_pylist() == table.to_pylist()


def test_facts_are_listed_once_in_the_order_of_their_first_probe(probes):
    facts = distinct_facts(probes([("b", "Q1", "Q2"), ("a", "Q3", "Q4"), ("b", "Q1", "Q2")]))
    assert facts.to_pydict() == {"fact_id": ["b", "a"], "subject": ["Q1", "Q3"], "answer": ["Q2", "Q4"]}


def test_a_probe_id_may_occur_only_once(tmp_path, probes):
    table = pa.concat_tables([probes([("a", "Q1", "Q2")])] * 2)
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(FormatError, match=r"1 probe_id more than once, e\.g\. 'p0'"):
        read_probes(tmp_path / "p.parquet")


def test_the_probes_of_a_fact_must_agree_on_its_entities(tmp_path, probes):
    pq.write_table(probes([("a", "Q1", "Q2"), ("a", "Q1", "Q3")]), tmp_path / "p.parquet")
    with pytest.raises(FormatError, match="gives the fact 'a' more than one answer"):
        read_probes(tmp_path / "p.parquet")


def test_a_missing_column_is_named(tmp_path, probes):
    pq.write_table(probes([("a", "Q1", "Q2")]).drop_columns(["prompt"]), tmp_path / "p.parquet")
    with pytest.raises(FormatError, match=r"lacks the probes columns \['prompt'\]"):
        read_probes(tmp_path / "p.parquet")


def test_a_missing_value_is_named_by_its_row(tmp_path, probes):
    rows = probes([("a", "Q1", "Q2"), ("b", "Q1", "Q2")]).to_pylist()
    del rows[1]["subject"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(FormatError, match="row 2 has no 'subject'"):
        read_probes(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "{not json}\n", "is no probes table"),
        ("p.jsonl", "", "is no probes table"),
        ("p.jsonl", '{"fact_id": 3}\n', "is no probes table"),
        ("p.parquet", "nothing", "no Parquet file"),
        ("p.txt", "nothing", "ends in '.txt', a probes file ends in"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read_probes(tmp_path / name)


def test_a_file_of_another_format_is_refused(tmp_path, probes):
    table = probes([("a", "Q1", "Q2")])
    pq.write_table(
        table.replace_schema_metadata({"format": "mentions", "version": "1"}), tmp_path / "p.parquet"
    )
    with pytest.raises(FormatError, match="is a 'mentions' file, expected 'probes'"):
        read_probes(tmp_path / "p.parquet")
    with pytest.raises(FileNotFoundError, match="no probes file"):
        read_probes(tmp_path / "q.parquet")


def test_answers_are_the_same_from_parquet_jsonl_and_csv(tmp_path):
    rows = [
        {"step": 0, "fact_id": "a", "probe_id": "p", "rank": 2, "logprob_sum": -1.5, "mine": 1},
        {"step": 4, "fact_id": "a", "probe_id": "p", "rank": 1, "logprob_sum": -0.25, "mine": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = ["mine,rank,step,fact_id,probe_id,logprob_sum", "1,2,0,a,p,-1.5", "2,1,4,a,p,-0.25"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        assert read_answers(tmp_path / name).to_pydict() == {
            "step": [0, 4],
            "fact_id": ["a", "a"],
            "probe_id": ["p", "p"],
            "rank": [2, 1],
            "num_candidates": [None, None],
            "logprob_sum": [-1.5, -0.25],
            "logprob_mean": [None, None],
        }


def test_numbers_as_ids_in_csv_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text("step,fact_id,probe_id,rank\n0,007,1,1\n", encoding="utf-8")
    assert read_answers(tmp_path / "a.csv")["fact_id"].to_pylist() == ["007"]


def test_no_answers_at_all_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,fact_id,probe_id,rank\n", encoding="utf-8")
    with pytest.raises(FormatError, match="holds no answers"):
        read_answers(tmp_path / "a.csv")


def test_a_rank_that_is_no_number_is_refused(tmp_path):
    pq.write_table(
        pa.table({"step": [0], "fact_id": ["a"], "probe_id": ["p"], "rank": np.array([1.5])}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(FormatError, match="is no answers table"):
        read_answers(tmp_path / "a.parquet")
