from fractions import Fraction

import pytest

from model_merge.expression import (
    Leaf,
    Linear,
    Nonlinear,
    average,
    flatten,
    from_json,
    leave_one_out,
    moving_average,
    run_checkpoints,
    to_json,
    whole_weights,
)

A, B, C, D = map(Leaf, "abcd")


def test_a_macro_merge_gives_every_unit_of_a_group_its_share():
    macro = average([average([A, B]), average([C])])
    assert flatten(macro) == {"a": Fraction(1, 4), "b": Fraction(1, 4), "c": Fraction(1, 2)}


def test_an_average_of_equal_averages_is_the_average():
    assert flatten(average([average([A, B]), average([C, D])])) == flatten(average([A, B, C, D]))


def test_leaving_one_out_gives_the_average_of_the_others():
    found = {left_out: flatten(merge) for left_out, merge in leave_one_out(["a", "b", "c"]).items()}
    assert found["b"] == {"a": Fraction(1, 2), "c": Fraction(1, 2)}
    assert list(found) == ["a", "b", "c"]


def test_leaving_one_out_of_equal_references_leaves_the_other():
    assert flatten(leave_one_out(["a", "b"])["a"]) == {"b": Fraction(1)}


def test_a_moving_average_agrees_with_its_recurrence():
    decay, references = Fraction(9, 10), [f"step{i}" for i in range(6)]
    expected = {references[0]: Fraction(1)}
    for reference in references[1:]:
        expected = {name: weight * decay for name, weight in expected.items()} | {reference: 1 - decay}
    assert flatten(moving_average(references, decay)) == expected


@pytest.mark.parametrize("decay", [Fraction(-1, 10), Fraction(1)])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="must be at least 0 and less than 1"):
        moving_average(["a", "b"], decay)


def test_a_sum_that_is_not_normalised_keeps_its_weights():
    assert flatten(Linear(((Fraction(2), A), (Fraction(-1), B)), normalise=False)) == {"a": 2, "b": -1}


def test_an_inner_sum_of_zero_is_refused():
    inner = Linear(((Fraction(1), A), (Fraction(-1), B)))
    with pytest.raises(ValueError, match="the weights 1, -1 sum to zero"):
        flatten(average([inner, C]))


def test_as_many_weights_as_models_are_wanted():
    with pytest.raises(ValueError, match="1 weights for 2 models: give one for each"):
        average([A, B], [Fraction(1)])


def test_a_method_that_is_not_linear_is_not_flattened():
    with pytest.raises(ValueError, match="ties is not linear: it has no weights"):
        flatten(average([A, Nonlinear("ties", (A, B))]))


def test_weights_with_large_denominators_become_floats():
    weights, divisor = whole_weights([Fraction(1, 3**20), 1 - Fraction(1, 3**20)])
    assert (weights, divisor) == ([3.0**-20, 1 - 3.0**-20], 1.0)


def test_an_expression_survives_json():
    expression = average(
        [
            average([A, B], [Fraction(1, 3), Fraction(2)]),
            Linear(((Fraction(1), C),), normalise=False),
            Nonlinear("slerp", (A,), B, {"t": 0.5}),
        ]
    )
    assert from_json(to_json(expression)) == expression


def test_the_steps_of_a_run_come_in_the_order_of_their_numbers(tmp_path):
    for step in (0, 5, 10, 100):
        (tmp_path / f"step{step}").mkdir()
    (tmp_path / "step7.tmp").mkdir()
    assert run_checkpoints(tmp_path) == [f"{tmp_path}:step{step}" for step in (0, 5, 10, 100)]
    assert run_checkpoints(tmp_path, last=2) == [f"{tmp_path}:step10", f"{tmp_path}:step100"]
    with pytest.raises(FileNotFoundError, match="holds 4 folders called step and a number, 5 are wanted"):
        run_checkpoints(tmp_path, last=5)


@pytest.mark.parametrize(
    "content",
    [
        3,
        {},
        {"model": 3},
        {"sum": 3},
        {"sum": [], "weights": 1},
        {"method": "ties"},
        {"method": "ties", "of": "a"},
    ],
)
def test_what_is_no_expression_is_refused(content):
    with pytest.raises(ValueError, match="is no merge expression: expected a model"):
        from_json(content)


@pytest.mark.parametrize("term", [3, {}, {"weight": 1}, {"of": "a", "wieght": 1}])
def test_what_is_no_term_of_a_sum_is_refused(term):
    with pytest.raises(ValueError, match="is no term of a sum"):
        from_json({"sum": [term]})


def test_a_user_may_write_numbers_and_names():
    written = {"sum": [{"weight": 0.1, "of": "a"}, {"of": {"sum": [{"weight": "1/3", "of": "b"}]}}]}
    assert from_json(written) == Linear(((Fraction(1, 10), A), (Fraction(1), Linear(((Fraction(1, 3), B),)))))
    with pytest.raises(ValueError, match="divides by zero"):
        from_json({"sum": [{"weight": "1/0", "of": "a"}]})
