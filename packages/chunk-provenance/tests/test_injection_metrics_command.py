"""`inject metrics`: from answers on disk and a plan to tables, JSON and a report section."""

import json

import pyarrow as pa
import pytest

from chunk_provenance import read_section
from chunk_provenance.figures import draw_svg
from chunk_provenance.formats import write_table

LOSS = {  # at steps 0, 1, 2 and 12
    "a/b-mem-0": [4.0, 2.0, 2.5, 3.0],
    "a/b-mem-1": [4.0, 3.0, 3.5, 3.5],
    "a/b-gen-0": [5.0, 4.0, 4.0, 4.5],
    "c-mem-0": [3.0, 3.0, 2.0, 2.0],
}
STEPS = [0, 1, 2, 12]
FACT = {name: name.partition("-")[0] for name in LOSS}


@pytest.fixture
def files(tmp_path):
    """Answers in two files of a folder, and a plan: a/b at updates 1 and 2 in two wordings, c at update 2."""
    folder = tmp_path / "probes"
    folder.mkdir()
    rows = [
        {"step": step, "fact_id": FACT[name], "probe_id": name, "logprob_mean": -loss, "rank": 1}
        for name, losses in LOSS.items()
        for step, loss in zip(STEPS, losses, strict=True)
    ]
    write_answers(folder / "step0.parquet", rows[::4])
    write_answers(folder / "later.parquet", [row for row in rows if row["step"]])
    items = {"update": [1, 2, 2], "item_id": ["a/b/0", "a/b/3", "c/0"]}
    write_table(pa.table(items), tmp_path / "plan.parquet", "injection-plan")
    return tmp_path


def write_answers(path, rows):
    write_table(pa.Table.from_pylist(rows), path, "answers")


