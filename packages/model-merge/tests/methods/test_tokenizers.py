"""One tokenizer of several, and embeddings that follow it."""

import json
import shutil

import numpy as np
import pytest

from model_merge.mergekit import plan_from_yaml
from model_merge.tokenizers import Tokenizer, added_token, read_tokenizer, union


def bpe(tokens, merges=(), added=(), spaced=False):
    """tokenizer.json of a BPE; ids in order, added tokens last."""
    ids = {token: position for position, token in enumerate(tokens)}
    entries = [
        {**added_token(token), "id": len(tokens) + position, "special": token.startswith("<")}
        for position, token in enumerate(added)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": entries,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [" ".join(pair) if spaced else list(pair) for pair in merges],
        },
    }


FIRST = bpe(["a", "b", "ab"], [("a", "b")], ["<eos>"])
SECOND = bpe(["b", "c", "bc", "a"], [("b", "c")], ["<eos>", "<tool>"], spaced=True)


def test_a_union_keeps_the_first_ids_and_appends_plain_then_added_tokens():
    merged = union(Tokenizer(FIRST), [(Tokenizer(SECOND), 6)])
    assert merged.ids == {"a": 0, "b": 1, "ab": 2, "<eos>": 3, "c": 4, "bc": 5, "<tool>": 6}
    assert merged.content["model"]["merges"] == [["a", "b"], ["b", "c"]]
    assert merged.added["<tool>"]["special"] is True
    assert Tokenizer(FIRST).ids == {"a": 0, "b": 1, "ab": 2, "<eos>": 3}  # left as it was


def test_tokens_without_a_row_are_left_out_with_their_merges():
    merged = union(Tokenizer(FIRST), [(Tokenizer(SECOND), 2)])
    assert merged.ids == {"a": 0, "b": 1, "ab": 2, "<eos>": 3, "c": 4}
    assert merged.content["model"]["merges"] == [["a", "b"]]


def test_the_tokenizers_library_reads_a_union_and_finds_the_tokens_of_both():
    tokenizers = pytest.importorskip("tokenizers")
    merged = union(Tokenizer(FIRST), [(Tokenizer(SECOND), 6)])
    loaded = tokenizers.Tokenizer.from_str(merged.to_bytes().decode())
    assert loaded.get_vocab(with_added_tokens=True) == merged.ids
    assert loaded.encode("ab<tool>bcc<eos>").ids == [2, 6, 5, 4, 3]


def test_a_unigram_union_carries_the_scores():
    def unigram(pairs, added=()):
        return {"added_tokens": list(added), "model": {"type": "Unigram", "unk_id": 0, "vocab": pairs}}

    first, second = unigram([["<unk>", 0.0], ["a", -1.0]]), unigram([["<unk>", 0.0], ["b", -2.5]])
    merged = union(Tokenizer(first), [(Tokenizer(second), 2)])
    assert merged.content["model"]["vocab"] == [["<unk>", 0.0], ["a", -1.0], ["b", -2.5]]
    late = unigram([["<unk>", 0.0]], [{**added_token("<eos>"), "id": 1}])
    with pytest.raises(ValueError, match="cannot take further ones"):
        union(Tokenizer(late), [(Tokenizer(second), 2)])


def test_kinds_do_not_mix():
    words = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}}}
    with pytest.raises(ValueError, match=r"different kinds .BPE and WordLevel. have no union"):
        union(Tokenizer(FIRST), [(Tokenizer(words), 1)])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model": {"type": "BPE"}}', '{"model": {"type": "X", "vocab": {}}}']
)
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)


def embedding(values, width=3):
    """One row a value; columns differ, so that a row taken for a column shows."""
    return np.array([[value + column / 16 for column in range(width)] for value in values], np.float32)


@pytest.fixture
def root(tmp_path, write_checkpoint):
    """first: a=1 b=2 ab=3 <eos>=4, padding 5 and 6; second: b=20 c=30 bc=40 a=10 <eos>=50 <tool>=60."""
    for name, tokenizer, values in [
        ("first", FIRST, [1, 2, 3, 4, 5, 6]),
        ("second", SECOND, [20, 30, 40, 10, 50, 60]),
        ("third", SECOND, [200, 300, 400, 100, 500, 600]),
    ]:
        tensors = {
            "model.embed_tokens.weight": embedding(values),
            "model.layers.0.mlp.weight": np.ones((2, 2), np.float32),
            "lm_head.weight": -embedding(values),
        }
        folder = write_checkpoint(name, tensors, config={"vocab_size": 6, "num_hidden_layers": 1})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return tmp_path


LINEAR = "{merge_method: linear, parameters: {weight: 1}, models: [%s], %s}"
TWO = LINEAR % ("{model: first}, {model: second}", "%s")


