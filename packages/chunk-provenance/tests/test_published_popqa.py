import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import FormatError, read_fact_chunks, read_popqa_kas, write_fact_chunks

QUESTIONS = {
    "id": [4222362, 5, 6],
    "subj": ["George Rankin", "Paris", "Paris"],
    "prop": ["occupation", "country", "capital of"],
    "obj": ["politician", "France", "Texas"],
    "subj_id": [1850297, 7, 8],
    "obj_id": [2834605, 9, 10],
    "s_uri": ["http://www.wikidata.org/entity/Q5543720", "http://www.wikidata.org/entity/Q90", None],
    "o_uri": ["http://www.wikidata.org/entity/Q82955", None, "http://www.wikidata.org/entity/Q1439"],
    "s_pop": [142, 900_000, 12],
    "o_pop": [25692, 1_000_000, None],
    "question": ["What is George Rankin's occupation?", "In what country is Paris?", "..."],
    "possible_answers": ['["politician", "polit."]', '["France"]', '["Texas"]'],
}
CHUNKS = {
    "subject_chunks": [[7, 3, 3], [10_491_927], []],
    "answer_chunks": [[3, 8, 7], [1], [2]],
    "shared_chunks": [[7, 3], [], []],
}
FACT_CHUNKS = [
    ("4222362", "subject", 3),
    ("4222362", "subject", 7),
    ("4222362", "answer", 3),
    ("4222362", "answer", 7),
    ("4222362", "answer", 8),
    ("4222362", "shared", 3),
    ("4222362", "shared", 7),
    ("5", "subject", 10_491_927),
    ("5", "answer", 1),
    ("6", "answer", 2),
]


def write(path, columns, **changed):
    """The given columns, with some replaced and those that are None left out."""
    chosen = {**columns, **changed}
    pq.write_table(pa.table({name: values for name, values in chosen.items() if values is not None}), path)
    return path


def rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def test_questions_and_their_chunks_are_read_by_column(tmp_path):
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", {**QUESTIONS, **CHUNKS}))
    assert found.table.to_pylist()[0] == {
        "fact_id": "4222362",
        "subject": "Q5543720",
        "answer": "Q82955",
        "relation": "occupation",
        "subject_name": "George Rankin",
        "answer_name": "politician",
        "prompt": "What is George Rankin's occupation?",
        "answers": ["politician", "polit."],
        "subject_popularity": 142,
        "answer_popularity": 25692,
        "num_subject_chunks": 2,
        "num_answer_chunks": 3,
        "num_shared_chunks": 2,
    }
    assert rows(found.facts.table) == FACT_CHUNKS
    assert found.notes == ()


def test_the_number_that_popqa_calls_an_id_is_not_taken_for_a_qid(tmp_path):
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", {**QUESTIONS, **CHUNKS}))
    assert found.table["subject"].to_pylist() == ["Q5543720", "Q90", "popqa:8"]
    assert found.table["answer"].to_pylist() == ["Q82955", "popqa:9", "Q1439"]
    assert found.table["answer_popularity"].to_pylist() == [25692, 1_000_000, None]


def test_shared_chunks_that_are_absent_are_those_in_both_lists(tmp_path):
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", {**QUESTIONS, **CHUNKS}, shared_chunks=None))
    assert rows(found.facts.table) == FACT_CHUNKS
    assert found.notes == (
        "shared_chunks is not in the file: the chunks in both subject_chunks and answer_chunks",
    )


def test_shared_chunks_alone_are_enough(tmp_path):
    columns = {**QUESTIONS, "shared_chunks": CHUNKS["shared_chunks"]}
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", columns))
    assert rows(found.facts.table) == [row for row in FACT_CHUNKS if row[1] == "shared"]
    assert found.table["num_shared_chunks"].to_pylist() == [2, 0, 0]
    assert found.table["num_subject_chunks"].to_pylist() == [None, None, None]


@pytest.mark.parametrize("name", ["subject_num_chunks", "num_subject_chunks", "subject_chunk_count"])
def test_counts_are_as_the_file_says_under_any_of_their_names(tmp_path, name):
    columns = {**QUESTIONS, **CHUNKS, name: [2, 40, None]}
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", columns))
    assert found.table["num_subject_chunks"].to_pylist() == [2, 40, 0]
    assert found.notes == (f"{name} differs from the subject chunks listed in 1 rows",)


