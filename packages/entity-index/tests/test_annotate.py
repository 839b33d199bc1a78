import gzip
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import read_popqa_kas
from chunk_provenance.sections import read_section
from entity_index import Thresholds, annotate, build_index, cli
from entity_index.annotate import Lookup, annotate_rows
from entity_index.facts import find_fact_chunks

TEXTS = ["Ada Lovelace met Babbage.", "She\nwrote.", "Babbage alone.", "Ada Lovelace is a ship.", "Ada"]
POPQA = [
    {
        "id": 4222362,
        "subj": "Ada Lovelace",
        "prop": "acquaintance",
        "obj": "Babbage",
        "subj_id": 1850297,
        "obj_id": 2834605,
        "s_uri": "http://www.wikidata.org/entity/Q1",
        "o_uri": "http://www.wikidata.org/entity/Q2",
        "s_pop": 142,
        "o_pop": 25692,
        "question": "Whom did Ada Lovelace know?",
        "possible_answers": '["Babbage", "Charles Babbage"]',
    },
    {
        "id": 4222363,
        "subj": "Ada Lovelace",
        "prop": "maker",
        "obj": "Nobody",
        "subj_id": 1,
        "obj_id": 2,
        "s_uri": "http://www.wikidata.org/entity/Q3",
        "o_uri": "http://www.wikidata.org/entity/Q99",
        "s_pop": 1,
        "o_pop": 2,
        "question": "Who built Ada Lovelace?",
        "possible_answers": '["Nobody"]',
    },
]


@pytest.fixture(scope="module")
def index(tmp_path_factory, row, write_store_of):
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0),
        row(0, 17, 24, "Q2", name="Babbage", entity_linking=0.7),
        row(1, 0, 3, "Q1", name="Ada Lovelace", coref_cluster=0.8),
        row(2, 0, 7, "Q2", name="Babbage", hyperlink=1.0),
        row(3, 0, 12, "Q3", name="Ada Lovelace", hyperlink=1.0),
        row(4, 0, 3, "Q4", name="Weak", entity_linking=0.1),
    ]
    folder = tmp_path_factory.mktemp("annotate")
    build_index(write_store_of(folder / "store", TEXTS, mentions).path, folder / "index")
    return folder / "index"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `entity-index annotate`; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["entity-index", "annotate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_popqa_becomes_popqa_kas_which_chunk_provenance_reads_back(run, index, tmp_path):
    popqa = write_lines(tmp_path / "popqa.jsonl", POPQA)
    code, out, _ = run(popqa, index, "--out", tmp_path / "kas.parquet")
    assert code == 0
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["subject", "2", "3"],
        ["answer", "1", "2"],
        ["shared", "1", "1"],
    ]
    kas = read_popqa_kas(tmp_path / "kas.parquet")
    assert kas.notes == ()
    assert [tuple(row.values()) for row in kas.facts.table.to_pylist()] == [
        ("4222362", "subject", 0),
        ("4222362", "subject", 1),
        ("4222362", "answer", 0),
        ("4222362", "answer", 2),
        ("4222362", "shared", 0),
        ("4222363", "subject", 3),
    ]
    assert kas.table.select(["fact_id", "subject", "answer", "num_subject_chunks"]).to_pylist() == [
        {"fact_id": "4222362", "subject": "Q1", "answer": "Q2", "num_subject_chunks": 2},
        {"fact_id": "4222363", "subject": "Q3", "answer": "Q99", "num_subject_chunks": 1},
    ]
    assert kas.table["answers"].to_pylist()[0] == ["Babbage", "Charles Babbage"]


