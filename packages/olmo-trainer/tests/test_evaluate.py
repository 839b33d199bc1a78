import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Olmo2Config, PreTrainedTokenizerFast
from typer.testing import CliRunner

from olmo_trainer.evaluate import (
    ANSWERS,
    ask_checkpoints,
    find_checkpoints,
    generate,
    is_correct,
    make_plan,
    rank_answers,
)
from olmo_trainer.evaluate_command import evaluate
from olmo_trainer.probes import Question, score
from olmo_trainer.questions import AskedProbe, Probe, Skipped, prepare, read_probes
from olmo_trainer.reference import Reference

WORDS = [
    "<eos>",
    "<unk>",
    "Ada",
    "Alan",
    "Grace",
    "was",
    "born",
    "in",
    "London",
    "Paris",
    "New",
    "York",
    "City",
]
WORDS += ["Maida", "Vale", "Town", ",", "."]
VOCAB = len(WORDS)


@pytest.fixture
def tokenizer():
    inner = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>")


@pytest.fixture
def make_model():
    def build(seed=0, **options):
        torch.manual_seed(seed)
        config = Olmo2Config(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=12,
            initializer_range=0.5,
            pad_token_id=1,
            eos_token_id=0,
            **options,
        )
        return AutoModelForCausalLM.from_config(config).eval()

    return build


@pytest.fixture
def run(tmp_path, make_model, tokenizer):
    folder = tmp_path / "run"
    for step in (0, 2, 10):
        make_model(seed=step).save_pretrained(folder / f"step{step}")
    (folder / "step4.tmp").mkdir()
    (folder / "order").mkdir()
    tokenizer.save_pretrained(folder)
    return folder


def probe(name, answers, distractors, prompt="Ada was born in"):
    return Probe(f"fact {name}", name, prompt, tuple(answers), tuple(distractors))


PROBES = [
    probe("a", ["London"], ["Paris", "New York City", "Maida Vale"]),
    probe("b", ["New York City", "New York"], ["Paris", "London"], prompt="Alan was born in"),
    probe("c", ["Paris"], [], prompt="Grace was born in"),
    probe("empty", ["Paris"], ["London"], prompt=" "),
    probe("unanswered", [], ["London"]),
    probe("nothing", ["Paris"], [" "]),
    probe("long", ["New York City"], ["Paris"], prompt="in " * 10),
]


def write_probes(path, probes=PROBES, **metadata):
    rows = [
        {"fact_id": p.fact_id, "probe_id": p.probe_id, "prompt": p.prompt, "answers": list(p.answers)}
        | {"distractors": list(p.distractors)}
        for p in probes
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata or None), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_probes_are_the_same_from_parquet_and_from_jsonl(tmp_path):
    tagged = {"format": "probes", "version": "1"}
    assert read_probes(write_probes(tmp_path / "p.parquet", **tagged)) == PROBES
    assert read_probes(write_probes(tmp_path / "q.parquet")) == PROBES
    assert read_probes(write_probes(tmp_path / "p.jsonl")) == PROBES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty"),
        ("{", "line 1 is no JSON"),
        ("7", "line 1 has no 'fact_id'"),
        ('{"fact_id": "f", "probe_id": "p", "prompt": "x", "answers": ["y"]}', "line 1 has no 'distractors'"),
        (
            '{"fact_id": 7, "probe_id": "p", "prompt": "x", "answers": [], "distractors": []}',
            "must be strings",
        ),
        (
            '{"fact_id": "", "probe_id": "p", "prompt": "", "answers": "y", "distractors": []}',
            "must be strings",
        ),
    ],
)
def test_a_faulty_probes_file_is_refused_in_a_sentence(tmp_path, line, message):
    path = tmp_path / "probes.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_probes(path)


def test_a_file_of_another_format_or_version_is_refused(tmp_path):
    for tagged in ({"format": "answers", "version": "1"}, {"format": "probes", "version": "2"}):
        with pytest.raises(ValueError, match="reads 'probes' version 1"):
            read_probes(write_probes(tmp_path / "p.parquet", **tagged))
    (tmp_path / "p.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no Parquet file"):
        read_probes(tmp_path / "p.parquet")
    with pytest.raises(FileNotFoundError, match="there is no probes file"):
        read_probes(tmp_path / "nowhere.parquet")


