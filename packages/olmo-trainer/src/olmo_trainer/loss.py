"""The default loss: next-token cross-entropy plus z-loss, and the seam where another loss goes.

The head and the loss run over chunks of tokens, forward and backward together, so that never more than
`chunk_tokens` rows of logits exist: 4,096 tokens of a 100k vocabulary are 1.6 GB, a batch many times that.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from olmo_trainer.attention import document_mask
from olmo_trainer.batches import IGNORED, Batch

Metrics = dict[str, Tensor]
LossFunction = Callable[[PreTrainedModel, Batch], tuple[Tensor, Metrics]]
"""The seam. It gets the model and one micro-batch, and returns that micro-batch's SHARE of the update's loss
and metrics: a sum over its targets divided by `batch.num_targets`, the targets of the whole update. Shares
are added up, so cutting an update into more micro-batches changes nothing but rounding. Metrics are scalars
without gradient, the same names every time; they become keys of metrics.jsonl."""


def next_token_loss(
    model: PreTrainedModel, batch: Batch, *, z_weight: float = 1e-5, chunk_tokens: int = 1024
) -> tuple[Float[Tensor, ""], Metrics]:
    """Cross-entropy of the next token plus `z_weight` times the squared log-partition, over the targets."""
    hidden = hidden_states(model, batch)
    targets = (batch.labels != IGNORED).flatten().nonzero().squeeze(1)
    weight, bias = output_head(model)
    loss, ce, z = chunked_loss(
        hidden.flatten(0, 1)[targets],
        weight,
        bias,
        batch.labels.flatten()[targets],
        z_weight=z_weight,
        chunk_tokens=chunk_tokens,
    )
    return loss / batch.num_targets, {"ce": ce / batch.num_targets, "z": z / batch.num_targets}


@torch.no_grad()
def sum_cross_entropy(model: PreTrainedModel, batch: Batch, *, chunk_tokens: int = 1024) -> float:
    """The summed cross-entropy of a batch's targets, without gradients."""
    hidden, labels = hidden_states(model, batch).flatten(0, 1), batch.labels.flatten()
    weight, bias = output_head(model)
    total = 0.0
    for part, targets in zip(
        torch.split(hidden, chunk_tokens), torch.split(labels, chunk_tokens), strict=True
    ):
        logits = torch.nn.functional.linear(part, weight, bias).float()
        total += float(cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))
    return total


def hidden_states(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "row seq d_model"]:
    """What the head sees: the decoder run on a batch, attention kept inside documents."""
    documents: dict[str, Tensor] = {}
    if batch.doc_ids is not None:
        documents["position_ids"] = batch.position_ids
        documents["doc_mask"] = document_mask(batch.doc_ids)
    if batch.cu_seqlens is not None:
        documents["cu_seqlens"] = batch.cu_seqlens
    decoder = model.base_model
    hidden: Tensor = decoder(input_ids=batch.input_ids, use_cache=False, **documents).last_hidden_state
    return hidden


def output_head(
    model: PreTrainedModel,
) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, " vocab"] | None]:
    """Weight and bias that turn hidden states into logits, of any decoder whose logits are just that.

    Raises:
        ValueError: the family does more to its logits than a linear layer.
    """
    for detail in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, detail, None) not in (None, 1, 1.0):
            raise ValueError(
                f"{type(model).__name__} changes its logits ({detail}), which next_token_loss does not do: "
                "pass a loss function of your own"
            )
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no linear output layer: pass a loss function of your own"
        )
    return head.weight, head.bias


def chunked_loss(
    hidden: Float[Tensor, "token d_model"],
    weight: Float[Tensor, "vocab d_model"],
    bias: Float[Tensor, " vocab"] | None,
    labels: Int[Tensor, " token"],
    *,
    z_weight: float,
    chunk_tokens: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over the tokens: cross-entropy plus z-loss, and the two apart (those without gradients).

    Under autocast the products run in its dtype; sums, softmax and the weight's gradient stay in float32.
    """
    loss, ce, z = _ChunkedLoss.apply(hidden, weight, bias, labels, z_weight, chunk_tokens)
    return loss, ce, z


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are made in the forward pass, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        z_weight: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        sums = torch.zeros(
            2, dtype=torch.float32, device=hidden.device
        )  # cross-entropy, squared log-partition
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        low_weight = weight.to(dtype)
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(hidden), chunk_tokens):
                chunk = slice(begin, begin + chunk_tokens)
                low_hidden = hidden[chunk].to(dtype)
                logits = (low_hidden @ low_weight.T).float()
                if bias is not None:
                    logits += bias
                part, grad_logits = _loss_and_grad_logits(logits, labels[chunk], z_weight)
                sums += part
                low_grad = grad_logits.to(dtype)
                grad_hidden[chunk] = low_grad @ low_weight
                grad_weight += low_grad.T @ low_hidden
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ce, z = sums[0], z_weight * sums[1]
        ctx.mark_non_differentiable(ce, z)
        return ce + z, ce, z

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            scale * grad_hidden,
            scale * grad_weight,
            None if grad_bias is None else scale * grad_bias,
            None,
            None,
            None,
        )


def _loss_and_grad_logits(
    logits: Float[Tensor, "token vocab"], labels: Int[Tensor, " token"], z_weight: float
) -> tuple[Float[Tensor, "2"], Float[Tensor, "token vocab"]]:
    """Sums of cross-entropy and of squared log-partition; the logits' gradient, written over the logits."""
    log_partition = logits.logsumexp(1)  # (token,)
    target_logits = logits.gather(1, labels[:, None]).squeeze(1)
    sums = torch.stack([(log_partition - target_logits).sum(), log_partition.square().sum()])
    grad = logits.sub_(log_partition[:, None]).exp_()  # the softmax
    grad *= (1 + 2 * z_weight * log_partition)[:, None]
    grad.scatter_add_(1, labels[:, None], grad.new_full((len(labels), 1), -1.0))
    return sums, grad
