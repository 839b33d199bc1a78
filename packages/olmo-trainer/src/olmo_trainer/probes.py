"""Ask a decoder for the log-likelihoods of many candidate answers to each of many prompts.

A prompt and all its candidates go through the model as one row: a token tree whose trunk is the prompt and
whose branches are the candidates, common beginnings shared. Every token sees its ancestors only and its
position is its depth, so each candidate gets what it would get alone behind the prompt, and the prompt is
computed once. The last token of a candidate is never fed, and the vocabulary head runs only where a next
token is asked for.

A model family that does not honour such a mask is asked with one plain row a candidate: same numbers, several
times slower.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Families whose transformers code takes a 4-D mask and position ids as they are and whose vocabulary head is
# a plain linear layer; the tests ask each of them both ways.
TREE_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "llama", "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3"}
)
TREE_ATTENTION = frozenset({"eager", "sdpa"})
HEAD_NUMBERS = 2**22  # logits held at a time: 16 MB in float32, small enough to stay in a cache


@dataclass(frozen=True)
class Question:
    """A prompt and the continuations to compare behind it, as token ids; none of them empty."""

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Score:
    """What a model says about one candidate: natural logarithms, over the candidate's tokens."""

    logprob_sum: float
    logprob_mean: float
    logprob_first: float
    greedy: bool
    """Every token of the candidate is the model's first choice."""


@dataclass(frozen=True)
class Tree:
    """A question laid out for one row: node 0 is the prompt's first token, each node follows its parent."""

    tokens: list[int]
    parents: list[int]
    asked_nodes: list[int]
    """For each token of each candidate, in order, the node after which it is asked."""
    asked_tokens: list[int]


@dataclass(frozen=True)
class Batch:
    """Rows of equal length on the device, and the questions they answer."""

    input_ids: Int[Tensor, "batch seq"]
    position_ids: Int[Tensor, "batch seq"]
    visible: Bool[Tensor, "batch seq seq"]
    asked_places: Int[np.ndarray, " asked"]
    """Places in the flattened (batch seq)."""
    asked_tokens: Int[np.ndarray, " asked"]


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], candidates: Sequence[Sequence[str]]
) -> list[Question]:
    """Tokenise `prompt + " " + candidate`; the candidate is what holds characters behind the prompt.

    White space at a prompt's end belongs to the continuation, as in lm-eval, so the first token of an answer
    is the one that training text has. A prompt may come out empty. So does a candidate that has no tokens of
    its own, where the prompt's tokens are others with it than without: the caller decides what to do then.
    """
    contexts = [prompt.rstrip() for prompt in prompts]
    texts = contexts + [
        f"{prompt} {candidate}"
        for prompt, names in zip(prompts, candidates, strict=True)
        for candidate in names
    ]
    encoded = tokenizer(texts, return_offsets_mapping=True, verbose=False) if texts else {}
    rows = iter(zip(encoded.get("input_ids", ()), encoded.get("offset_mapping", ()), strict=True))
    trunks = [_split(*next(rows), len(context))[0] for context in contexts]
    questions = []
    for context, trunk, names in zip(contexts, trunks, candidates, strict=True):
        parts = [_split(*next(rows), len(context)) for _ in names]
        questions.append(Question(trunk, tuple(own if before == trunk else () for before, own in parts)))
    return questions


def target_mask(offsets: Sequence[tuple[int, int]], behind: int) -> Bool[np.ndarray, " token"]:
    """Which tokens hold a character at or behind that place of the text: the targets of a probe.

    Special tokens, whose span is empty, are none.

    >>> target_mask([(0, 0), (0, 3), (3, 7), (0, 0)], 3).tolist()
    [False, False, True, False]
    """
    return np.array([end > behind for _, end in offsets], dtype=bool)


def _split(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], behind: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before the targets, and the targets; special ones at the text's end are neither."""
    targets = target_mask(offsets, behind)
    text = np.flatnonzero(target_mask(offsets, 0))
    end = int(text[-1]) + 1 if len(text) else len(ids)
    first = int(targets.argmax()) if targets.any() else end
    return tuple(ids[:first]), tuple(ids[first:end])