def test_a_row_keeps_what_it_had_and_says_what_was_chosen(run, index, tmp_path):
    rows = [
        {"who": "ada lovelace", "whom": "Q2", "note": {"nested": [1, None]}},
        {"who": "nobody", "whom": None},
        {"who": "Weak", "whom": "Q1", "subject_chunks": [7], "note": "ü"},
    ]
    facts = write_lines(tmp_path / "facts.jsonl", rows)
    options = ["--subject", "who", "--answer", "whom", "--out", tmp_path / "out.jsonl"]
    code, _, words = run(facts, index, *options)
    assert code == 0
    nothing = {"subject_chunks": [], "subject_num_chunks": 0, "shared_chunks": [], "shared_num_chunks": 0}
    assert read_lines(tmp_path / "out.jsonl") == [
        {
            "who": "ada lovelace",
            "whom": "Q2",
            "note": {"nested": [1, None]},
            "subject_chunks": [0, 1],
            "subject_num_chunks": 2,
            "answer_chunks": [0, 2],
            "answer_num_chunks": 2,
            "shared_chunks": [0],
            "shared_num_chunks": 1,
            "subject_entity": "Q1",
            "subject_found_by": "name",
            "answer_entity": "Q2",
            "answer_found_by": "id",
        },
        {
            "who": "nobody",
            "whom": None,
            **nothing,
            "answer_chunks": [],
            "answer_num_chunks": 0,
            "subject_entity": None,
            "subject_found_by": None,
            "answer_entity": None,
            "answer_found_by": None,
        },
        {
            "who": "Weak",
            "whom": "Q1",
            "note": "ü",
            **nothing,  # its only mention passes no threshold
            "answer_chunks": [0, 1],
            "answer_num_chunks": 2,
            "subject_entity": "Q4",
            "subject_found_by": "name",
            "answer_entity": "Q1",
            "answer_found_by": "id",
        },
    ]
    listed = tmp_path / "out.jsonl.unresolved.jsonl"
    assert words.splitlines() == [
        "row 1: subject 'nobody': no such id or name",
        "row 1: answer: no value",
        f"1 subject and 1 answer of 3 facts mean nothing in this index; all are listed in {listed}",
    ]
    assert read_lines(listed) == [
        {"row": 1, "role": "subject", "text": "nobody", "problem": "no such id or name"},
        {"row": 1, "role": "answer", "text": None, "problem": "no value"},
    ]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_every_form_is_read_and_written_with_the_same_rows(run, index, tmp_path, ending):
    source = write_lines(tmp_path / "popqa.jsonl", POPQA)
    run(source, index, "--out", tmp_path / f"one.{ending}")
    run(tmp_path / f"one.{ending}", index, "--out", tmp_path / "two.jsonl")
    run(source, index, "--out", tmp_path / "direct.jsonl")
    assert read_lines(tmp_path / "two.jsonl") == read_lines(tmp_path / "direct.jsonl")
    run(source, index, "--out", tmp_path / f"again.{ending}")
    assert (tmp_path / f"again.{ending}").read_bytes() == (tmp_path / f"one.{ending}").read_bytes()


def test_a_folder_of_shards_is_one_table_and_types_stay_as_they_were(run, index, tmp_path):
    (tmp_path / "shards").mkdir()
    for number, row in enumerate(POPQA):
        table = pa.table(
            {"s_uri": [row["s_uri"]], "o_uri": [row["o_uri"]], "s_pop": pa.array([3], pa.int16())}
        )
        pq.write_table(table, tmp_path / "shards" / f"part-{number}.parquet")
    assert run(tmp_path / "shards", index, "--out", tmp_path / "out.parquet")[0] == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("s_pop").type == pa.int16()
    assert found["shared_chunks"].to_pylist() == [[0], []]
    assert found.schema.metadata[b"format"] == b"popqa-kas"
    assert json.loads(found.schema.metadata[b"evidence"])["coref"] == 0.6


def test_thresholds_counts_and_sections_are_those_of_the_result(run, index, tmp_path):
    popqa = write_lines(tmp_path / "popqa.jsonl", POPQA)
    options = ["--min-score", "coref_cluster=none", "--json", "--section", tmp_path / "section.json"]
    _, out, _ = run(popqa, index, "--out", tmp_path / "out.parquet", *options)
    assert json.loads(out) == {
        "rows": 2,
        "found_by": {
            "subject": {"id": 2, "name": 0, "nothing": 0},
            "answer": {"id": 1, "name": 0, "nothing": 1},
        },
        "facts": {"subject": 2, "answer": 1, "shared": 1},
        "pairs": {"subject": 2, "answer": 2, "shared": 1},
    }
    section = read_section(tmp_path / "section.json")
    assert section["tables"][1]["rows"] == [["id", 2, 1], ["name", 0, 0], ["nothing", 0, 1]]


def test_chunks_equal_those_of_the_command_facts(build_pair, row, tmp_path):
    rng = np.random.default_rng(0)
    mentions = [
        row(int(rng.integers(20)), 0, 3, f"Q{rng.integers(9)}", coref=float(rng.random())) for _ in range(200)
    ]
    index, _ = build_pair(tmp_path, ["Ada"] * 20, mentions)
    rows = [
        {"fact_id": f"f{number}", "subject": f"Q{rng.integers(9)}", "answer": f"Q{rng.integers(9)}"}
        for number in range(50)
    ]
    thresholds = Thresholds(coref=0.8)
    expected = find_fact_chunks(index, pa.Table.from_pylist(rows), thresholds).to_pylist()
    found = []
    for part in annotate_rows([rows], Lookup(index, thresholds), subject=["subject"], answer=["answer"]):
        for fact in part:
            for kind, chunks in (
                ("subject", fact.subject.chunks),
                ("answer", fact.answer.chunks),
                ("shared", fact.shared),
            ):
                found += [
                    {"fact_id": fact.row["fact_id"], "kind": kind, "chunk_id": chunk}
                    for chunk in chunks.tolist()
                ]
    assert found == expected


