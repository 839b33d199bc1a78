import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from model_merge import execute as executing
from model_merge.checkpoint import open_checkpoint
from model_merge.execute import DiskFullError, execute
from model_merge.expression import Leaf, average
from model_merge.linear import plan_linear

RNG = np.random.default_rng(9)
CONFIG = {"model_type": "tiny", "torch_dtype": "float32", "hidden_size": 8}


@pytest.fixture
def pair(write_checkpoint):
    shards = [["a", "b"], ["c"]]
    tensors = [{name: RNG.standard_normal((50, 40)).astype(np.float32) for name in "abc"} for _ in range(2)]
    return [
        write_checkpoint("one", tensors[0], shards=shards, config=CONFIG),
        write_checkpoint("two", tensors[1], config=CONFIG),
    ]


def plan(pair, **options):
    return plan_linear(average([Leaf(str(folder)) for folder in pair]), **options)


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_cut_as_those_of_the_first_model(pair, tmp_path, load_tensors):
    execute(plan(pair), tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    assert {name: info.file.name for name, info in opened.tensors.items()} == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    one, two, found = (load_tensors(folder) for folder in (*pair, tmp_path / "out"))
    middle = {name: ((one[name].astype(np.float64) + two[name]) / 2).astype(np.float32) for name in "abc"}
    assert all(np.array_equal(found[name], middle[name]) for name in "abc")


def test_the_other_order_gives_a_single_file(pair, tmp_path):
    execute(plan(pair[::-1]), tmp_path / "out")
    assert sorted(content_of(tmp_path / "out")) == ["config.json", "merge.json", "model.safetensors"]


def test_shards_are_no_larger_than_wanted(pair, tmp_path):
    execute(plan(pair), tmp_path / "out", max_shard_bytes=8100)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(content_of(tmp_path / "out")) == [
        "config.json",
        "merge.json",
        *names,
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index == {
        "metadata": {"total_size": 24000},
        "weight_map": dict(zip("abc", names, strict=True)),
    }


def test_config_and_tokenizer_come_from_the_donor_with_the_new_dtype(pair, tmp_path):
    (pair[1] / "tokenizer.json").write_text('{"model": {"vocab": {}}}', encoding="utf-8")
    (pair[1] / "optimizer.pt").write_bytes(b"no")
    execute(plan(pair, dtype="BF16", donor=str(pair[1])), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8")) == CONFIG | {
        "torch_dtype": "bfloat16"
    }
    assert "tokenizer.json" in content_of(tmp_path / "out")
    assert "optimizer.pt" not in content_of(tmp_path / "out")


def test_the_same_merge_gives_the_same_bytes(pair, tmp_path):
    execute(plan(pair), tmp_path / "out")
    execute(plan(pair), tmp_path / "again", sha256=False)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "again")


def test_an_existing_folder_is_refused_and_with_overwrite_replaced_as_a_whole(pair, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model-00007-of-00009.safetensors").write_bytes(b"stale")
    with pytest.raises(
        FileExistsError, match=r"out' exists: remove it, choose another place or give --overwrite"
    ):
        execute(plan(pair), out)
    execute(plan(pair), out, overwrite=True)
    execute(plan(pair), tmp_path / "new")
    assert content_of(out) == content_of(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "one", "out", "two"]


def test_an_empty_folder_may_become_the_output(pair, tmp_path):
    (tmp_path / "out").mkdir()
    execute(plan(pair), tmp_path / "out")
    assert "merge.json" in content_of(tmp_path / "out")


KILLED = """
import os, signal, sys
from model_merge.execute import execute
from model_merge.expression import Leaf, average
from model_merge.linear import plan_linear

def die(written):
    if written > 9000:
        os.kill(os.getpid(), signal.SIGKILL)

plan = plan_linear(average([Leaf(sys.argv[1]), Leaf(sys.argv[2])]))
execute(plan, sys.argv[3], threads=1, chunk_elements=400, sync_bytes=1600, progress=die)
"""


def test_a_killed_merge_continues_where_it_was(pair, tmp_path):
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", KILLED, *map(str, pair), str(out)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    (unfinished,) = tmp_path.glob("out.partial-*")
    (unfinished / "stale.json").write_text("left by an earlier version", encoding="utf-8")
    written = []
    execute(plan(pair), out, threads=1, chunk_elements=400, progress=written.append)
    assert written == list(range(written[0], 24001, 1600))
    assert 8000 <= written[0] <= 12000
    execute(plan(pair), tmp_path / "whole")
    assert content_of(out) == content_of(tmp_path / "whole")
    assert not list(tmp_path.glob("out.partial-*"))


def test_a_changed_input_does_not_continue_an_old_merge(pair, tmp_path, write_safetensors, load_tensors):
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", KILLED, *map(str, pair), str(out)], check=False)
    write_safetensors(pair[1] / "model.safetensors", load_tensors(pair[0]))
    execute(plan(pair), out, chunk_elements=400)
    assert all(
        np.array_equal(load_tensors(out)[name], tensor) for name, tensor in load_tensors(pair[0]).items()
    )


def test_a_torn_journal_is_read_up_to_its_last_whole_entry(tmp_path):
    from model_merge.journal import Journal

    journal = Journal(tmp_path, "id")
    journal.append([3, 1])
    journal.close()
    with (tmp_path / "journal").open("ab") as file:
        file.write(b"\x07\x00")
    again = Journal(tmp_path, "id")
    assert again.finished == {1, 3}
    again.append([7])
    again.close()
    third = Journal(tmp_path, "id")
    assert third.finished == {1, 3, 7}
    third.close()
    other = Journal(tmp_path, "another")
    assert other.finished == set()
    other.close()


def test_two_processes_do_not_write_the_same_merge(tmp_path):
    from model_merge.journal import Journal

    journal = Journal(tmp_path, "id")
    with pytest.raises(ValueError, match="is being written by another process: wait or end it"):
        Journal(tmp_path, "id")
    journal.close()


def test_an_input_that_changes_meanwhile_is_noticed(pair, tmp_path):
    def touch(written):
        os.utime(pair[0] / "model-00002-of-00002.safetensors", ns=(1, written))

    with pytest.raises(ValueError, match="an input was changed while it was merged: start again"):
        execute(plan(pair), tmp_path / "out", progress=touch)
    assert not (tmp_path / "out").exists()


FULL = """
import resource, signal, sys
from model_merge.execute import execute
from model_merge.expression import Leaf, average
from model_merge.linear import plan_linear

resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
plan = plan_linear(average([Leaf(sys.argv[2]), Leaf(sys.argv[1])]))
try:
    execute(plan, sys.argv[3], threads=1, chunk_elements=400, sync_bytes=1600)
except OSError as error:
    sys.exit(str(error))
"""


def test_a_disk_that_fills_up_half_way_leaves_nothing_under_the_final_name(pair, tmp_path):
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, pair), str(out)], check=False, capture_output=True, text=True
    )
    (unfinished,) = tmp_path.glob("out.partial-*")
    total = 24000 + 8 + int.from_bytes((unfinished / "model.safetensors").read_bytes()[:8], "little")
    assert ended.stderr.strip() == (
        f"no room for '{out}', which takes {total:,} bytes: File too large. Nothing is under that name; "
        f"what is finished stays in '{unfinished}', and the same command continues it"
    )
    assert not out.exists()
    written = []
    execute(plan(pair[::-1]), out, threads=1, chunk_elements=400, progress=written.append)
    assert written[0] > 1600
    execute(plan(pair[::-1]), tmp_path / "whole")
    assert content_of(out) == content_of(tmp_path / "whole")


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(pair, tmp_path, monkeypatch):
    usage = executing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(executing.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = r"no room for .*out', which takes 24,\d+ bytes: 24,\d+ more are needed and 1,000 are free"
    with pytest.raises(DiskFullError, match=message):
        execute(plan(pair), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_memory_depends_neither_on_the_size_nor_on_the_number_of_inputs(tmp_path, write_checkpoint):
    elements = 1 << 24  # 32 MB each, 256 MB of inputs and 64 MB in F32 of any whole tensor
    weights = np.resize(RNG.standard_normal(4096), elements).astype(ml_dtypes.bfloat16)
    folder = write_checkpoint("large", {"w": weights})
    folders = [folder]
    for number in range(7):
        linked = tmp_path / f"linked{number}"
        linked.mkdir()
        os.link(folder / "model.safetensors", linked / "model.safetensors")
        folders.append(linked)
    code = (
        "import resource, sys\n"
        "from model_merge.execute import execute\n"
        "from model_merge.expression import Leaf, average\n"
        "from model_merge.linear import plan_linear\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "execute(plan_linear(average(list(map(Leaf, sys.argv[2:])))), sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *map(str, folders)]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 40_000
    assert Path(tmp_path / "out" / "model.safetensors").read_bytes()[-100:] == weights.tobytes()[-100:]


def test_merge_json_says_what_went_in(pair, tmp_path):
    from hashlib import sha256

    content = execute(plan(pair), tmp_path / "out", sha256=True)
    assert json.loads((tmp_path / "out" / "merge.json").read_text(encoding="utf-8")) == content
    two = pair[1] / "model.safetensors"
    (described,) = content["inputs"][1]["files"]
    assert described["sha256"] == sha256(two.read_bytes()).hexdigest()
    assert described["size"] == two.stat().st_size
    assert content["expression"]["weights"] == {
        "divisor": 2.0,
        "models": [{"model": str(folder), "weight": 1.0} for folder in pair],
    }
    assert (content["tensors"], content["parameters"]) == (3, 6000)


def test_merge_json_says_what_the_inputs_were_trained_on(pair, tmp_path):
    from hashlib import sha256

    run, macro = tmp_path / "run", tmp_path / "macro"
    (run / "order").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    (run / "order" / "order.json").write_text('{"store_sha256": "abc"}', encoding="utf-8")
    (run / "order" / "ids.npy").write_bytes(b"ids")
    pair[0].rename(run / "step10")
    first = execute(plan([run / "step10", pair[1]]), tmp_path / "out")
    hashes = {path.name: sha256(path.read_bytes()).hexdigest() for path in (run / "order").iterdir()}
    listed = f"ids.npy {hashes['ids.npy']}\norder.json {hashes['order.json']}\n"
    assert [one["training"] for one in first["inputs"]] == [
        {
            "step": "step10",
            "config_file_sha256": sha256(b"seed: 1\n").hexdigest(),
            "order_sha256": sha256(listed.encode()).hexdigest(),
            "store_sha256": "abc",
        },
        None,
    ]
    second = execute(plan([tmp_path / "out", pair[1]]), macro)
    assert second["inputs"][0]["training"] == {"merge": first["expression"]}


def test_errors_of_the_disk_that_are_no_lack_of_room_are_not_disguised(pair, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(executing, "_sync_folder", fail)
    with pytest.raises(OSError, match="Input/output error"):
        execute(plan(pair), tmp_path / "out")


def test_a_small_disk_that_another_program_fills_leaves_nothing_under_the_final_name(pair, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs the rights of an administrator")
    try:

        def fill(written):
            with suppress(OSError):
                (disk / "other").write_bytes(bytes(64 << 10))

        with pytest.raises(DiskFullError, match=r"No space left on device. Nothing is under that name"):
            execute(plan(pair), disk / "out", threads=1, chunk_elements=400, sync_bytes=1600, progress=fill)
        assert sorted(path.name.partition("-")[0] for path in disk.iterdir()) == ["other", "out.partial"]
        (disk / "other").unlink()
        execute(plan(pair), disk / "out", chunk_elements=400)
        execute(plan(pair), tmp_path / "whole")
        assert content_of(disk / "out") == content_of(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
