"""The subset engine through its commands."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from model_merge import cli
from model_merge.mixture_plan import make_plan, parse_parts, plan_models, read_plan, write_plan
from model_merge.results import read_results

NAMES = ["m1", "m2", "m3"]
TEXTS = {
    "law": ["the law of the land", "a second text that is longer than one window", "x"],
    "sea": ["of ships and sails", "and sealing wax"],
}


class KilledError(BaseException):
    """What nothing catches, as nothing catches a kill."""


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command as a shell would: its exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["model-merge", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code or 0, captured.out, captured.err

    return call


@pytest.fixture
def parts(golden):
    return ",".join(f"{name}={golden / 'models' / f'olmo2_{name}'}" for name in NAMES)


@pytest.fixture
def evaluate(run, tmp_path, parts, write_domains, letters_tokenizer):
    """Plan and evaluate all seven merges with further options; the result is the table's path."""

    def call(name="results.parquet", *options, family="all", texts=TEXTS):
        data = write_domains(texts)
        plan = tmp_path / f"{family[:3]}.parquet"
        if not plan.exists():
            assert run("ablate", "plan", plan, "--parts", parts, "--family", family)[0] == 0
        out = tmp_path / name
        settings = ["--tokenizer", letters_tokenizer, "--length", "16", *options]
        return out, run("ablate", "eval", plan, data, out, *settings)

    return call


def test_every_merge_is_evaluated_on_every_domain(
    evaluate, run, golden, write_domains, letters_tokenizer, tmp_path
):
    out, (code, printed, words) = evaluate()
    assert code == 0
    assert "evaluated 7 of 7" in words
    assert "m1+m2" in printed
    rows = read_results(out).to_pylist()
    assert [(row["merge_id"], row["domain"]) for row in rows] == [
        (merge, domain)
        for merge in ["m1", "m1+m2", "m2", "m2+m3", "m1+m2+m3", "m1+m3", "m3"]
        for domain in TEXTS
    ]
    triple = rows[8]
    assert (triple["members"], triple["mask"], triple["weights"]) == (NAMES, "111", [1 / 3] * 3)
    assert (triple["method"], triple["window"], triple["dtype"]) == ("uniform", "olmo-eval", "float32")
    assert (triple["num_docs"], triple["num_tokens"], triple["num_bytes"]) == (3, 64, 64)

    average = tmp_path / "average"
    from model_merge.execute import execute
    from model_merge.expression import Leaf
    from model_merge.expression import average as average_of
    from model_merge.linear import plan_linear

    execute(plan_linear(average_of([Leaf(str(golden / f"models/olmo2_{name}")) for name in NAMES])), average)
    single = tmp_path / "single.parquet"
    options = ["--tokenizer", letters_tokenizer, "--length", "16"]
    assert run("perplexity", average, tmp_path / "data", single, *options)[0] == 0
    written = read_results(single).to_pylist()
    assert [row["sum_logprob"] for row in written] == [row["sum_logprob"] for row in rows[8:10]]


def test_a_finished_evaluation_is_not_done_again_and_another_one_is_refused(evaluate):
    out, _ = evaluate()
    before = out.read_bytes()
    assert "evaluated 0 of 7, 7 were there already" in evaluate()[1][2]
    _, (code, _, words) = evaluate("results.parquet", "--window", "packed")
    assert (code, words) == (
        2,
        f"error: '{out}' exists and is of another evaluation: choose another place or give --overwrite\n",
    )
    assert out.read_bytes() == before
    assert evaluate("results.parquet", "--window", "packed", "--overwrite")[1][0] == 0
    assert {row["window"] for row in read_results(out).to_pylist()} == {"packed"}


def test_a_killed_evaluation_continues_with_what_is_missing(evaluate, monkeypatch):
    from model_merge import evaluation

    whole, _ = evaluate("whole.parquet")
    real, calls = evaluation.perplexity.score, []

    def score(model, prepared):
        calls.append(prepared.name)
        if len(calls) == 6:
            raise KilledError
        return real(model, prepared)

    monkeypatch.setattr(evaluation.perplexity, "score", score)
    with pytest.raises(KilledError):
        evaluate("killed.parquet")
    folder = whole.with_name("killed.parquet.parts")
    assert sorted(path.name for path in folder.iterdir()) == ["000000.parquet", "000001.parquet", "meta.json"]
    assert not whole.with_name("killed.parquet").exists()
    _, (code, _, words) = evaluate("killed.parquet")
    assert code == 0
    assert "evaluated 5 of 7, 2 were there already" in words
    assert whole.with_name("killed.parquet").read_bytes() == whole.read_bytes()
    assert not folder.exists()


