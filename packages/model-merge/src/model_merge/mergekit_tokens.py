"""One tokenizer for models of several: which row of which embedding stands for which token."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_merge.checkpoint import Checkpoint
from model_merge.layers import place_of
from model_merge.mergekit_schema import ModelReference, ModelToken
from model_merge.mergekit_schema import Tokenizer as Wanted
from model_merge.tokenizers import Tokenizer, added_token, read_tokenizer, union, with_added
from model_merge.vocabulary import Rows

EMBEDDINGS = re.compile(r"embed|wte|lm_head|output|logits")

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What a tokenizer is made of, besides the tokens."""


@dataclass(frozen=True)
class Alignment:
    """Every model's embedding rows in the order of the output's tokenizer."""

    num_rows: int
    num_tokens: int
    rows: Sequence[Rows]
    """Of every checkpoint: its row for each row of the output, -1 where it has none."""
    chosen: Sequence[tuple[int, Rows]]
    """(checkpoint, rows): what the file says of single tokens, -1 for the others."""
    zero: npt.NDArray[np.bool_]
    files: Mapping[str, bytes]

    def digest(self) -> str:
        """Tells one alignment from another."""
        arrays = [*self.rows, *(rows for _, rows in self.chosen), self.zero]
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def align(
    wanted: Wanted, checkpoints: Sequence[Checkpoint], positions: Mapping[ModelReference, int], donor: int
) -> Alignment:
    """The output's tokenizer, and how the models' embeddings follow it.

    Raises:
        ValueError: a tokenizer is missing, or a token that the file names.
    """
    tokenizers = _read_all(checkpoints, donor)
    source = positions[wanted.source] if isinstance(wanted.source, ModelReference) else donor
    output = tokenizers[source]
    if wanted.source == "union":
        order = [i for i in range(len(checkpoints)) if i != donor]
        output = union(output, [(tokenizers[i], embedding_rows(checkpoints[i])) for i in order])
    output = with_added(output, [added_token(token) for token in wanted.tokens if token not in output.ids])
    num_rows = _padded(output.num_rows, embedding_rows(checkpoints[source]), wanted.pad_to_multiple_of)
    rows = [
        _rows_of(one, embedding_rows(checkpoint), output, num_rows)
        for one, checkpoint in zip(tokenizers, checkpoints, strict=True)
    ]
    chosen, zero = _choices(wanted, output, tokenizers, rows, positions)
    files = {"tokenizer.json": output.to_bytes()} if output is not tokenizers[donor] else {}
    if source != donor:
        files = _side_files(checkpoints[source]) | files
    return Alignment(num_rows, output.num_rows, rows, chosen, zero, files)


def _read_all(checkpoints: Sequence[Checkpoint], donor: int) -> list[Tokenizer]:
    """Every model's tokenizer; a model without one is taken to have the donor's, as long as that fits."""
    found = [read_tokenizer(checkpoint.folder) for checkpoint in checkpoints]
    default = found[donor]
    if default is None:
        raise ValueError(f"tokenizer: {checkpoints[donor].reference!r} has no tokenizer.json")
    for tokenizer, checkpoint in zip(found, checkpoints, strict=True):
        own, donors = embedding_rows(checkpoint), embedding_rows(checkpoints[donor])
        if tokenizer is None and own != donors:
            raise ValueError(
                f"tokenizer: {checkpoint.reference!r} has no tokenizer.json, and {own} rows of embeddings "
                f"where {checkpoints[donor].reference!r} has {donors}"
            )
    return [default if tokenizer is None else tokenizer for tokenizer in found]


def _padded(num_tokens: int, rows_of_source: int, multiple: int | None) -> int:
    """Padding rows of the source are kept unless the file says how many rows there are to be."""
    if multiple is None:
        return max(num_tokens, rows_of_source)
    return -(-num_tokens // multiple) * multiple


def _rows_of(tokenizer: Tokenizer, num_own: int, output: Tokenizer, num_rows: int) -> Rows:
    """The model's row of every row of the output; of padding, its own padding at the same place."""
    rows = np.full(num_rows, -1, np.int64)
    for token, row in output.ids.items():
        own = tokenizer.ids.get(token, -1)
        rows[row] = own if own < num_own else -1
    padding = np.arange(max(output.num_rows, tokenizer.num_rows), min(num_rows, num_own))
    rows[padding] = padding
    return rows


def _choices(
    wanted: Wanted,
    output: Tokenizer,
    tokenizers: Sequence[Tokenizer],
    rows: Sequence[Rows],
    positions: Mapping[ModelReference, int],
) -> tuple[list[tuple[int, Rows]], npt.NDArray[np.bool_]]:
    """What the file says of single tokens. Where it forces, the models' own rows are taken away."""
    zero = np.zeros(len(rows[0]), np.bool_)
    chosen: dict[int, Rows] = {}
    for token, embedding in wanted.tokens.items():
        row = output.ids[token]
        if embedding.source == "zero":
            zero[row] = True
        elif embedding.source is not None:
            model = positions[embedding.source.model]
            picked = chosen.setdefault(model, np.full(len(zero), -1, np.int64))
            picked[row] = _picked(token, embedding.source, tokenizers[model], rows[model][row])
        if embedding.force and embedding.source is None:
            raise ValueError(f"tokenizer.tokens.{token}: force needs a source")
    for token, embedding in wanted.tokens.items():
        if embedding.force:
            for own in rows:
                own[output.ids[token]] = -1
    return sorted(chosen.items(), key=lambda entry: entry[0]), zero


def _picked(token: str, source: ModelToken, tokenizer: Tokenizer, own: np.int64) -> int:
    row = int(own)
    if source.token_id is not None:
        row = source.token_id
    elif source.token is not None:
        row = tokenizer.ids.get(source.token, -1)
    if not 0 <= row < tokenizer.num_rows:
        name = source.token_id if source.token_id is not None else source.token or token
        raise ValueError(f"tokenizer.tokens.{token}: {str(source.model)!r} has no token {name!r}")
    return row


def _side_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    paths = [checkpoint.folder / name for name in FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def embedding_rows(checkpoint: Checkpoint) -> int:
    """Rows of a checkpoint's embeddings, padding included."""
    num_rows = _find_embedding_rows(checkpoint)
    if num_rows is None:
        raise ValueError(f"tokenizer: {checkpoint.reference!r} has no embedding that is known here")
    return num_rows


def _find_embedding_rows(checkpoint: Checkpoint) -> int | None:
    for name, info in checkpoint.tensors.items():
        if place_of(name) is None and re.search(r"embed_tokens|wte|word_embeddings|embed_in", name):
            return info.shape[0]
    return None


def is_by_token(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor has a row for every token: an embedding, an output layer or its bias."""
    shape = checkpoint.tensors[name].shape
    outside = place_of(name) is None and EMBEDDINGS.search(name) is not None
    return outside and bool(shape) and shape[0] == _find_embedding_rows(checkpoint)
