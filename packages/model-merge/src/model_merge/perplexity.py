"""Log-probabilities of documents under a model, exactly as OLMo-Eval and Paloma count them.

Two ways: every token of every document once, in windows that begin with the end token (`olmo-eval`), or
packed chunks without their first token, as a training run's validation loss (`packed`). The two are not
comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from model_merge.domains import Documents
from model_merge.results import Sums
from model_merge.windows import Window, batch_windows, count_words, cut_document, pack

LONGEST = 2048
ROWS = 1024  # of logits that are float32 at a time

Mode = Literal["olmo-eval", "packed"]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as scoring needs it."""

    encode: Callable[[str], list[int]]
    """Tokens of a text, without special tokens around it."""
    end: int
    """The token before and after a text."""
    longest: int
    """The most tokens in a window."""


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, padded on the right; causal models never look there."""

    inputs: torch.Tensor
    scored: torch.Tensor
    """Which positions predict a token that counts."""
    targets: torch.Tensor
    """The scored tokens, in the order of `scored`."""
    documents: npt.NDArray[np.int64]
    """The document of each scored token."""


@dataclass(frozen=True)
class Prepared:
    """A domain, tokenised and cut once, to be scored under many models."""

    name: str
    split: str
    batches: tuple[Batch, ...]
    counts: tuple[Sums, ...]
    """Sizes of each document (of all together where packed), still without a log-probability."""
    highest_token: int
    """What the model's vocabulary must hold."""


def load_encoder(folder: Path, config: Any, *, length: int | None = None) -> Encoder:
    """The tokenizer in a model's folder, or a tokenizer.json.

    Args:
        folder: of the model or of a tokenizer, or a tokenizer.json.
        config: the model's; it knows the end token where the tokenizer does not, and the longest input.
        length: tokens a window, if fewer than tokenizer and model allow.

    Raises:
        ValueError: there is no tokenizer, or no end token.
    """
    try:
        tokenizer = (
            PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
                tokenizer_file=str(folder)
            )
            if folder.is_file()
            else AutoTokenizer.from_pretrained(folder, local_files_only=True)
        )
    except (ValueError, OSError) as error:
        raise ValueError(
            f"no tokenizer in {str(folder)!r}, name one with --tokenizer: {str(error).splitlines()[0]}"
        ) from error
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"neither the tokenizer {str(folder)!r} nor the model names an end token")
    allowed = [LONGEST, tokenizer.model_max_length, getattr(config, "max_position_embeddings", LONGEST)]
    longest = min(allowed if length is None else [*allowed[1:], length])

    def encode(text: str) -> list[int]:
        tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens

    return Encoder(encode, end, longest)


def prepare(
    documents: Documents, encoder: Encoder, *, mode: Mode = "olmo-eval", device: str = "cpu", batch: int = 32
) -> Prepared:
    """Tokenise and cut a domain's documents.

    Raises:
        ValueError: there is nothing to score.
    """
    tokens = [encoder.encode(text) for text in documents.texts]
    if mode == "packed":
        windows = pack(tokens, end=encoder.end, length=encoder.longest)
        counts = [Sums(num_tokens=sum(w.num_scored for w in windows), num_docs=len(tokens))]
    else:
        windows = [
            window
            for number, document in enumerate(tokens)
            for window in cut_document(document, prefix=encoder.end, length=encoder.longest, document=number)
        ]
        cuts = _by_document(windows, len(tokens))
        counts = [_count(text, cut) for text, cut in zip(documents.texts, cuts, strict=True)]
    if not windows:
        raise ValueError(_nothing_to_score(documents, mode, encoder, sum(map(len, tokens))))
    batches = [_make_batch(group, device) for group in batch_windows(windows, most_windows=batch)]
    highest = max(max(window.tokens) for window in windows)
    return Prepared(documents.name, documents.split, tuple(batches), tuple(counts), highest)


def _nothing_to_score(documents: Documents, mode: Mode, encoder: Encoder, num_tokens: int) -> str:
    reason = f"{len(documents.texts)} documents of {num_tokens} tokens together"
    if mode == "packed":
        reason += f", fewer than one chunk of {encoder.longest}: choose a smaller --length"
    return f"the domain {documents.name!r} has nothing to score: {reason}"


def _by_document(windows: Sequence[Window], num_documents: int) -> list[list[Window]]:
    groups: list[list[Window]] = [[] for _ in range(num_documents)]
    for window in windows:
        groups[window.document].append(window)
    return groups


def _count(text: str, windows: Sequence[Window]) -> Sums:
    return Sums(
        num_tokens=sum(window.num_scored for window in windows),
        num_tokens_read=sum(len(window.tokens) for window in windows),
        num_bytes=len(text.encode("utf-8", "surrogatepass")),
        num_chars=len(text),
        num_words=count_words(text),
        num_docs=1,
    )


def _make_batch(windows: Sequence[Window], device: str) -> Batch:
    width = max(len(window.tokens) for window in windows) - 1
    inputs = np.zeros((len(windows), width), np.int64)
    scored = np.zeros((len(windows), width), bool)
    for row, window in enumerate(windows):
        length = len(window.tokens) - 1
        inputs[row, :length] = window.tokens[:-1]
        scored[row, length - window.num_scored : length] = True
    targets = np.concatenate([window.targets for window in windows])
    documents = np.repeat([w.document for w in windows], [w.num_scored for w in windows])
    return Batch(
        torch.from_numpy(inputs).to(device),
        torch.from_numpy(scored).to(device),
        torch.from_numpy(targets).to(device),
        documents,
    )


@torch.inference_mode()
def score(model: PreTrainedModel, prepared: Prepared) -> list[Sums]:
    """Sums of log-probabilities (natural) of each document; of all of them together where packed.

    Raises:
        ValueError: a token is outside the model's vocabulary, or the model gives no number.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if prepared.highest_token >= rows:
        raise ValueError(
            f"{prepared.name!r} has token {prepared.highest_token}, the model knows {rows}: "
            "its tokenizer is another one"
        )
    logprobs = np.zeros(len(prepared.counts))
    for batch in prepared.batches:
        found = _score_batch(model, batch)
        logprobs += np.bincount(batch.documents, weights=found, minlength=len(logprobs))
    if not np.isfinite(logprobs).all():
        raise ValueError(f"the model gives no finite log-probabilities on {prepared.name!r}")
    return [
        counts.with_logprob(float(logprob)) for counts, logprob in zip(prepared.counts, logprobs, strict=True)
    ]


def _score_batch(model: PreTrainedModel, batch: Batch) -> npt.NDArray[np.float64]:
    """Log-probability of each scored token, the softmax in float32 whatever the model computes in."""
    logits = model(input_ids=batch.inputs, use_cache=False).logits[batch.scored]
    found = [
        torch.log_softmax(rows.float(), dim=-1).gather(1, targets[:, None])[:, 0]
        for rows, targets in zip(torch.split(logits, ROWS), torch.split(batch.targets, ROWS), strict=True)
    ]
    values: npt.NDArray[np.float64] = torch.cat(found).double().cpu().numpy()
    return values