def test_a_probe_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        read_probes(write_probes(tmp_path / "p.jsonl", [PROBES[0], PROBES[0]]))


def test_probes_that_cannot_be_asked_are_named_with_the_reason(tokenizer):
    asked, skipped = prepare(PROBES, tokenizer, max_length=12)
    assert [one.probe.probe_id for one in asked] == ["a", "b", "c", "long"]
    assert skipped == [
        Skipped("fact empty", "empty", "the prompt is empty"),
        Skipped("fact unanswered", "unanswered", "there is no accepted answer"),
        Skipped("fact nothing", "nothing", "' ' has no tokens of its own behind the prompt"),
    ]
    asked, skipped = prepare(PROBES, tokenizer, max_length=11)
    assert skipped[-1] == Skipped("fact long", "long", "it takes 12 tokens, the model reads 11")


def test_a_distractor_that_is_an_accepted_answer_or_a_double_does_not_count(tokenizer):
    doubled = probe("d", ["London", "Paris"], ["Paris", "New York", "New York", "London Town"])
    (asked,), _ = prepare([doubled], tokenizer, max_length=None)
    assert [tokenizer.decode(ids) for ids in asked.distractors] == ["New York", "London Town"]
    assert asked.num_candidates == 3


def test_ranks_of_followed_distractors_are_those_of_asking_everything(make_model):
    rng = np.random.default_rng(0)

    def draw():
        return tuple(rng.integers(2, VOCAB, rng.integers(1, 5)).tolist())

    asked = [
        AskedProbe(PROBES[0], draw(), tuple({draw() for _ in range(2)}), tuple({draw() for _ in range(9)}))
        for _ in range(60)
    ]
    model = make_model(seed=3)
    found = rank_answers(model, asked, batch_tokens=128)
    ranks = [rank for _, rank in found]
    for one, (best, rank) in zip(asked, found, strict=True):
        (scores,) = score(model, [Question(one.prompt, one.answers + one.distractors)], batch_tokens=128)
        sums = [candidate.logprob_sum for candidate in scores]
        highest = max(sums[: len(one.answers)])
        assert best.logprob_sum == pytest.approx(highest, abs=1.5e-5)
        assert rank == 1 + sum(other >= highest for other in sums[len(one.answers) :])
    assert len(set(ranks)) > 5


def test_a_tie_is_not_known(make_model):
    model = make_model()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as any other
    same = AskedProbe(PROBES[0], (2, 5), ((8,), (9, 10)), ((10,), (11, 12)))
    longer = AskedProbe(PROBES[0], (2, 5), ((9, 10),), ((11, 12, 13),))
    (best, rank), (long_best, long_rank) = rank_answers(model, [same, longer], batch_tokens=64)
    assert best.logprob_sum == pytest.approx(-math.log(VOCAB), abs=1e-6)
    assert rank == 2
    assert long_best.logprob_sum == pytest.approx(-2 * math.log(VOCAB), abs=1e-6)
    assert long_best.logprob_mean == pytest.approx(-math.log(VOCAB), abs=1e-6)
    assert long_rank == 1


def test_generation_goes_on_greedily_and_stops_at_the_end_of_a_text(make_model, tokenizer):
    model = make_model(seed=5)
    prompts = [(2, 5, 6, 7), (3, 5), (4, 5, 6, 7)]
    lines = generate(model, tokenizer, prompts, max_new_tokens=6)
    for prompt, line in zip(prompts, lines, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                tokens.pop()
                break
        assert line == tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("end", ["a new line", "the end of the text"])
def test_a_generated_line_ends_before_a_new_line_and_before_the_end_of_the_text(make_model, end):
    model = make_model(seed=1)
    first = int(model(torch.tensor([[2, 5]])).logits[0, -1].argmax())
    second = int(model(torch.tensor([[2, 5, first]])).logits[0, -1].argmax())
    words = [f"word{number}" for number in range(VOCAB)]
    words[second] = "\n" if end == "a new line" else "<end>"
    inner = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="word0")
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>" if "<end>" in words else None
    )
    assert first != second
    assert generate(model, tokenizer, [(2, 5)], max_new_tokens=9) == [f"word{first}"]


