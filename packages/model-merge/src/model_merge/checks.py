"""Whether checkpoints can be merged: every reason against it, at once, before any weight is computed."""

import json
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from model_merge.checkpoint import Checkpoint
from model_merge.dtypes import FLOATS

CONFIG_KEYS = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
)
"""Entries of config.json that change what the weights mean."""

HEADS = {
    "lm_head.weight": ("model.embed_tokens.weight", "transformer.wte.weight"),
    "embed_out.weight": ("gpt_neox.embed_in.weight",),
}
"""Output layers, and the embeddings that they share where word embeddings are tied."""

MOST_LISTED = 10
COMPARED_BYTES = 1 << 20


class IncompatibleError(ValueError):
    """Checkpoints that cannot be merged; the message lists every reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Say all problems, one a line."""
        found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"these checkpoints cannot be merged, {found}:\n" + "\n".join(f"  {one}" for one in problems)
        )
        self.problems = list(problems)


def check(checkpoints: Sequence[Checkpoint], *, dtype: str | None = None, untie: bool = False) -> None:
    """Raise IncompatibleError unless the checkpoints agree in all that a merge needs."""
    if problems := find_problems(checkpoints, dtype=dtype, untie=untie):
        raise IncompatibleError(problems)


def find_problems(
    checkpoints: Sequence[Checkpoint], *, dtype: str | None = None, untie: bool = False
) -> list[str]:
    """Every reason why these checkpoints cannot be averaged tensor by tensor.

    `dtype` is the type of the output, where one was asked for; `untie` lets tied and untied models meet.
    """
    first, problems = checkpoints[0], []
    for other in checkpoints[1:]:
        problems += _name_problems(first, other, untie=untie)
        problems += _shape_problems(first, other)
        problems += _dtype_problems(first, other, dtype=dtype)
        problems += _config_problems(first, other, untie=untie)
        problems += _tokenizer_problems(first, other)
    problems += [problem for one in checkpoints for problem in _quantised(one)]
    return list(dict.fromkeys(problems))


def find_meaning_problems(
    checkpoints: Sequence[Checkpoint], *, besides: Collection[str] = (), tokenizers: bool = True
) -> list[str]:
    """Every reason why weights of these checkpoints do not mean the same, whatever tensors they have.

    For merges that do not match all tensors one to one. `besides` are config entries that may differ;
    `tokenizers` says whether those must agree.
    """
    first, problems = checkpoints[0], []
    for other in checkpoints[1:]:
        problems += _config_problems(first, other, untie=False, besides=besides)
        problems += _tokenizer_problems(first, other) if tokenizers else []
    problems += [problem for one in checkpoints for problem in _quantised(one)]
    return list(dict.fromkeys(problems))


def untied_name(checkpoint: Checkpoint, name: str) -> str:
    """The tensor that plays the part of `name`: itself, or the embedding where a tied head is not stored."""
    if name in checkpoint.tensors:
        return name
    return next((other for other in HEADS.get(name, ()) if other in checkpoint.tensors), name)


def _name_problems(first: Checkpoint, other: Checkpoint, *, untie: bool) -> list[str]:
    one_sided = first.tensors.keys() ^ other.tensors.keys()
    tied = {name for name in one_sided if _is_tied_in_one(first, other, name)}
    problems = []
    if tied and not untie:
        stored, tying = (first, other) if tied & first.tensors.keys() else (other, first)
        problems.append(
            f"{stored.reference!r} stores {', '.join(sorted(tied))} and {tying.reference!r} ties it to its "
            "embedding: give --untie to write it"
        )
    missing = sorted(first.tensors.keys() - other.tensors.keys() - tied)
    extra = sorted(other.tensors.keys() - first.tensors.keys() - tied)
    if missing:
        problems.append(f"{other.reference!r} lacks {_listed(missing)}, which {first.reference!r} has")
    if extra:
        problems.append(f"{other.reference!r} has {_listed(extra)}, which {first.reference!r} lacks")
    return problems


def _is_tied_in_one(first: Checkpoint, other: Checkpoint, name: str) -> bool:
    without = other if name in first.tensors else first
    return name in HEADS and untied_name(without, name) != name