def score(model: PreTrainedModel, questions: Sequence[Question], *, batch_tokens: int) -> list[list[Score]]:
    """Score every candidate of every question; the answers stand in the questions' order.

    `batch_tokens` bounds the padded size of a batch. The model has to be in evaluation mode.
    """
    scores: dict[int, list[Score]] = {}
    in_trees = [number for number, question in enumerate(questions) if fits_tree(model, question)]
    for number, found in _score_trees(model, questions, in_trees, batch_tokens):
        scores[number] = found
    alone = [number for number in range(len(questions)) if number not in scores]
    scores |= _score_rows(model, questions, alone, batch_tokens)
    return [scores[number] for number in range(len(questions))]


def fits_tree(model: PreTrainedModel, question: Question) -> bool:
    """Whether this model, with this attention, answers the question correctly as one tree.

    A custom mask replaces a sliding window, so a path longer than the window has to go alone.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) or len(question.prompt) + longest(question)
    return (
        config.model_type in TREE_FAMILIES
        and config._attn_implementation in TREE_ATTENTION
        and len(question.prompt) + longest(question) <= window
    )


def longest(question: Question) -> int:
    """Tokens of the longest candidate."""
    return max(map(len, question.candidates))


def grow_tree(question: Question) -> Tree:
    """Lay a question out as a tree; candidates with a common beginning share its nodes.

    >>> grow_tree(Question((7, 8), ((1, 2, 3), (1, 2, 4), (5,))))
    Tree(tokens=[7, 8, 1, 2], parents=[-1, 0, 1, 2], asked_nodes=[1, 2, 3, 1, 2, 3, 1], \
asked_tokens=[1, 2, 3, 1, 2, 4, 5])
    """
    tree = Tree(list(question.prompt), list(range(-1, len(question.prompt) - 1)), [], [])
    children: dict[tuple[int, int], int] = {}
    for candidate in question.candidates:
        node = len(question.prompt) - 1
        for token in candidate[:-1]:
            tree.asked_nodes.append(node)
            child = children.setdefault((node, token), len(tree.tokens))
            if child == len(tree.tokens):
                tree.tokens.append(token)
                tree.parents.append(node)
            node = child
        tree.asked_nodes.append(node)
        tree.asked_tokens.extend(candidate)
    return tree


def ancestors(parents: Sequence[int]) -> Bool[np.ndarray, "node node"]:
    """For each node, which nodes it sees: itself and all before it on its path."""
    visible = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents[1:], start=1):
        visible[node] |= visible[parent]
    return visible


def collate(trees: Sequence[Tree], device: torch.device) -> Batch:
    """Pad trees to the longest of them. A padding token sees itself only."""
    length = max(len(tree.tokens) for tree in trees)
    input_ids = np.zeros((len(trees), length), dtype=np.int64)
    visible = np.zeros((len(trees), length, length), dtype=bool)
    visible[:, range(length), range(length)] = True
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        input_ids[row, :size] = tree.tokens
        visible[row, :size, :size] = ancestors(tree.parents)
    places = [row * length + node for row, tree in enumerate(trees) for node in tree.asked_nodes]
    return Batch(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=torch.from_numpy(visible.sum(-1) - 1).to(device),
        visible=torch.from_numpy(visible).to(device),
        asked_places=np.asarray(places, dtype=np.int64),
        asked_tokens=np.fromiter(chain.from_iterable(tree.asked_tokens for tree in trees), dtype=np.int64),
    )


def additive_mask(
    visible: Bool[Tensor, "batch seq seq"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 seq seq"]:
    """The mask as attention adds it to its scores: 0 where a token may look, the lowest number elsewhere."""
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def read_tokens(
    logits: Float[Tensor, "place vocab"],
    places: Int[Tensor, " asked"],
    tokens: Int[Tensor, " asked"],
) -> tuple[Float[Tensor, " asked"], Bool[Tensor, " asked"]]:
    """Log-probability of each asked token at its place, and whether it is the first choice there.

    Works in float32 and overwrites `logits` where they are float32 already.
    """
    logits = logits.float()
    highest, choice = logits.max(-1)
    asked = logits[places, tokens]
    log_total = logits.sub_(highest[:, None]).exp_().sum(-1).log_()
    return asked - highest[places] - log_total[places], choice[places] == tokens


def _score_trees(
    model: PreTrainedModel, questions: Sequence[Question], numbers: Sequence[int], batch_tokens: int
) -> Iterator[tuple[int, list[Score]]]:
    trees = {number: grow_tree(questions[number]) for number in numbers}
    for group in _groups({number: len(tree.tokens) for number, tree in trees.items()}, batch_tokens):
        batch = collate([trees[number] for number in group], model.device)
        logprobs, greedy = _ask_trees(model, batch)
        asked = 0
        for number in group:
            size = len(trees[number].asked_tokens)
            span = slice(asked, asked + size)
            yield number, list(_summaries(questions[number], logprobs[span], greedy[span]))
            asked += size


def _score_rows(
    model: PreTrainedModel, questions: Sequence[Question], numbers: Sequence[int], batch_tokens: int
) -> dict[int, list[Score]]:
    scores: dict[int, list[Score]] = {number: [] for number in numbers}
    rows = [(n, Question(questions[n].prompt, (c,))) for n in numbers for c in questions[n].candidates]
    trees = [grow_tree(question) for _, question in rows]
    found: dict[int, Score] = {}
    for group in _groups({row: len(tree.tokens) for row, tree in enumerate(trees)}, batch_tokens):
        batch = collate([trees[row] for row in group], model.device)
        with torch.inference_mode():
            logits = model(input_ids=batch.input_ids, use_cache=False).logits.flatten(0, 1)
            logprobs, greedy = _read(logits, batch.asked_places, batch.asked_tokens)
        asked = 0
        for row in group:
            span = slice(asked, asked := asked + len(trees[row].asked_tokens))
            (found[row],) = _summaries(rows[row][1], logprobs[span], greedy[span])
    for row, (number, _) in enumerate(rows):
        scores[number].append(found[row])
    return scores


def _groups(lengths: dict[int, int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of similar length together, longest first, each group within the token budget once padded."""
    group: list[int] = []
    for number in sorted(lengths, key=lambda number: (-lengths[number], number)):
        if group and lengths[group[0]] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _ask_trees(model: PreTrainedModel, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        hidden = model.base_model(
            input_ids=batch.input_ids,
            attention_mask=additive_mask(batch.visible, model.dtype),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        places, asked = np.unique(batch.asked_places, return_inverse=True)
        needed = hidden.flatten(0, 1)[torch.from_numpy(places).to(hidden.device)]
        head = cast(nn.Linear, model.get_output_embeddings())  # type: ignore[no-untyped-call]
        return _read(needed, asked, batch.asked_tokens, head=head)


def _read(
    states: Float[Tensor, "place width"],
    places: Int[np.ndarray, " asked"],
    tokens: Int[np.ndarray, " asked"],
    head: nn.Linear | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read asked tokens off hidden states (or off logits, without a head), a few places at a time."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    logprobs = np.empty(len(places), dtype=np.float64)
    greedy = np.empty(len(places), dtype=bool)
    vocab = states.shape[-1] if head is None else head.out_features
    size = max(1, HEAD_NUMBERS // vocab)
    for first in range(0, len(states), size):
        begin, end = np.searchsorted(ordered, (first, first + size))
        span = slice(int(begin), int(end))
        if begin == end:
            continue
        chunk = states[first : first + size]
        found = read_tokens(
            chunk.clone() if head is None else head(chunk),
            torch.from_numpy(ordered[span] - first).to(states.device),
            torch.from_numpy(tokens[order[span]]).to(states.device),
        )
        logprobs[order[span]], greedy[order[span]] = (part.cpu().numpy() for part in found)
    return logprobs, greedy


def _summaries(question: Question, logprobs: np.ndarray, greedy: np.ndarray) -> Iterator[Score]:
    first = 0
    for candidate in question.candidates:
        span = slice(first, first + len(candidate))
        total = float(logprobs[span].sum())
        yield Score(total, total / len(candidate), float(logprobs[first]), bool(greedy[span].all()))
        first = span.stop
