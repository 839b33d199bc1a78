import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance.sampling import DECADES, bucket_of, share_out, stratified_sample


def test_the_buckets_hold_their_upper_limit():
    counts = [0, 1, 10, 11, 100, 101, 1000, 1_000_000, 1_000_001]
    assert bucket_of(np.array(counts)).tolist() == [-1, 0, 0, 1, 1, 2, 2, 5, -1]


def test_a_shortage_is_made_up_in_proportion_to_what_others_have_to_spare():
    # 90 of 3 buckets: 30 each. The first lacks 25; spare are 70 and 30: 17.5, 7.5, the first is rounded up.
    assert share_out([5, 100, 60], 90) == [5, 48, 37]
    assert share_out([3, 3], 100) == [3, 3]
    assert share_out([10, 10, 10], 20) == [7, 7, 6]  # 6 each; spare are 4, 4, 4: two more, the first ones
    assert share_out([0, 0], 5) == [0, 0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 200))
def test_shares_add_up_and_never_exceed_a_bucket(sizes, wanted):
    drawn = share_out(sizes, wanted)
    assert sum(drawn) == min(wanted, sum(sizes))
    target = min(wanted, sum(sizes)) // len(sizes)
    assert all(min(size, target) <= number <= size for size, number in zip(sizes, drawn, strict=True))


def test_a_sample_is_drawn_from_all_buckets_and_is_the_same_for_a_seed():
    counts = np.array([0] * 5 + [3] * 50 + [30] * 50 + [300] * 2)
    places, bucket = stratified_sample(counts, 60, seed=1)
    assert np.bincount(bucket, minlength=len(DECADES) - 1).tolist() == [29, 29, 2, 0, 0, 0]
    assert (bucket_of(counts[places]) == bucket).all()
    assert len(set(places.tolist())) == 60
    assert (np.diff(places) > 0).all()
    assert stratified_sample(counts, 60, seed=1)[0].tolist() == places.tolist()
    assert stratified_sample(counts, 60, seed=2)[0].tolist() != places.tolist()


def test_asking_for_more_than_there_are_gives_all_but_those_in_no_bucket():
    places, _ = stratified_sample(np.array([5, 0, 50]), 10)
    assert places.tolist() == [0, 2]
