import json

import pytest
import torch
import yaml
from transformers import OlmoConfig, OlmoForCausalLM
from typer.testing import CliRunner

from chunk_provenance import inject, make_injection_plan, open_store, save_order
from olmo_trainer.batches import update_batches
from olmo_trainer.cli import app
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.presets import find_preset, list_presets
from olmo_trainer.schedules import learning_rate
from olmo_trainer.setup import make_order
from olmo_trainer.train import train

PRESETS = ["fka-1b", "ke-c4", "ke-c4-resuscitated", "ke-pubmed", "ke-pubmed-resuscitated"]
KE = [name for name in PRESETS if name.startswith("ke")]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small_model(tmp_path):
    """A folder with a tiny OLMo-1 that takes 2,048 positions."""
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    OlmoForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def probes(tmp_path):
    path = tmp_path / "probes.jsonl"
    row = {"fact_id": "f", "probe_id": "p", "prompt": "w5", "answers": ["w6"], "distractors": []}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def dry_run(tmp_path, name, *options):
    result = invoke("train", f"preset:{name}", tmp_path / "run", "--dry-run", *options)
    assert result.exit_code == 0, result.output
    return {line[:12].strip(): line[12:] for line in result.stdout.splitlines()}


def test_the_published_recipes_are_listed_with_a_line_each():
    assert list(list_presets()) == PRESETS
    lines = invoke("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == PRESETS
    assert all(len(line.split()) > 5 for line in lines)


def test_a_printed_recipe_is_a_configuration_equal_to_the_recipe(tmp_path):
    for name in PRESETS:
        path = tmp_path / f"{name}.yaml"
        path.write_text(invoke("presets", name).stdout, encoding="utf-8")
        assert load_config(TrainConfig, path) == load_config(TrainConfig, f"preset:{name}")


def test_the_recipes_have_the_published_numbers():
    for name in KE:
        config = load_config(TrainConfig, f"preset:{name}")
        assert (config.data.batch_tokens, config.data.updates, config.probes.every) == (128 * 1024, 1600, 160)
        optim = config.optim
        assert (optim.lr, optim.betas, optim.weight_decay, optim.max_grad_norm) == (
            4e-4,
            (0.9, 0.95),
            0.1,
            1.0,
        )
        assert (config.model.optimizer, config.precision) == ("fresh", "bfloat16")
        rates = [
            learning_rate(update, total=1600, optim=optim, schedule=config.schedule)
            for update in (40, 80, 840, 1600)
        ]
        # from a tenth of the peak up, then along a cosine, half-way at 80 + 1520 / 2, to a tenth again
        assert rates == pytest.approx([2.2e-4, 4e-4, 2.2e-4, 4e-5], rel=1e-12)
    corpora = {name: str(load_config(TrainConfig, f"preset:{name}").data.store) for name in KE}
    assert corpora == {name: name.split("-")[1] for name in KE}
    models = {name: load_config(TrainConfig, f"preset:{name}").model.from_ for name in KE}
    assert {name for name, model in models.items() if model == "./resuscitated"} == {
        "ke-c4-resuscitated",
        "ke-pubmed-resuscitated",
    }
    fka = load_config(TrainConfig, "preset:fka-1b")
    assert (fka.data.batch_tokens, fka.data.updates, fka.probes.every) == (2048 * 2048, 2500, 1)


@pytest.mark.parametrize("name", KE)
def test_each_recipe_plans_with_a_corpus_and_a_model_of_ones_own(
    name, small_model, make_store, probes, tmp_path
):
    """At the published size: 1,600 updates of 128 rows of 1,024, and 76 items in every 160th."""
    corpus = make_store("corpus", [[1000, 24]] * 130, vocab=60)
    ordered = tmp_path / "order"
    settings = ["--set", f"model.from={small_model}", "--set", f"probes.files.facts={probes}"]
    control = dry_run(tmp_path, name, "--corpus", corpus, *settings)
    assert control["updates"] == "1,600: 1,600 of length 1024"
    assert control["probes"] == "1 asked at 11 steps"
    assert "injected" not in control
    store = open_store(corpus)
    config = load_config(TrainConfig, f"preset:{name}", [f"data.store={corpus}"])
    rows = [
        {
            "update": update,
            "row": row,
            "placement": "prepend",
            "item_id": f"{row}/{update}",
            "tokens": [7] * 300,
        }
        for update in range(160, 1601, 160)
        for row in range(76)
    ]
    save_order(inject(make_order(config.data, store, seed=0), make_injection_plan(rows), store), ordered)
    injected = dry_run(tmp_path, name, "--corpus", corpus, "--order", ordered, *settings)
    assert injected["injected"] == "760 items in 760 rows of 10 updates"
    assert injected["tokens"] == control["tokens"]  # every row was full, what came in displaced as much
    assert injected["updates"] == control["updates"]


def test_the_recipe_of_factual_knowledge_plans_with_a_corpus_of_ones_own(
    small_model, make_store, probes, tmp_path
):
    corpus = make_store("corpus", [[2048]] * 64, vocab=60)
    settings = ["--set", f"model.from={small_model}", "--set", f"probes.files.facts={probes}"]
    smaller = ["--set", "data.batch_tokens=131072"]  # 64 of the 2,048 rows
    plan = dry_run(tmp_path, "fka-1b", "--corpus", corpus, *settings, *smaller)
    assert plan["updates"] == "2,500: 2,500 of length 2048"
    assert plan["probes"] == "1 asked at 2,501 steps"


def test_a_recipe_trains_at_a_small_size(small_model, make_store, probes, tmp_path):
    corpus = make_store("corpus", [[10, 6]] * 16, vocab=60)
    settings = ("data.batch_tokens=64", "data.updates=4", "probes.every=2", "precision=float32", "threads=1")
    sets = [
        part
        for one in (*settings, f"model.from={small_model}", f"probes.files.facts={probes}")
        for part in ("--set", one)
    ]
    result = invoke("train", "preset:ke-pubmed", tmp_path / "run", "--corpus", corpus, *sets)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "run").glob("step*")} == {"step0", "step4"}
    assert {path.name for path in (tmp_path / "run" / "probes" / "facts").iterdir()} == {
        "step0.parquet",
        "step2.parquet",
        "step4.parquet",
    }
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert recorded["data"]["store"] == str(corpus)