@pytest.mark.parametrize(
    ("generated", "answers", "correct"),
    [
        ("Paris.", ["London", "Paris"], True),
        ("the U.S.A., where", ["usa"], True),
        ("New York City", ["new york"], True),
        ("Parisian", ["Paris"], False),
        ("in Paris", ["Paris"], False),
        ("", ["Paris"], False),
        ("The", ["The"], False),  # nothing is left of the answer
    ],
)
def test_a_generated_line_is_correct_if_it_starts_with_an_answer(generated, answers, correct):
    assert is_correct(generated, answers) is correct


def test_checkpoints_are_in_the_order_of_their_steps(run):
    def chosen(steps):
        return [reference.step for reference in find_checkpoints(str(run), steps)]

    assert chosen("all") == [0, 2, 10]
    assert chosen("10,0") == [0, 10]
    assert chosen("0:10:5") == [0, 10]
    assert chosen("0:9:2") == [0, 2]
    assert find_checkpoints(f"{run}:step2", "all") == [Reference(str(run), None, "step2")]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("1", "has no checkpoint step1: it has 0, 2, 10"),
        ("3:9:1", "has no checkpoint among 3:9:1: it has 0, 2, 10"),
        ("first", "expected all, a list such as 0,1,64, or FIRST:LAST:EVERY"),
        ("0:5:0", "expected all, a list"),
    ],
)
def test_steps_that_a_run_does_not_have_are_refused(run, steps, message):
    with pytest.raises(ValueError, match=message):
        find_checkpoints(str(run), steps)
    with pytest.raises(ValueError, match="needs such a run"):
        find_checkpoints(f"{run}:step2", steps)


