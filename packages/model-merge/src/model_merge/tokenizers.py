"""Tokenizers as their tokenizer.json says: which token has which id, and one tokenizer of several.

A union keeps the first tokenizer's ids. Tokens of the others follow: first those of their models (a BPE's
with their merges, a Unigram's with their scores), then their added tokens.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model_merge.header import FormatError

KINDS = ("BPE", "Unigram", "WordLevel", "WordPiece")


@dataclass(frozen=True)
class Tokenizer:
    """The content of a tokenizer.json."""

    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """BPE, Unigram, WordLevel or WordPiece."""
        return str(self.content["model"]["type"])

    @cached_property
    def plain(self) -> dict[str, int]:
        """Token -> id of the model's own tokens, by id."""
        vocabulary = self.content["model"]["vocab"]
        if self.kind == "Unigram":
            return {token: position for position, (token, _) in enumerate(vocabulary)}
        return dict(sorted(vocabulary.items(), key=lambda entry: entry[1]))

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """Token -> entry of the added tokens, by id."""
        entries = sorted(self.content.get("added_tokens") or [], key=lambda entry: entry["id"])
        return {entry["content"]: entry for entry in entries}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id of all tokens."""
        return self.plain | {token: entry["id"] for token, entry in self.added.items()}

    @property
    def num_rows(self) -> int:
        """Rows that an embedding needs for it."""
        return max(self.ids.values(), default=-1) + 1

    def to_bytes(self) -> bytes:
        """As a file."""
        return (json.dumps(self.content, indent=2, ensure_ascii=False) + "\n").encode()


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None where it has no tokenizer.json.

    Raises:
        FormatError: the file is none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer(json.loads(path.read_text(encoding="utf-8")))
        kind, num_rows = tokenizer.kind, tokenizer.num_rows
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{str(path)!r} is no tokenizer.json: {error!r}") from error
    if kind not in KINDS or not num_rows:
        found = f"a {kind!r} of {num_rows} tokens"
        raise FormatError(f"{str(path)!r} holds {found}, expected one of {', '.join(KINDS)}")
    return tokenizer


def union(first: Tokenizer, others: Sequence[tuple[Tokenizer, int]]) -> Tokenizer:
    """One tokenizer with all tokens. Of every other one, with the number of its embedding's rows.

    Tokens beyond an embedding's rows are left out: no row stands for them.

    Raises:
        ValueError: the tokenizers are of different kinds.
    """
    kinds = dict.fromkeys([first.kind, *(other.kind for other, _ in others)])
    if len(kinds) > 1:
        raise ValueError(
            f"tokenizers of different kinds ({' and '.join(kinds)}) have no union: "
            "choose one of them by tokenizer_source: base, or a model"
        )
    every_added = {token for other, _ in others for token in other.added}
    plain = _new(first, ((other.plain, rows) for other, rows in others), besides=every_added)
    added = _new(first, ((_ids(other.added), rows) for other, rows in others), besides=set())
    merged = _with_plain(first, plain, [other for other, _ in others]) if plain else first
    return with_added(merged, [_entry(token, others) for token in added])


def _ids(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {token: entry["id"] for token, entry in entries.items()}


def _new(
    first: Tokenizer, others: Iterable[tuple[Mapping[str, int], int]], *, besides: set[str]
) -> list[str]:
    """Tokens that the first tokenizer lacks, in the order of the others and of their ids."""
    tokens: dict[str, None] = {}
    for ids, num_rows in others:
        for token, row in ids.items():
            if row < num_rows and token not in first.ids and token not in besides:
                tokens[token] = None
    return list(tokens)


def _entry(token: str, others: Sequence[tuple[Tokenizer, int]]) -> dict[str, Any]:
    return next(other.added[token] for other, _ in others if token in other.added)


def with_added(tokenizer: Tokenizer, entries: Sequence[Mapping[str, Any]]) -> Tokenizer:
    """With further added tokens, their ids after all others."""
    if not entries:
        return tokenizer
    start = tokenizer.num_rows
    new = [{**entry, "id": start + position} for position, entry in enumerate(entries)]
    content = copy.deepcopy(dict(tokenizer.content))
    content["added_tokens"] = [*(content.get("added_tokens") or []), *new]
    return _with_explicit_ids(content)


def _with_explicit_ids(content: dict[str, Any]) -> Tokenizer:
    """Added tokens in the vocabulary too: there alone the tokenizers library takes an id as it is written."""
    if content["model"]["type"] != "Unigram":
        content["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    return Tokenizer(content)


def added_token(token: str) -> dict[str, Any]:
    """The entry of a token that is found as it stands."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"content": token, **dict.fromkeys(flags, False)}


def _with_plain(first: Tokenizer, tokens: Sequence[str], others: Sequence[Tokenizer]) -> Tokenizer:
    """With further tokens of the model itself, their ids after all others."""
    content = copy.deepcopy(dict(first.content))
    model, start = content["model"], first.num_rows
    if first.kind == "Unigram":
        if start != len(model["vocab"]):
            raise ValueError(
                "a Unigram tokenizer with added tokens after its own cannot take further ones: "
                "choose a tokenizer by tokenizer_source: base, or a model"
            )
        entries = [entry for other in reversed(others) for entry in other.content["model"]["vocab"]]
        scores = dict(entries)
        model["vocab"] += [[token, scores[token]] for token in tokens]
        return Tokenizer(content)
    model["vocab"] |= {token: start + position for position, token in enumerate(tokens)}
    if first.kind == "BPE":
        model["merges"] = _all_merges(first, others, model["vocab"])
    return _with_explicit_ids(content)


def _all_merges(first: Tokenizer, others: Sequence[Tokenizer], vocabulary: Mapping[str, int]) -> list[Any]:
    """The first tokenizer's merges, then those of the others that it lacks."""
    own = first.content["model"]["merges"]
    merges = dict.fromkeys(map(_pair, own))
    for other in others:
        for pair in map(_pair, other.content["model"]["merges"]):
            if all(token in vocabulary for token in (*pair, "".join(pair))):
                merges[pair] = None
    spaced = bool(own) and isinstance(own[0], str)
    return [" ".join(pair) if spaced else list(pair) for pair in merges]


def _pair(merge: str | Sequence[str]) -> tuple[str, ...]:
    """Older files write "a b", newer ones ["a", "b"]."""
    return tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