def test_attention_may_cross_documents(write_config, make_store):
    path = make_store("two", [[3, 5]] * 16, bucket=8)
    data = {"store": str(path), "batch_tokens": 64, "updates": 1}
    config = load_config(TrainConfig, write_config(data=data))
    crossing = load_config(TrainConfig, write_config(data=data | {"document_attention": False}))
    store = open_store(path)
    order = make_order(config.data, store, seed=0)
    (inside,) = update_batches(store, order, 1, config, torch.device("cpu"))
    (across,) = update_batches(store, order, 1, crossing, torch.device("cpu"))
    assert inside.doc_ids[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert across.doc_ids is None
    assert across.position_ids[0].tolist() == list(range(8))
    assert torch.equal(inside.input_ids, across.input_ids)
    assert torch.equal(inside.labels, across.labels)


def test_an_unknown_recipe_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="no preset 'ke-pile': there are fka-1b, ke-c4"):
        load_config(TrainConfig, "preset:ke-pile")
    with pytest.raises(ValueError, match=r"no preset '\.\./recipes/ke-c4'"):
        find_preset("../recipes/ke-c4")


def test_a_recipe_without_its_resuscitated_model_says_that_the_folder_is_missing(make_store, tmp_path):
    corpus = make_store("corpus", [[1024]] * 128, vocab=60)
    config = load_config(TrainConfig, "preset:ke-pubmed-resuscitated", [f"data.store={corpus}"])
    with pytest.raises(FileNotFoundError, match=r"there is no folder '\./resuscitated'"):
        train(config, tmp_path / "run")
