import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, GPT2Config, Olmo2Config, PreTrainedTokenizerFast

from olmo_trainer.reference import (
    Reference,
    digest,
    load_config,
    load_model,
    load_tokenizer,
    load_weights,
    parse_reference,
    tokenizer_digest,
)


@pytest.fixture
def save_model():
    def save(folder, *, seed=0, family="olmo2", **options):
        torch.manual_seed(seed)
        config = Olmo2Config(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            pad_token_id=1,
            eos_token_id=0,
        )
        if family == "gpt2":
            config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, eos_token_id=0, bos_token_id=0)
        model = AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(folder, **options)
        return model

    return save


def save_tokenizer(folder, *, whole=True):
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "Ada": 1}, unk_token="<unk>"))
    if whole:
        PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(folder)
    else:
        inner.save(str(folder / "tokenizer.json"))


def same_weights(one, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run:step1000", Reference("run", None, "step1000")),
        ("allenai/OLMo-1B-hf@step1000-tokens4B", Reference("allenai/OLMo-1B-hf", "step1000-tokens4B", None)),
        ("dhgottesman/LMEnt-1B-6E:step10000", Reference("dhgottesman/LMEnt-1B-6E", None, "step10000")),
        ("org/name@main:a/step3", Reference("org/name", "main", "a/step3")),
        ("org/name:odd@folder", Reference("org/name", None, "odd@folder")),
        ("gpt2", Reference("gpt2")),
    ],
)
def test_a_reference_is_read_and_written_back(text, expected):
    assert parse_reference(text) == expected
    assert str(expected) == text


def test_a_folder_with_a_colon_or_an_at_sign_wins_over_the_syntax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run@v1", "run:a", "run"):
        os.mkdir(name)
    assert parse_reference("run@v1") == Reference("run@v1")
    assert parse_reference("run@v1:step4") == Reference("run@v1", None, "step4")
    assert parse_reference("run:a") == Reference("run:a")
    assert parse_reference("run:a:step4") == Reference("run:a", None, "step4")
    assert parse_reference("run:b") == Reference("run", None, "b")


@pytest.mark.parametrize("text", ["", ":step1", "@main", "run@", "run:", "run@:step1"])
def test_a_reference_with_an_empty_part_is_refused(text):
    with pytest.raises(ValueError, match="has an empty part: expected PATH_OR_REPO"):
        parse_reference(text)


def test_a_local_folder_has_no_revision(tmp_path):
    with pytest.raises(ValueError, match="is a local folder and has no revisions"):
        parse_reference(f"{tmp_path}@main:step1")


@pytest.mark.parametrize(
    ("reference", "step"),
    [
        (Reference("run", None, "step1000"), 1000),
        (Reference("allenai/OLMo-1B-hf", "step1000-tokens4B"), 1000),
        (Reference("allenai/OLMo-2-0425-1B", "stage1-step20-tokens5B"), 20),
        (Reference("runs/a/step64/"), 64),
        (Reference("run", None, "nested/step7"), 7),
        (Reference("allenai/OLMo-1B-hf", "main"), None),
        (Reference("footstep12"), None),
        (Reference("run", None, "step12.tmp"), None),
    ],
)
def test_the_step_stands_in_the_subfolder_the_revision_or_the_folder(reference, step):
    assert reference.step == step


def test_a_checkpoint_of_a_run_opens_through_its_subfolder(tmp_path, save_model):
    saved = save_model(tmp_path / "step3")
    opened = load_model(Reference(str(tmp_path), subfolder="step3"))
    assert same_weights(opened, saved)
    assert not opened.training
    assert (
        load_model(Reference(str(tmp_path), subfolder="step3"), dtype=torch.bfloat16).dtype == torch.bfloat16
    )


