"""What a build will take is told before it is taken, and refused where it is not there."""

import os
from collections import namedtuple

import numpy as np
import pytest

from chunk_provenance import open_store
from entity_index import build_index
from entity_index.build import estimate_from
from entity_index.estimate import size_of
from entity_index.inputs import store_input

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def store(make_store, row):
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(2000)]
    texts = [" ".join(rng.choice(words, 60)) for _ in range(4000)]
    chunks = np.sort(rng.integers(4000, size=20_000)).tolist()
    entities = [f"Q{number}" for number in rng.zipf(1.3, 20_000) % 5000]
    scores = (rng.integers(0, 101, 20_000) / 100).tolist()
    rows = [
        row(chunk, 0, 4, entity, name=f"Name of {entity}", coref=score)
        for chunk, entity, score in zip(chunks, entities, scores, strict=True)
    ]
    return make_store(texts, rows)


def test_disk_and_counts_are_near_what_the_build_takes(store, tmp_path, monkeypatch):
    monkeypatch.setattr("entity_index.estimate.SAMPLE_ROWS", 5000)
    monkeypatch.setattr("entity_index.estimate.SAMPLE_CHUNKS", 1000)
    estimate = estimate_from(store_input(open_store(store.path)), "1GB")
    build_index(store.path, tmp_path / "index")
    taken = size_of(tmp_path / "index" / "text") + sum(
        file.stat().st_size for file in (tmp_path / "index").iterdir() if file.is_file()
    )
    assert (estimate.chunks, estimate.mentions) == (4000, 20_000)
    assert 0.8 * taken < estimate.index_bytes < 1.5 * taken
    assert estimate.parts_bytes > 0
    assert estimate.memory_bytes > 1e9
    assert estimate.seconds > 0


def test_too_little_disk_is_refused_before_anything_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setattr("entity_index.build.LARGE", 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 100_000))
    with pytest.raises(OSError, match=r"needs about 0\.0 GB of disk in .* GB are free"):
        build_index(store.path, tmp_path / "index")
    assert [name for name in os.listdir(tmp_path) if name.startswith("index")] == []


@pytest.mark.parametrize("free", [399_999_999, 400_000_000])
def test_where_there_is_plenty_of_disk_nothing_is_measured_first(store, tmp_path, monkeypatch, free):
    asked = []
    monkeypatch.setattr("entity_index.build.LARGE", 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, free))
    monkeypatch.setattr("entity_index.build.check_room", lambda estimate, folder: asked.append(estimate))
    build_index(store.path, tmp_path / "index")
    assert len(asked) == (free < 4000 * 100_000)


def test_too_little_memory_is_refused_before_anything_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setattr("entity_index.build.LARGE", 1000)
    monkeypatch.setattr("entity_index.estimate.available_memory", lambda: 10**9)
    with pytest.raises(OSError, match=r"needs about 1\.5 GB of memory, 1\.0 GB are available: .* --memory"):
        build_index(store.path, tmp_path / "index", memory="1GB")
    assert [name for name in os.listdir(tmp_path) if name.startswith("index")] == []


def test_a_store_without_anything_takes_nothing(make_store):
    estimate = estimate_from(store_input(open_store(make_store([]).path)), "1GB")
    assert (estimate.chunks, estimate.mentions) == (0, 0)
