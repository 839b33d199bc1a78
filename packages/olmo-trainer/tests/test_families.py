import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    OlmoConfig,
)

from chunk_provenance import open_store
from olmo_trainer import attention
from olmo_trainer.batches import Batch
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.loss import hidden_states
from olmo_trainer.setup import check_fits
from olmo_trainer.train import train

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "eos_token_id": 0,
}
FAMILIES = {
    "olmo-1": OlmoConfig(**SHAPE),
    "olmo-2": Olmo2Config(**SHAPE, num_key_value_heads=1),
    "pythia": GPTNeoXConfig(**SHAPE),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt-2": GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32),
}


@pytest.fixture(params=list(FAMILIES))
def folder(request, tmp_path):
    """A tiny random model of a family, saved as transformers saves it."""
    torch.manual_seed(0)
    path = tmp_path / "model"
    model = AutoModelForCausalLM.from_config(FAMILIES[request.param])
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # so that a wrong mask shows
    model.save_pretrained(path)
    return path


def test_documents_do_not_see_each_other_in_any_family(folder):
    ours = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.NAME).train(False)
    usual = AutoModelForCausalLM.from_pretrained(folder).train(False)
    tokens = torch.arange(2, 20)[None]
    doc_ids = torch.tensor([0] * 5 + [1] + [2] * 12)[None]
    batch = Batch(tokens, tokens, doc_ids, None, (0,), 1)
    with torch.no_grad():
        packed = ours.get_output_embeddings()(hidden_states(ours, batch))
        alone = [usual(input_ids=part).logits for part in (tokens[:, :5], tokens[:, 5:6], tokens[:, 6:])]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=2e-5)


def test_training_continues_from_any_family(folder, write_config, tmp_path):
    settings = ["model.preset=null", "model.overrides={}", f"model.from={folder}", "data.updates=2"]
    run = tmp_path / "run"
    train(load_config(TrainConfig, write_config(), settings), run)
    start = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    untrained, trained = (
        AutoModelForCausalLM.from_pretrained(run, subfolder=step).state_dict() for step in ("step0", "step2")
    )
    assert all(torch.equal(untrained[name], value) for name, value in start.items())
    assert any(not torch.equal(trained[name], value) for name, value in start.items())


def test_a_model_made_for_fewer_tokens_or_positions_is_refused(make_store):
    store = open_store(make_store("long", [[40], [33]]))
    model = AutoModelForCausalLM.from_config(Olmo2Config(**SHAPE))
    with pytest.raises(ValueError, match=r"takes 32 positions, the store has chunks of 64.*--max-length 32"):
        check_fits(model, store)
    meta = json.loads((store.path / "meta.json").read_text(encoding="utf-8"))
    meta["tokenizer"]["vocab_size"] = 61
    (store.path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(ValueError, match="knows 60 tokens, the store's tokenizer has 61"):
        check_fits(model, open_store(store.path))
