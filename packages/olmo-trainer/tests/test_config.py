import pytest
import yaml

from olmo_trainer.config import TrainConfig, dump_config, load_config

SMALL = {"model": {"preset": "olmo2-tiny"}, "data": {"store": "s", "epochs": 1}}


@pytest.fixture
def write(tmp_path):
    def write(tree, name="config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return write


def test_defaults_are_filled_in_and_settings_win(write):
    config = load_config(
        TrainConfig, write(SMALL), ["optim.lr=3e-4", "data.epochs=null", "data.updates=7", "seed.init=2"]
    )
    assert config.optim.lr == 3e-4  # YAML 1.1 reads 3e-4 as a string
    assert (config.data.epochs, config.data.updates, config.seed.init) == (None, 7, 2)
    assert config.loss.z == 1e-5


def test_bases_are_merged_deeply_and_relative_to_the_file(write):
    write(SMALL | {"optim": {"lr": 1.0, "eps": 0.5}}, "shared/base.yaml")
    write({"base": "shared/base.yaml", "optim": {"lr": 2.0}}, "middle.yaml")
    path = write({"base": "middle.yaml", "precision": "bfloat16"})
    config = load_config(TrainConfig, path)
    assert (config.optim.lr, config.optim.eps, config.precision) == (2.0, 0.5, "bfloat16")


def test_a_resolved_configuration_reads_back_equal(write, tmp_path):
    config = load_config(TrainConfig, write({"model": {"from": "x:step1"}, "data": SMALL["data"]}))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_config(config), encoding="utf-8")
    assert load_config(TrainConfig, resolved) == config


@pytest.mark.parametrize(
    ("tree", "settings", "message"),
    [
        (SMALL | {"optm": {"lr": 1}}, [], "unknown configuration key 'optm': did you mean 'optim'"),
        (SMALL, ["optim.learning_rat=1"], "unknown configuration key 'optim.learning_rat'"),
        (SMALL, ["checkpoint.export.evry=1"], "did you mean 'checkpoint.export.every'"),
        (SMALL, ["optim.lr=fast"], r"optim\.lr: .*found 'fast'"),
        (SMALL, ["optim.lr"], "expected key=value"),
        (SMALL, ["precision.x=1"], "precision"),
        (SMALL, ["data.updates=3"], "exactly one of epochs, updates and order"),
        (SMALL, ["model.from=x"], "either preset .* or from"),
        (SMALL, ["model.optimizer=keep"], "needs a model to continue from"),
        ({"data": SMALL["data"]}, [], "model: Field required"),
    ],
)
def test_a_mistake_is_named(write, tree, settings, message):
    with pytest.raises(ValueError, match=message):
        load_config(TrainConfig, write(tree), settings)


def test_a_file_that_is_its_own_base_is_refused(write):
    write({"base": "b.yaml"}, "a.yaml")
    with pytest.raises(ValueError, match="is its own base"):
        load_config(TrainConfig, write({"base": "a.yaml"}, "b.yaml"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(TrainConfig, tmp_path / "nowhere.yaml")


def test_every_field_is_documented():
    schema = TrainConfig.model_json_schema(by_alias=True)
    sections = [schema, *schema["$defs"].values()]
    undocumented = [
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section["properties"].items()
        if "description" not in field
    ]
    assert undocumented == []