@pytest.mark.parametrize("of", [pa.int32(), pa.int64(), pa.uint32(), pa.float64()])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_lists_of_any_number_type_are_read(tmp_path, of, make):
    typed = {name: pa.array(values, make(of)) for name, values in CHUNKS.items()}
    found = read_popqa_kas(write(tmp_path / "popqa.parquet", {**QUESTIONS, **typed}))
    assert rows(found.facts.table) == FACT_CHUNKS


def test_the_shards_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in (2, 0, 1):
        one = {name: values[number : number + 1] for name, values in {**QUESTIONS, **CHUNKS}.items()}
        write(folder / f"train-{number:05}-of-00003.parquet", one)
    found = read_popqa_kas(tmp_path)
    assert rows(found.facts.table) == FACT_CHUNKS
    assert found.table["fact_id"].to_pylist() == ["4222362", "5", "6"]


def test_answers_may_be_lists(tmp_path):
    answers = [["politician", "polit."], None, ["Texas"]]
    found = read_popqa_kas(write(tmp_path / "p.parquet", {**QUESTIONS, **CHUNKS}, possible_answers=answers))
    assert found.table["answers"].to_pylist() == answers


def test_what_is_not_there_is_null_and_rows_without_id_are_numbered(tmp_path):
    found = read_popqa_kas(write(tmp_path / "p.parquet", CHUNKS))
    assert found.table["fact_id"].to_pylist() == ["0", "1", "2"]
    for name in ("subject", "answer", "relation", "prompt", "answers", "subject_popularity"):
        assert found.table[name].to_pylist() == [None] * 3


def test_the_chunks_are_written_and_read_back_as_fact_chunks(tmp_path):
    facts = read_popqa_kas(write(tmp_path / "p.parquet", {**QUESTIONS, **CHUNKS})).facts
    write_fact_chunks(facts.table, tmp_path / "f.parquet", evidence=facts.evidence, source=facts.source)
    again = read_fact_chunks(tmp_path / "f.parquet")
    assert rows(again.table) == FACT_CHUNKS
    assert (again.evidence, again.source) == (facts.evidence, "popqa-kas")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": [5, 5, 6]}, "has 1 'id' more than once, e.g. '5'"),
        ({"id": [5, None, 6]}, "has rows without an 'id'"),
        ({"shared_chunks": None, "answer_chunks": None}, r"neither 'shared_chunks' nor \['answer_chunks'\]"),
        ({"answer_chunks": [[1], [-4], []]}, "row 1: 'answer_chunks' holds -4, no chunk id"),
        ({"answer_chunks": [[1], [2, None], []]}, "row 1: 'answer_chunks' holds None, no chunk id"),
        ({"answer_chunks": [[1], [2**50], []]}, "row 1: 'answer_chunks' holds 1125899906842624, no chunk id"),
        ({"answer_chunks": [["a"], [], []]}, "'answer_chunks' holds string"),
        ({"answer_chunks": [1, 2, 3]}, "'answer_chunks' is int64, expected lists of chunk ids"),
        ({"possible_answers": ["politician", "[]", "[]"]}, "row 0: 'possible_answers' is 'politician'"),
        ({"possible_answers": ["[" * 100_000, "[]", "[]"]}, r"row 0: 'possible_answers' is '\[\[\["),
        ({"possible_answers": ["[1]", "[]", "[]"]}, r"row 0: 'possible_answers' is '\[1\]', no JSON list"),
        ({"s_pop": ["many", "1", "2"]}, "column 's_pop' is string"),
    ],
)
def test_columns_that_cannot_be_right_are_refused_with_their_row(tmp_path, changed, words):
    with pytest.raises(FormatError, match=words):
        read_popqa_kas(write(tmp_path / "p.parquet", {**QUESTIONS, **CHUNKS}, **changed))


def test_files_that_are_no_parquet_or_not_there_are_said(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FormatError, match="no Parquet file or a damaged one"):
        read_popqa_kas(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no Parquet file in"):
        read_popqa_kas(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no popqa-kas file at"):
        read_popqa_kas(tmp_path / "none.parquet")
