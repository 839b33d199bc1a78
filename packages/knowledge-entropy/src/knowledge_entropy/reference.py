"""Model references, `PATH_OR_REPO[@REVISION][:SUBFOLDER]`, and the checkpoints of a series.

Files are found on disk, in the hub's cache or on the hub; weights are read from safetensors only, nothing is
ever unpickled and no code from a repository is run. A skeleton is built once, and takes one checkpoint after
the other.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
STEP = re.compile(r"(?:^|[/-])step(\d+)(?:-[^/]*)?/?$")


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
        """The updates behind this model, where its subfolder, revision or folder names them.

        >>> Reference("allenai/OLMo-1B-hf", revision="step1000-tokens4B").step
        1000
        """
        found = (STEP.search(name or "") for name in (self.subfolder, self.revision, self.path))
        return next((int(match[1]) for match in found if match), None)

    @property
    def label(self) -> str:
        """A name for the model without the folders above it: for files that hold no paths."""
        parts = (self.subfolder or "", self.revision or "", Path(self.path).name)
        return next(part for part in parts if part).replace("/", "-")

    @property
    def _place(self) -> dict[str, Any]:
        return {"revision": self.revision or "main", "subfolder": self.subfolder or ""}


def parse_reference(text: str) -> Reference:
    """Read a reference; what exists on disk wins, also with ':' or '@' in its name.

    >>> parse_reference("allenai/OLMo-1B-hf@step1000-tokens4B:weights")
    Reference(path='allenai/OLMo-1B-hf', revision='step1000-tokens4B', subfolder='weights')
    """
    for colon in [len(text), *(i for i in reversed(range(len(text))) if text[i] == ":")]:
        if text[:colon] and Path(text[:colon]).exists():
            return _checked(text, text[:colon], None, text[colon + 1 :] if colon < len(text) else None)
    head, colon_found, subfolder = text.partition(":")
    path, at_found, revision = head.partition("@")
    return _checked(text, path, revision if at_found else None, subfolder if colon_found else None)


def _checked(text: str, path: str, revision: str | None, subfolder: str | None) -> Reference:
    if not path or revision == "" or subfolder == "":
        raise ValueError(
            f"model reference {text!r} has an empty part: expected PATH_OR_REPO[@REVISION][:SUBFOLDER], "
            "for example run:step1000 or allenai/OLMo-1B-hf@step1000-tokens4B"
        )
    return Reference(path, revision, subfolder)


def find_checkpoints(models: list[str]) -> list[Reference]:
    """Every model of a series: a folder with step0, step1, ... in it stands for all of them."""
    found = []
    for text in models:
        steps = sorted(
            (int(folder.name[4:]), folder.name)
            for folder in Path(text).glob("step*")
            if re.fullmatch(r"step\d+", folder.name) and (folder / "config.json").is_file()
        )
        found += [Reference(text, None, name) for _, name in steps] or [parse_reference(text)]
    labels = [reference.label for reference in found]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(
            f"two models of the series are called {twice[0]!r}: rename a folder, or measure apart"
        )
    return found


def find_file(reference: Reference, name: str) -> Path | None:
    """The file of that name in a reference; None where it has none."""
    if Path(reference.path).is_dir():
        file = Path(reference.path, reference.subfolder or "", name)
        return file if file.is_file() else None
    if re.match(r"[./~]|[^/]*/[^/]*/", reference.path):
        raise FileNotFoundError(f"model {str(reference)!r}: there is no folder {reference.path!r}")
    try:
        found = cached_file(
            reference.path, name, **reference._place, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise FileNotFoundError(
            f"model {str(reference)!r} is no local folder, and as a hub repository it cannot be read: "
            f"{_first_line(error)}"
        ) from error
    return Path(found) if found else None


def check_configurations(references: list[Reference]) -> None:
    """Refuse a series of which a model is not there, before any is read."""
    for reference in references:
        if find_file(reference, "config.json") is None:
            local = Path(reference.path).is_dir()
            raise FileNotFoundError(
                f"model {str(reference)!r} has no config.json"
                + (
                    ": expected a folder written by save_pretrained"
                    if local
                    else " on the hub (or, offline, in its cache): check repository, revision and subfolder"
                )
            )


def weight_files(reference: Reference) -> list[Path]:
    """The safetensors files of a reference, in order.

    Raises:
        ValueError: there are none, or not all that the index names.
    """
    whole = find_file(reference, WEIGHTS)
    if whole is not None:
        return [whole]
    index = find_file(reference, INDEX)
    if index is None:
        raise ValueError(
            f"model {str(reference)!r} has no {WEIGHTS}: only safetensors weights are read, never pickled "
            ".bin files; `knowledge-entropy convert` reads OLMo-1's model.pt"
        )
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [(name, find_file(reference, name)) for name in names]
    if lacking := [name for name, file in files if file is None]:
        raise ValueError(f"model {str(reference)!r} names {lacking[0]!r} in {INDEX}, but has no such file")
    return [file for _, file in files if file is not None]


def digest(reference: Reference) -> str:
    """A sha256 over a model's configuration and weights."""
    config = find_file(reference, "config.json")
    total = hashlib.sha256()
    for file in [*([config] if config else []), *weight_files(reference)]:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def read_weights(reference: Reference) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in memory: what a prefetching thread does."""
    return {
        name: tensor.clone() for file in weight_files(reference) for name, tensor in load_file(file).items()
    }


def build_skeleton(reference: Reference, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of the reference's configuration, its weights not yet read."""
    check_configurations([reference])
    try:
        config = AutoConfig.from_pretrained(reference.path, **reference._place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model {str(reference)!r} cannot be opened: {_first_line(error)}") from error
    built: PreTrainedModel = model.to(device).eval()
    return built


def put_weights(model: PreTrainedModel, reference: Reference, weights: dict[str, Tensor]) -> None:
    """Put a checkpoint into the skeleton; names of older transformers take the long way round.

    Raises:
        ValueError: the checkpoint is of another model, or incomplete.
    """
    own = model.state_dict()
    lacking = own.keys() - weights.keys() - model.all_tied_weights_keys.keys()
    if lacking or any(name not in own or own[name].shape != one.shape for name, one in weights.items()):
        weights = _opened_by_transformers(reference, model.dtype)
        if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in own.items()}:
            raise ValueError(
                f"model {str(reference)!r} has other weights than the first of the series: "
                "a series is one model at several steps"
            )
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def _opened_by_transformers(reference: Reference, dtype: torch.dtype) -> dict[str, Tensor]:
    opened: Any = AutoModelForCausalLM.from_pretrained(
        reference.path,
        **reference._place,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    for kind, phrase in (("missing_keys", "lacks"), ("mismatched_keys", "has wrong shapes for")):
        if names := sorted(map(str, opened[1].get(kind, ()))):
            raise ValueError(
                f"model {str(reference)!r} {phrase} {len(names)} of the weights its config.json asks for, "
                f"first {names[0]!r}: the checkpoint is damaged or of another model"
            )
    state: dict[str, Tensor] = opened[0].state_dict()
    return state


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
