"""The other two entropies: of attention, over the keys, and of the next token, over the vocabulary.

Attention runs through a function of ours, a few queries at a time, that gives the layer's output and adds the
entropy of its weights; a query chunk's scores are all that is ever stored. Next-token entropy puts the LM
head on a few hundred hidden states at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "knowledge_entropy"
CHUNK_NUMBERS = 1 << 24  # scores, or logits, at a time


def attention_weights(
    query: Float[Tensor, "row head query d_head"],
    key: Float[Tensor, "row head key d_head"],
    mask: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "row head query key"]:
    """ln of the attention weights, float32. `mask`: True where a query may look, or added to the scores."""
    scores = (query @ key.transpose(2, 3)).float() * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
    else:
        scores = scores + mask
    return scores.log_softmax(-1)


class AttentionSums:
    """Sums of attention entropy, by block and layer."""

    def __init__(self, model: PreTrainedModel, *, num_blocks: int, num_layers: int) -> None:
        """Sums are made on the model's device."""
        self.sums = torch.zeros(num_blocks, num_layers, dtype=torch.float64, device=model.device)
        self._weights: Tensor | None = None
        self._block = 0
        self._fired = 0

    def start_batch(self, weights: Float[Tensor, "row seq"], block: int) -> None:
        """Say what each query of the next forward counts, and for which block."""
        self._weights, self._block, self._fired = weights, block, 0

    def finish_batch(self) -> None:
        """Check that every layer went through `forward`."""
        if self._fired != self.sums.shape[1]:
            raise ValueError(
                f"{self._fired} of {self.sums.shape[1]} layers use transformers' attention functions: "
                "the attention entropy of this model cannot be measured"
            )

    def forward(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attention in the form transformers calls; (row, head, query, d_head) in, heads last but one out."""
        if s_aux is not None or attention_mask is None:
            raise ValueError("attention with sinks or without a mask has no entropy over the keys")
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        size = max(1, CHUNK_NUMBERS // (query.shape[0] * query.shape[1] * key.shape[2]))
        outputs = []
        for start in range(0, query.shape[2], size):
            part = slice(start, start + size)
            mask = attention_mask[..., part, : key.shape[2]]
            logs = attention_weights(query[:, :, part], key, mask, scaling=scaling, softcap=softcap)
            weights = logs.exp()
            self._add(module, -(weights * logs).sum(-1).mean(1), part)
            outputs.append(weights.to(value.dtype) @ value)
        self._fired += 1
        return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None

    def _add(self, module: nn.Module, entropies: Float[Tensor, "row query"], part: slice) -> None:
        assert self._weights is not None
        total = (entropies.double() * self._weights[:, part]).sum()
        self.sums[self._block, int(module.layer_idx)] += total  # type: ignore[arg-type]


def _full_mask(*args: Any, **kwargs: Any) -> Any:
    """transformers' Boolean mask, also where it would leave a causal one out."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


@contextmanager
def watching_attention(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    """Let the model's attention run through `forward`."""
    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, _full_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise ValueError(
            f"{type(model).__name__} has an attention of its own: its attention entropy cannot be measured"
        ) from error
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_head(model: PreTrainedModel) -> None:
    """Refuse models that do more to their logits than a linear map and a soft cap."""
    config = model.config.get_text_config()
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier", "mup_width_multiplier"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                f"{type(model).__name__} scales its logits ({name}): its next-token entropy is not supported"
            )


def next_token_entropy(
    model: PreTrainedModel, hidden: Float[Tensor, "token d_model"]
) -> Float[Tensor, " token"]:
    """-sum_v p ln p of the next token after every position."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    vocabulary = head.weight.shape[0]
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    entropies = []
    with torch.inference_mode():
        for part in torch.split(hidden, max(1, CHUNK_NUMBERS // vocabulary)):
            logits = head(part).float()
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            logs = logits.log_softmax(-1)
            entropies.append(-(logs.exp() * logs).sum(-1))
    return torch.cat(entropies)
