import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from olmo_trainer.probes import (
    TREE_FAMILIES,
    Question,
    ancestors,
    encode_questions,
    fits_tree,
    grow_tree,
    score,
)

# Two ways to compute the same float32 sum: only rounding differs, and log-probabilities are about -10.
ROUNDING = 1.5e-5
VOCAB = 97


@pytest.fixture
def make_model():
    def build(family, *, vocab=VOCAB, **options):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        if family in {"gpt2", "bloom"}:
            sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
        elif family in {"llama", "mistral", "olmo2", "olmo3", "qwen2", "qwen3"}:
            sizes["num_key_value_heads"] = 2
        config = AutoConfig.for_model(
            family, vocab_size=vocab, max_position_embeddings=64, **sizes, pad_token_id=1, **options
        )
        # large weights: attention then matters, and a mask that is not honoured cannot hide
        config.initializer_range = 0.3
        return AutoModelForCausalLM.from_config(config).eval()

    return build


@pytest.fixture
def questions():
    rng = np.random.default_rng(0)

    def draw(length):
        return tuple(rng.integers(2, VOCAB, length).tolist())

    drawn = [
        Question(
            draw(rng.integers(1, 9)), tuple(draw(rng.integers(1, 6)) for _ in range(rng.integers(1, 12)))
        )
        for _ in range(5)
    ]
    shared = draw(3)
    return [
        *drawn,
        Question(draw(1), (draw(1),)),
        Question(draw(4), (shared, (*shared, 5), shared[:2], shared)),
    ]


def one_forward_a_candidate(model, question, candidate):
    with torch.no_grad():
        logits = model(torch.tensor([question.prompt + candidate])).logits[0].double()
    logprobs = torch.log_softmax(logits, dim=-1)[len(question.prompt) - 1 : -1]
    found = [float(logprobs[place, token]) for place, token in enumerate(candidate)]
    greedy = [int(logprobs[place].argmax()) == token for place, token in enumerate(candidate)]
    return sum(found), found[0], all(greedy)


def assert_equals_the_slow_way(model, questions, scores):
    for question, found in zip(questions, scores, strict=True):
        for candidate, got in zip(question.candidates, found, strict=True):
            total, first, greedy = one_forward_a_candidate(model, question, candidate)
            assert got.logprob_sum == pytest.approx(total, abs=ROUNDING)
            assert got.logprob_mean == pytest.approx(total / len(candidate), abs=ROUNDING)
            assert got.logprob_first == pytest.approx(first, abs=ROUNDING)
            assert got.greedy == greedy


@pytest.mark.parametrize("family", sorted(TREE_FAMILIES))
def test_a_tree_gives_every_candidate_what_it_gets_alone(make_model, questions, family):
    model = make_model(family)
    assert all(fits_tree(model, question) for question in questions)
    assert_equals_the_slow_way(model, questions, score(model, questions, batch_tokens=128))


@pytest.mark.parametrize("family", ["bloom", "opt"])
def test_a_family_that_is_not_known_to_honour_the_mask_is_asked_row_by_row(make_model, questions, family):
    model = make_model(family)
    assert not any(fits_tree(model, question) for question in questions)
    assert_equals_the_slow_way(model, questions, score(model, questions, batch_tokens=128))


def test_a_path_longer_than_a_sliding_window_is_asked_row_by_row(make_model, questions):
    model = make_model("mistral", sliding_window=6)
    assert {fits_tree(model, question) for question in questions} == {True, False}
    assert_equals_the_slow_way(model, questions, score(model, questions, batch_tokens=128))


@pytest.mark.parametrize("batch_tokens", [1, 17, 64, 10_000])
def test_scores_do_not_depend_on_the_batches(make_model, questions, batch_tokens):
    model = make_model("olmo2")
    assert_equals_the_slow_way(model, questions, score(model, questions, batch_tokens=batch_tokens))


def test_asking_twice_gives_the_same_bits(make_model, questions):
    model = make_model("olmo2")
    assert score(model, questions, batch_tokens=64) == score(model, questions, batch_tokens=64)