def merged_rows(plan, execute_plan, **options):
    found = execute_plan(plan, **options)
    values = found["model.embed_tokens.weight"]
    np.testing.assert_array_equal(found["lm_head.weight"], -values)
    np.testing.assert_allclose(
        values - values[:, :1], np.broadcast_to(np.arange(3) / 16, values.shape), atol=1e-4
    )
    return values[:, 0].tolist()


def test_a_token_of_one_model_comes_from_it_and_one_of_both_is_merged(root, execute_plan):
    plan = plan_from_yaml(TWO % "tokenizer_source: union", root)
    # a b ab <eos> c bc <tool>
    assert merged_rows(plan, execute_plan) == [5.5, 11, 3, 27, 30, 40, 60]
    assert plan.config_changes == {"vocab_size": 7}
    assert Tokenizer(json.loads(plan.files["tokenizer.json"])).num_rows == 7
    assert {tensor.shape for tensor in plan.tensors} == {(7, 3), (2, 2)}


def test_a_token_that_several_have_is_their_mean_or_the_base_s(root, execute_plan):
    three = "{model: first}, {model: second}, {model: third}"
    plan = plan_from_yaml(LINEAR % (three, "tokenizer_source: union"), root)
    rows = merged_rows(plan, execute_plan)
    assert rows[4] == pytest.approx((30 + 300 + 165) / 3)  # first takes the mean of second and third
    plan = plan_from_yaml(LINEAR % (three, "tokenizer_source: union, base_model: second"), root)
    rows = merged_rows(plan, execute_plan)  # ids of second: b c bc a <eos> <tool>, then ab
    assert rows[1] == pytest.approx((30 + 30 + 300) / 3)  # first takes the base's
    assert rows[6] == pytest.approx(3)


def test_the_base_s_tokenizer_drops_other_tokens_and_keeps_its_padding(root, execute_plan):
    plan = plan_from_yaml(TWO % "tokenizer_source: base", root)
    # second has no padding: what first has there stays
    assert merged_rows(plan, execute_plan) == [5.5, 11, 3, 27, 5, 6]
    assert plan.files == {}
    assert plan.config_changes == {}


