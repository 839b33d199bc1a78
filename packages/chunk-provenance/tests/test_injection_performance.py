"""K, A, P and F, against the numbers that the paper prints."""

import json

import pytest

from chunk_provenance.formats import FormatError
from chunk_provenance.injection.performance import (
    PAPER_TASKS,
    acquisition,
    forgetting,
    parse_tasks,
    probe_performance,
    read_task_scores,
    task_performance,
)

# As lm-eval writes them: two metrics a task, their errors, an alias.
LM_EVAL = {
    "results": {
        task: {
            "alias": task,
            "acc,none": 0.01 * number,
            "acc_stderr,none": 0.9,
            "acc_norm,none": 0.1 * number,
            "acc_norm_stderr,none": 0.9,
        }
        for number, task in enumerate(PAPER_TASKS, start=1)
    }
    | {"boolq": {"acc,none": 0.5}},
    "versions": {"sciq": 1.0},
}


@pytest.fixture
def write(tmp_path):
    """Writes a JSON file; returns its path."""

    def write_one(value, name="scores.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write_one


def test_a_gain_is_a_positive_acquisition_although_k_is_negative():
    assert acquisition(-0.3757, -0.281) == pytest.approx(0.252, abs=5e-4)  # the paper's 25.2 %
    assert acquisition(-0.1565, -0.301) == pytest.approx(-0.922, abs=2e-3)  # and its -92.2 %
    assert acquisition(0.0, -1.0) is None


def test_a_loss_is_a_positive_forgetting():
    assert forgetting(60.335, 54.0) == pytest.approx(0.105, abs=5e-4)  # the paper's 10.5 %
    assert forgetting(50.0, 55.0) == -0.1
    assert forgetting(0.0, 1.0) is None


def test_k_weighs_each_fact_alike():
    facts = {"once": [-1.0, -2.0, -3.0], "paraphrase": [-5.0]}
    assert probe_performance(facts) == -11 / 4 == (3 * -2.0 + 1 * -5.0) / 4


def test_the_six_tasks_are_scored_as_in_the_paper(write):
    found = read_task_scores(write(LM_EVAL), PAPER_TASKS)
    assert found == pytest.approx(
        {
            "sciq": 0.01,
            "winogrande": 0.02,
            "piqa": 0.3,  # per character
            "openbookqa": 0.4,
            "hellaswag": 0.5,
            "arc_easy": 0.06,
        }
    )


def test_tasks_may_be_any_and_scores_a_plain_table(write):
    tasks = parse_tasks(["boolq", "piqa", "sciq=acc_norm"])
    assert tasks == {"boolq": "acc", "piqa": "acc_norm", "sciq": "acc_norm"}
    assert read_task_scores(write(LM_EVAL), tasks) == pytest.approx({"boolq": 0.5, "piqa": 0.3, "sciq": 0.1})
    assert read_task_scores(write({"mine": 61, "other": None}), {"mine": "acc"}) == {"mine": 61.0}


def test_p_is_the_mean_and_f_its_loss_task_by_task():
    result = task_performance({"sciq": 80.0, "piqa": 60.0}, {"sciq": 60.0, "piqa": 66.0})
    assert (result["before"], result["after"], result["forgetting"]) == (70.0, 63.0, 0.1)
    assert result["tasks"] == [
        {"task": "sciq", "before": 80.0, "after": 60.0, "forgetting": 0.25},
        {"task": "piqa", "before": 60.0, "after": 66.0, "forgetting": -0.1},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"sciq": 0.9}, r"lacks scores in \[0, 100\] of piqa \(acc_norm\): it has \['sciq'\]"),
        ({"sciq": 0.9, "piqa": {"acc,none": 0.5}}, r"of piqa \(acc_norm\)"),
        ({"sciq": True, "piqa": 101}, r"of sciq \(acc\), piqa \(acc_norm\)"),
        ([0.9], "holds a list, expected an object of tasks and scores"),
        ("{", "is no JSON"),
    ],
)
def test_scores_that_are_not_there_are_named(write, content, words):
    with pytest.raises(FormatError, match=words):
        read_task_scores(write(content), {"sciq": "acc", "piqa": "acc_norm"})


def test_scores_on_two_scales_are_not_compared():
    with pytest.raises(ValueError, match=r"before \(0.8 at most\) and after \(60 at most\) are not on one"):
        task_performance({"sciq": 0.8}, {"sciq": 60.0})
