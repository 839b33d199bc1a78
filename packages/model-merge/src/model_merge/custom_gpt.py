"""The decoder of ez-data-ablations' released models, as a class that transformers opens and trains.

Pre-LayerNorm with biases; one projection for queries, keys and values; LayerNorm over all heads of queries
and keys together; rotary positions (half split, base 10,000); no projection behind the attention; SwiGLU;
tied embeddings.

Importing this module registers `model_type: customgpt` with AutoConfig, AutoModel and AutoModelForCausalLM.
`load_state_dict` also takes the names of Composer and of hf_olmo: `model_merge.olmo_names` says which.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_merge.olmo_names import SIZES, rename_to_custom_gpt


class CustomGPTConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of a model; the defaults are those of customgpt-110m ("130m" in the paper)."""

    model_type = "customgpt"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012, transformers' own form

    def __init__(
        self,
        vocab_size: int = 50304,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        mlp_ratio: int = 4,
        max_position_embeddings: int = 2048,
        rope_theta: float = 10_000.0,
        layer_norm_eps: float = 1e-5,
        tie_word_embeddings: bool = True,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **rest: Any,
    ) -> None:
        """`mlp_ratio * hidden_size` values leave the first feed-forward layer, half of them are gates."""
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.intermediate_size = mlp_ratio * hidden_size // 2
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = 0.02
        self.tie_word_embeddings = tie_word_embeddings
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos_token_id, eos_token_id, pad_token_id
        super().__init__(**rest)


def custom_gpt_config(name: str) -> CustomGPTConfig:
    """The configuration of customgpt-110m, -300m or -1.1b.

    >>> custom_gpt_config("customgpt-1.1b").hidden_size
    2048
    """
    if name not in SIZES:
        raise ValueError(f"no size {name!r}: there are {', '.join(SIZES)}")
    d_model, heads, layers = SIZES[name]
    return CustomGPTConfig(hidden_size=d_model, num_attention_heads=heads, num_hidden_layers=layers)


class CustomGPTBlock(nn.Module):
    """Attention, then feed-forward, each added to what came in."""

    def __init__(self, config: CustomGPTConfig, layer: int) -> None:
        """Names of the parameters are those of the released checkpoints."""
        super().__init__()
        d_model, d_ffn = config.hidden_size, config.intermediate_size
        self.config, self.layer_idx, self.is_causal = config, layer, True
        self.att_norm, self.ffn_norm, self.q_norm, self.k_norm = (
            nn.LayerNorm(d_model, eps=config.layer_norm_eps) for _ in range(4)
        )
        self.att_proj = nn.Linear(d_model, 3 * d_model)
        self.ff_proj = nn.Linear(d_model, 2 * d_ffn)
        self.ff_out = nn.Linear(d_ffn, d_model)
        self.ff_out.ends_block = True  # type: ignore[assignment]

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, **options: Any
    ) -> Tensor:
        """(batch, seq, d_model) to the same."""
        x = x + self.attend(self.att_norm(x), rotary, mask, **options)
        value, gate = self.ff_proj(self.ffn_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.ff_out(nn.functional.silu(gate) * value)
        return out

    def attend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Tensor:
        """Attention of the normed input, (batch, seq, d_model); no projection follows."""
        query, key, value = self.att_proj(x).chunk(3, dim=-1)
        query, key, value = (self.split_heads(t) for t in (self.q_norm(query), self.k_norm(key), value))
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        mixed, _ = attention(self, query, key, value, mask, scaling=query.shape[-1] ** -0.5, **options)
        out: Tensor = mixed.flatten(2)
        return out

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to (batch, head, seq, d_head)."""
        batch, seq, _ = x.shape
        return x.view(batch, seq, self.config.num_attention_heads, -1).transpose(1, 2)


def rotary_angles(positions: Tensor, d_head: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, (batch, 1, seq, d_head), each angle in both halves."""
    exponents = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions.device) / d_head
    angles = positions[:, None, :, None].float() / base**exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (value i, value i + d_head / 2); computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = x.float() * cosine + torch.cat([-second, first], dim=-1) * sine
    return turned.to(x.dtype)


class CustomGPTPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What transformers wants to know of the family."""

    config_class = CustomGPTConfig
    base_model_prefix = "model"
    _no_split_modules = ["CustomGPTBlock"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02), biases 0, ff_out divided by the root of twice the layers."""
        if isinstance(module, nn.Linear | nn.Embedding):
            depth = 2 * self.config.num_hidden_layers if getattr(module, "ends_block", False) else 1
            nn.init.normal_(module.weight, std=self.config.initializer_range / depth**0.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class CustomGPTModel(CustomGPTPreTrainedModel):  # type: ignore[no-untyped-call]
    """The decoder without its head."""

    def __init__(self, config: CustomGPTConfig) -> None:
        """Build the modules."""
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(CustomGPTBlock(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The table of token embeddings."""
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Exchange it."""
        self.wte = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (batch, seq, d_model) behind the last norm; `options` go to the attention."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            from transformers import DynamicCache

            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + x.shape[1], device=x.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        d_head = self.config.hidden_size // self.config.num_attention_heads
        rotary = rotary_angles(position_ids, d_head, self.config.rope_theta)
        for block in self.blocks:
            x = block(x, rotary, mask, past_key_values=past_key_values, **options)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(x), past_key_values=past_key_values)


class CustomGPTForCausalLM(CustomGPTPreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.wte.weight"}  # noqa: RUF012

    def __init__(self, config: CustomGPTConfig) -> None:
        """Build the modules."""
        super().__init__(config)
        self.model = CustomGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_load_state_dict_pre_hook(_take_other_names)  # type: ignore[no-untyped-call]
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that makes logits."""
        head: nn.Linear = self.lm_head
        return head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Exchange it."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (batch, seq, vocab), with `labels` also the mean cross-entropy of the next token."""
        output = self.model(input_ids, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)


def _take_other_names(module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    """Rename Composer's and hf_olmo's tensors in place before they are loaded."""
    renamed = rename_to_custom_gpt(state_dict, read=lambda name: state_dict[name].float().cpu().numpy())
    tensors = {new: state_dict[old] for old, new in renamed.items()}
    assert isinstance(module, CustomGPTForCausalLM)
    if module.config.tie_word_embeddings:
        tensors.setdefault("lm_head.weight", tensors["model.wte.weight"])
    state_dict.clear()
    state_dict.update(tensors)


AutoConfig.register("customgpt", CustomGPTConfig, exist_ok=True)
AutoModel.register(CustomGPTConfig, CustomGPTModel, exist_ok=True)
AutoModelForCausalLM.register(CustomGPTConfig, CustomGPTForCausalLM, exist_ok=True)
