import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from model_merge.checkpoint import open_checkpoint
from model_merge.domains import Documents
from model_merge.perplexity import Encoder, load_encoder, prepare, score
from model_merge.resident import make_resident
from model_merge.results import add_up, derive
from model_merge.subsets import list_family

NAMES = ["olmo2_m1", "olmo2_m2", "olmo2_m3"]


def encode(text):
    """The golden file's tokenizer."""
    return [4 + ord(character) % 120 for character in text]


ENCODER = Encoder(encode, end=2, longest=16)


@pytest.fixture
def model(golden):
    return AutoModelForCausalLM.from_pretrained(golden / "models/olmo2_m1").eval()


def slow_sum(model, text, length):
    """The definition, one forward pass a token."""
    tokens, total = encode(text), 0.0
    for position, token in enumerate(tokens):
        start = position // length * length
        end = min(start + length, len(tokens))
        context = [2, *tokens[:position]] if start == 0 else tokens[end - length - 1 : position]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, -1)[token])
    return total


def test_all_seven_golden_merges_have_the_upstream_sums_and_metrics(golden):
    """1e-5 relative: upstream batches otherwise, so that float32 sums differ in their last bits."""
    expected = json.loads((golden / "perplexity/ppl_subsets.json").read_text(encoding="utf-8"))
    merges = list_family("all", NAMES)
    resident = make_resident([open_checkpoint(golden / "models" / name) for name in NAMES], merges)
    domains = [
        prepare(Documents(name, "", [document["doc"] for document in documents]), ENCODER)
        for name, documents in expected["windows"].items()
    ]
    compared = 0
    for merge in merges:
        resident.become(merge)
        for domain in domains:
            found = score(resident.model, domain)
            result = expected["results"][f"{merge.name(NAMES)}|{domain.name}"]
            for sums, document in zip(found, result["docs"], strict=True):
                assert sums.sum_logprob == pytest.approx(document["sum_logits"], rel=1e-5)
                assert (sums.num_tokens, sums.num_tokens_read) == (
                    document["num_tokens"],
                    document["num_tokens_all"],
                )
                counts = (sums.num_bytes, sums.num_chars, sums.num_words)
                assert counts == (document["num_bytes"], document["num_chars"], document["num_words"])
            for name, value in derive(add_up(found)).items():
                assert value == pytest.approx(result["metrics"][name], rel=1e-4)
            compared += 1
    assert compared == 14


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_documents_have_the_sums_of_one_forward_pass_a_token(model, batch):
    texts = ["a", "some words, more than one window", "exactly sixteen.", "", "seventeen letters"]
    found = score(model, prepare(Documents("law", "", texts), ENCODER, batch=batch))
    for sums, text in zip(found, texts, strict=True):
        assert sums.sum_logprob == pytest.approx(slow_sum(model, text, 16), rel=1e-5, abs=1e-12)


def test_an_empty_document_counts_as_upstream_counts_it(model):
    found = score(model, prepare(Documents("law", "", ["ab", ""]), ENCODER))[1]
    assert (found.sum_logprob, found.num_tokens, found.num_bytes, found.num_words, found.num_docs) == (
        0,
        0,
        0,
        1,
        1,
    )


def test_packed_chunks_score_all_but_their_first_token(model):
    texts = ["packed one after", "the other", "with end tokens between"]
    prepared = prepare(Documents("law", "", texts), ENCODER, mode="packed")
    (found,) = score(model, prepared)
    stream = torch.tensor([token for text in texts for token in [*encode(text), 2]])
    chunks = stream[: len(stream) // 16 * 16].view(-1, 16)
    with torch.no_grad():
        logits = model(input_ids=chunks).logits[:, :-1].double()
    expected = torch.log_softmax(logits, -1).gather(-1, chunks[:, 1:, None]).sum()
    assert found.sum_logprob == pytest.approx(float(expected), rel=1e-5)
    assert (found.num_tokens, found.num_docs, found.num_bytes) == (15 * 3, 3, None)
    assert derive(found)["bits_per_byte"] is None


def test_the_softmax_is_float32_though_the_model_computes_in_bfloat16(golden):
    model = AutoModelForCausalLM.from_pretrained(golden / "models/olmo2_bf16_m1", dtype=torch.bfloat16).eval()
    prepared = prepare(Documents("law", "", ["a text"]), ENCODER)
    (found,) = score(model, prepared)
    inputs = torch.tensor([[2, *encode("a text")[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=inputs).logits[0]
    assert logits.dtype == torch.bfloat16
    targets = torch.tensor(encode("a text"))[:, None]
    expected = float(torch.log_softmax(logits.double(), -1).gather(1, targets).sum())
    in_bfloat16 = float(torch.log_softmax(logits, -1).gather(1, targets).double().sum())
    assert found.sum_logprob == pytest.approx(expected, rel=1e-6)
    assert abs(in_bfloat16 / expected - 1) > 1e-4


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(model):
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = derive(add_up(score(model, prepare(Documents("law", "", ["some text", "more"]), ENCODER))))
    assert found["ppl_token"] == pytest.approx(128, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(math.log2(128), rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "message"), [("olmo-eval", "0 tokens"), ("packed", "choose a smaller --length")]
)
def test_a_domain_with_nothing_to_score_is_refused(mode, message):
    with pytest.raises(ValueError, match=message):
        prepare(Documents("law", "", ["", ""]), ENCODER, mode=mode)


def test_tokens_outside_of_the_vocabulary_are_refused(model):
    wrong = Encoder(lambda text: [500], end=2, longest=16)
    with pytest.raises(ValueError, match="'law' has token 500, the model knows 128"):
        score(model, prepare(Documents("law", "", ["x"]), wrong))


def test_a_model_that_gives_no_numbers_is_refused(model):
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="no finite log-probabilities on 'law'"):
        score(model, prepare(Documents("law", "", ["x"]), ENCODER))


def test_a_tokenizer_file_gives_tokens_without_special_ones(model, letters_tokenizer):
    encoder = load_encoder(letters_tokenizer, model.config)
    assert (encoder.encode("abc a"), encoder.end, encoder.longest) == ([3, 4, 5, 29, 3], 2, 64)
    assert load_encoder(letters_tokenizer, model.config, length=8).longest == 8


def test_a_folder_without_a_tokenizer_is_told(model, tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer in .*name one with --tokenizer"):
        load_encoder(tmp_path, model.config)
