"""Model references: one string names a local folder or a hub repository, a revision and a subfolder in it.

    PATH_OR_REPO[@REVISION][:SUBFOLDER]

    run:step1000        allenai/OLMo-1B-hf@step1000-tokens4B        dhgottesman/LMEnt-1B-6E:step10000

Files are found by transformers, local or from the hub's cache or the hub, and weights are read from
safetensors only: nothing is ever unpickled, and no code from a repository is run.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Reference:
    """A parsed model reference."""

    path: str
    revision: str | None = None
    subfolder: str | None = None

    def __str__(self) -> str:
        """The reference as it is written."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.path}{revision}" + (f":{self.subfolder}" if self.subfolder else "")

    @property
    def step(self) -> int | None:
        """The optimiser updates behind this model, where its subfolder, revision or folder names them.

        >>> Reference("allenai/OLMo-1B-hf", revision="step1000-tokens4B").step
        1000
        """
        for name in (self.subfolder, self.revision, self.path):
            found = re.search(r"(?:^|[/-])step(\d+)(?:-[^/]*)?/?$", name or "")
            if found:
                return int(found[1])
        return None


def parse_reference(text: str) -> Reference:
    """Read `PATH_OR_REPO[@REVISION][:SUBFOLDER]`; what exists on disk wins, also with ':' or '@' in its name.

    >>> parse_reference("allenai/OLMo-1B-hf@step1000-tokens4B:weights")
    Reference(path='allenai/OLMo-1B-hf', revision='step1000-tokens4B', subfolder='weights')
    """
    for colon in [len(text), *(i for i in reversed(range(len(text))) if text[i] == ":")]:
        if text[:colon] and Path(text[:colon]).exists():
            return _checked(text, text[:colon], None, text[colon + 1 :] if colon < len(text) else None)
    head, colon_found, subfolder = text.partition(":")
    path, at_found, revision = head.partition("@")
    if path and at_found and Path(path).exists():
        raise ValueError(
            f"model reference {text!r}: {path!r} is a local folder and has no revisions: "
            f"write {path}:SUBFOLDER, or only the folder"
        )
    return _checked(text, path, revision if at_found else None, subfolder if colon_found else None)


def _checked(text: str, path: str, revision: str | None, subfolder: str | None) -> Reference:
    if not path or revision == "" or subfolder == "":
        raise ValueError(
            f"model reference {text!r} has an empty part: expected PATH_OR_REPO[@REVISION][:SUBFOLDER], "
            "for example run:step1000 or allenai/OLMo-1B-hf@step1000-tokens4B"
        )
    return Reference(path, revision, subfolder)


