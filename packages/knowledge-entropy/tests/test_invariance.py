"""What must not change a result: padding, batches, shards of rows, and how the activation is written down."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from knowledge_entropy.families import find_output_maps, find_up_rows
from knowledge_entropy.measure import Options, measure
from knowledge_entropy.tokens import batches, from_rows, read_npy

CLOSE = {"rtol": 1e-5, "atol": 1e-8}  # of coefficients in float32
NEAR = {"rtol": 0, "atol": 1e-6}  # of entropies


def rows_of(tokens):
    return [tokens.ids[a:b] for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


@pytest.mark.parametrize("family", ["olmo", "phi3", "gpt2", "bloom", "opt"])
@pytest.mark.parametrize("weighting", ["token", "sequence"])
def test_padding_changes_nothing(family, weighting, make_family, ragged):
    model = make_family(family)
    options = Options(weighting=weighting, blocks=1, attention=family != "bloom", next_token=True)
    together = measure(model, ragged, options, batch_tokens=10_000)  # all rows padded to 65
    alone = measure(model, ragged, options, batch_tokens=1)  # none padded
    assert_allclose(together.coefficients.mean_abs, alone.coefficients.mean_abs, **CLOSE)
    assert_allclose(together.layers["entropy"], alone.layers["entropy"], **NEAR)
    assert together.next_token_entropy == pytest.approx(alone.next_token_entropy, abs=1e-5)
    if together.attention_entropy is not None:
        assert_allclose(together.attention_entropy, alone.attention_entropy, rtol=0, atol=1e-5)


def test_what_stands_on_padding_changes_nothing(make_family, ragged):
    model = make_family("llama")
    found = [measure(model, ragged, Options(pad_id=pad), batch_tokens=10_000) for pad in (0, 1, 59)]
    for other in found[1:]:
        assert_allclose(other.coefficients.block_sums, found[0].coefficients.block_sums, **CLOSE)


def test_a_padded_array_is_the_rows_without_padding(tmp_path, make_family, ragged):
    for width in (65, 70):
        padded = np.ones((ragged.num_rows, width), dtype=np.int64)
        for row, ids in zip(padded, rows_of(ragged), strict=True):
            row[: len(ids)] = ids
        np.save(tmp_path / "padded.npy", padded)
        assert read_npy(tmp_path / "padded.npy", pad_id=1).sha256 == ragged.sha256


def test_rows_of_one_length_weigh_the_same_both_ways(make_family):
    rows = from_rows(list(np.random.default_rng(0).integers(2, 60, (6, 9))), source="packed")
    token, sequence = (
        measure(make_family("olmo2"), rows, Options(weighting=w)) for w in ("token", "sequence")
    )
    assert_allclose(token.coefficients.mean_abs, sequence.coefficients.mean_abs, **CLOSE)
    assert_allclose(token.layers["se"], sequence.layers["se"], rtol=1e-4)


def test_rows_of_unequal_length_do_not(make_family, ragged):
    token, sequence = (
        measure(make_family("olmo2"), ragged, Options(weighting=w)) for w in ("token", "sequence")
    )
    assert abs(token.total["entropy"] - sequence.total["entropy"]) > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 64, 65, 66, 1000])
def test_the_size_of_batches_changes_nothing(batch_tokens, make_family, ragged):
    model = make_family("olmo2")
    whole = measure(model, ragged, Options(blocks=2), batch_tokens=130)
    found = measure(model, ragged, Options(blocks=2), batch_tokens=batch_tokens)
    assert_allclose(found.coefficients.block_sums, whole.coefficients.block_sums, **CLOSE)
    assert_allclose(found.layers["entropy"], whole.layers["entropy"], **NEAR)
    rows = sum(len(batch.ids) for batch in batches(ragged, (0, 7), max_tokens=batch_tokens))
    assert rows == 7


@pytest.mark.parametrize("weighting", ["token", "sequence"])
def test_shards_of_the_rows_add_up(weighting, make_family, ragged):
    model, rows = make_family("olmo2"), rows_of(ragged)
    whole = measure(model, ragged, Options(weighting=weighting)).coefficients
    parts = [
        measure(model, from_rows(shard, source="shard"), Options(weighting=weighting)).coefficients
        for shard in (rows[::2], rows[1::2])
    ]
    sums = sum(part.block_sums.sum(0) for part in parts) / sum(part.block_weights.sum() for part in parts)
    assert_allclose(sums, whole.mean_abs, **CLOSE)


def written_out(family, layer, seen):
    """The activation of every family as its paper writes it, from the input of the maps that go up."""
    mlp = getattr(layer, "mlp", layer)
    if hasattr(mlp, "gate_up_proj"):
        gate, up = (mlp.gate_up_proj(seen)).chunk(2, dim=-1)
        return up * mlp.activation_fn(gate)
    if hasattr(mlp, "gate_proj"):
        return mlp.act_fn(mlp.gate_proj(seen)) * mlp.up_proj(seen)
    up = next(getattr(mlp, name) for name in ("dense_h_to_4h", "c_fc", "fc_in", "fc1") if hasattr(mlp, name))
    names = ("gelu_impl", "act", "activation_fn", "activation_function")
    act = next(getattr(mlp, name) for name in names if hasattr(mlp, name))
    return act(up(seen))


GOES_UP = ("gate_up_proj", "up_proj", "dense_h_to_4h", "c_fc", "fc_in", "fc1")


def test_the_coefficients_of_every_family_are_its_activation_written_out(family_model, ragged):
    inputs = {}

    def keep(layer):
        return lambda _, given: inputs.setdefault(layer, given[0].detach())

    maps = find_output_maps(family_model)
    layers = [family_model.get_submodule(one.name.partition(f".{one.layer}.")[0])[one.layer] for one in maps]
    handles = []
    for number, layer in enumerate(layers):
        up = next(m for name, m in layer.named_modules() if name.rpartition(".")[2] in GOES_UP)
        handles.append(up.register_forward_pre_hook(keep(number)))
    row = from_rows([rows_of(ragged)[0]], source="a row")
    found = measure(family_model, row).coefficients.mean_abs
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for number, layer in enumerate(layers):
            expected = written_out(family_model.config.model_type, layer, inputs[number]).abs()
            assert_allclose(
                found[number], expected.reshape(-1, expected.shape[-1]).mean(0), rtol=2e-5, atol=1e-7
            )


class CoreBlock(torch.nn.Module):
    """A block with OLMo-core's names: w1 is the gate, w3 goes up, w2 comes back."""

    def __init__(self):
        super().__init__()
        self.attention = torch.nn.Identity()
        self.feed_forward = torch.nn.Module()
        for name, shape in (("w1", (16, 24)), ("w2", (24, 16)), ("w3", (16, 24))):
            self.feed_forward.add_module(name, torch.nn.Linear(*shape, bias=False))

    def forward(self, x):
        maps = self.feed_forward
        return x + maps.w2(torch.nn.functional.silu(maps.w1(x)) * maps.w3(x))