def test_the_likeliest_tokens_are_greedy_and_no_others(make_model):
    model = make_model("llama")
    prompt = (5, 6, 7)
    best = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    following = int(model(torch.tensor([(*prompt, best)])).logits[0, -1].argmax())
    others = [(best, (following + 1) % VOCAB), ((best + 1) % VOCAB,)]
    (scores,) = score(model, [Question(prompt, ((best, following), *others))], batch_tokens=64)
    assert [found.greedy for found in scores] == [True, False, False]


def test_no_question_gives_no_score(make_model):
    assert score(make_model("olmo2"), [], batch_tokens=64) == []


def test_a_tree_shares_beginnings_and_feeds_no_last_token():
    tree = grow_tree(Question((7, 8), ((1, 2, 3), (1, 2, 4), (1, 9, 9), (6,))))
    assert tree.tokens == [7, 8, 1, 2, 9]
    assert tree.parents == [-1, 0, 1, 2, 2]


def test_a_token_sees_its_ancestors_and_itself():
    #      0 - 1 - 2
    #           \ - 3 - 4
    assert ancestors([-1, 0, 1, 1, 3]).tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]


@pytest.fixture(scope="module")
def tokenizer():
    text = ["Ada Lovelace was born in London", "Alan Turing was born in Maida Vale", "the Analytical Engine"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(text, special)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def test_a_candidate_is_what_follows_the_prompts_own_tokens(tokenizer):
    (question,) = encode_questions(tokenizer, ["Ada Lovelace was born in"], [["London", "Maida Vale"]])
    assert tokenizer.decode(question.prompt) == "Ada Lovelace was born in"
    assert [tokenizer.decode(ids) for ids in question.candidates] == [" London", " Maida Vale"]


def test_white_space_at_the_prompts_end_belongs_to_the_candidate(tokenizer):
    (question,) = encode_questions(tokenizer, ["Ada was born in \n"], [["London"]])
    assert tokenizer.decode(question.prompt) == "Ada was born in"
    assert tokenizer.decode(question.candidates[0]) == " \n London"


def test_an_empty_prompt_and_an_empty_candidate_come_out_empty(tokenizer):
    assert encode_questions(tokenizer, ["  ", "Ada"], [[], [""]])[0].prompt == ()
    assert encode_questions(tokenizer, [], []) == []


@pytest.fixture
def lm_eval_task(tmp_path):
    def run(model, tokenizer, prompts, candidates):
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        rows = [{"prompt": p, "candidates": c, "gold": 0} for p, c in zip(prompts, candidates, strict=True)]
        data = tmp_path / "probes.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (tmp_path / "probes.yaml").write_text(
            "task: probes\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {tmp_path}}}\n"
            'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{prompt}}"\n'
            'doc_to_choice: "{{candidates}}"\ndoc_to_target: gold\ntarget_delimiter: " "\n'
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
            "metadata: {version: 1.0}\n",
            encoding="utf-8",
        )
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16),
            tasks=["probes"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
        )
        return [sample["filtered_resps"] for sample in found["samples"]["probes"]]

    return run


def test_scores_are_those_of_lm_eval(make_model, tokenizer, lm_eval_task):
    prompts = ["Ada Lovelace was born in", "Alan Turing was born in ", "the Engine of", "Maida"]
    candidates = [
        ["London", "Maida Vale", "the Vale"],
        ["Maida", "London"],
        ["Ada", "Ada Lovelace", "A"],
        ["Vale"],
    ]
    model = make_model("olmo2", vocab=320)
    found = score(model, encode_questions(tokenizer, prompts, candidates), batch_tokens=64)
    for ours, theirs in zip(found, lm_eval_task(model, tokenizer, prompts, candidates), strict=True):
        assert [one.logprob_sum for one in ours] == pytest.approx([one[0] for one in theirs], abs=ROUNDING)
        assert [one.greedy for one in ours] == [one[1] for one in theirs]
