import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from chunk_provenance.cli import app as chunk_provenance
from model_merge.custom_gpt import CustomGPTConfig, CustomGPTForCausalLM
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.train import train


@pytest.fixture
def store(tmp_path):
    documents = tmp_path / "documents.jsonl"
    rows = [
        {"id": str(i), "text": f"The number {i} comes before the number {i + 1}. " * 3} for i in range(60)
    ]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for words in (
        ["tokenizer", documents, tmp_path / "t.json", "--vocab-size", 300],
        ["build", documents, tmp_path / "store", "--tokenizer", tmp_path / "t.json", "--packing", "fixed",
         "--max-length", 64],
    ):  # fmt: skip
        result = CliRunner().invoke(chunk_provenance, list(map(str, words)))
        assert result.exit_code == 0, result.output
    return tmp_path / "store"


def test_a_model_of_the_papers_architecture_is_branched_and_opens_again(store, tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 304, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CustomGPTForCausalLM(CustomGPTConfig(**sizes)).save_pretrained(tmp_path / "seed")
    run_file = tmp_path / "branch.yaml"
    run_file.write_text(
        f"model: {{from: {tmp_path / 'seed'}}}\n"
        f"data: {{store: {store}, batch_tokens: 512, updates: 12}}\n"
        "optim: {lr: 0.01}\n"
        "schedule: {name: constant, warmup_steps: 0}\n"
        "checkpoint: {export: {every: null, log_until: 0}}\n",
        encoding="utf-8",
    )
    train(load_config(TrainConfig, run_file), tmp_path / "run")
    losses = [
        json.loads(line)["ce"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if "ce" in line
    ]
    assert losses[0] == pytest.approx(5.7, abs=0.3)  # log(304)
    assert losses[-1] < 0.8 * losses[0]
    branch = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "step12")
    assert isinstance(branch, CustomGPTForCausalLM)
    assert branch.lm_head.weight is branch.model.wte.weight
    seed = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "step0")
    assert not torch.equal(seed.model.blocks[1].ff_out.weight, branch.model.blocks[1].ff_out.weight)