def test_another_model_s_tokenizer_brings_its_files(root, execute_plan):
    (root / "second" / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    plan = plan_from_yaml(TWO % "tokenizer_source: second", root)
    assert merged_rows(plan, execute_plan) == [11, 30, 40, 5.5, 27, 60]
    assert plan.files.keys() == {"tokenizer.json", "special_tokens_map.json"}
    assert json.loads(plan.files["tokenizer.json"]) == SECOND


def test_rows_are_padded_to_a_multiple_by_the_mean_of_the_tokens(root, execute_plan):
    plan = plan_from_yaml(TWO % "tokenizer: {source: union, pad_to_multiple_of: 4}", root)
    rows = merged_rows(plan, execute_plan)
    first, second = [1, 2, 3, 4, 30, 40, 60], [10, 20, 3, 50, 30, 40, 60]
    assert len(rows) == 8
    assert rows[7] == pytest.approx((np.mean(first) + np.mean(second)) / 2)


def test_single_tokens_are_chosen_as_the_file_says(root, execute_plan):
    text = """tokenizer: {source: union, tokens: {
  ab: {source: {kind: model_token, model: second, token: c}},
  <eos>: {source: first, force: true},
  c: {source: {kind: zero}},
  <tool>: {source: {kind: zero}, force: true},
  bc: {source: {kind: model_token, model: third, token_id: 3}, force: true},
  <new>: {source: first}}}"""
    with pytest.raises(ValueError, match=r"tokens.<new>: 'first' has no token '<new>'"):
        plan_from_yaml(LINEAR % ("{model: first}, {model: second}, {model: third}", text), root)
    text = text.replace("{source: first}", "{}")
    plan = plan_from_yaml(LINEAR % ("{model: first}, {model: second}, {model: third}", text), root)
    found = execute_plan(plan)["model.embed_tokens.weight"][:, 0]
    # a b ab <eos> c bc <tool> <new>
    expected = [111 / 3, 222 / 3, (3 + 30 + 30) / 3, 4, (0 + 30 + 300) / 3, 100, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_do_not_change_aligned_embeddings(root, execute_plan, chunk):
    plan = plan_from_yaml(TWO % "tokenizer: {source: union, pad_to_multiple_of: 5}", root)
    whole = execute_plan(plan)
    cut = execute_plan(plan, chunk)
    for name, tensor in whole.items():
        np.testing.assert_array_equal(cut[name], tensor)


def test_statistics_see_the_completed_embeddings(root, execute_plan, twin):
    text = "{merge_method: slerp, base_model: first, models: [{model: second}], parameters: {t: 0.3}, %s}"
    plan = plan_from_yaml(text % "tokenizer_source: union", root)
    found = execute_plan(plan)["model.embed_tokens.weight"]
    first, second = embedding([1, 2, 3, 4, 30, 40, 60]), embedding([10, 20, 3, 50, 30, 40, 60])
    np.testing.assert_allclose(found, twin("slerp", [second], base=first, t=0.3), rtol=1e-6)


def test_without_a_tokenizer_other_shapes_stay_an_error_that_says_what_helps(root, write_checkpoint):
    tensors = {
        "model.embed_tokens.weight": embedding([1]),
        "model.layers.0.mlp.weight": np.ones((2, 2), np.float32),
        "lm_head.weight": embedding([1]),
    }
    write_checkpoint("small", tensors, config={"vocab_size": 1})
    text = LINEAR % ("{model: first}, {model: small}", "")
    with pytest.raises(ValueError, match="tokenizer_source: union"):
        plan_from_yaml(text.replace(", }", "}"), root)
    with pytest.raises(ValueError, match=r"'.*small' has no tokenizer.json, and 1 rows of embeddings"):
        plan_from_yaml(LINEAR % ("{model: first}, {model: small}", "tokenizer_source: union"), root)


TASK = """
merge_method: task_arithmetic
base_model: base
models: [{model: m1, parameters: {weight: 0.5}}, {model: m3, parameters: {weight: 0.7}}]
tokenizer_source: union
"""
CHOSEN = """
merge_method: linear
parameters: {weight: 1.0}
models: [{model: m1}, {model: m3}]
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    a0: {source: {kind: zero}, force: true}
    s3: {source: {kind: model_token, model: m3, token: b2}}
"""


@pytest.mark.parametrize(("name", "text"), [("union", TASK), ("tokens", CHOSEN)])
def test_every_token_has_the_embedding_that_mergekit_gives_it(
    golden, tmp_path, execute_plan, read_tensors, name, text
):
    for model in ("base", "m1", "m3"):
        shutil.copytree(golden / "models" / f"olmo2_{model}", tmp_path / model)
        shutil.copy(golden / "tokenizers" / f"{model}.json", tmp_path / model / "tokenizer.json")
    plan = plan_from_yaml(text, tmp_path)
    ours = execute_plan(plan)["model.embed_tokens.weight"]
    theirs = read_tensors(golden / "tokenizers" / f"{name}.safetensors")["model.embed_tokens.weight"]
    own = Tokenizer(json.loads(plan.files["tokenizer.json"]))
    other = Tokenizer(json.loads((golden / "tokenizers" / f"{name}.json").read_text(encoding="utf-8")))
    assert ours.shape == theirs.shape
    assert own.ids.keys() == other.ids.keys()
    rows = [[one.ids[token] for token in sorted(own.ids)] for one in (own, other)]
    np.testing.assert_allclose(ours[rows[0]], theirs[rows[1]], rtol=0, atol=3e-7)
    np.testing.assert_allclose(ours[own.num_rows :], theirs[other.num_rows :], rtol=0, atol=3e-7)


CHAT = TWO % "tokenizer_source: base, chat_template: %s"


def test_a_chat_template_is_auto_a_name_or_itself(root):
    (root / "first/tokenizer_config.json").write_text(
        '{"chat_template": "{{ old }}", "x": 1}', encoding="utf-8"
    )
    (root / "second/chat_template.jinja").write_text("{{ new }}\n", encoding="utf-8")
    files = plan_from_yaml(CHAT % "auto", root).files
    assert files["chat_template.jinja"] in (b"{{ old }}", b"{{ new }}")
    files = plan_from_yaml(CHAT % "chatml", root).files
    assert b"<|im_start|>" in files["chat_template.jinja"]
    config = json.loads(files["tokenizer_config.json"])
    assert config == {"chat_template": files["chat_template.jinja"].decode(), "x": 1}
    assert plan_from_yaml(CHAT % "'{{ mine }}'", root).files["chat_template.jinja"] == b"{{ mine }}"
    with pytest.raises(ValueError, match="'chatlm' is no template and none of auto, chatml"):
        plan_from_yaml(CHAT % "chatlm", root)


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "alpaca"])
def test_the_named_templates_render(name):
    jinja2 = pytest.importorskip("jinja2")
    from model_merge.chat_templates import NAMED

    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    text = jinja2.Template(NAMED[name]).render(messages=messages, bos_token="<s>", eos_token="</s>")
    expected = {
        "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n",
        "llama3": (
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
        ),
        "mistral": "<s>[INST] Hi [/INST]Ho</s>",
        "alpaca": "### Instruction:\nHi\n\n### Response:\nHo</s>\n\n",
    }
    assert text == expected[name]