def load_model(
    reference: Reference, *, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """Open a model in evaluation mode, as stored or in another `dtype`; every weight must be there."""
    load_config(reference)
    _require_safetensors(reference)
    try:
        opened: Any = AutoModelForCausalLM.from_pretrained(
            reference.path,
            **_place(reference),
            dtype="auto" if dtype is None else dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(f"model {str(reference)!r} cannot be opened: {_first_line(error)}") from error
    model: PreTrainedModel = opened[0]
    _refuse_incomplete(reference, opened[1])
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_weights(model: PreTrainedModel, reference: Reference) -> bool:
    """Put a checkpoint's weights into a model of the same configuration, without building it again.

    False, and nothing done, where names or shapes are not the model's own: `load_model` knows more.
    """
    weights = {name: tensor for file in weight_files(reference) for name, tensor in load_file(file).items()}
    own = model.state_dict()
    lacking = own.keys() - weights.keys()
    if lacking - model.all_tied_weights_keys.keys() or any(
        name not in own or own[name].shape != tensor.shape for name, tensor in weights.items()
    ):
        return False
    model.load_state_dict(weights, strict=False)
    return True


def load_config(reference: Reference) -> PreTrainedConfig:
    """A model's configuration, without its weights."""
    if find_file(reference, "config.json") is None:
        what = (
            "has no config.json: expected a folder written by save_pretrained"
            if Path(reference.path).is_dir()
            else "is no local folder, and neither the hub nor its cache here has a config.json of it"
        )
        raise FileNotFoundError(f"model {str(reference)!r} {what}")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            reference.path, **_place(reference), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model {str(reference)!r} cannot be opened: {_first_line(error)}") from error
    return config


def load_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """Open the tokenizer beside a model or in the run's folder above it; `tokenizer.json` alone is enough."""
    place, file = _find_tokenizer(reference)
    if find_file(place, "tokenizer_config.json") is None:
        return PreTrainedTokenizerFast(tokenizer_file=str(file))  # type: ignore[no-untyped-call]
    return AutoTokenizer.from_pretrained(place.path, **_place(place), trust_remote_code=False)


def tokenizer_digest(reference: Reference) -> str:
    """The sha256 of the `tokenizer.json` that `load_tokenizer` opens."""
    return hashlib.sha256(_find_tokenizer(reference)[1].read_bytes()).hexdigest()


def _find_tokenizer(reference: Reference) -> tuple[Reference, Path]:
    for place in (reference, Reference(reference.path, reference.revision)):
        file = find_file(place, "tokenizer.json")
        if file is not None:
            return place, file
    raise ValueError(
        f"model {str(reference)!r} has no tokenizer.json: copy its tokenizer there, save_pretrained writes it"
    )


def find_file(reference: Reference, name: str) -> Path | None:
    """The file of that name in a reference, from disk, the hub's cache or the hub; None where it has none."""
    if Path(reference.path).is_dir():
        file = Path(reference.path, reference.subfolder or "", name)
        return file if file.is_file() else None
    if re.match(r"[./~]|[^/]*/[^/]*/", reference.path):
        raise FileNotFoundError(f"model {str(reference)!r}: there is no folder {reference.path!r}")
    try:
        found = cached_file(
            reference.path, name, **_place(reference), _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise FileNotFoundError(
            f"model {str(reference)!r} is no local folder, and as a hub repository it cannot be read: "
            f"{_first_line(error)}"
        ) from error
    return Path(found) if found else None


def weight_files(reference: Reference) -> list[Path]:
    """The safetensors files of a reference, in order."""
    whole = find_file(reference, WEIGHTS)
    if whole is not None:
        return [whole]
    index = find_file(reference, INDEX)
    if index is None:
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = {name: find_file(reference, name) for name in names}
    lacking = [name for name, file in files.items() if file is None]
    if lacking:
        raise ValueError(f"model {str(reference)!r} names {lacking[0]!r} in {INDEX}, but has no such file")
    return [file for file in files.values() if file is not None]


def digest(reference: Reference) -> str:
    """A sha256 over a model's configuration and weights, for telling whether it is still the same."""
    config = find_file(reference, "config.json")
    total = hashlib.sha256()
    for file in [*([config] if config else []), *weight_files(reference)]:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _place(reference: Reference) -> dict[str, Any]:
    return {"revision": reference.revision or "main", "subfolder": reference.subfolder or ""}


def _require_safetensors(reference: Reference) -> None:
    if weight_files(reference):
        return
    raise ValueError(
        f"model {str(reference)!r} has no {WEIGHTS}: only safetensors weights are read, never pickled .bin "
        "files: open it with transformers in an environment you trust and save_pretrained it again"
    )


def _refuse_incomplete(reference: Reference, info: dict[str, Any]) -> None:
    for kind, phrase in (("missing_keys", "lacks"), ("mismatched_keys", "has wrong shapes for")):
        names = sorted(map(str, info.get(kind, ())))
        if names:
            raise ValueError(
                f"model {str(reference)!r} {phrase} {len(names)} of the weights its config.json asks for, "
                f"first {names[0]!r}: the checkpoint is damaged or of another model"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