def _listed(names: Sequence[str], most: int = MOST_LISTED) -> str:
    listed = ", ".join(names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _shape_problems(first: Checkpoint, other: Checkpoint) -> list[str]:
    differing = [
        f"{name} {list(first.tensors[name].shape)} and {list(other.tensors[name].shape)}"
        for name in first.tensors
        if name in other.tensors and first.tensors[name].shape != other.tensors[name].shape
    ]
    if not differing:
        return []
    hint = ""
    if _vocabulary(first) != _vocabulary(other):
        hint = (
            f"; their vocabularies have {_vocabulary(first)} and {_vocabulary(other)} rows: "
            "`model-merge run` with tokenizer_source: union brings them together"
        )
    return [f"{first.reference!r} and {other.reference!r} differ in shape: {_listed(differing)}{hint}"]


def _vocabulary(checkpoint: Checkpoint) -> int | None:
    for names in HEADS.values():
        for name in names:
            if name in checkpoint.tensors and checkpoint.tensors[name].shape:
                return checkpoint.tensors[name].shape[0]
    return None


def _dtype_problems(first: Checkpoint, other: Checkpoint, *, dtype: str | None) -> list[str]:
    """Types that differ, and tensors that are no numbers and differ in their bytes."""
    mixed: dict[tuple[str, str], list[str]] = {}
    copied = []
    for name, tensor in first.tensors.items():
        theirs = other.tensors.get(name)
        if theirs is None:
            continue
        floats = tensor.dtype in FLOATS and theirs.dtype in FLOATS
        if tensor.dtype != theirs.dtype and not (floats and dtype):
            mixed.setdefault((tensor.dtype, theirs.dtype), []).append(name)
        elif (
            tensor.dtype not in FLOATS
            and tensor.shape == theirs.shape
            and not _same_bytes(first, other, name)
        ):
            copied.append(f"{name} ({tensor.dtype})")
    problems = [
        (
            f"{len(names)} tensors are {mine} in {first.reference!r} and {their} in {other.reference!r} "
            f"({_listed(names, most=3)}): --dtype says what the merge is to be"
        )
        for (mine, their), names in mixed.items()
    ]
    if copied:
        problems.append(
            f"{first.reference!r} and {other.reference!r} differ in tensors that are no floating-point "
            f"numbers and can only be copied: {_listed(copied)}"
        )
    return problems


def _same_bytes(first: Checkpoint, other: Checkpoint, name: str) -> bool:
    size = first.tensors[name].num_bytes
    return all(
        bool((first.read_bytes(name, start, stop) == other.read_bytes(name, start, stop)).all())
        for start in range(0, size, COMPARED_BYTES)
        for stop in [min(start + COMPARED_BYTES, size)]
    )


def _config_problems(
    first: Checkpoint, other: Checkpoint, *, untie: bool, besides: Collection[str] = ()
) -> list[str]:
    if not (first.config and other.config):
        return []
    mine, theirs = _flat(first.config), _flat(other.config)
    return [
        f"{first.reference!r} has {key} {mine.get(key)!r} and {other.reference!r} has {theirs.get(key)!r}"
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key)
        and key.rpartition(".")[2] not in besides
        and not (untie and key.endswith("tie_word_embeddings"))
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The deciding entries, those of nested configs (`text_config`) with a dotted name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in CONFIG_KEYS:
            found[prefix + key] = value
        elif isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
    return found


def _tokenizer_problems(first: Checkpoint, other: Checkpoint) -> list[str]:
    paths = [one.folder / "tokenizer.json" for one in (first, other)]
    if not all(path.is_file() for path in paths):
        return []
    if len({sha256(path.read_bytes()).hexdigest() for path in paths}) == 1:
        return []
    mine, theirs = map(_vocabulary_of, paths)
    if mine == theirs:
        return []
    differing = sorted({*mine.items()} ^ {*theirs.items()}, key=str)
    tokens = list(dict.fromkeys(token for token, _ in differing))
    more = ", ..." if len(tokens) > 3 else ""
    return [
        (
            f"the tokenizers of {first.reference!r} and {other.reference!r} differ in {len(tokens)} tokens "
            f"({', '.join(map(repr, tokens[:3]))}{more}), so that rows of their embeddings stand for "
            "different tokens"
        )
    ]


def _vocabulary_of(path: Path) -> dict[str, Any]:
    """Token -> id, added ones included."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary: Any = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # unigram: pairs of token and score, by id
            vocabulary = {token: position for position, (token, _) in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        return dict(vocabulary) | added
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no tokenizer.json: {error!r}") from error


def _quantised(checkpoint: Checkpoint) -> list[str]:
    settings = checkpoint.config.get("quantization_config")
    if not settings:
        return []
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    return [
        (
            f"{checkpoint.reference!r} is quantised ({method}): its tensors are codes and scales; "
            "merge the checkpoints it was made from"
        )
    ]