def invoke(*words):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_the_command_writes_a_row_for_every_checkpoint_and_probe(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    out = tmp_path / "answers.parquet"
    done = invoke(run, probes, out)
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["0", "4"],
        ["2", "4"],
        ["10", "4"],
    ]
    assert "3 of 7 probes cannot be asked" in done.stderr
    table = pq.read_table(out)
    assert table.schema.equals(ANSWERS)
    assert table["step"].to_pylist() == [0] * 4 + [2] * 4 + [10] * 4
    assert table["probe_id"].to_pylist() == ["a", "b", "c", "long"] * 3
    assert table["num_candidates"].to_pylist() == [4, 3, 1, 2] * 3
    assert table["generated"].null_count == table.num_rows
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["format"], metadata["version"] == ("answers", "1")
    assert metadata["ranked_by"] == "logprob_sum"
    assert metadata["num_skipped"] == "3"
    listed = (tmp_path / "answers.skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["probe_id"] for line in listed] == ["empty", "unanswered", "nothing"]
    assert not list(tmp_path.glob("*.parts"))


def test_the_first_checkpoint_alone_gives_the_same_rows_as_in_the_run(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    invoke(run, probes, tmp_path / "all.parquet")
    for number, step in enumerate((0, 2, 10)):
        invoke(f"{run}:step{step}", probes, tmp_path / f"{step}.parquet")
        alone = pq.read_table(tmp_path / f"{step}.parquet")
        assert alone.equals(pq.read_table(tmp_path / "all.parquet").slice(4 * number, 4))


def test_the_same_inputs_give_the_same_bytes(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    for name in ("one.parquet", "two.parquet"):
        invoke(run, probes, tmp_path / name)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_existing_output_is_replaced_only_when_told(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    out = tmp_path / "answers.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        invoke(run, probes, out)
    assert out.read_bytes() == b"mine"
    assert invoke(run, probes, out, "--overwrite").exit_code == 0
    assert pq.read_table(out).num_rows == 12


def test_a_killed_evaluation_continues_behind_its_last_checkpoint(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    out = tmp_path / "answers.parquet"
    parts = tmp_path / "answers.parquet.parts"
    plan = make_plan(str(run), probes, steps="all", num_generated=0, device=torch.device("cpu"))
    next(ask_checkpoints(plan, parts))
    (part,) = parts.iterdir()
    marked = pq.read_table(part).set_column(6, ANSWERS.field("rank"), pa.array([99] * 4, pa.int32()))
    pq.write_table(marked, part)
    invoke(run, probes, out)
    assert pq.read_table(out)["rank"].to_pylist()[:4] == [99] * 4
    assert 99 not in pq.read_table(out)["rank"].to_pylist()[4:]


def test_a_part_of_other_weights_other_probes_or_other_options_is_not_taken(tmp_path, run, make_model):
    parts = tmp_path / "parts"

    def ask(probes=PROBES, num_generated=0):
        file = write_probes(tmp_path / "probes.jsonl", probes)
        plan = make_plan(str(run), file, steps="0", num_generated=num_generated, device=torch.device("cpu"))
        list(ask_checkpoints(plan, parts))
        return len(list(parts.iterdir()))

    assert [ask(), ask(), ask(PROBES[:2]), ask(num_generated=2)] == [1, 1, 2, 3]
    make_model(seed=99).save_pretrained(run / "step0")
    assert ask() == 4


def test_generated_lines_are_kept_and_checked(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl", PROBES[:3])
    done = invoke(run, probes, tmp_path / "answers.parquet", "--generate", 3, "--steps", "2,10")
    assert "generated %" in done.stdout
    table = pq.read_table(tmp_path / "answers.parquet")
    assert table["generated"].null_count == table["generated_correct"].null_count == 0
    expected = [
        is_correct(line, p.answers)
        for line, p in zip(table["generated"].to_pylist(), PROBES[:3] * 2, strict=True)
    ]
    assert table["generated_correct"].to_pylist() == expected


def test_a_report_section_shows_accuracy_over_the_steps_beside_guessing(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl", PROBES[:3])
    section = tmp_path / "sections" / "ask.json"
    invoke(run, probes, tmp_path / "answers.parquet", "--section", section)
    report = json.loads(section.read_text(encoding="utf-8"))
    table = pq.read_table(tmp_path / "answers.parquet").to_pandas()
    assert (report["format"], report["version"]) == ("report-section", 1)
    (figure,) = report["figures"]
    assert (figure["kind"], figure["x_scale"]) == ("line", "symlog")
    known, _, guessing = figure["series"]
    assert known["x"] == [0, 2, 10]
    assert known["y"] == (table["rank"] == 1).groupby(table["step"]).mean().tolist()
    assert guessing["y"] == [pytest.approx((1 / 4 + 1 / 3 + 1) / 3)] * 3
    assert [row[:2] for row in report["tables"][0]["rows"]] == [[0, 3], [2, 3], [10, 3]]


def test_a_model_without_a_step_has_a_null_step(tmp_path, run):
    (run / "step2").rename(tmp_path / "final")
    (run / "tokenizer.json").rename(tmp_path / "final" / "tokenizer.json")
    probes = write_probes(tmp_path / "probes.jsonl")
    done = invoke(tmp_path / "final", probes, tmp_path / "answers.parquet", "--section", tmp_path / "s.json")
    assert done.stdout.splitlines()[1].split()[0] == "-"
    assert pq.read_table(tmp_path / "answers.parquet")["step"].null_count == 4
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["figures"] == []


def test_checkpoints_of_several_shapes_are_asked_each_with_its_own_model(tmp_path, run, make_model):
    make_model(seed=2, rope_theta=77.0).save_pretrained(run / "step2")
    probes = write_probes(tmp_path / "probes.jsonl")
    invoke(run, probes, tmp_path / "all.parquet")
    invoke(f"{run}:step2", probes, tmp_path / "alone.parquet")
    assert pq.read_table(tmp_path / "alone.parquet").equals(
        pq.read_table(tmp_path / "all.parquet").slice(4, 4)
    )


def test_a_tokenizer_of_another_model_is_refused(tmp_path, run, tokenizer):
    tokenizer.add_tokens(["Cambridge"])
    tokenizer.save_pretrained(run)
    with pytest.raises(ValueError, match=f"has {VOCAB} tokens, its tokenizer {VOCAB + 1}"):
        invoke(run, write_probes(tmp_path / "probes.jsonl"), tmp_path / "answers.parquet")


def test_a_file_without_a_probe_that_can_be_asked_is_refused(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl", PROBES[3:5])
    with pytest.raises(ValueError, match=r"none of the 2 probes .* the first because the prompt is empty"):
        invoke(run, probes, tmp_path / "answers.parquet")


def test_an_unusable_device_is_refused(tmp_path, run):
    probes = write_probes(tmp_path / "probes.jsonl")
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        invoke(run, probes, tmp_path / "answers.parquet", "--device", "abacus")
