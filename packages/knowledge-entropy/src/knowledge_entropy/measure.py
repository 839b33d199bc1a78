"""Measure a model on a token set: coefficients, and the other entropies where asked, in one pass.

    tokens = read_npy(Path("first_rows.npy"))
    result = measure(model, tokens)
    result.total.entropy

Cost: a forward pass of the base model; with attention entropy, a slower attention; with next-token entropy,
the LM head. Memory: the weights and one layer's activations, chunks of scores or logits on top.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from transformers import PreTrainedModel

from knowledge_entropy.coefficients import (
    Coefficients,
    CoefficientSums,
    as_numpy,
    run_base_model,
    token_weights,
)
from knowledge_entropy.entropy import UPSTREAM_EPS, entropy, jackknife_error, leave_one_out
from knowledge_entropy.other_entropies import (
    AttentionSums,
    check_head,
    next_token_entropy,
    watching_attention,
)
from knowledge_entropy.tokens import Batch, TokenSet, batches, block_borders

WEIGHTINGS = ("token", "sequence")
FEWEST_BLOCKS = 8  # before --target-se may stop: an error of fewer says little


@dataclass(frozen=True)
class Options:
    """What decides a result, beside the model and the tokens."""

    weighting: str = "token"
    """`token`: every token counts the same; `sequence`: every row does, as in the paper."""
    compat: str = "none"
    """`upstream`: padding counts, coefficients are sums per row, 1e-9 inside the logarithm."""
    blocks: int = 32
    pad_id: int = 0
    attention: bool = False
    next_token: bool = False
    target_se: float | None = None
    """Stop after the block with which the standard error of the sum over the layers is no larger."""

    def __post_init__(self) -> None:
        """Check the words."""
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting {self.weighting!r}: expected one of {', '.join(WEIGHTINGS)}")
        if self.compat not in ("none", "upstream"):
            raise ValueError(f"compat {self.compat!r}: expected none or upstream")
        if self.blocks < 1:
            raise ValueError(f"{self.blocks} blocks: expected at least 1")
        if self.target_se is not None and not self.target_se > 0:
            raise ValueError(f"--target-se {self.target_se}: expected nats above 0")
        if self.target_se is not None and self.blocks < FEWEST_BLOCKS:
            raise ValueError(
                f"--target-se needs --blocks {FEWEST_BLOCKS} or more: {self.blocks} say too little of it"
            )

    def settled(self, blocks: int) -> "Options":
        """The options that repeat a pass which ended after so many blocks, on the rows it used."""
        return replace(self, target_se=None, blocks=blocks)

    @property
    def eps(self) -> float:
        """What is added inside the logarithm."""
        return UPSTREAM_EPS if self.compat == "upstream" else 0.0


@dataclass(frozen=True)
class Measurement:
    """What one model gives on one token set."""

    coefficients: Coefficients
    tokens: TokenSet
    """The rows that were used: all, or those up to `target_se`."""
    options: Options
    attention_entropy: Float[ndarray, " layer"] | None = None
    next_token_entropy: float | None = None
    without_block: Float[ndarray, "block layer"] = field(init=False)
    """Every layer's entropy without one of the blocks."""

    def __post_init__(self) -> None:
        """Work out the leave-one-out entropies, once."""
        sums = self.coefficients.block_sums
        without = leave_one_out(sums, eps=self.options.eps) if len(sums) > 1 else sums[:0, :, 0]
        object.__setattr__(self, "without_block", without)

    @property
    def layers(self) -> dict[str, ndarray]:
        """Entropy, maximum, deficit, spread, standard error and zero units of every layer."""
        mean = self.coefficients.mean_abs
        values = entropy(mean, eps=self.options.eps)
        maximum = np.full(len(mean), np.log(mean.shape[1]))
        return {
            "entropy": values,
            "maximum": maximum,
            "deficit": maximum - values,
            "spread": np.exp(values) / mean.shape[1],
            "se": self.standard_error(self.without_block),
            "zero_units": (mean == 0).sum(1),
        }

    @property
    def total(self) -> dict[str, float]:
        """The same over all layers: sums, `spread` of a layer of mean entropy."""
        layers = self.layers
        sums = {name: float(layers[name].sum()) for name in ("entropy", "maximum", "deficit")}
        error = float(self.standard_error(self.without_block.sum(1)))
        spread = float(np.exp(-sums["deficit"] / len(layers["entropy"])))
        return {**sums, "spread": spread, "se": error, "zero_units": int(layers["zero_units"].sum())}

    def standard_error(self, without: Float[ndarray, "block ..."]) -> Float[ndarray, "..."]:
        """The jackknife's error of a number, NaN for a single block."""
        return jackknife_error(without) if len(without) else np.full(without.shape[1:], np.nan)

    def change_since(self, earlier: "Measurement") -> "Change":
        """Every layer's entropy less an earlier checkpoint's, with paired standard errors.

        The same blocks are left out of both, so what the rows have in common cancels.
        """
        if earlier.tokens.sha256 != self.tokens.sha256 or earlier.options != self.options:
            raise ValueError("two checkpoints measured on different tokens or with other options: no change")
        without = self.without_block - earlier.without_block
        layers = self.layers["entropy"] - earlier.layers["entropy"]
        total_se = float(self.standard_error(without.sum(1)))
        return Change(layers, self.standard_error(without), float(layers.sum()), total_se)


