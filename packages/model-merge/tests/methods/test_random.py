import numpy as np
import pytest

from model_merge.random import bernoulli, stream_key, uniform_bits


def test_the_stream_is_philox_4x64_10():
    # known answers of Random123 for counter 0, key 0
    words = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert uniform_bits(0, 0, 8).tolist() == [
        part for word in words for part in (word & 0xFFFFFFFF, word >> 32)
    ]


def test_any_part_is_a_part_of_the_whole():
    whole = uniform_bits(99, 0, 1000)
    for start in (0, 1, 7, 8, 9, 500, 999):
        for length in (0, 1, 8, 9, 400):
            part = uniform_bits(99, start, min(length, 1000 - start))
            np.testing.assert_array_equal(part, whole[start : start + length])


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.1, 0.5, 0.999, 1 - 1e-12, 1.0])
def test_as_many_are_true_as_the_probability_says(probability):
    drawn = bernoulli(5, 3, 200_000, probability)
    assert abs(drawn.mean() - probability) < 5 * np.sqrt(probability * (1 - probability) / 200_000) + 1e-6


def test_seed_tensor_and_model_each_make_another_stream():
    keys = {stream_key(seed, name, model) for seed in (0, 1) for name in ("a", "b") for model in (0, 1)}
    assert len(keys) == 8
    assert np.unique([uniform_bits(key, 0, 4) for key in keys]).size == 32
