import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from model_merge.convert import convert  # noqa: E402
from model_merge.custom_gpt import CustomGPTConfig, CustomGPTForCausalLM, custom_gpt_config  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "ez"
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def tiny(**sizes):
    return CustomGPTConfig(
        **{"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, **sizes}
    )


@pytest.fixture
def state(tmp_path, load_tensors):
    (tmp_path / "golden").mkdir()
    shutil.copy(GOLDEN / "convert_in.safetensors", tmp_path / "golden")
    return {name: array.copy() for name, array in load_tensors(tmp_path / "golden").items()}


@pytest.fixture
def model(state):
    made = CustomGPTForCausalLM(tiny()).eval()
    made.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return made


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def rotate_by_hand(x, position, base=10_000.0):
    """Turn the pairs (i, i + half) of one head's vector, one after the other."""
    half, turned = len(x) // 2, x.copy()
    for i in range(half):
        angle = position * base ** (-2 * i / len(x))
        turned[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
        turned[i + half] = x[i] * np.sin(angle) + x[i + half] * np.cos(angle)
    return turned


def forward_by_hand(state, ids, *, heads, layers):
    """The decoder written out in float64, a token and a head at a time: logits (token, vocab)."""
    w = {name.removeprefix("model."): array.astype(np.float64) for name, array in state.items()}
    x = w["wte.weight"][ids]
    d_head = x.shape[1] // heads
    for layer in range(layers):
        p = {name.split(".", 2)[2]: array for name, array in w.items() if name.startswith(f"blocks.{layer}.")}
        normed = layer_norm(x, p["att_norm.weight"], p["att_norm.bias"])
        query, key, value = np.split(normed @ p["att_proj.weight"].T + p["att_proj.bias"], 3, axis=1)
        query = layer_norm(query, p["q_norm.weight"], p["q_norm.bias"])
        key = layer_norm(key, p["k_norm.weight"], p["k_norm.bias"])
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * d_head, (head + 1) * d_head)
            for now in range(len(ids)):
                q = rotate_by_hand(query[now, part], now)
                scores = [q @ rotate_by_hand(key[t, part], t) / np.sqrt(d_head) for t in range(now + 1)]
                weights = np.exp(np.array(scores) - max(scores))
                mixed[now, part] = weights / weights.sum() @ value[: now + 1, part]
        x = x + mixed
        normed = layer_norm(x, p["ffn_norm.weight"], p["ffn_norm.bias"])
        up, gate = np.split(normed @ p["ff_proj.weight"].T + p["ff_proj.bias"], 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ p["ff_out.weight"].T + p["ff_out.bias"]
    return layer_norm(x, w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("customgpt-110m", 102_483_456), ("customgpt-300m", 278_398_976), ("customgpt-1.1b", 1_009_782_784)],
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(name, parameters):
    config = custom_gpt_config(name)
    d, layers = config.hidden_size, config.num_hidden_layers
    block = (
        3 * d * (d + 1) + 4 * d * (d + 1) + d * (2 * d + 1) + 4 * 2 * d
    )  # att_proj, ff_proj, ff_out, norms
    assert parameters == 50304 * d + layers * block + 2 * d
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_logits_are_those_of_the_formulas_written_out(model, state):
    expected = forward_by_hand(state, IDS, heads=2, layers=2)
    exact = model.double()(torch.tensor([IDS])).logits[0].detach().numpy()
    # the angles are computed in float32, as transformers' own rotary embeddings are
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    single = model.float()(torch.tensor([IDS])).logits[0].detach().numpy()
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_token_sees_no_later_one_and_padding_on_the_left_changes_nothing(model):
    whole = model(torch.tensor([IDS])).logits[0]
    part = model(torch.tensor([IDS[:5]])).logits[0]
    torch.testing.assert_close(whole[:5], part)
    padded = model(
        torch.tensor([[0, 0, *IDS]]),
        attention_mask=torch.tensor([[0, 0, *[1] * 8]]),
        position_ids=torch.tensor([[0, 0, *range(8)]]),
    ).logits[0, 2:]
    torch.testing.assert_close(padded, whole)


def test_generation_with_a_cache_writes_what_it_writes_without(model):
    written = [
        model.generate(
            torch.tensor([IDS]), max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=cache
        )
        for cache in (True, False)
    ]
    assert written[0].tolist() == written[1].tolist()


def other_names(state, prefix):
    """The converted names of a state dict, in another way than the package's."""
    renamed = {}
    for name, array in state.items():
        name = (
            name.replace("model.", prefix, 1)
            .replace(".att_norm", ".attn_norm")
            .replace(".ffn_norm", ".ff_norm")
        )
        renamed[name] = array
    for layer in range(2):
        renamed[f"{prefix}blocks.{layer}.attn_out.weight"] = np.eye(8, dtype=np.float32)
        renamed[f"{prefix}blocks.{layer}.attn_out.bias"] = np.zeros(8, dtype=np.float32)
    return renamed


@pytest.mark.parametrize("prefix", ["transformer.", "model.transformer."])
def test_a_converted_state_dict_loads_into_the_same_model(model, state, prefix):
    converted = {name: torch.from_numpy(array) for name, array in other_names(state, prefix).items()}
    other = CustomGPTForCausalLM(tiny()).eval()
    other.load_state_dict(converted)
    assert torch.equal(other(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


def test_a_state_dict_with_a_real_projection_is_refused(state):
    converted = {name: torch.from_numpy(array) for name, array in other_names(state, "transformer.").items()}
    converted["transformer.blocks.1.attn_out.bias"] += 1
    with pytest.raises(ValueError, match=r"'transformer.blocks.1.attn_out.bias' is not the identity"):
        CustomGPTForCausalLM(tiny()).load_state_dict(converted)


def test_a_state_dict_of_another_size_is_refused(state):
    lacking = {name: torch.from_numpy(array) for name, array in state.items() if "ln_f" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*ln_f\.weight"):
        CustomGPTForCausalLM(tiny()).load_state_dict(lacking)


def test_a_converted_checkpoint_opens_with_transformers_alone_and_saves_itself(model, tmp_path):
    convert(GOLDEN / "convert_in.safetensors", tmp_path / "out", names="customgpt")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(opened(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)
    assert opened.lm_head.weight is opened.model.wte.weight
    opened.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


def test_initial_weights_are_small_and_those_of_ff_out_smaller():
    torch.manual_seed(0)
    model = CustomGPTForCausalLM(tiny(hidden_size=64, num_hidden_layers=8, num_attention_heads=4))
    block = model.model.blocks[3]
    assert block.att_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.ff_out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8 layers)
    assert not block.ff_proj.bias.any()
    assert (block.q_norm.weight == 1).all()


def test_the_loss_is_the_cross_entropy_of_the_next_token(model):
    ids = torch.tensor([IDS])
    output = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(output.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(output.loss, expected)
    assert model(ids, logits_to_keep=2).logits.shape == (1, 2, 16)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model.model()


def test_a_size_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="no size 'customgpt-7b': there are customgpt-110m"):
        custom_gpt_config("customgpt-7b")