class CoreModel(PreTrainedModel):
    """Two such blocks over an embedding."""

    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(config.vocab_size, 16)
        self.blocks = torch.nn.ModuleList(CoreBlock() for _ in range(2))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        x = self.embeddings(input_ids)
        for block in self.blocks:
            x = block(x)
        return BaseModelOutput(last_hidden_state=x)


def test_the_names_of_olmo_core_are_known():
    torch.manual_seed(0)
    model = CoreModel(LlamaConfig(vocab_size=60, num_hidden_layers=2)).eval()
    found = measure(model, from_rows([[3, 4, 5]], source="a row")).coefficients.mean_abs
    x = model.embeddings(torch.tensor([3, 4, 5]))
    maps = model.blocks[0].feed_forward
    expected = (torch.nn.functional.silu(maps.w1(x)) * maps.w3(x)).abs().mean(0)
    assert_allclose(found[0], expected.detach().numpy(), rtol=1e-5)
    assert [rows.name for rows in find_up_rows(model)] == [
        f"blocks.{n}.feed_forward.w3.weight" for n in (0, 1)
    ]


def test_layers_that_share_their_mlp_are_refused(make_family, ragged):
    model = make_family("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ValueError, match="ran 2 times in one forward pass, expected once"):
        measure(model, ragged, Options(next_token=True))


def test_a_kernel_that_goes_around_the_output_map_is_refused(make_family, ragged):
    model = make_family("llama")
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: torch.nn.functional.linear(
        mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight, mlp.down_proj.bias
    )
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.down_proj ran 0 times .*a fused kernel"):
        measure(model, ragged)
