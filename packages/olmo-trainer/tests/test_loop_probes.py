import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from olmo_trainer.cli import app
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.probes import Question, encode_questions, score, target_mask
from olmo_trainer.reference import load_model, parse_reference
from olmo_trainer.train import train


@pytest.fixture
def probes(tmp_path):
    """Three probes in words of the store's tokenizer, and one that cannot be asked."""
    rows = [
        {"fact_id": "f0", "probe_id": "p0", "prompt": "w5 w6", "answers": ["w7"], "distractors": ["w8"]},
        {"fact_id": "f1", "probe_id": "p1", "prompt": "w9", "answers": ["w10 w11", "w12"], "distractors": []},
        {"fact_id": "f1", "probe_id": "p2", "prompt": " ", "answers": ["w10"], "distractors": []},
        {
            "fact_id": "f2",
            "probe_id": "p3",
            "prompt": "w3 w4 w5",
            "answers": ["w6"],
            "distractors": ["w5 w4"],
        },
    ]
    return write_lines(tmp_path / "few.jsonl", rows)


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(write_config):
    return lambda *settings: load_config(TrainConfig, write_config(), settings)


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def answer_bytes(run, name="few"):
    return {path.name: path.read_bytes() for path in (run / "probes" / name).iterdir()}


def weights(run, step=6):
    return (run / f"step{step}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def published(request):
    """Upstream's probe evaluation of a tiny model; tests/golden/README.md."""
    return dict(np.load(request.path.parent / "golden" / "probe_eval.npz"))


def published_texts(published):
    """Prompt and target of each published probe, its token ids written as words."""
    for ids, mask in zip(published["input_ids"], published["label_mask"], strict=True):
        places = np.flatnonzero(mask)
        words = [f"w{token}" for token in ids[: places[-1] + 1]]
        yield " ".join(words[: places[0]]), " ".join(words[places[0] :])


def test_the_mean_the_sum_and_the_first_token_are_those_of_the_published_probes(published, golden_path):
    model = load_model(parse_reference(str(golden_path / "tiny-olmo")), dtype=torch.float32)
    spans = [np.flatnonzero(mask)[[0, -1]] for mask in published["label_mask"]]
    questions = [
        Question(tuple(ids[:first].tolist()), (tuple(ids[first : last + 1].tolist()),))
        for ids, (first, last) in zip(published["input_ids"], spans, strict=True)
    ]
    found = [scores[0] for scores in score(model, questions, batch_tokens=2048)]
    tolerance = {"rel": 0, "abs": 1e-4}  # sums of six float32 cross-entropies of about 11
    assert [-one.logprob_mean for one in found] == pytest.approx(
        published["proper_target_mean_ce"], **tolerance
    )
    assert [-one.logprob_sum for one in found] == pytest.approx(
        published["proper_target_sum_ce"], **tolerance
    )
    assert [-one.logprob_first for one in found] == pytest.approx(published["FKA_first"], **tolerance)


def test_the_loop_asks_the_published_probes_with_the_published_targets(
    published, golden_path, make_store, write_config, tmp_path
):
    store = make_store("words", [[16]] * 8, vocab=128)
    texts = list(published_texts(published))
    rows = [
        {
            "fact_id": str(k),
            "probe_id": f"{k}-mem-0",
            "prompt": prompt,
            "answers": [target],
            "distractors": [],
        }
        for k, (prompt, target) in enumerate(texts)
    ]
    probes = write_lines(tmp_path / "published.jsonl", rows)
    config = load_config(
        TrainConfig,
        write_config(
            model={"from": str(golden_path / "tiny-olmo")},
            data={"store": str(store), "batch_tokens": 64, "updates": 1},
            probes={"files": {"published": str(probes)}},
        ),
    )
    train(config, tmp_path / "run")
    answers = pq.read_table(tmp_path / "run" / "probes" / "published" / "step0.parquet")
    for column, expected in (
        ("logprob_mean", "proper_target_mean_ce"),
        ("logprob_sum", "proper_target_sum_ce"),
        ("logprob_first", "FKA_first"),
    ):
        assert [-value for value in answers[column].to_pylist()] == pytest.approx(
            published[expected], abs=1e-4
        )


def test_the_target_mask_of_the_offsets_is_the_published_one(published, make_store):
    from chunk_provenance import open_store
    from olmo_trainer.setup import make_tokenizer

    tokenizer = make_tokenizer(open_store(make_store("words", [[16]] * 8, vocab=128)), max_length=64)
    for (prompt, target), mask in zip(published_texts(published), published["label_mask"], strict=True):
        offsets = tokenizer(f"{prompt} {target}", return_offsets_mapping=True)["offset_mapping"]
        assert target_mask(offsets, len(prompt)).tolist() == mask[: len(offsets)].tolist()
        assert not mask[len(offsets) :].any()


def test_probes_are_asked_at_step_0_the_chosen_steps_and_the_last(config, probes, tmp_path):
    run = tmp_path / "run"
    train(config(f"probes.files.few={probes}", "probes.every=4", "probes.steps=[3]"), run)
    names = {path.name for path in (run / "probes" / "few").iterdir()}
    assert names == {"skipped.jsonl", *(f"step{step}.parquet" for step in (0, 3, 4, 6))}
    table = pq.read_table(run / "probes" / "few" / "step3.parquet")
    assert table["step"].to_pylist() == [3, 3, 3]
    assert table["probe_id"].to_pylist() == ["p0", "p1", "p3"]
    skipped = json.loads((run / "probes" / "few" / "skipped.jsonl").read_text(encoding="utf-8"))
    assert skipped == {"fact_id": "f1", "probe_id": "p2", "reason": "the prompt is empty"}


def test_what_was_asked_is_logged_with_its_means_and_its_cost(config, probes, tmp_path):
    run = tmp_path / "run"
    train(config(f"probes.files.few={probes}", "probes.steps=[3]"), run)
    lines = {line["step"]: line for line in read_metrics(run) if "probe_seconds" in line}
    assert list(lines) == [0, 3, 6]
    for step, line in lines.items():
        table = pq.read_table(run / "probes" / "few" / f"step{step}.parquet")
        assert line["probes/few/logprob_mean"] == pytest.approx(np.mean(table["logprob_mean"].to_numpy()))
        assert line["probes/few/known"] == np.mean(table["rank"].to_numpy() == 1)
        assert line["probe_seconds"] > 0


def test_a_run_with_probes_trains_to_the_bits_of_one_without(config, probes, tmp_path):
    train(config(), tmp_path / "without")
    train(config(f"probes.files.few={probes}", "probes.every=1"), tmp_path / "with")
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    timeless = [
        [
            {key: value for key, value in line.items() if "prob" not in key and key != "tokens_per_second"}
            for line in read_metrics(tmp_path / name)
            if line["step"]
        ]
        for name in ("with", "without")
    ]
    assert timeless[0] == timeless[1]


def test_dropout_is_off_while_asking_and_on_again_afterwards(config, probes, make_store, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "gpt2")
    settings = ["model.preset=null", "model.overrides={}", f"model.from={tmp_path / 'gpt2'}"]
    train(config(*settings), tmp_path / "without")
    for name in ("with", "again"):
        train(config(*settings, f"probes.files.few={probes}", "probes.every=1"), tmp_path / name)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    assert answer_bytes(tmp_path / "with") == answer_bytes(tmp_path / "again")


def test_evaluating_afterwards_gives_the_same_rows(config, probes, tmp_path):
    run = tmp_path / "run"
    train(config(f"probes.files.few={probes}", "probes.every=2", "checkpoint.export.every=2"), run)
    out = tmp_path / "answers.parquet"
    result = CliRunner().invoke(app, ["evaluate", str(run), str(probes), str(out), "--steps", "0,2,4,6"])
    assert result.exit_code == 0, result.output
    afterwards = pq.read_table(out)
    in_loop = [pq.read_table(run / "probes" / "few" / f"step{step}.parquet") for step in (0, 2, 4, 6)]
    assert afterwards.to_pylist() == [row for table in in_loop for row in table.to_pylist()]
    assert in_loop[0].schema.metadata == afterwards.schema.metadata


def test_a_killed_run_writes_the_answers_it_lacks_with_the_same_bytes(config, probes, tmp_path):
    settings = (f"probes.files.few={probes}", "probes.every=1")
    straight, died = tmp_path / "straight", tmp_path / "died"
    train(config(*settings), straight)

    def die(logged, total):
        if logged["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(*settings), died, on_step=die)
    (died / "probes" / "few" / "step5.parquet").unlink()
    (died / "probes" / "few" / "step5.parquet.tmp").write_bytes(b"half")
    train(config(*settings), died)
    assert answer_bytes(died) == answer_bytes(straight)
    lines = [
        [
            {key: value for key, value in line.items() if key not in ("tokens_per_second", "probe_seconds")}
            for line in read_metrics(run)
        ]
        for run in (straight, died)
    ]
    assert lines[0] == lines[1]


def test_probes_may_be_added_when_a_run_is_continued(config, probes, tmp_path):
    run = tmp_path / "run"
    train(config(), run, stop_at=4)
    train(config(f"probes.files.few={probes}", "probes.every=2"), run)
    assert {path.name for path in (run / "probes" / "few").glob("step*")} == {
        "step4.parquet",
        "step6.parquet",
    }


def test_other_probes_under_a_name_that_has_answers_are_refused(config, probes, tmp_path):
    run = tmp_path / "run"
    train(config(f"probes.files.few={probes}"), run, stop_at=2)
    probes.write_text(probes.read_text(encoding="utf-8").replace("w7", "w13"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"answers other probes than those of probes\.files\.few"):
        train(config(f"probes.files.few={probes}"), run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("probes.files.few=no-such.jsonl", "there is no probes file 'no-such.jsonl'"),
        ("probes.files={'a/b': few.jsonl}", "probes.files.a/b"),
        ("probes.files={'..': few.jsonl}", "should match pattern"),
    ],
)
def test_probes_that_cannot_be_asked_are_refused_before_step_0(config, tmp_path, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(settings), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "order").exists()


def test_a_dry_run_counts_the_probes_and_the_times_they_are_asked(write_config, probes, tmp_path):
    settings = ["--set", f"probes.files.few={probes}", "--set", "probes.every=2"]
    result = CliRunner().invoke(
        app, ["train", str(write_config()), str(tmp_path / "run"), "--dry-run", *settings]
    )
    assert result.exit_code == 0, result.output
    assert "probes      3 asked at 4 steps (1 cannot be asked)" in result.stdout.splitlines()


def test_a_candidate_that_shares_a_token_with_the_prompt_is_left_empty():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: k for k, letter in enumerate("abx ")} | {"b ": 4, "b x": 5}
    inner = Tokenizer(models.BPE(vocabulary, [("b", " "), ("b ", "x")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    (question,) = encode_questions(tokenizer, ["a"], [["x", "bx"]])
    assert question == Question((0,), ((3, 2), (3, 1, 2)))
    (question,) = encode_questions(tokenizer, ["ab"], [["x", "b"]])
    assert question == Question((0, 1), ((), ()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_asking_on_cuda_follows_the_cpu(config, probes, tmp_path):
    for device in ("cpu", "cuda"):
        train(config(f"probes.files.few={probes}", f"device={device}"), tmp_path / device, stop_at=1)
    one, other = (
        pq.read_table(tmp_path / device / "probes" / "few" / "step0.parquet") for device in ("cpu", "cuda")
    )
    assert other["logprob_sum"].to_pylist() == pytest.approx(one["logprob_sum"].to_pylist(), abs=1e-4)