@pytest.mark.parametrize("family", ["olmo2", "gpt2"])  # gpt2's head is tied to its embeddings
@pytest.mark.parametrize("shard_size", ["50GB", "2KB"])
def test_another_checkpoints_weights_go_into_the_same_model(tmp_path, save_model, family, shard_size):
    save_model(tmp_path / "step0", family=family)
    other = save_model(tmp_path / "step1", seed=1, family=family, max_shard_size=shard_size)
    model = load_model(Reference(str(tmp_path), subfolder="step0"))
    assert not same_weights(model, other)
    assert load_weights(model, Reference(str(tmp_path), subfolder="step1"))
    assert same_weights(model, other)


def test_weights_of_another_shape_are_not_loaded_into_a_model(tmp_path, save_model):
    model = save_model(tmp_path / "olmo2")
    save_model(tmp_path / "gpt2", family="gpt2")
    assert not load_weights(model, Reference(str(tmp_path / "gpt2")))
    assert same_weights(model, load_model(Reference(str(tmp_path / "olmo2"))))


def test_a_checkpoint_without_one_of_its_weights_is_refused(tmp_path, save_model):
    save_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 of the weights .* first 'model.layers.1.mlp.up_proj.weight'"
    ):
        load_model(Reference(str(tmp_path)))


def test_a_missing_shard_is_named(tmp_path, save_model):
    save_model(tmp_path, max_shard_size="2KB")
    shard = sorted(tmp_path.glob("model-0*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"names '{shard.name}'"):
        load_model(Reference(str(tmp_path)))


def test_pickled_weights_are_not_read(tmp_path, save_model):
    save_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only safetensors weights are read, never pickled \.bin"):
        load_model(Reference(str(tmp_path)))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"step9' has no config\.json"):
        load_model(Reference(str(tmp_path), subfolder="step9"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_model(Reference(str(tmp_path / "nowhere")))


def test_an_unknown_kind_of_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be opened") as error:
        load_config(Reference(str(tmp_path)))
    assert "\n" not in str(error.value)


def test_the_tokenizer_is_found_beside_the_model_or_in_the_run(tmp_path):
    run = Reference(str(tmp_path), subfolder="step0")
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        load_tokenizer(run)
    save_tokenizer(tmp_path)
    assert load_tokenizer(run)("Ada")["input_ids"] == [1]
    (tmp_path / "step0").mkdir()
    save_tokenizer(tmp_path / "step0", whole=False)
    assert load_tokenizer(run)("Ada")["input_ids"] == [1]
    assert tokenizer_digest(run) != tokenizer_digest(Reference(str(tmp_path)))


def test_the_digest_follows_the_weights_and_the_configuration(tmp_path, save_model):
    save_model(tmp_path / "a")
    save_model(tmp_path / "b")
    save_model(tmp_path / "c", seed=1)
    found = [digest(Reference(str(tmp_path / name))) for name in "abc"]
    assert found[0] == found[1] != found[2]
    (tmp_path / "b" / "config.json").write_text("{}", encoding="utf-8")
    assert digest(Reference(str(tmp_path / "b"))) != found[0]


def in_a_process_without_network(code, cache):
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_revision_and_a_subfolder_of_a_hub_repository_are_opened(tmp_path, save_model):
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    saved = save_model(snapshot / "step5")
    save_tokenizer(snapshot / "step5")
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v2").write_text("a" * 40, encoding="utf-8")
    code = (
        "from olmo_trainer.reference import *\n"
        "reference = parse_reference('org/tiny@v2:step5')\n"
        "print(load_model(reference).lm_head.weight.sum().item())\n"
        "print(load_tokenizer(reference)('Ada').input_ids)\n"
        "try: load_model(parse_reference('org/other:step5'))\n"
        "except FileNotFoundError as error: print(error)\n"
    )
    done = in_a_process_without_network(code, tmp_path)
    weights, ids, refusal = done.stdout.splitlines()
    assert float(weights) == saved.lm_head.weight.sum().item()
    assert ids == "[1]"
    assert refusal.startswith("model 'org/other:step5' is no local folder, and neither the hub nor its cache")
