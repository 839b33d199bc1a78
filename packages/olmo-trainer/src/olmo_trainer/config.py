"""The configuration of a run: one YAML file, checked against these models, saved beside the result.

`base: other.yaml` at the top of a file composes (paths relative to that file, deep merge, the later wins),
`--set optim.lr=3e-4` wins over both. `preset:NAME` in a file's place is a recipe of `olmo_trainer.presets`.
`load_config` takes any pydantic model: cocomix and linear-attn use it.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from olmo_trainer.presets import PREFIX, find_preset


class Section(BaseModel):
    """Base of all configuration models: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True
    )


SectionType = TypeVar("SectionType", bound=BaseModel)


class ModelConfig(Section):
    """What is trained: a preset from scratch, or a model to continue from."""

    preset: str | None = None
    """Size of an OLMo-2 made from scratch: olmo2-tiny, -30m, -60m, -190m, -370m, -600m, -760m or -1b."""
    overrides: dict[str, Any] = {}
    """Fields of transformers' Olmo2Config that differ from the preset, such as `num_hidden_layers: 8`."""
    from_: str | None = Field(default=None, alias="from")
    """A model reference PATH_OR_REPO[@REVISION][:SUBFOLDER] to continue from, instead of `preset`."""
    optimizer: Literal["fresh", "keep"] = "fresh"
    """With `from`: start the optimiser anew, or keep the state of RUN:stepN (needs RUN/resume/stepN)."""

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelConfig":
        if (self.preset is None) == (self.from_ is None):
            raise ValueError("give either preset (train from scratch) or from (continue from a model)")
        if self.from_ is not None and self.overrides:
            raise ValueError("overrides change the architecture, so they go with preset, not with from")
        if self.from_ is None and self.optimizer == "keep":
            raise ValueError("optimizer: keep needs a model to continue from (from: RUN:stepN)")
        return self


class DataConfig(Section):
    """What it is trained on, and in which order."""

    store: Path
    """Chunk store folder, made by `chunk-provenance build`."""
    validation: dict[str, Path] = {}
    """Name of a held-out set: a chunk store, or a .npy of token rows (row, token)."""
    order: Path | None = None
    """A recorded data order to use again; null computes one from the fields below and `seed.data`."""
    batch_tokens: PositiveInt = 4096
    """Tokens of an update, padding included; a multiple of the longest chunk."""
    epochs: PositiveInt | None = None
    """How often every chunk is seen."""
    updates: PositiveInt | None = None
    """How many updates, instead of `epochs`."""
    document_attention: bool = True
    """Attention stays inside documents; false lets it cross them, as OLMo-1 was trained."""

    @model_validator(mode="after")
    def _one_length(self) -> "DataConfig":
        given = sum(value is not None for value in (self.order, self.epochs, self.updates))
        if given != 1:
            raise ValueError("give exactly one of epochs, updates and order")
        return self


class OptimConfig(Section):
    """AdamW. Embeddings are not decayed, everything else is, norms too (as OLMo-2)."""

    lr: PositiveFloat = 4e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled, multiplied by the learning rate."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""


class ScheduleConfig(Section):
    """The learning rate over the run, by OLMo-core's formulas."""

    name: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """constant, linear or cosine decay to the end, or wsd: constant, then linear decay over the last part."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Part of the updates over which the rate rises from 0."""
    warmup_steps: NonNegativeInt | None = None
    """The same in updates; wins over `warmup_fraction`."""
    warmup_start: float = Field(default=0.0, ge=0, le=1)
    """Where the warm-up begins, as a part of the peak rate."""
    decay_fraction: float = Field(default=0.1, gt=0, le=1)
    """Part of the updates over which wsd decays."""
    decay_steps: PositiveInt | None = None
    """The same in updates; wins over `decay_fraction`."""
    min_ratio: float = Field(default=0.1, ge=0, le=1)
    """Where a decay ends, as a part of the peak rate."""


class LossConfig(Section):
    """The default loss."""

    z: float = Field(default=1e-5, ge=0)
    """Weight of the squared log-partition."""
    chunk_tokens: PositiveInt = 1024
    """Tokens whose logits exist at the same time."""
    cross_document_targets: bool = True
    """In rows of several documents, the last token of one predicts the first of the next (as OLMo)."""


class SeedConfig(Section):
    """One seed a purpose, so that each can vary alone."""

    init: NonNegativeInt = 0
    """Initial weights."""
    data: NonNegativeInt = 0
    """Data order."""
    other: NonNegativeInt = 0
    """Everything else: dropout, where a continued model has some."""


class ExportConfig(Section):
    """Checkpoints for ever: Hugging Face folders RUN/step{N}. Step 0 and the last are always among them."""

    every: PositiveInt | None = 1000
    """Steps between two exports."""
    log_until: NonNegativeInt = 512
    """Also export steps 1, 2, 4, 8, ... up to this one; 0 for none."""
    steps: tuple[NonNegativeInt, ...] = ()
    """Further steps to export."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is float32 below 500 million parameters, bfloat16 from there on."""


