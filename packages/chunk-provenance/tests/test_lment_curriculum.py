"""LMEnt's buckets and order of updates against its own output, and against a queue that is worked off."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chunk_provenance.lment import (
    Curriculum,
    bucket_members,
    compute_curriculum_order,
    find_buckets,
    fingerprint,
    instance_lengths,
    order_of_batches,
    rank_slice,
)
from chunk_provenance.lment.buckets import check_retained, count_retained
from chunk_provenance.lment.curriculum import count_batches, share_out, subcycle_weights

FOLDER = Path(__file__).parent / "golden" / "lment_data" / "vsl"
GOLDEN = np.load(FOLDER / "kas_vsl.npz")
RECORD = json.loads((FOLDER / "kas_vsl.json").read_text(encoding="utf-8"))
CURRICULA = json.loads((FOLDER / "curriculum.json").read_text(encoding="utf-8"))
NAMES = {
    "VSLGrowP2Curriculum": "grow_p2",
    "VSLGrowLinearCurriculum": "grow_linear",
    "VSLNaturalCurriculum": "natural",
}
LIMITS = {"min_length": 8, "max_length": 64}


@pytest.fixture(scope="module")
def members():
    """The golden corpus' chunks by bucket, found from their places."""
    lengths = GOLDEN["chunks"][:, 2] - GOLDEN["chunks"][:, 1]
    return bucket_members(find_buckets(lengths, **LIMITS), **LIMITS)


def golden_order(members, **asked):
    return compute_curriculum_order(members, Curriculum(), batch_tokens=128, seed=0, **asked)


def batches(order):
    return [order.batch(update).tolist() for update in range(1, order.num_updates + 1)]


def test_golden_lengths_and_buckets_are_found(members):
    chunks = GOLDEN["chunks"]
    lengths = instance_lengths(chunks[:, 1], chunks[:, 2], max_length=64)
    assert lengths.dtype == np.uint8
    assert np.array_equal(lengths, GOLDEN["instance_lengths"])
    assert {size: ids.tolist() for size, ids in members.items()} == {
        size: GOLDEN[f"bucket{size}"].tolist() for size in (8, 16, 32, 64)
    }
    assert [[size, len(ids)] for size, ids in members.items()] == RECORD["instances_per_bucket"]
    assert len(chunks) - sum(map(len, members.values())) == 7


def test_golden_batches_of_both_epochs_are_found(members):
    order = golden_order(members, epochs=2)
    assert batches(order) == RECORD["batch_indices"]["1"] + RECORD["batch_indices"]["2"]
    assert order.epoch_starts.tolist() == [0, 536]


def test_golden_permutations_and_batch_numbers_are_found(members):
    sizes = {size: len(ids) for size, ids in members.items()}
    numbers = count_batches(sizes, Curriculum(), batch_tokens=128)
    assert [list(pair) for pair in numbers.items()] == RECORD["batches_per_bucket"]
    for epoch in (1, 2):
        assert np.array_equal(
            order_of_batches(numbers, Curriculum(), seed=epoch), GOLDEN[f"global_batch_indices_epoch{epoch}"]
        )
        for size, ids in members.items():
            permuted = np.random.Generator(np.random.PCG64(0 + epoch + size)).permutation(ids)
            assert np.array_equal(permuted, GOLDEN[f"instance_perm_bucket{size}_epoch{epoch}"])


def test_golden_slices_of_two_ranks_are_found(members):
    order = golden_order(members, epochs=1)
    for rank in (0, 1):
        found = [
            rank_slice(order.batch(update), rank=rank, world_size=2).tolist()
            for update in range(1, order.num_updates + 1)
        ]
        assert found == RECORD["rank_batch_indices_world2"][rank]


def test_the_golden_fingerprint_is_found():
    files = [(f"part-{part}-00000.npy", GOLDEN[f"tokens_part{part}"].nbytes) for part in (0, 1)]
    assert fingerprint(files, **LIMITS, pad_id=0, eos_id=1) == RECORD["fingerprint"]


@pytest.mark.parametrize("golden", CURRICULA["orders"], ids=lambda golden: golden["name"])
def test_all_nine_golden_curricula_are_found(golden):
    curriculum = Curriculum(NAMES[golden["curriculum"]], golden.get("num_cycles", 8))
    found = order_of_batches(dict(golden["batches_per_bucket"]), curriculum, seed=golden["rng_seed"])
    assert found.tolist() == golden["order"]


@pytest.mark.parametrize("name", [name for name in CURRICULA if name.endswith("_buckets") and "odds" in name])
def test_golden_weights_are_found(name):
    curriculum, number = name.split("_odds_")
    weights = CURRICULA[name]
    assert number == f"{len(weights)}_buckets"
    assert [subcycle_weights(i, len(weights), curriculum) for i in range(len(weights))] == weights


def test_golden_shares_are_found():
    for name, shares in CURRICULA["num_batches_split"].items():
        bucket, number = name.removeprefix("bucket").split("_of6_n")
        assert share_out(int(number), subcycle_weights(int(bucket), 6, "grow_p2")) == shares


