"""The shape of a mergekit file. A key that is not known here is refused by its name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class Strict(BaseModel):
    """Knows its keys, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Settings = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
"""Parameters by name; `mergekit_values` checks them, who knows the method."""


@dataclass(frozen=True)
class ModelReference:
    """A checkpoint: a folder, or a repository of the hub with a revision."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        """As mergekit writes it."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


def _reference(value: Any) -> ModelReference:
    """`path`, `path@revision`, {path, revision}, or mergekit's {model: {path, revision}}."""
    if isinstance(value, ModelReference):
        return value
    if isinstance(value, str) and value:
        return ModelReference(value)
    if not isinstance(value, Mapping):
        raise ValueError("a model is a path, or a mapping of path and revision")
    if value.get("lora") is not None:
        raise ValueError(
            f"LoRA adapters are not supported ({value['lora']!r}): merge it into its model first"
        )
    if "model" in value:
        _only(value, {"model", "lora"})
        return _reference(value["model"])
    _only(value, {"path", "revision"})
    path, revision = value.get("path"), value.get("revision")
    if not isinstance(path, str) or not (revision is None or isinstance(revision, str)):
        raise ValueError("path and revision are texts, and path is needed")
    return ModelReference(path, revision)


def _only(value: Mapping[Any, Any], known: set[str]) -> None:
    for key in value:
        if key not in known:
            raise ValueError(f"unknown key {key!r} (known here: {', '.join(sorted(known))})")


Reference = Annotated[ModelReference, BeforeValidator(_reference)]


class InputModel(Strict):
    """One model of `models`."""

    model: Reference
    parameters: Settings = {}


class InputSlice(InputModel):
    """Some layers of one model."""

    layer_range: tuple[int, int]


class OutputSlice(Strict):
    """Layers of the output, in their order, and what they are made of."""

    sources: list[InputSlice] = Field(min_length=1)
    base_model: Reference | None = None
    parameters: Settings = {}


class OutputModule(Strict):
    """A part of the model that is merged by itself."""

    models: list[InputModel] | None = None
    slices: list[OutputSlice] | None = None
    parameters: Settings = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> "OutputModule":
        if bool(self.models) == bool(self.slices):
            raise ValueError("give either models or slices")
        return self


@dataclass(frozen=True)
class ModelToken:
    """The embedding of a token of a model, by its text or its id; of the same token where neither is
    given."""

    model: ModelReference
    token: str | None = None
    token_id: int | None = None


def _token_source(value: Any) -> ModelToken | Literal["zero"] | None:
    """A model, {kind: model_token, model, token or token_id}, or {kind: zero}."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or "kind" not in value:
        return ModelToken(_reference(value))
    if value["kind"] == "zero":
        _only(value, {"kind"})
        return "zero"
    if value["kind"] != "model_token":
        raise ValueError(f"kind is {value['kind']!r}, must be model_token or zero")
    _only(value, {"kind", "model", "token", "token_id"})
    token, token_id = value.get("token"), value.get("token_id")
    if (token is None) == (token_id is None):
        raise ValueError("give either token or token_id")
    if not isinstance(token, str | None) or not isinstance(token_id, int | None):
        raise ValueError("token is a text, token_id a whole number")
    return ModelToken(_reference(value.get("model")), token, token_id)


class TokenEmbedding(Strict):
    """Where the embedding of a token comes from; with `force` also in the models that have the token."""

    source: Annotated[ModelToken | Literal["zero"] | None, BeforeValidator(_token_source)] = None
    force: bool = False


def _tokenizer_source(value: Any) -> Any:
    return value if value in ("union", "base") else _reference(value)


TokenizerSource = Annotated[Literal["union", "base"] | ModelReference, BeforeValidator(_tokenizer_source)]


class Tokenizer(Strict):
    """The tokenizer of the output."""

    source: TokenizerSource = "union"
    tokens: dict[str, TokenEmbedding] = {}
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None


Dtype = Literal["float64", "float32", "bfloat16", "float16"]


class MergekitFile(Strict):
    """A whole file."""

    merge_method: str
    models: list[InputModel] | None = None
    slices: list[OutputSlice] | None = None
    modules: dict[str, OutputModule] | None = None
    base_model: Reference | None = None
    parameters: Settings = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: TokenizerSource | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    compat: Literal["mergekit", "ez"] | None = None
    """Ours: the arithmetic of mergekit or of ez-data-ablations."""
    random_seed: int = 0
    """Ours, in mergekit an option of the command."""

    @model_validator(mode="after")
    def _consistent(self) -> "MergekitFile":
        given = [name for name in ("models", "slices", "modules") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of models, slices and modules, found {' and '.join(given) or 'none'}"
            )
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("give either tokenizer or tokenizer_source")
        return self

    @property
    def wanted_tokenizer(self) -> Tokenizer | None:
        """Both ways of writing it as one."""
        if self.tokenizer_source is not None:
            return Tokenizer(source=self.tokenizer_source)
        return self.tokenizer


def read_file(source: str | Path) -> MergekitFile:
    """Parse a mergekit file, given as its path or its text.

    Raises:
        ValueError: naming every key that is unknown or has a wrong value.
    """
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    try:
        content = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"a mergekit file is a mapping with merge_method, found {type(content).__name__}")
    try:
        return MergekitFile.model_validate(content)
    except ValidationError as error:
        raise ValueError("; ".join(dict.fromkeys(_sentences(error)))) from error


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML readers silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.value[position][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)


def _sentences(error: ValidationError) -> list[str]:
    return [_sentence(detail) for detail in error.errors()]


def _sentence(detail: Mapping[str, Any]) -> str:
    where, model = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(model.model_fields)
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, 1)
        return f"{where}: unknown key" + (
            f", did you mean {close[0]!r}?" if close else f" (known here: {', '.join(known)})"
        )
    if detail["type"] == "missing":
        return f"{where} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    found = detail["input"]
    if isinstance(found, bool | int | float | str) and detail["type"] != "value_error":
        message += f", found {found!r}"
    return f"{where}: {message}" if where else message


def _place(location: tuple[int | str, ...]) -> tuple[str, type[Strict]]:
    """`models[1].parameters`, and the kind of mapping it lies in."""
    text, model = "", MergekitFile
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        model = _INSIDE.get((model, step), model)
    return text, model


_INSIDE: dict[tuple[type[Strict], int | str], Any] = {
    (MergekitFile, "models"): InputModel,
    (MergekitFile, "slices"): OutputSlice,
    (MergekitFile, "modules"): OutputModule,
    (MergekitFile, "tokenizer"): Tokenizer,
    (OutputModule, "models"): InputModel,
    (OutputModule, "slices"): OutputSlice,
    (OutputSlice, "sources"): InputSlice,
    (Tokenizer, "tokens"): TokenEmbedding,
}