class ResumeConfig(Section):
    """States to continue from after an interruption: weights and optimiser, 12 bytes a parameter."""

    every: PositiveInt = 200
    """Steps between two states; one is also written at the end and on SIGTERM."""
    keep_last: PositiveInt = 2
    """Older ones are deleted."""


class CheckpointConfig(Section):
    """What is written while training. It may change when a run is continued, as `probes` may."""

    export: ExportConfig = ExportConfig()
    """Checkpoints that others open."""
    resume: ResumeConfig = ResumeConfig()
    """States the run itself continues from."""


class ProbesConfig(Section):
    """Questions asked of the model while it trains; step 0 and the last are always among the steps."""

    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Path] = {}
    """Name and probes file (Parquet or JSONL); the answers go to RUN/probes/NAME/step{N}.parquet."""
    every: PositiveInt | None = None
    """Steps between two times they are asked."""
    log_until: NonNegativeInt = 0
    """Also ask at steps 1, 2, 4, 8, ... up to this one; 0 for none."""
    steps: tuple[NonNegativeInt, ...] = ()
    """Further steps to ask at."""
    after_injections: NonNegativeInt | None = None
    """Also ask just before every update with injected rows, and at each of so many steps from there on."""


class TrainConfig(Section):
    """A training run."""

    model: ModelConfig
    """What is trained."""
    data: DataConfig
    """What it is trained on."""
    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    seed: SeedConfig = SeedConfig()
    """Random seeds."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is written and when."""
    probes: ProbesConfig = ProbesConfig()
    """What is asked while training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and optimiser stay float32."""
    micro_batch_tokens: PositiveInt | None = None
    """Tokens of a forward pass, padding included; null takes the whole update at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    threads: PositiveInt | None = None
    """CPU threads; null leaves torch's choice."""
    compile: bool = False
    """torch.compile each layer; needs a C++ compiler on the CPU and takes a minute to start."""
    deterministic: bool = False
    """Only algorithms that give the same bits twice on CUDA; slower. On the CPU every run is repeatable."""


def load_config(model: type[SectionType], path: str | Path, settings: Sequence[str] = ()) -> SectionType:
    """Read a YAML file with its bases, apply settings like `optim.lr=3e-4`, and check it all.

    Raises:
        FileNotFoundError: the file or one of its bases does not exist.
        ValueError: an unknown key (the closest is named), a wrong value, a base that includes itself.
    """
    tree = read_keys(path)
    for setting in settings:
        _apply_setting(tree, setting)
    _check_keys(model, tree, "")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        details = "; ".join(_describe(problem) for problem in error.errors())
        raise ValueError(f"configuration {str(path)!r}: {details}") from error


def read_keys(path: str | Path) -> dict[str, Any]:
    """The keys that a configuration file and its bases give, unchecked."""
    return _read_tree(Path(path), ())


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, defaults written out; `load_config` reads back an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys.

    >>> flatten({"optim": {"lr": 0.1}, "compile": False})
    {'optim.lr': 0.1, 'compile': False}
    """
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _read_tree(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    """A YAML mapping merged over its bases."""
    if path.name.startswith(PREFIX):
        path = find_preset(path.name.removeprefix(PREFIX))
    if path.resolve() in including:
        raise ValueError(f"configuration {str(path)!r} is its own base: remove a `base:` line")
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {str(path)!r}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"configuration {str(path)!r} is not YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(tree, dict):
        raise ValueError(
            f"configuration {str(path)!r} holds a {type(tree).__name__}, expected keys with values"
        )
    base = tree.pop("base", None)
    if base is None:
        return tree
    return _merge(_read_tree(path.parent / base, (*including, path.resolve())), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_setting(tree: dict[str, Any], setting: str) -> None:
    """Set `a.b=value` in place."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {setting!r}: expected key=value, such as optim.lr=3e-4")
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--set {setting!r}: {parent!r} is a value, it has no keys below it")
    tree[last] = yaml.safe_load(text)


def _check_keys(model: type[BaseModel], tree: Any, prefix: str) -> None:
    """Refuse the first key that the model does not have, naming the closest one."""
    if not isinstance(tree, dict):
        return  # pydantic says what it expected
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in tree.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1, cutoff=0)
            raise ValueError(
                f"unknown configuration key {prefix + str(key)!r}: did you mean {prefix + close[0]!r}?"
            )
        annotation = fields[key].annotation
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                _check_keys(inner, value, f"{prefix}{key}.")


def _describe(problem: Any) -> str:
    """One of pydantic's errors as `key: what is wrong (what was found)`."""
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
    return f"{key}: {message}{found}" if key else f"{message}{found}"