@pytest.mark.parametrize("batch_tokens", [32768, 8192, 2048])
def test_golden_numbers_of_batches_are_found(batch_tokens):
    sizes = dict(CURRICULA["fake_instances_per_bucket"])
    for ending, curriculum in {
        "balancedFalse": Curriculum(),
        "balancedTrue": Curriculum(balanced=True),
        "natural": Curriculum("natural"),
    }.items():
        expected = CURRICULA[f"batches_per_bucket_gbs{batch_tokens}_{ending}"]
        found = count_batches(sizes, curriculum, batch_tokens=batch_tokens)
        assert [list(pair) for pair in found.items()] == expected


def order_slowly(members, curriculum, *, batch_tokens, seed, epochs):
    """Section 2.2 of the rule with lists that are worked off, one update at a time."""
    updates = []
    for epoch in range(1, epochs + 1):
        rng = np.random.Generator(np.random.PCG64(seed + epoch))
        numbered, waiting = [], []
        for size, ids in members.items():
            rows = batch_tokens // size
            shuffled = np.random.Generator(np.random.PCG64(seed + epoch + size)).permutation(ids).tolist()
            usable = len(ids) // rows
            if curriculum.balanced:
                usable = min(len(others) // (batch_tokens // length) for length, others in members.items())
            if curriculum.name != "natural":
                usable -= usable % curriculum.num_cycles
            waiting.append(list(range(len(numbered), len(numbered) + usable)))
            numbered += [shuffled[k * rows : (k + 1) * rows] for k in range(usable)]
        long = set(waiting[-1])
        order = []
        if curriculum.name == "natural":
            order = list(range(len(numbered)))
            place = rng.integers(min(long), len(numbered))
            order[0], order[place] = order[place], order[0]
            rest = np.array(order[1:])
            rng.shuffle(rest)
            order[1:] = rest.tolist()
        else:
            of_cycle = [len(numbers) // curriculum.num_cycles for numbers in waiting]
            for _ in range(curriculum.num_cycles):
                cycle = [
                    [numbers.pop(0) for _ in range(n)] for numbers, n in zip(waiting, of_cycle, strict=True)
                ]
                for j in range(len(waiting)):
                    mixed = []
                    for b, numbers in enumerate(cycle):
                        weights = subcycle_weights(b, len(waiting), curriculum.name)
                        take = round(weights[j] / sum(weights) * of_cycle[b])
                        if j == len(waiting) - 1:
                            take = len(numbers)
                        mixed += [numbers.pop(0) for _ in range(take)]
                    mixed = np.array(mixed, dtype=np.uint32)
                    rng.shuffle(mixed)
                    order += mixed.tolist()
            place = next((i for i, number in enumerate(order) if number in long), 0)
            order[0], order[place] = order[place], order[0]
        updates += [numbered[number] for number in order]
    return updates


@st.composite
def corpora(draw):
    """Chunks of lengths 4, 8 and 16, some without a bucket; enough for at least one update of each."""
    lengths = (
        [16] * draw(st.integers(2, 20)) + [8] * draw(st.integers(4, 30)) + [4] * draw(st.integers(8, 60))
    )
    lengths += [2] * draw(st.integers(0, 3))
    buckets = find_buckets(np.array(draw(st.permutations(lengths))), min_length=4, max_length=16)
    return bucket_members(buckets, min_length=4, max_length=16)


CHOICES = st.one_of(
    st.builds(Curriculum, st.just("grow_p2"), st.integers(1, 3), st.booleans()),
    st.builds(Curriculum, st.just("natural")),
)


@given(corpora(), CHOICES, st.integers(0, 3), st.integers(1, 3))
def test_the_order_equals_its_slow_twin(members, curriculum, seed, epochs):
    sizes = {size: len(ids) for size, ids in members.items()}
    assume(sum(count_batches(sizes, curriculum, batch_tokens=32).values()))
    asked = {"batch_tokens": 32, "seed": seed, "epochs": epochs}
    order = compute_curriculum_order(members, curriculum, **asked)
    assert batches(order) == order_slowly(members, curriculum, **asked)


def test_no_chunk_is_seen_twice_in_an_epoch_and_updates_are_of_one_bucket(members):
    order = golden_order(members, epochs=1)
    assert np.bincount(order.ids).max() == 1
    bucket = {int(chunk): size for size, ids in members.items() for chunk in ids}
    for batch in batches(order):
        sizes = {bucket[chunk] for chunk in batch}
        assert [len(batch) * size for size in sizes] == [128]


def test_a_number_of_updates_is_the_start_of_the_same_order(members):
    whole = batches(golden_order(members, epochs=2))
    for updates in (1, 535, 536, 537):
        order = golden_order(members, updates=updates)
        assert batches(order) == whole[:updates]
        assert order.epoch_starts.tolist() == [0, 536][: 1 + (updates > 536)]


def test_every_number_of_cycles_trains_what_it_can_share_out(members):
    for cycles in (1, 2, 3, 5, 16):
        order = compute_curriculum_order(
            members, Curriculum(num_cycles=cycles), batch_tokens=128, seed=0, epochs=1
        )
        expected = sum(len(ids) // (128 // size) // cycles * cycles for size, ids in members.items())
        assert order.num_updates == expected


def test_what_an_epoch_trains_and_leaves_out_is_counted(members):
    sizes = {size: len(ids) for size, ids in members.items()}
    rows = count_retained(members, count_batches(sizes, Curriculum(), batch_tokens=128), batch_tokens=128)
    columns = ("length", "chunks", "chunks_per_update", "updates", "trained", "left_out")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (8, 339, 16, 16, 256, 83),
        (16, 335, 8, 40, 320, 15),
        (32, 267, 4, 64, 256, 11),
        (64, 834, 2, 416, 832, 2),
    ]
    check_retained(rows, batch_tokens=128)


def test_a_bucket_that_no_update_takes_from_is_refused():
    members = {8: np.arange(100, dtype=np.uint32), 16: np.arange(7, dtype=np.uint32)}
    rows = count_retained(members, {8: 8, 16: 0}, batch_tokens=16)
    with pytest.raises(ValueError, match=r"never be trained.*\(length 16: 7 chunks, an update takes 1\)"):
        check_retained(rows, batch_tokens=16)


def test_a_bucket_without_updates_changes_the_others_nothing_as_upstream():
    order = order_of_batches({8: 4, 16: 0}, Curriculum(num_cycles=2), seed=0)
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_a_length_that_upstream_stores_as_zero_is_refused():
    for max_length in (256, 65536):
        with pytest.raises(ValueError, match=f"{max_length} becomes 0"):
            instance_lengths(np.array([0]), np.array([9]), max_length=max_length)
    assert instance_lengths(np.array([0]), np.array([512]), max_length=512).tolist() == [512]


def test_an_empty_bucket_is_refused():
    with pytest.raises(ValueError, match="no chunk belongs to the buckets of 8, 32"):
        bucket_members(np.array([0, 16], dtype=np.int32), min_length=8, max_length=32)


def test_what_the_linear_weights_cannot_share_out_is_refused():
    refused = [n for n in range(200) if sum(round(w / 21 * n) for w in (6, 5, 4, 3, 2, 1)) > n]
    assert refused  # the rounding of section 6, B12
    for number in range(200):
        if number in refused:
            with pytest.raises(ValueError, match=f"cannot share {number} updates .* take grow_p2"):
                share_out(number, [6, 5, 4, 3, 2, 1])
        else:
            assert sum(share_out(number, [6, 5, 4, 3, 2, 1])) == number


@given(st.integers(1, 12), st.integers(0, 5000), st.data())
def test_the_weights_of_grow_p2_share_out_any_number(num_buckets, number, data):
    bucket = data.draw(st.integers(0, num_buckets - 1))
    assert sum(share_out(number, subcycle_weights(bucket, num_buckets, "grow_p2"))) == number


@pytest.mark.parametrize(
    ("curriculum", "batch_tokens", "message"),
    [
        (Curriculum(num_cycles=0), 16, "--cycles 0 must be at least 1"),
        (Curriculum("natural", balanced=True), 16, "--balanced has no meaning with --curriculum natural"),
        (Curriculum(), 24, r"--batch-tokens 24 is not a multiple of the chunk lengths \[16\]"),
        (Curriculum(num_cycles=9), 16, "nothing would be trained"),
        (Curriculum("natural"), 128, "the longest bucket has too few chunks for an update"),
    ],
)
def test_settings_without_an_order_are_refused(curriculum, batch_tokens, message):
    members = {8: np.arange(16, dtype=np.uint32), 16: np.arange(16, 20, dtype=np.uint32)}
    with pytest.raises(ValueError, match=message):
        compute_curriculum_order(members, curriculum, batch_tokens=batch_tokens, seed=0, epochs=1)
    with pytest.raises(ValueError, match="either epochs or updates"):
        compute_curriculum_order(members, curriculum, batch_tokens=batch_tokens, seed=0)


def test_ranks_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ValueError, match="a batch of 3 chunks cannot be shared by 2 ranks"):
        rank_slice(np.arange(3), rank=0, world_size=2)
    with pytest.raises(ValueError, match="no rank 2: 2 ranks count from 0"):
        rank_slice(np.arange(4), rank=2, world_size=2)


@given(st.lists(st.integers(1, 64), max_size=20), st.sampled_from([1, 8, 64]))
def test_a_bucket_is_the_next_power_of_two_or_none(lengths, min_length):
    def slowly(length):
        size = 1
        while size < length:
            size *= 2
        return size if size >= min_length else 0

    found = find_buckets(np.array(lengths, dtype=np.int64), min_length=min_length, max_length=64)
    assert found.tolist() == [slowly(length) for length in lengths]