def test_the_measures_are_printed_as_json(files, run_cli):
    code, out, err = run_cli(
        "inject", "metrics", files / "probes", "--plan", files / "plan.parquet", "--window", 3, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [(row["scenario"], row["depth"], row["probes"]) for row in found["results"]] == [
        ("paraphrase", "mem", 2),
        ("paraphrase", "gen", 1),
        ("once", "mem", 1),
    ]
    # Update 1 adds 2 and 1 nats; update 2 takes half a nat from both.
    assert found["results"][0]["effectivity"] == (2 + 1 - 0.5 - 0.5) / 4
    assert found["results"][0]["encounters_that_lost"] == 2
    assert found["settings"] == {"window": 3, "iqr": 1.5, "keep_worse": False}
    assert (found["steps"], found["evaluations"], found["reach"]) == ([0, 12], 4, 8)
    assert found["performance"][0]["facts"] == "all injected"
    before, after = (-(4 + 4 + 5) / 3 - 3) / 2, (-(3 + 3.5 + 4.5) / 3 - 2) / 2
    assert found["performance"][0]["acquisition"] == pytest.approx((after - before) / -before)


def test_the_tables_say_what_they_leave_out(files, run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run_cli(
        "inject", "metrics", files / "probes", "--plan", files / "plan.parquet", "--window", 3
    )
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "│" in line]
    assert ["paraphrase, mem", "2", "4", "0.500", "0", "2", "0"] in rows
    assert ["all injected", "2", "-3.667", "-2.833", "22.7%"] in rows
    assert out.splitlines()[-3:] == [
        "4 probes of 2 facts, evaluated 4 times between step 0 and step 12.",
        "Outliers lie more than 1.5 interquartile ranges outside the quartiles.",
        "The evaluations are sparse: a maximum is the best of those in its window, 1 at least.",
    ]


def test_task_scores_give_p_and_f(files, run_cli):
    for name, score in (("before", 60.335), ("after", 54.0)):
        (files / f"{name}.json").write_text(json.dumps({"results": {"sciq": {"acc,none": score}}}))
    command = ["inject", "metrics", files / "probes", "--plan", files / "plan.parquet", "--json"]
    scores = ["--tasks-before", files / "before.json", "--tasks-after", files / "after.json"]
    found = json.loads(run_cli(*command, *scores, "--task", "sciq")[1])
    assert found["tasks"]["forgetting"] == pytest.approx(0.105, abs=5e-4)
    code, _, err = run_cli(*command, *scores)
    assert code == 2
    assert "lacks scores in [0, 100] of winogrande (acc), piqa (acc_norm)" in err


def test_the_section_has_curves_that_can_be_drawn(files, run_cli):
    out = files / "section.json"
    code, _, _ = run_cli(
        "inject", "metrics", files / "probes", "--plan", files / "plan.parquet", "--section", out
    )
    assert code == 0
    written = read_section(out)
    assert [figure["title"] for figure in written["figures"]] == [
        "paraphrase: injected at 2 updates from 1 to 2",
        "paraphrase: what an injection adds, mean over injections and probes",
        "paraphrase: what is retained of the last gain",
        "once: injected at update 2",
        "once: what an injection adds, mean over injections and probes",
        "once: what is retained of the last gain",
    ]
    run, gain = written["figures"][:2]
    assert run["series"][0] == {"label": "mem", "x": STEPS, "y": [-4.0, -2.5, -3.0, -3.25]}
    # From step 0 until update 2 comes, and from step 1 on: (0 + 0 + 0 + 0) / 4, then (2 + 1 - 0.5 - 0.5) / 4.
    assert gain["series"][0] == {"label": "mem", "x": [0, 1, 11], "y": [0.0, 0.5, -0.75]}
    assert all(draw_svg(figure).startswith("<?xml") for figure in written["figures"])


def test_an_order_with_injections_serves_as_a_plan_and_probes_say_the_depth(files, run_cli):
    items = {"update": [2], "item_id": ["fact"], "chunk_id": [0], "displaced": [0]}
    write_table(pa.table(items), files / "injections.parquet", "injections")
    rows = [
        {"step": step, "fact_id": "fact", "probe_id": "why", "logprob_mean": -loss}
        for step, loss in ((0, 3.0), (2, 1.0))
    ]
    (files / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    probe = {
        "fact_id": "fact", "probe_id": "why", "relation": "reason", "subject": "Q1", "answer": "Q2",
        "subject_name": "s", "answer_name": "a", "prompt": "p", "answers": ["a"], "distractors": [],
    }  # fmt: skip
    (files / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    command = ["inject", "metrics", files / "answers.jsonl", "--plan", files / "injections.parquet"]
    found = json.loads(run_cli(*command, "--probes", files / "probes.jsonl", "--json")[1])["results"]
    assert [(row["scenario"], row["depth"], row["effectivity"]) for row in found] == [("once", "reason", 2.0)]
    code, _, err = run_cli(*command)
    assert code == 2
    assert "the probe 'why' of the fact 'fact' does not say its depth, as 'fact-mem-0' would" in err


def test_probes_without_a_finite_value_are_counted(files, run_cli):
    rows = [
        {"step": step, "fact_id": "c", "probe_id": f"c-mem-{number}", "logprob_mean": value}
        for number, values in enumerate([(-1.0, -0.5), (-1.0, None), (float("nan"), -1.0)])
        for step, value in enumerate(values)
    ]
    write_answers(files / "some.parquet", rows)
    out = run_cli("inject", "metrics", files / "some.parquet", "--plan", files / "plan.parquet")[1]
    assert "2 probes are left out: a value is missing or not finite." in out
    assert "1 injected facts have no probe." in out
    assert "1 times, an injection was not measured" in out  # update 2, and the answers end at step 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], "every probe needs one answer at every step"),
        (lambda rows: [*rows, rows[0]], "has 2 answers at step 0"),
        (lambda rows: [row for row in rows if row["step"] > 0], "begin at step 1, but update 1 injects"),
        (lambda rows: [], "no answers in"),
        (lambda rows: [row | {"logprob_mean": None} for row in rows], "no probe has a finite logprob_mean"),
        (lambda rows: [row | {"fact_id": "z", "probe_id": row["probe_id"].replace("c-", "z-")} for row in rows
                       if row["fact_id"] == "c"], "know none of the injected facts"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_measured_are_refused(files, run_cli, change, words):
    schema = {
        "step": pa.int64(),
        "fact_id": pa.string(),
        "probe_id": pa.string(),
        "logprob_mean": pa.float64(),
    }
    rows = [
        {"step": step, "fact_id": FACT[name], "probe_id": name, "logprob_mean": -loss}
        for name, losses in LOSS.items()
        for step, loss in zip(STEPS, losses, strict=True)
    ]
    table = pa.Table.from_pylist(change(rows), schema=pa.schema(schema.items()))
    write_table(table, files / "bad.parquet", "answers")
    code, out, err = run_cli("inject", "metrics", files / "bad.parquet", "--plan", files / "plan.parquet")
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--iqr", "wide"], "--iqr takes a number or 'none', found 'wide'"),
        (["--iqr", "1", "--compat", "upstream"], "give one of --iqr and --compat"),
        (["--task", "sciq"], "--task needs --tasks-before and --tasks-after"),
        (["--tasks-before", "x.json"], "give both --tasks-before and --tasks-after"),
    ],
)
def test_options_that_contradict_each_other_are_refused(files, run_cli, options, words):
    code, _, err = run_cli("inject", "metrics", files / "probes", "--plan", files / "plan.parquet", *options)
    assert code == 2
    assert words in err


def test_a_folder_without_answers_and_an_empty_plan_are_refused(files, run_cli):
    (files / "empty").mkdir()
    code, _, err = run_cli("inject", "metrics", files / "empty", "--plan", files / "plan.parquet")
    assert code == 2
    assert "holds no answers (*.parquet)" in err
    nothing = pa.table({"update": pa.array([], pa.int64()), "item_id": pa.array([], pa.string())})
    write_table(nothing, files / "plan.parquet", "injection-plan")
    code, _, err = run_cli("inject", "metrics", files / "probes", "--plan", files / "plan.parquet")
    assert code == 2
    assert "injects nothing, or before update 1" in err
