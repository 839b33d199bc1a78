"""The shortest way: three files as they are published, one command."""

import csv
import importlib.util
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from chunk_provenance.sections import read_section

UPDATES = [[0, 1], [2, 3], [4, 5], [6, 7]]  # every chunk once, in one epoch
TABLES = ["accuracy", "facts", "intervals", "intervals_summed", "predictors", "unmatched"]
RUN = "analyze batch_indices.npy popqa.parquet answers.csv out"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """batch_indices.npy, popqa.parquet and answers.csv in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = np.empty(len(UPDATES), dtype=object)
    rows[:] = [np.array(batch) for batch in UPDATES]
    np.save("batch_indices.npy", rows)
    chunks = {11: ([0, 2, 5], [2, 5]), 12: ([1], [1, 6]), 13: ([7], [3])}
    questions = [
        {
            "id": number,
            "s_uri": f"http://www.wikidata.org/entity/Q{number}",
            "o_uri": "http://www.wikidata.org/entity/Q9",
            "s_pop": number,
            "o_pop": 90,
            "question": f"Where is {number}?",
            "possible_answers": '["Rome"]',
            "subject_chunks": subject,
            "answer_chunks": answer,
            "shared_chunks": sorted({*subject} & {*answer}),
        }
        for number, (subject, answer) in chunks.items()
    ]
    pq.write_table(pa.Table.from_pylist(questions), "popqa.parquet")
    said = {11: ["Oslo", "In Rome.", "rome"], 12: ["?", "Rome", "Oslo"], 13: ["Oslo", "Oslo", "Oslo"]}
    with open("answers.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["step", "id", "output"])
        for number, outputs in said.items():
            lines.writerows(
                [f"tiny:step{step}", number, text] for step, text in zip((0, 2, 4), outputs, strict=True)
            )
    return tmp_path


def run_words(run_cli, line):
    return run_cli(*line.split())


def test_three_published_files_and_one_command_give_all_tables_and_the_page(published, run_cli):
    code, out, err = run_words(run_cli, RUN)
    assert (code, err) == (0, "")
    assert "Questions answered at the end" in out
    assert "out/report.html" in out
    files = sorted(file.name for file in (published / "out").iterdir())
    assert files == sorted(
        [
            "analysis.json",
            "report.html",
            *(f"{name}.{form}" for name in TABLES for form in ("csv", "parquet")),
        ]
    )
    facts = pq.read_table("out/facts.parquet")
    names = ["model", "fact_id", "shared_chunks", "exposures", "known_by_step", "exposures_by_step"]
    assert [tuple(row.values()) for row in facts.select(names).to_pylist()] == [
        ("tiny", "Q11|Q9", 2, 2, [False, True, True], [0, 1, 2]),
        ("tiny", "Q12|Q9", 1, 1, [False, True, False], [0, 1, 1]),
        ("tiny", "Q13|Q9", 0, 0, [False, False, False], [0, 0, 0]),
    ]
    page = (published / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6  # too few facts for bars by chunks and popularity
    assert "Learned and forgotten" in page
    info = json.loads((published / "out/analysis.json").read_text(encoding="utf-8"))
    assert (info["format"], info["version"], sorted(info["inputs"])) == (
        "analysis",
        1,
        ["answers", "facts", "order"],
    )


def test_the_csv_says_what_the_parquet_says(published, run_cli):
    run_words(run_cli, RUN)
    for name in TABLES:
        table = pq.read_table(f"out/{name}.parquet")
        flat = table.select([field.name for field in table.schema if not pa.types.is_list(field.type)])
        types = {field.name: field.type for field in flat.schema}
        options = pyarrow.csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
        )
        assert (
            pyarrow.csv.read_csv(f"out/{name}.csv", convert_options=options).to_pylist() == flat.to_pylist()
        )
        assert table.schema.metadata[b"format"].decode() == f"analysis-{name.replace('_', '-')}"


def test_the_same_inputs_give_the_same_bytes_and_nothing_is_overwritten_unasked(published, run_cli):
    run_words(run_cli, RUN)
    first = {file.name: file.read_bytes() for file in (published / "out").iterdir()}
    assert run_words(run_cli, RUN)[0] == 2
    assert run_words(run_cli, f"{RUN} --overwrite")[0] == 0
    second = {file.name: file.read_bytes() for file in (published / "out").iterdir()}
    assert {name for name in first if first[name] != second[name]} == {
        "analysis.json",
        "report.html",
    }  # the command
    (published / "mine").mkdir()
    code, _, err = run_words(run_cli, "analyze batch_indices.npy popqa.parquet answers.csv mine --overwrite")
    assert (code, err) == (
        2,
        "error: 'mine' is no analysis folder, it is not overwritten: remove it yourself\n",
    )


def test_without_matplotlib_there_are_all_tables_and_a_line_how_to_get_figures(
    published, run_cli, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    code, out, _ = run_words(run_cli, RUN)
    assert code == 0
    assert "pip install 'chunk-provenance[plot]'" in out
    page = (published / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 0
    assert page.count("<table>") == 3
    assert "pip install &#x27;chunk-provenance[plot]&#x27;" in page


def test_anyones_table_of_chunks_and_an_own_order_go_the_same_way(published, run_cli):
    lines = ["fact_id,chunk_id", "p,0", "p,2", "q,1"]
    (published / "chunks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [{"ckpt": step, "what": fact, "em": step > 0} for step in (0, 3, 99) for fact in "pqr"]
    (published / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (published / "global_indices.npy").write_bytes(np.arange(8, dtype=np.uint32).tobytes())
    line = "analyze global_indices.npy chunks.csv a.jsonl out --batch-size 2"
    code, out, _ = run_words(
        run_cli, f"{line} --column step=ckpt --column fact=what --column correct=em --json"
    )
    assert code == 0
    info = json.loads(out)
    assert info["num_updates"] == 4
    assert [row["rows"] for row in info["unmatched"]] == [1, 1]  # step 99; r has no chunk
    facts = pq.read_table("out/facts.parquet")
    assert facts.select(["fact_id", "exposures_by_step"]).to_pylist() == [
        {"fact_id": "p", "exposures_by_step": [0, 2]},
        {"fact_id": "q", "exposures_by_step": [0, 1]},
        {"fact_id": "r", "exposures_by_step": [0, 0]},
    ]


def test_compute_is_six_times_parameters_times_tokens(published, run_cli):
    code, _, _ = run_words(run_cli, f"{RUN} --parameters tiny=1e6 --tokens-per-step 1000 --section s.json")
    assert code == 0
    accuracy = pq.read_table("out/accuracy.parquet")
    pairs = set(zip(accuracy["step"].to_pylist(), accuracy["flops"].to_pylist(), strict=True))
    assert pairs == {(0, 0.0), (2, 1.2e10), (4, 2.4e10)}
    assert read_section("s.json")["title"] == "Dynamics as in the LMEnt paper"


def test_intervals_of_so_many_steps(published, run_cli):
    assert run_words(run_cli, f"{RUN} --every 4")[0] == 0
    intervals = pq.read_table("out/intervals.parquet")
    assert set(zip(intervals["step_from"].to_pylist(), intervals["step_to"].to_pylist(), strict=True)) == {
        (0, 4)
    }


def test_a_sample_of_facts_is_written_with_its_buckets(published, run_cli):
    code, out, _ = run_words(run_cli, "sample popqa.parquet s.csv --size 2 --by subject_chunks --json")
    assert code == 0
    assert json.loads(out)["buckets"][:2] == [["1-10", 3, 2], ["11-100", 0, 0]]
    run_words(run_cli, "sample popqa.parquet s.parquet --size 9")
    assert pq.read_table("s.parquet").select(["fact_id", "shared_chunks", "bucket"]).to_pylist() == [
        {"fact_id": "Q11|Q9", "shared_chunks": 2, "bucket": "1-10"},
        {"fact_id": "Q12|Q9", "shared_chunks": 1, "bucket": "1-10"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RUN.replace("answers", "none"), "no answers file at 'none.csv'"),
        (RUN.replace("popqa.parquet", "none.csv"), "no fact-chunks file at 'none.csv'"),
        (RUN.replace("batch_indices", "none"), "no data order at 'none.npy'"),
        (f"{RUN} --every 2 --intervals 0,2", "give one of --every and --intervals"),
        (f"{RUN} --every 3", "no answers at the steps [3], there are [0, 2, 4]"),
        (f"{RUN} --every 9", "--every 9 is beyond the last checkpoint, step 4"),
        (f"{RUN} --bins 1,10", "bins must begin at 0 and ascend, found [1, 10]"),
        (f"{RUN} --column correct", "--column takes NAME=COLUMN, found 'correct'"),
        (f"{RUN} --column correct=em", "has no column 'em' (asked for as 'correct')"),
        (f"{RUN} --parameters 5", "--parameters and --tokens-per-step belong together"),
        (
            f"{RUN} --flops-per-step much",
            "--flops-per-step takes a number above 0, or MODEL=NUMBER, found 'much'",
        ),
        (
            f"{RUN} --flops-per-step big=5",
            "the answers have the models ['tiny'], FLOPs are given for ['big']",
        ),
        (f"{RUN} --batch-size 5", "--batch-size has no meaning for an order of kind 'lment'"),
        ("sample popqa.parquet s.txt", "'s.txt' must end in .parquet or .csv"),
        ("sample popqa.parquet s.csv --by size", "--by takes a number that 'popqa.parquet' has, one of ["),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(published, run_cli, line, message):
    code, out, err = run_words(run_cli, line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (published / "out").exists()


@pytest.mark.parametrize("command", ["analyze", "sample"])
def test_every_command_has_a_help_with_an_example(run_cli, command):
    code, out, _ = run_cli(command, "--help")
    assert code == 0
    assert f"Example: chunk-provenance {command}" in re.sub(r"[\s│]+", " ", out)