def test_a_process_killed_while_it_put_the_table_together_is_made_good(evaluate, monkeypatch):
    from model_merge import result_parts

    whole, _ = evaluate("whole.parquet")
    real = result_parts.pa.concat_tables
    monkeypatch.setattr(result_parts.pa, "concat_tables", lambda tables: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        evaluate("killed.parquet")
    monkeypatch.setattr(result_parts.pa, "concat_tables", real)
    words = evaluate("killed.parquet")[1][2]
    assert "evaluated 0 of 7, 7 were there already" in words
    assert whole.with_name("killed.parquet").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_share_the_merges_make_the_table_of_one(evaluate, count):
    whole, _ = evaluate("whole.parquet")
    for number in reversed(range(count)):
        out, (code, _, words) = evaluate("shared.parquet", "--shard", f"{number}/{count}")
        assert code == 0
        assert out.exists() == (number == 0)
        assert ("still to be evaluated" in words) == (number > 0)
    assert out.read_bytes() == whole.read_bytes()


def test_an_unfinished_evaluation_of_other_texts_is_not_continued(evaluate):
    evaluate("some.parquet", "--shard", "0/2")
    _, (code, _, words) = evaluate("some.parquet", "--shard", "1/2", texts={"law": ["another text"]})
    assert code == 2
    assert "is an unfinished evaluation with another domains: choose another place" in words


def test_the_memory_for_inputs_changes_no_number(evaluate):
    whole, _ = evaluate("whole.parquet")
    streamed, _ = evaluate("streamed.parquet", "--memory", "0")
    assert streamed.read_bytes() == whole.read_bytes()


def test_the_same_merge_has_the_same_numbers_in_another_family(evaluate):
    everything = {
        (row["merge_id"], row["domain"]): row["sum_logprob"]
        for row in read_results(evaluate()[0]).to_pylist()
    }
    pairs = read_results(evaluate("pairs.parquet", family="pairs")[0]).to_pylist()
    assert len(pairs) == 6
    assert all(everything[row["merge_id"], row["domain"]] == row["sum_logprob"] for row in pairs)


def test_lines_that_are_no_documents_are_listed_beside_the_results(evaluate, write_domains):
    data = write_domains(TEXTS)
    (data / "law/broken.jsonl").write_text('{"text": ""}\n{bad\n', encoding="utf-8")
    out, (_, _, words) = evaluate()
    assert "1 lines: bad JSON" in words
    assert json.loads(out.with_name("results.skipped.json").read_text(encoding="utf-8"))["lines"] == [
        {"domain": "law", "place": "broken.jsonl line 1", "reason": "empty text"},
        {"domain": "law", "place": "broken.jsonl line 2", "reason": "bad JSON"},
    ]
    assert read_results(out).to_pylist()[0]["num_docs"] == 4


def test_models_as_they_are_are_evaluated_with_the_parts_they_were_trained_on(
    run, tmp_path, golden, write_domains, letters_tokenizer
):
    shutil.copytree(golden / "models/olmo2_m2", tmp_path / "joint")
    models = [
        {"model": "joint", "members": ["law", "sea"]},
        {"model": str(golden / "models/olmo2_m1"), "members": ["law"], "id": "alone"},
    ]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    out = tmp_path / "joint.parquet"
    options = ["--tokenizer", letters_tokenizer, "--json"]
    code, printed, _ = run(
        "ablate", "eval-models", tmp_path / "models.yaml", write_domains(TEXTS), out, *options
    )
    assert (code, json.loads(printed)) == (0, {"evaluated": 2, "present": 0, "missing": 0})
    rows = read_results(out).to_pylist()
    assert [(row["merge_id"], row["members"], row["method"], row["weights"]) for row in rows[::2]] == [
        ("law+sea", ["law", "sea"], "model", None),
        ("alone", ["law"], "model", None),
    ]
    assert rows[0]["sum_logprob"] != rows[2]["sum_logprob"]


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
@pytest.mark.parametrize("family", ["all", "simplex:0.5", "groups"])
def test_a_written_plan_is_read_back(tmp_path, suffix, family):
    if family == "groups":
        (tmp_path / "g.yaml").write_text("one: [a, b]\ntwo: [c]\n", encoding="utf-8")
        family = f"groups:{tmp_path / 'g.yaml'}"
    plan = make_plan({"c": "C", "a": "A", "b": "B"}, family, lambda reference: 1.0)
    path = tmp_path / f"plan{suffix}"
    write_plan(plan, path)
    before = path.read_bytes()
    assert read_plan(path) == plan
    write_plan(plan, path)
    assert path.read_bytes() == before


def test_parts_may_stand_in_a_file_with_paths_relative_to_it(tmp_path):
    (tmp_path / "runs/law/step5").mkdir(parents=True)
    content = {"law": "runs/law:step5", "Biology,1970-1993": "runs/law", "hub": "owner/name@main"}
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert parse_parts(str(tmp_path / "parts.yaml")) == {
        "law": str(tmp_path / "runs/law:step5"),
        "Biology,1970-1993": str(tmp_path / "runs/law"),
        "hub": "owner/name@main",
    }


def test_the_plan_lists_members_masks_and_weights(run, tmp_path, parts):
    code, printed, words = run(
        "ablate", "plan", tmp_path / "p.parquet", "--parts", parts, "--family", "simplex:1/2", "--json"
    )
    assert (code, json.loads(printed)["merges"], words) == (0, 6, "6 merges of 3 parts\n")
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [
        (row["merge_id"], row["mask"], row["weights"], row["coefficients"], row["divisor"])
        for row in rows[:2]
    ] == [
        ("m1", "100", [1.0], [2.0], 2.0),
        ("m1+m2", "110", [0.5, 0.5], [1.0, 1.0], 2.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "p.parquet", "--parts", "a=x,b"], "error: the part 'b' has no path"),
        (["plan", "p.parquet", "--parts", "a=nowhere"], "error: no checkpoint 'nowhere'"),
        (["plan", "p.parquet", "--parts", "none.yaml"], "error: no file 'none.yaml'"),
        (["eval", "none.parquet", "d", "o"], "error: no mixture-plan file at 'none.parquet'"),
        (["eval-models", "none.yaml", "d", "o"], "error: no file 'none.yaml'"),
        (["report", "none.parquet", "j", "o"], "error: no mixture-results file at 'none.parquet'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed, words = run("ablate", *arguments)
    assert (code, printed) == (2, "")
    assert words.splitlines()[-1].startswith(message)
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "2/2"], "--shard '2/2' is not i/N"),
        (["--memory", "lots"], "'lots' is no size"),
        (["--device", "cuda:77"], "device"),
        (["--split", "val"], "has no .jsonl or .json files for split 'val'"),
    ],
)
def test_an_option_that_cannot_be_is_one_line_and_exit_code_2(evaluate, options, message):
    out, (code, _, words) = evaluate("never.parquet", *options)
    assert code == 2
    assert message in words.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "empty"),
        ([{"model": "x"}], "model 1 of the list needs"),
        (
            [{"model": "x", "members": ["a"]}, {"model": "y", "members": ["a"]}],
            "two models of the list have the id 'a'",
        ),
    ],
)
def test_a_bad_list_of_models_is_refused(models, message):
    with pytest.raises(ValueError, match=message):
        plan_models(models)


@pytest.mark.parametrize(
    "command",
    [["ablate", "plan"], ["ablate", "eval"], ["ablate", "eval-models"], ["ablate", "report"], ["perplexity"]],
)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: model-merge" in " ".join(result.output.split())


def test_planning_does_not_import_torch(parts, tmp_path):
    code = (
        "import sys; from model_merge import cli; sys.argv = ['model-merge', 'ablate', 'plan', "
        f"{str(tmp_path / 'p.json')!r}, '--parts', {parts!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
    assert (tmp_path / "p.json").exists()


@pytest.mark.parametrize(
    ("missing", "command", "message"),
    [
        ("torch", ["perplexity", "m", "d", "o"], "error: this needs torch: pip install 'model-merge[eval]'"),
        (
            "pyarrow",
            ["ablate", "plan", "p", "--parts", "a=b"],
            "error: this needs pyarrow: pip install 'model-merge[ablate]'",
        ),
        (
            "scipy",
            ["ablate", "report", "r", "j", "o"],
            "error: this needs scipy: pip install 'model-merge[ablate]'",
        ),
    ],
)
def test_a_missing_extra_is_named(missing, command, message):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from model_merge import cli; "
        f"sys.argv[1:] = {command!r}; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (2, message)
