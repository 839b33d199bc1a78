"""Attention that never crosses a document: one function, registered with transformers as `olmo_trainer`.

A row that holds one document needs no mask at all: plain causal attention, padding stands last. Rows of
several documents use a block mask on the CPU, and the variable-length kernel with `cu_seqlens` on CUDA.
The name has no entry in transformers' mask registry, so no mask is built there; the two tensors travel as
keyword arguments of `model(...)`. For training only: there is no cache.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "olmo_trainer"
SHORT_ROW = (
    512  # up to here the CPU's fused bfloat16 kernel is slower than plain products: benchmarks/README.md
)


def document_mask(doc_ids: Int[Tensor, "row seq"]) -> Bool[Tensor, "row 1 seq seq"]:
    """Which earlier tokens each token may look at: those of its own document.

    >>> document_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same_document = doc_ids[:, :, None] == doc_ids[:, None, :]
    return same_document.tril()[:, None]


def document_attention(
    module: nn.Module,
    query: Float[Tensor, "row head seq d_head"],
    key: Float[Tensor, "row kv_head keys d_head"],
    value: Float[Tensor, "row kv_head keys d_head"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    doc_mask: Bool[Tensor, "row 1 seq seq"] | None = None,
    cu_seqlens: Int[Tensor, " boundary"] | None = None,
    **_: Any,  # what transformers passes to every attention function
) -> tuple[Float[Tensor, "row seq head d_head"], None]:
    """Causal attention inside documents, in the form transformers calls.

    Args:
        attention_mask: used instead of `doc_mask` where a caller passes a ready (row, 1, seq, seq) mask.
        doc_mask: see `document_mask`; None where every row is one document.
        cu_seqlens: int32 starts of the documents in the flattened batch, its length last; None likewise.

    Raises:
        ValueError: there are more keys than queries (generation with a cache).
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            f"the attention {NAME!r} is for training: it got {query.shape[2]} queries and {key.shape[2]} "
            "keys; open the exported checkpoint with from_pretrained to generate"
        )
    if cu_seqlens is not None and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, cu_seqlens, scaling), None
    mask = doc_mask if attention_mask is None else attention_mask
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= SHORT_ROW:
        return _plain_products(query, key, value, mask, scaling, dropout), None
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def _plain_products(
    query: Float[Tensor, "row head seq d_head"],
    key: Float[Tensor, "row kv_head seq d_head"],
    value: Float[Tensor, "row kv_head seq d_head"],
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
) -> Float[Tensor, "row seq head d_head"]:
    """Attention written out; keeps row * head * seq * seq weights for the backward pass."""
    seq, d_head = query.shape[2:]
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    if mask is None:
        mask = torch.ones(seq, seq, dtype=torch.bool).tril()
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    scores = (query * (scaling or d_head**-0.5)) @ key.transpose(2, 3) + mask
    weights = nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return (weights @ value).transpose(1, 2).contiguous()


def _varlen(
    query: Float[Tensor, "row head seq d_head"],
    key: Float[Tensor, "row kv_head seq d_head"],
    value: Float[Tensor, "row kv_head seq d_head"],
    cu_seqlens: Int[Tensor, " boundary"],
    scaling: float | None,
) -> Float[Tensor, "row seq head d_head"]:
    """CUDA only, 16 bits a value. The row length is a legal upper bound of a document, so nothing syncs."""
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, _ = query.shape
    groups = heads // key.shape[1]  # torch 2.11 has no enable_gqa here
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    q, k, v = (states.transpose(1, 2).flatten(0, 1).contiguous() for states in (query, key, value))
    output = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, length, length, scale=scaling, window_size=(-1, 0))
    assert isinstance(output, Tensor)  # no auxiliary output is asked for
    return output.view(rows, length, heads, -1)


AttentionInterface.register(NAME, document_attention)
