import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance.answers import ANSWERS, answer_is_right, read_aliases, read_answers
from chunk_provenance.formats import FormatError

QUESTIONS = pa.table(
    {
        "probe_id": ["11", "12", "13"],
        "fact_id": ["Q1|Q9", "Q1|Q9", "Q2|Q9"],
        "prompt": ["Where was Ada born?", "Ada's home?", "Where was Bob born?"],
        "answers": [["Rome", "Roma"], ["Rome"], ["Rome"]],
    }
)


@pytest.fixture
def write(tmp_path):
    """Writes a text file, returns its path."""

    def write_text(name, *lines):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write_text


def ranks(table):
    return list(
        zip(*(table[name].to_pylist() for name in ("step", "fact_id", "probe_id", "rank")), strict=True)
    )


def test_verdicts_under_any_name_are_the_same_from_every_form(tmp_path, write):
    rows = [(0, "a", 1), (0, "b", 0), (10, "a", 0), (10, "b", 1)]
    lines = [f"{step},{fact},{right}" for step, fact, right in rows]
    csv = write("a.csv", "ckpt,item,em", *lines)
    jsonl = write("a.jsonl", *(json.dumps({"em": bool(c), "ckpt": a, "item": b}) for a, b, c in rows))
    columns = {
        name: list(values)
        for name, values in zip(("ckpt", "item", "em"), zip(*rows, strict=True), strict=True)
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv.read_bytes()))
    expected = [(0, "a", "a", 1), (0, "b", "b", 2), (10, "a", "a", 2), (10, "b", "b", 1)]
    for path in (csv, jsonl, tmp_path / "a.parquet", tmp_path / "a.csv.gz"):
        table = read_answers(path, columns={"step": "ckpt", "fact": "item", "correct": "em"})
        assert ranks(table) == expected
        assert table.schema.equals(ANSWERS)


