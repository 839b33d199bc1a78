import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from model_merge.checkpoint import open_checkpoint
from model_merge.header import FormatError

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
B = np.array([1.0, -2.0, 3.0], dtype=ml_dtypes.bfloat16)


def test_a_single_file_is_opened_with_its_config(write_checkpoint):
    folder = write_checkpoint("one", {"w": W, "b": B}, config={"model_type": "olmo2"})
    checkpoint = open_checkpoint(folder)
    assert {name: (one.dtype, one.shape) for name, one in checkpoint.tensors.items()} == {
        "w": ("F32", (3, 4)),
        "b": ("BF16", (3,)),
    }
    assert checkpoint.config == {"model_type": "olmo2"}
    assert checkpoint.files == (folder / "model.safetensors",)
    assert checkpoint.read("w").tolist() == W.ravel().tolist()
    assert checkpoint.read("w", 3, 7, compute="F64").tolist() == [0.375, 0.5, 0.625, 0.75]
    assert checkpoint.read("b", 1).tolist() == [-2.0, 3.0]


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint_with_or_without_an_index(write_checkpoint, index):
    folder = write_checkpoint("shards", {"w": W, "b": B}, shards=[["b"], ["w"]], index=index)
    checkpoint = open_checkpoint(str(folder))
    assert list(checkpoint.tensors) == ["b", "w"]
    assert checkpoint.read("w").tolist() == W.ravel().tolist()


def test_a_single_safetensors_file_is_a_checkpoint(write_checkpoint):
    folder = write_checkpoint("one", {"w": W}, config={"a": 1})
    checkpoint = open_checkpoint(folder / "model.safetensors")
    assert (checkpoint.config, checkpoint.folder) == ({"a": 1}, folder)


@pytest.mark.parametrize("name", ["a+b@c", "model:v2", "x@y:z"])
def test_a_folder_that_exists_wins_over_the_marks_in_its_name(write_checkpoint, name):
    folder = write_checkpoint(name, {"w": W})
    assert list(open_checkpoint(str(folder)).tensors) == ["w"]


def test_a_subfolder_of_a_run_follows_a_colon(write_checkpoint, tmp_path):
    write_checkpoint("run", {"w": W}).rename(tmp_path / "step10")
    (tmp_path / "run").mkdir()
    (tmp_path / "step10").rename(tmp_path / "run" / "step10")
    assert open_checkpoint(f"{tmp_path / 'run'}:step10").path == tmp_path / "run" / "step10"


def test_a_reference_to_nothing_says_what_a_reference_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder on this disk or OWNER/NAME"):
        open_checkpoint("./nowhere")
    with pytest.raises(FileNotFoundError, match=r"is no folder and no file"):
        open_checkpoint(f"{tmp_path}:step5")


def test_the_digest_depends_on_the_content_and_not_on_the_place(write_checkpoint):
    one = open_checkpoint(write_checkpoint("one", {"w": W}, config={"a": 1, "b": 2}))
    same = open_checkpoint(write_checkpoint("same", {"w": W}, config={"b": 2, "a": 1}))
    other = open_checkpoint(write_checkpoint("other", {"w": W + 1}, config={"a": 1, "b": 2}))
    assert one.digest() == same.digest() != other.digest()


def test_integers_are_refused_as_numbers_and_readable_as_bytes(write_checkpoint):
    checkpoint = open_checkpoint(write_checkpoint("one", {"ids": np.arange(3)}))
    with pytest.raises(ValueError, match=r"'ids' in .* is I64: only F64, F32, BF16"):
        checkpoint.read("ids")
    assert checkpoint.read_bytes("ids").view(np.int64).tolist() == [0, 1, 2]


def test_a_missing_shard_is_named(write_checkpoint):
    folder = write_checkpoint("shards", {"w": W, "b": B}, shards=[["b"], ["w"]])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FormatError, match=r"lacks the shards model-00002-of-00002.safetensors that its index"
    ):
        open_checkpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(FormatError, match=r"lacks the shards model-00002-of-00002.safetensors: download"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..", "a\\b.safetensors"])
def test_an_index_that_leaves_its_folder_is_refused(write_checkpoint, name):
    folder = write_checkpoint("shards", {"w": W}, shards=[["w"]])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}), encoding="utf-8")
    with pytest.raises(FormatError, match=r"names a file outside of its folder"):
        open_checkpoint(folder)


def test_every_disagreement_of_index_and_shards_is_told(write_checkpoint):
    folder = write_checkpoint("shards", {"w": W, "b": B, "c": B}, shards=[["b", "c"], ["w"]])
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    index = {"weight_map": {"b": second, "ghost": first, "w": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        open_checkpoint(folder)
    assert str(caught.value) == (
        f"'{folder}': index and shards disagree: 'b' is not in '{second}'; 'ghost' is not in '{first}'; "
        f"'c' is in '{first}' only"
    )


@pytest.mark.parametrize("content", ["[]", '{"weight_map": 3}', '{"weight_map": {"w": 3}}', "{"])
def test_an_index_that_is_none_is_refused(write_checkpoint, content):
    folder = write_checkpoint("shards", {"w": W}, shards=[["w"]])
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=r"index.json' (has no 'weight_map'|is no JSON)"):
        open_checkpoint(folder)


def test_a_tensor_in_two_files_is_refused(write_checkpoint, write_safetensors):
    folder = write_checkpoint("shards", {"w": W, "b": B}, shards=[["b"], ["w"]], index=False)
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"w": W})
    with pytest.raises(FormatError, match=r"'w' is both in 'model-00001-of-00002.safetensors' and"):
        open_checkpoint(folder)


def test_a_stale_single_file_beside_an_index_is_refused(write_checkpoint, write_safetensors):
    folder = write_checkpoint("shards", {"w": W, "b": B}, shards=[["b"], ["w"]])
    write_safetensors(folder / "model.safetensors", {"w": W, "b": B})
    with pytest.raises(FormatError, match=r"one of them is stale"):
        open_checkpoint(folder)


def test_a_folder_of_pickles_says_how_to_convert_them(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"only pytorch_model.bin: convert it with `model-merge convert`"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_object_is_refused(write_checkpoint, content):
    folder = write_checkpoint("one", {"w": W})
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=r"config.json' is no JSON"):
        open_checkpoint(folder)


HUB = """
import sys
from model_merge.checkpoint import open_checkpoint
for reference in sys.argv[1:]:
    try:
        print(list(open_checkpoint(reference).tensors))
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_a_repository_of_the_hub_is_opened_from_its_cache(write_checkpoint, tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    repository = tmp_path / "hub" / "models--owner--name"
    for folder, revision, name in (("", "a" * 40, "w"), ("step5", "b" * 40, "v")):
        snapshot = repository / "snapshots" / revision / folder
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(f"from-{name}", {name: W}, config={"name": name}).rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    (repository / "refs" / "early").write_text("b" * 40, encoding="utf-8")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    references = ["owner/name", "owner/name@early:step5", "owner/other"]
    command = [sys.executable, "-c", HUB, *references]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    one, two, missing = ended.stdout.splitlines()
    assert (one, two) == ("['w']", "['v']")
    assert missing.startswith(
        "FileNotFoundError: no folder 'owner/other' on this disk, and none from the hub: "
    )