@dataclass(frozen=True)
class Change:
    """A difference of entropies, by layer and over all layers."""

    layers: Float[ndarray, " layer"]
    layers_se: Float[ndarray, " layer"]
    total: float
    total_se: float


def measure(
    model: PreTrainedModel,
    tokens: TokenSet,
    options: Options | None = None,
    *,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] = lambda rows: None,
) -> Measurement:
    """Measure a model; `batch_tokens` with padding go through it at a time, `progress` hears of rows done.

    Raises:
        ValueError: the model is of an unknown make, the tokens do not fit it, or it gives no numbers.
    """
    options = options or Options()
    check_fits(model, tokens)
    borders = block_borders(tokens.num_rows, options.blocks)
    sums = CoefficientSums(model, num_blocks=len(borders))
    attention = AttentionSums(model, num_blocks=len(borders), num_layers=len(sums.maps))
    next_token = torch.zeros(len(borders), dtype=torch.float64, device=model.device)
    counts = torch.zeros(len(borders), dtype=torch.float64, device=model.device)
    if options.next_token:
        check_head(model)
    with ExitStack() as stack:
        stack.enter_context(sums.watching(stop_early=not options.next_token))
        if options.attention:
            stack.enter_context(watching_attention(model, attention.forward))
        for block, rows in enumerate(borders):
            for batch in _block_batches(tokens, rows, options, batch_tokens):
                weights, hidden = _forward(model, batch, options, (sums, attention), block)
                counts[block] += weights.sum()
                if hidden is not None:
                    values = next_token_entropy(model, hidden.flatten(0, 1))
                    next_token[block] += (values.double() * weights.flatten()).sum()
                progress(len(batch.ids))
            if _enough(sums.sums[: block + 1], options):
                break
    used = tokens.first(rows[1])
    done = slice(0, block + 1)
    weight = as_numpy(counts[done])
    result = Measurement(
        Coefficients(as_numpy(sums.sums[done]), _divisors(weight, borders[done], options)),
        used,
        options.settled(block + 1),
        as_numpy(attention.sums[done]).sum(0) / weight.sum() if options.attention else None,
        float(as_numpy(next_token[done]).sum() / weight.sum()) if options.next_token else None,
    )
    _check_numbers(result)
    return result


def _block_batches(
    tokens: TokenSet, rows: tuple[int, int], options: Options, batch_tokens: int
) -> Iterator[Batch]:
    length = int(tokens.lengths.max()) if options.compat == "upstream" else None
    yield from batches(tokens, rows, max_tokens=batch_tokens, pad_id=options.pad_id, length=length)


def _forward(
    model: PreTrainedModel,
    batch: Batch,
    options: Options,
    sums: tuple[CoefficientSums, AttentionSums],
    block: int,
) -> tuple[Tensor, Tensor | None]:
    """One batch through the base model; what each token counts, and the hidden states where needed."""
    ids, mask = (torch.from_numpy(array).to(model.device) for array in (batch.ids, batch.mask))
    if options.compat == "upstream":
        mask = torch.ones_like(mask)
    weights = token_weights(mask, options.weighting)
    for one in sums:
        one.start_batch(weights, block)
    hidden = run_base_model(model, ids, None if batch.mask.all() or options.compat == "upstream" else mask)
    sums[0].finish_batch()
    if options.attention:
        sums[1].finish_batch()
    return weights, hidden


def _divisors(weight: ndarray, borders: list[tuple[int, int]], options: Options) -> ndarray:
    """What block sums are divided by; the published code divides by rows only."""
    if options.compat == "upstream":
        return np.array([float(end - start) for start, end in borders])
    return weight


def _enough(block_sums: Tensor, options: Options) -> bool:
    if options.target_se is None or len(block_sums) < FEWEST_BLOCKS:
        return False
    without = leave_one_out(as_numpy(block_sums), eps=options.eps).sum(1)
    return bool(jackknife_error(without) <= options.target_se)


def check_fits(model: PreTrainedModel, tokens: TokenSet) -> None:
    """Refuse token ids and lengths the model was not made for."""
    config = model.config.get_text_config()
    largest, longest = int(tokens.ids.max()), int(tokens.lengths.max())
    if largest >= config.vocab_size:
        raise ValueError(
            f"the tokens hold id {largest}, {type(model).__name__} knows {config.vocab_size}: "
            "they were made with another tokenizer"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise ValueError(
            f"a row has {longest} tokens, {type(model).__name__} takes {positions}: cut the rows (--length)"
        )


def _check_numbers(result: Measurement) -> None:
    mean = result.coefficients.mean_abs
    for layer, values in enumerate(mean):
        if not np.isfinite(values).all():
            raise ValueError(f"layer {layer} has coefficients that are not finite: the weights are damaged")
        if not values.any():
            raise ValueError(f"layer {layer} has only coefficients of zero: its entropy is not defined")