def test_the_types_that_pandas_and_polars_write_are_read(tmp_path):
    columns = {
        "step": pa.array([0.0, 1000.0]),
        "fact_id": pa.array(["a", "b"], pa.large_string()),
        "correct": pa.array([True, False]),
        "model": pa.array(["m", "m"]).dictionary_encode(),
        "probe_id": pa.array([7, 8]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read_answers(tmp_path / "a.parquet")
    assert ranks(table) == [(0, "a", "7", 1), (1000, "b", "8", 2)]
    assert table["model"].to_pylist() == ["m", "m"]
    pq.write_table(pa.table({**columns, "step": columns["model"]}), tmp_path / "b.parquet")
    with pytest.raises(FormatError, match="row 1 has the step 'm'"):
        read_answers(tmp_path / "b.parquet")


@pytest.mark.parametrize("words", [("1", "0"), ("True", "False"), ("yes", "NO"), ("1.0", "0.0")])
def test_verdicts_may_be_words(write, words):
    path = write("a.csv", "step,fact_id,correct", f"0,a,{words[0]}", f"0,b,{words[1]}")
    assert read_answers(path)["rank"].to_pylist() == [1, 2]


def test_steps_may_be_names_that_hold_the_model(write):
    path = write("a.csv", "checkpoint,fact_id,correct", "LMEnt-1B-6E:step10000,a,1", "LMEnt-1B-6E:step0,a,0")
    table = read_answers(path)
    assert table["step"].to_pylist() == [10000, 0]
    assert table["model"].to_pylist() == ["LMEnt-1B-6E"] * 2


@pytest.mark.parametrize(
    ("name", "step", "model"),
    [
        ("step1000", 1000, None),
        ("1000", 1000, None),
        ("1000.0", 1000, None),
        ("stage1-step1000-tokens3B", 1000, None),
        ("allenai/OLMo-1B-hf@step1000-tokens4B", 1000, "allenai/OLMo-1B-hf"),
        ("EleutherAI/pythia-1.4b@step143000", 143000, "EleutherAI/pythia-1.4b"),
        ("runs/a/step50", 50, "runs/a"),
    ],
)
def test_names_of_checkpoints_are_understood(write, name, step, model):
    table = read_answers(write("a.csv", "step,fact_id,rank", f"{name},a,3"))
    assert table["step"].to_pylist() == [step]
    assert (table["model"].to_pylist() if "model" in table.column_names else [None]) == [model]


def test_a_column_of_models_wins_over_the_names_of_steps(write):
    path = write("a.csv", "step,fact_id,rank,who", "run:step5,a,3,small")
    table = read_answers(path, columns={"model": "who"})
    assert table["model"].to_pylist() == ["small"]


@pytest.mark.parametrize(
    ("output", "accepted", "right"),
    [
        ("It was Rome.", ["Rome"], True),
        ("it was rome", ["Rome"], True),
        ("it was ROME", ["Rome"], False),
        ("Politician", ["politician"], True),
        ("Jean-Paul", ["jean-Paul"], False),  # capitalize() gives "Jean-paul", lower() "jean-paul"
        ("a Romeo", ["Rome"], True),  # a substring is enough
        ("", ["Rome"], False),
        ("Oslo", ["Rome", "Oslo"], True),
    ],
)
def test_texts_are_scored_as_popqa_does(output, accepted, right):
    assert answer_is_right(output, accepted) is right


def test_texts_are_scored_by_the_accepted_answers_of_the_question(write):
    path = write("a.csv", "step,id,output", '0,11,"well,\nroma"', "0,12,roma", "0,13,", "0,99,Rome")
    table = read_answers(path, questions=QUESTIONS)
    assert ranks(table) == [
        (0, "Q1|Q9", "11", 1),
        (0, "Q1|Q9", "12", 2),
        (0, "Q2|Q9", "13", 2),
        (0, None, "99", 2),
    ]


def test_texts_may_bring_their_accepted_answers(write):
    path = write(
        "a.csv", "step,fact_id,said,gold", '0,a,oslo,"[""Oslo""]"', "0,b,Oslo,Bergen", "0,c,Oslo,\"['Oslo']\""
    )
    table = read_answers(path, columns={"output": "said", "aliases": "gold"})
    assert table["rank"].to_pylist() == [1, 2, 1]


def test_questions_may_be_named_by_their_text(write):
    path = write("a.csv", "step,question,correct", "0,Where was Bob born?,1", "0,Who?,1")
    table = read_answers(path, columns={"question": "question"}, questions=QUESTIONS)
    assert ranks(table) == [(0, "Q2|Q9", "13", 1), (0, None, "Who?", 1)]


def test_a_text_that_stands_for_two_questions_is_refused(write):
    twice = pa.concat_tables([QUESTIONS, QUESTIONS.slice(2, 1).set_column(0, "probe_id", pa.array(["14"]))])
    path = write("a.csv", "step,q,correct", "0,Where was Bob born?,1")
    with pytest.raises(FormatError, match=r"'Where was Bob born\?' stands for several facts"):
        read_answers(path, columns={"question": "q"}, questions=twice)


def test_facts_may_be_named_without_a_question(write):
    path = write("a.csv", "step,fact_id,correct", "0,Q2|Q9,1", "0,Q5|Q9,1")
    table = read_answers(path, questions=QUESTIONS)
    assert ranks(table) == [(0, "Q2|Q9", "Q2|Q9", 1), (0, None, "Q5|Q9", 1)]


HEAD = "step,fact_id,correct"


@pytest.mark.parametrize(
    ("lines", "columns", "message"),
    [
        ([HEAD], {}, "holds no answers"),
        (
            ["when,fact_id,em", "0,a,1"],
            {},
            r"lacks the answers columns \['step', 'rank, correct or output'\], it has",
        ),
        (
            [HEAD, "0,a,1"],
            {"correct": "em"},
            r"has no column 'em' \(asked for as 'correct'\), it has \['step'",
        ),
        ([HEAD, "0,a,1"], {"right": "em"}, r"--column knows .*, found \['right'\]"),
        ([f"{HEAD},rank", "0,a,1,1"], {"correct": "correct", "rank": "rank"}, "give one of --column"),
        ([HEAD, "0,a,1", "5,b,maybe"], {}, "row 2 has the correct 'maybe', expected 0 or 1"),
        (["step,fact_id,rank", "0,a,0"], {}, "row 1 has the rank '0', expected a whole number from 1 on"),
        ([HEAD, "0,a,1", "final,a,1"], {}, "row 2 has the step 'final': expected a number"),
        ([HEAD, "-5,a,1"], {}, "row 1 has the step '-5'"),
        ([HEAD, "0,a,1", ",a,1"], {}, "row 2 has no step"),
        ([HEAD, "0,,1"], {}, "row 1 has no 'fact_id'"),
        ([HEAD, "0,a,"], {}, "row 1 has no 'correct'"),
        (
            [HEAD, "0,a,1", "10,b"],
            {},
            "is no answers table: CSV parse error: (Row #3: )?Expected 3 columns, got 2: 10,b",
        ),
        ([HEAD, '0,a,"1', "10,b,0"], {}, "is no answers table"),
        (["step,id,correct", "0,a,1"], {}, "has no column of facts"),
        (["step,fact_id,output", "0,a,Rome"], {}, "nothing says which answers are right"),
        (["step,fact_id,output,aliases", "0,a,Rome,[]"], {}, "row 1 has no accepted answer"),
        (["step,fact_id,output,aliases", "0,a,Rome,[Rome"], {}, "has the accepted answers '.Rome', no list"),
    ],
)
def test_a_mistake_in_the_answers_is_named(write, lines, columns, message):
    with pytest.raises(ValueError, match=message):
        read_answers(write("a.csv", *lines), columns=columns)


def test_a_damaged_or_unknown_file_is_refused(write, tmp_path):
    with pytest.raises(FormatError, match=r"ends in '\.txt', a answers file|ends in '\.txt'"):
        read_answers(write("a.txt", "step"))
    with pytest.raises(FormatError, match="is no answers table: JSON parse error"):
        read_answers(write("a.jsonl", '{"step": 1, "fact_id": "a", "correct": 1}', '{"step": 1, "fact'))
    with pytest.raises(FormatError, match="no Parquet file or a damaged one"):
        read_answers(write("a.parquet", "step"))
    with pytest.raises(FileNotFoundError, match="no answers file at"):
        read_answers(tmp_path / "b.csv")


def test_one_answer_or_a_list_of_them_is_accepted():
    assert read_aliases(["Rome", " ", None], "row 1") == ["Rome"]
    with pytest.raises(FormatError, match="row 1 has no accepted answer: None"):
        read_aliases(None, "row 1")