def test_rows_come_out_before_the_last_goes_in_and_few_ids_are_held(make_index, row, monkeypatch):
    monkeypatch.setattr(annotate, "IDS_AT_ONCE", 40)
    monkeypatch.setattr(annotate, "IDS_KEPT", 25)
    mentions = [row(chunk, 0, 3, f"Q{entity}", hyperlink=1.0) for chunk in range(10) for entity in range(8)]
    lookup = Lookup(make_index(["Ada"] * 10, mentions), Thresholds())
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield [{"subject": f"Q{number % 8}", "answer": f"Q{(number + 1) % 8}"}] * 3

    parts = annotate_rows(batches(), lookup, subject=["subject"], answer=["answer"])
    assert [len(next(parts)) for _ in range(3)] == [2, 1, 2]  # 30 ids a row
    assert taken == [0, 1]
    assert sum(map(len, parts)) == 295
    assert sum(map(len, lookup._kept.values())) <= 25


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            b'{"a": 1}\n',
            [],
            "error: the table has none of the columns s_uri, subject, subj, subject_name, it has a",
        ),
        (b'{"a": 1}\n', ["--subject", "b"], "error: the table has no column 'b', it has a"),
        (
            b'{"subject": "x"}\n',
            [],
            "error: the table has none of the columns o_uri, answer, obj, answer_name",
        ),
        (b"{", [], "error: '{facts}' line 1 is no JSON: "),
        (
            b'{"subject": "x", "answer": "y"}\n[1]\n',
            [],
            "error: '{facts}' line 2 is a list, expected an object",
        ),
        (
            b'{"subject": "x", "answer": "y"}\n',
            ["--out", "x.csv"],
            "error: 'x.csv' ends in none of .parquet, .jsonl",
        ),
        (
            b'{"subject": "x", "answer": "y"}\n',
            ["--min-score", "coref=7"],
            "error: threshold coref = 7.0 is outside",
        ),
        (
            b'{"subject": "x", "answer": "y"}\n' * 1000 + b'{"subject": 3, "answer": "y"}\n',
            [],
            "error: the columns of '{facts}' do not fit together: ",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, index, tmp_path, content, arguments, message):
    facts = tmp_path / "facts.jsonl"
    facts.write_bytes(content)
    code, out, words = run(facts, index, "--out", tmp_path / "out.parquet", *arguments)
    assert (code, out) == (2, "")
    assert words.splitlines()[-1].startswith(message.replace("{facts}", str(facts)))
    assert [file.name for file in tmp_path.iterdir()] == ["facts.jsonl"]


def test_damaged_files_and_existing_ones_are_refused(run, index, tmp_path):
    good = write_lines(tmp_path / "good.jsonl", POPQA)
    assert run(tmp_path / "none.jsonl", index, "--out", tmp_path / "x.jsonl")[2].startswith(
        "error: no table at"
    )
    assert run(tmp_path / "none.parquet", index, "--out", tmp_path / "x.jsonl")[2].startswith(
        "error: no table"
    )
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    assert (
        "is no Parquet file or a damaged one"
        in run(tmp_path / "bad.parquet", index, "--out", tmp_path / "x.jsonl")[2]
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(good.read_bytes())[:60])
    assert run(tmp_path / "cut.jsonl.gz", index, "--out", tmp_path / "x.jsonl")[0] == 2
    assert run(good, index, "--out", tmp_path / "out.jsonl")[0] == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    assert (
        "exists: choose another place or give --overwrite"
        in run(good, index, "--out", tmp_path / "out.jsonl")[2]
    )
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert run(good, index, "--out", tmp_path / "out.jsonl", "--overwrite")[0] == 0


def test_a_table_in_which_nothing_is_found_exits_with_1(run, index, tmp_path):
    facts = write_lines(tmp_path / "facts.jsonl", [{"subject": "x", "answer": "y"}])
    code, _, words = run(facts, index, "--out", tmp_path / "out.parquet")
    assert code == 1
    assert "1 subject and 1 answer of 1 facts mean nothing in this index" in words
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert run(empty, index, "--out", tmp_path / "empty.parquet", "--subject", "s")[0] == 2
