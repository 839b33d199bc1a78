import json
import re
from pathlib import Path

import pytest
import yaml

from olmo_trainer.config import TrainConfig, dump_config, load_config
from olmo_trainer.presets import list_presets
from olmo_trainer.train import train

README = Path(__file__).parent.parent / "README.md"


def readme():
    if not README.exists():
        pytest.skip(f"no README.md beside {README.parent.name}: the tests run without the sources")
    return README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", readme(), re.DOTALL)


def test_the_configuration_of_the_example_is_valid(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    assert load_config(TrainConfig, path).data.batch_tokens == 512


def test_the_configuration_of_the_injection_is_valid(tmp_path):
    path = tmp_path / "more.yaml"
    path.write_text(blocks("yaml")[2], encoding="utf-8")
    assert load_config(TrainConfig, path).probes.after_injections == 5


def test_the_recipes_are_listed_as_the_command_lists_them():
    listed = "".join(f"{name:24}{title}\n" for name, title in list_presets().items())
    assert f"$ olmo-trainer presets\n{listed}" in readme()


def test_the_documented_defaults_are_the_defaults(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(blocks("yaml")[1], encoding="utf-8")
    small = {"model": {"preset": "olmo2-tiny"}, "data": {"store": "chunks", "epochs": 1}}
    defaults = yaml.safe_load(dump_config(TrainConfig.model_validate(small)))
    assert yaml.safe_load(dump_config(load_config(TrainConfig, path))) == defaults


def test_the_example_of_a_loss_trains(write_config, tmp_path):
    names = {}
    exec(next(block for block in blocks("python") if "def quiet_loss" in block), names)
    train(load_config(TrainConfig, write_config()), tmp_path / "run", loss_function=names["quiet_loss"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["size"] > 0 for line in lines)
