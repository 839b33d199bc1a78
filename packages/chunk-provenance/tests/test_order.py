import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import (
    DataOrder,
    FormatError,
    batch_digest,
    check_buckets,
    check_store,
    compute_order,
    load_order,
    save_order,
)

BUCKETS = np.array([8, 4, 4, 8, 4, 8, 4, 4, 8, 8, 4, 4, 4], dtype=np.int32)  # 8 of 4, 5 of 8
GOLDEN = Path(__file__).parent / "golden" / "order"


def compute_slowly(buckets, *, batch_tokens, seed, epochs):
    """The rule of order.py: a queue of chunks for each bucket, and updates taken off its front."""
    queues = {size: [] for size in sorted(set(buckets.tolist()))}
    updates = []
    for epoch in range(epochs):
        of_epoch = []
        for size, queue in queues.items():
            ids = [chunk for chunk, bucket in enumerate(buckets) if bucket == size]
            permuted = np.random.default_rng([seed, epoch, size]).permutation(ids).tolist()
            left = list(queue)
            queue += [chunk for chunk in permuted if chunk not in left]
            queue += [chunk for chunk in permuted if chunk in left]
            while len(queue) >= batch_tokens // size:
                of_epoch.append([queue.pop(0) for _ in range(batch_tokens // size)])
        for i in np.random.default_rng([seed, epoch, 0]).permutation(len(of_epoch)):
            updates.append(of_epoch[i])
    return updates


def batches(order):
    return [order.batch(update).tolist() for update in range(1, order.num_updates + 1)]


@st.composite
def trainable(draw):
    """Buckets that all fill an update of 16 tokens."""
    counts = {size: draw(st.sampled_from([0, *range(16 // size, 30)])) for size in (2, 4, 8, 16)}
    buckets = [size for size, count in counts.items() for _ in range(count)] or [16]
    return np.array(draw(st.permutations(buckets)), dtype=np.int32)


@given(trainable(), st.integers(0, 5), st.integers(1, 4))
def test_the_order_equals_its_slow_twin(buckets, seed, epochs):
    order = compute_order(buckets, batch_tokens=16, seed=seed, epochs=epochs)
    assert batches(order) == compute_slowly(buckets, batch_tokens=16, seed=seed, epochs=epochs)


@given(trainable(), st.integers(0, 5), st.integers(1, 6))
def test_every_chunk_is_seen_equally_often_give_or_take_one(buckets, seed, epochs):
    order = compute_order(buckets, batch_tokens=16, seed=seed, epochs=epochs)
    seen = np.bincount(order.ids, minlength=len(buckets))
    assert set(seen.tolist()) <= {epochs, epochs - 1}
    for batch in batches(order):
        assert len(set(batch)) == len(batch)
        assert len(batch) * buckets[batch[0]] == 16
        assert len({int(buckets[chunk]) for chunk in batch}) == 1


def test_the_order_is_a_function_of_its_arguments():
    first = compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=2)
    assert batches(first) == batches(compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=2))
    assert batches(first) != batches(compute_order(BUCKETS, batch_tokens=16, seed=4, epochs=2))


def test_a_number_of_updates_is_the_start_of_the_same_order():
    whole = compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=3)
    for updates in (1, 5, whole.num_updates):
        order = compute_order(BUCKETS, batch_tokens=16, seed=3, updates=updates)
        assert batches(order) == batches(whole)[:updates]
    assert order.epoch_starts.tolist() == whole.epoch_starts.tolist()


def test_steps_batches_and_epochs_count_from_one():
    order = DataOrder(np.array([0, 2, 4, 5]), np.array([5, 0, -1, 5, 0]), np.array([0, 2]))
    assert order.batch(1).tolist() == [5, 0]
    assert order.seen_by(0).tolist() == []
    assert order.seen_by(2).tolist() == [5, 0, -1, 5]
    assert [order.epoch_of(update) for update in (1, 2, 3)] == [1, 1, 2]
    assert order.steps_of(5).tolist() == [1, 2]
    assert order.steps_of(0).tolist() == [1, 3]
    assert order.steps_of(-1).tolist() == [2]
    assert order.steps_of(7).tolist() == []
    for update in (0, 4):
        with pytest.raises(ValueError, match="the order has updates 1 to 3"):
            order.batch(update)
    with pytest.raises(ValueError, match="the order has steps 0 to 3"):
        order.seen_by(4)


@given(trainable(), st.integers(1, 3))
def test_steps_of_a_chunk_are_the_updates_whose_batch_holds_it(buckets, epochs):
    order = compute_order(buckets, batch_tokens=16, seed=0, epochs=epochs)
    for chunk in range(len(buckets)):
        assert order.steps_of(chunk).tolist() == [
            update for update, batch in enumerate(batches(order), start=1) if chunk in batch
        ]


def test_an_order_reads_back_and_is_written_alike(tmp_path):
    masked = pa.table({"update": [2], "chunk_id": [3]})
    order = compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=2)
    order = DataOrder(
        order.offsets, order.ids, order.epoch_starts, {**order.info, "store_sha256": "ab"}, masked
    )
    save_order(order, tmp_path / "order")
    found = load_order(tmp_path / "order")
    assert batches(found) == batches(order)
    assert (found.info, found.epoch_starts.tolist()) == (order.info, order.epoch_starts.tolist())
    assert found.masked.to_pylist() == masked.to_pylist()
    save_order(found, tmp_path / "again")
    for file in sorted((tmp_path / "order").iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_an_order_is_overwritten_only_when_told_to_and_nothing_else_is(tmp_path):
    order = compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=1)
    save_order(order, tmp_path / "order")
    with pytest.raises(FileExistsError, match="exists"):
        save_order(order, tmp_path / "order")
    save_order(compute_order(BUCKETS, batch_tokens=16, seed=4, epochs=1), tmp_path / "order", overwrite=True)
    assert load_order(tmp_path / "order").info["seed"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="exists"):
        save_order(order, tmp_path / "mine", overwrite=True)


def test_what_is_no_order_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data order"):
        load_order(tmp_path)
    save_order(compute_order(BUCKETS, batch_tokens=16, seed=3, epochs=1), tmp_path / "order")
    np.save(tmp_path / "order" / "ids.npy", np.array([1]))
    with pytest.raises(FormatError, match="is damaged"):
        load_order(tmp_path / "order")
    header = tmp_path / "order" / "order.json"
    header.write_text(
        header.read_text(encoding="utf-8").replace('"version": 1', '"version": 2'), encoding="utf-8"
    )
    with pytest.raises(FormatError, match="data-order version 2, this release reads 1"):
        load_order(tmp_path / "order")


def test_an_order_of_another_store_is_refused():
    order = DataOrder(np.array([0]), np.array([]), np.array([]), {"store_sha256": "a" * 64})
    check_store(order, "a" * 64)
    with pytest.raises(
        FormatError, match="belongs to the chunk store aaaaaaaaaaaa, this one is bbbbbbbbbbbb"
    ):
        check_store(order, "b" * 64)


def test_exactly_one_of_epochs_and_updates_is_needed():
    with pytest.raises(ValueError, match="either epochs or updates"):
        compute_order(BUCKETS, batch_tokens=16, seed=0)
    with pytest.raises(ValueError, match="either epochs or updates"):
        compute_order(BUCKETS, batch_tokens=16, seed=0, epochs=1, updates=1)


@pytest.mark.parametrize(
    ("sizes", "batch_tokens", "message"),
    [
        ({4: 8}, 0, "--batch-tokens 0 must be at least the largest chunk length"),
        ({4: 8}, 6, "--batch-tokens 6 is not a multiple of the chunk lengths [4]"),
        ({4: 1, 8: 9}, 16, "(length 4: 1 chunk, an update takes 4): build the store with --min-length 8"),
        (
            {4: 9, 8: 1},
            16,
            (
                "build the store with --max-length 4 or --min-length 8, or use --batch-tokens 8 or a smaller "
                "multiple of 8"
            ),
        ),
        ({8: 1}, 16, "use --batch-tokens 8 or a smaller multiple of 8"),
        ({4: 1, 16: 1}, 64, "build the store with a smaller --max-length"),
    ],
)
def test_buckets_that_could_never_be_trained_are_refused_with_sizes_that_work(sizes, batch_tokens, message):
    with pytest.raises(ValueError, match="batch-tokens") as refused:
        check_buckets(sizes, batch_tokens=batch_tokens)
    assert str(refused.value).endswith(message)


def test_the_digest_is_that_of_little_endian_int64():
    content = bytes([3, *[0] * 7, 1, *[0] * 7, 2, *[0] * 7])
    expected = hashlib.sha256(content).hexdigest()[:16]
    assert batch_digest(np.array([3, 1, 2])) == expected
    assert batch_digest(np.array([3, 1, 2], dtype=np.int32)[::1]) == expected


def test_the_golden_order_never_changes(tmp_path):
    """golden/README.md says how it was made; published orders must stay computable."""
    golden = load_order(GOLDEN)
    assert batches(golden) == compute_slowly(BUCKETS, batch_tokens=16, seed=7, epochs=2)
    computed = compute_order(BUCKETS, batch_tokens=16, seed=7, epochs=2)
    save_order(computed, tmp_path / "order")
    for file in ("order.json", "ids.npy", "offsets.npy"):
        assert (tmp_path / "order" / file).read_bytes() == (GOLDEN / file).read_bytes()
    assert json.loads((GOLDEN / "order.json").read_text(encoding="utf-8"))["version"] == 1
