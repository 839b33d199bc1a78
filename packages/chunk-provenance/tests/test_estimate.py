import json
import shutil
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import estimate, open_store, sources
from chunk_provenance.estimate import Estimate, check_room, sample_source
from chunk_provenance.sources import find_sources


@pytest.fixture
def inputs(tmp_path, tokenizer_json):
    """Two files of the same kind of documents, one a third of the other."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, rows in {"a.jsonl": 600, "b.jsonl": 200}.items():
        lines = [
            json.dumps({"id": f"{name}{i:03}", "text": f"Ada met Bob {i:03} times. " * 5})
            for i in range(rows)
        ]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "t.json").write_text(tokenizer_json, encoding="utf-8")
    return tmp_path


def run_build(run_cli, inputs, *options):
    arguments = ["build", str(inputs / "docs"), str(inputs / "store"), "--tokenizer", str(inputs / "t.json")]
    return run_cli(*arguments, *options)


def test_a_dry_run_tells_what_the_build_then_takes(inputs, run_cli, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLE_BYTES", 20_000)
    code, out, err = run_build(run_cli, inputs, "--dry-run", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert sorted(path.name for path in inputs.iterdir()) == ["docs", "t.json"]
    run_build(run_cli, inputs)
    store = open_store(inputs / "store")
    size = sum(path.stat().st_size for path in (inputs / "store").iterdir())
    assert told["documents"] == pytest.approx(800, rel=0.02)
    assert told["tokens"] == pytest.approx(store.meta["num_tokens"], rel=0.05)
    assert told["chunks"] == pytest.approx(store.num_chunks, rel=0.05)
    assert size < told["store_bytes"] < 5 * size  # small Parquet files are mostly schema
    assert told["seconds"] > 0
    assert told["memory_bytes"] > 10_000_000


def test_a_dry_run_prints_a_table(inputs, run_cli):
    _, out, _ = run_build(run_cli, inputs, "--dry-run")
    assert "from a sample" in out
    assert "disk for its parts, meanwhile" in out


def test_too_little_disk_is_refused_before_the_work(inputs, run_cli, monkeypatch):
    from chunk_provenance import build_command

    monkeypatch.setattr(build_command, "PIECE_BYTES", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    code, _, err = run_build(run_cli, inputs)
    assert code == 2
    assert err.startswith("error: the build needs about 0.0 GB of disk in ")
    assert sorted(path.name for path in inputs.iterdir()) == ["docs", "t.json"]


def test_too_little_memory_is_refused(tmp_path, monkeypatch):
    wanted = Estimate(1, 1, 1, 1, 0, 0, memory_bytes=8_000_000_000, seconds=1.0)
    monkeypatch.setattr(estimate, "available_memory", lambda: 4_000_000_000)
    with pytest.raises(OSError, match=r"about 8.0 GB of memory, 4.0 GB are available: use fewer --processes"):
        check_room(wanted, tmp_path)
    monkeypatch.setattr(estimate, "available_memory", lambda: None)  # the system does not say
    check_room(wanted, tmp_path)


def test_a_sample_is_the_start_of_its_source(inputs, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLE_BYTES", 1000)
    (source, _) = find_sources(str(inputs / "docs"))
    sample, share = sample_source(source, inputs)
    assert sample.path is not None
    lines = (inputs / "docs" / "a.jsonl").read_bytes()
    with sample.open() as file:
        start = file.read()
    assert lines.startswith(start)
    assert start.endswith(b"\n")
    assert share == len(start) / len(lines)


def test_a_sample_of_parquet_is_its_first_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLE_ROWS", 10)
    table = pa.table({"id": list(range(40)), "text": ["x"] * 40})
    pq.write_table(table, tmp_path / "d.parquet")
    (source,) = find_sources(str(tmp_path / "d.parquet"))
    (tmp_path / "s").mkdir()
    sample, share = sample_source(source, tmp_path / "s")
    assert (pq.read_table(sample.path), share) == (table.slice(0, 10), 0.25)
    assert sources.find_pieces([sample])[0].source.name == "d.parquet"
