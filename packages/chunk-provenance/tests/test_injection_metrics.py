"""The measures of injections, against the published analysis, by hand and against slow loops."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from chunk_provenance.injection.acquisition import measure, metric_settings
from chunk_provenance.injection.metrics import (
    common_reach,
    find_maxima,
    fit_decay,
    inliers,
    mean_without_outliers,
    measured_intervals,
    retained,
    values_at,
)
from chunk_provenance.injection.trajectories import Injected, Trajectories

GOLDEN = Path(__file__).parent / "golden" / "injection"
EVERY_100 = tuple(range(1, 1000, 100))
UPDATES = {"once": (1,), "duplication": EVERY_100, "paraphrase": EVERY_100}
CLOSE = {"rtol": 0, "atol": 1e-9}


def curves(loss, *, depth="mem", steps=None):
    """Trajectories of losses (steps, facts, probes of a fact); facts are "0", "1" ..."""
    num_steps, num_facts, num_probes = loss.shape
    facts = [str(fact) for fact in range(num_facts) for _ in range(num_probes)]
    return Trajectories(
        np.arange(num_steps) if steps is None else np.array(steps),
        loss.reshape(num_steps, -1).astype(float),
        [f"{fact}-{depth}-{number}" for number, fact in enumerate(facts)],
        facts,
        [depth] * len(facts),
        0,
    )


def measure_one(loss, scenario, *, updates=None, steps=None, **settings):
    """The measures of facts that were all injected at the same updates."""
    injected = {str(fact): Injected(scenario, updates or UPDATES[scenario]) for fact in range(loss.shape[1])}
    measured = measure(curves(loss, steps=steps), injected, metric_settings(**settings))
    return measured["results"][0] | {"reach": measured["reach"]}


def check_against(found, expected):
    """All numbers of one scenario and depth, to 1e-9."""
    curve, fit = found["retainability"], found["decay"]
    np.testing.assert_allclose(found["effectivity"], expected["effectivity"], **CLOSE)
    for name in ("effectivity", "retainability"):
        means = [np.mean(values) for values in expected[f"{name}_by_injection"]]  # of `once`: single values
        np.testing.assert_allclose([row[name] for row in found["injections"]], means, **CLOSE)
    assert curve["interval"] == list(range(110))
    percent = expected["retainability_percent_by_interval"]
    np.testing.assert_allclose(100 * np.array(curve["mean"]), percent, **CLOSE)
    names = {
        "a": "decay_constant_a", "intercept": "intercept", "r2": "r2", "log10_tau": "x_intercept_log10",
    }  # fmt: skip
    for ours, theirs in names.items():
        np.testing.assert_allclose(fit[ours], expected["decay_fit_log10"][theirs], err_msg=ours, **CLOSE)


@pytest.mark.parametrize("name", ["once_mem", "once_gen", "once_gen_hard", "paraphrase_gen_hard"])
def test_every_measure_is_the_published_analysis_one(name):
    with np.load(GOLDEN / "metrics_input.npz") as arrays:
        loss = arrays[name] / 1000
    expected = json.loads((GOLDEN / "metrics_expected.json").read_text(encoding="utf-8"))
    check_against(measure_one(loss, name.split("_")[0], compat="upstream"), expected[name])


def test_all_published_curves_together_give_the_published_measures():
    places = [parent / "shared" for parent in Path(__file__).parents]
    beside = next((place for place in places if place.is_dir()), Path("shared"))
    folder = Path(os.environ.get("SHARED_DATA", beside)) / "golden" / "knowledge_entropy"
    if not folder.is_dir():
        pytest.skip(f"needs the golden vectors in {folder}: set SHARED_DATA")
    expected = json.loads((folder / "inject_metrics_expected.json").read_text(encoding="utf-8"))
    with np.load(folder / "inject_metrics_input.npz") as arrays:
        parts = [
            curves(arrays[f"{depth}_ce_milli"] / 1000, depth=depth) for depth in ("mem", "gen", "gen_hard")
        ]
    joined = Trajectories(
        parts[0].steps,
        np.concatenate([part.loss for part in parts], axis=1),
        *(
            [value for part in parts for value in getattr(part, name)]
            for name in ("probe_ids", "fact_ids", "depths")
        ),
        0,
    )
    scenario = ["paraphrase"] * 40 + ["duplication"] * 40 + ["once"] * 40
    injected = {str(fact): Injected(name, UPDATES[name]) for fact, name in enumerate(scenario)}
    measured = measure(joined, injected, metric_settings(compat="upstream"))
    assert len(measured["results"]) == 9
    by_injection = expected["effectivity_retainability_per_injection"]
    for row in measured["results"]:
        name, depth = row["scenario"], row["depth"]
        check_against(
            row,
            {
                "effectivity": expected["effectivity"][name][depth],
                "effectivity_by_injection": by_injection["effectivity"][name][depth],
                "retainability_by_injection": by_injection["retainability"][name][depth],
                "retainability_percent_by_interval": expected["retainability_percent_by_interval"][name][
                    depth
                ],
                "decay_fit_log10": expected["decay_fit_log10"][f"{name}/{depth}"],
            },
        )


def slow_maxima(loss, steps, updates, window):
    """One probe after the other, one step after the other: (before, best, best_step) of each injection."""
    found = []
    for number, update in enumerate(updates):
        previous = updates[number - 1] if number else 0
        following = updates[number + 1] if number + 1 < len(updates) else math.inf
        before = best = best_step = None
        for step, value in zip(steps, loss, strict=True):
            if previous <= step < update:
                before = value
            if update <= step < min(update + window, following) and (best is None or value < best):
                best, best_step = value, step
        found.append((before, best, best_step) if None not in (before, best) else (None, None, -1))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_maxima_on_sparse_evaluations_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(np.arange(60), size=20, replace=False))
    updates = sorted(rng.choice(np.arange(1, 60), size=4, replace=False).tolist())
    loss = rng.integers(0, 8, size=(20, 6)).astype(float)  # few values, so that there are ties
    maxima = find_maxima(loss, steps, updates, window=9)
    for probe in range(6):
        expected = slow_maxima(loss[:, probe].tolist(), steps.tolist(), updates, 9)
        found = zip(maxima.before[:, probe], maxima.best[:, probe], maxima.best_step[:, probe], strict=True)
        as_values = [
            (None if np.isnan(before) else before, None if np.isnan(best) else best, step)
            for before, best, step in found
        ]
        assert as_values == expected


def test_the_first_of_equal_maxima_counts_and_the_window_ends_with_the_next_injection():
    loss = np.array([[5.0], [4.0], [3.0], [3.0], [1.0]])
    maxima = find_maxima(loss, np.arange(5), [1, 4], window=50)
    assert maxima.best_step.tolist() == [[2], [4]]  # step 3 is as good; step 4 has seen the second
    assert maxima.effectivity.tolist() == [[2.0], [2.0]]
    assert maxima.evaluations.tolist() == [[3], [1]]


def test_an_injection_without_an_evaluation_since_the_one_before_is_not_measured():
    loss = np.array([[5.0], [4.0], [3.0]])
    maxima = find_maxima(loss, np.array([0, 10, 30]), [5, 20, 25], window=6)
    np.testing.assert_array_equal(maxima.effectivity, [[1.0], [np.nan], [np.nan]])
    assert maxima.best_step.tolist() == [[10], [-1], [-1]]  # 25: measured at 30, but not between 20 and 25


def test_retainability_is_the_share_of_the_gain_that_is_left():
    loss = np.array([[4.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.5, 1.0]])
    shares = retained(loss, np.arange(4), np.array([1, 1]), loss[0], np.arange(4))
    # Half of the two nats are left after one update, then it is worse than before; nothing was gained beside.
    np.testing.assert_array_equal(shares[:, 0], [1.0, 0.5, -0.25, np.nan])
    assert np.isnan(shares[:, 1]).all()


def test_values_are_read_at_evaluations_and_on_lines_between_them():
    loss = np.array([[1.0, 10.0], [3.0, 30.0], [7.0, 70.0]])
    found = values_at(loss, np.array([0, 4, 8]), np.array([[0, 4], [1, 6], [8, 9], [-1, 8]]))
    np.testing.assert_array_equal(found, [[1.0, 30.0], [1.5, 50.0], [7.0, np.nan], [np.nan, 70.0]])


def test_outliers_are_told_by_linear_quartiles():
    values = np.array([0.0, 1.0, 2.0, 3.0, 6.0, 6.1])  # quartiles 1.25 and 5.25, so 4 apart
    assert inliers(values, 0.2).tolist() == [False, True, True, True, True, False]  # from 0.45 to 6.05
    assert inliers(values, 1.5).all()
    assert inliers(np.array([1.0, np.nan, np.inf]), None).tolist() == [True, False, False]
    assert mean_without_outliers(np.array([np.nan]), 1.5).value is None


def test_a_decay_fit_is_the_least_squares_line_with_the_textbook_errors():
    rng = np.random.default_rng(0)
    dt = np.arange(1, 200)
    y = 0.9 - 0.15 * np.log10(dt) + rng.normal(0, 0.02, len(dt))
    (slope, intercept), covariance = np.polyfit(np.log10(dt), y, 1, cov=True)
    fit = fit_decay([0, *dt.tolist()], [1.0, *y.tolist()])  # interval 0 has no logarithm
    expected = [-slope, intercept, np.sqrt(covariance[0, 0]), intercept / -slope]
    np.testing.assert_allclose(
        [fit.a, fit.intercept, fit.standard_error, fit.log10_tau], expected, rtol=1e-10
    )
    np.testing.assert_allclose(fit.r2, np.corrcoef(np.log10(dt), y)[0, 1] ** 2, rtol=1e-10)
    assert fit.points == 199


def test_a_fit_says_none_where_there_is_no_number():
    assert fit_decay([0, 5], [1.0, 0.5]) is None
    assert fit_decay([1, 10], [0.9, 0.8]).standard_error is None
    rising = fit_decay([1, 10, 100], [0.8, 0.9, 1.0])
    assert rising.log10_tau is None  # it never reaches zero
    assert rising.a == pytest.approx(-0.1, abs=1e-12)
    assert fit_decay([1, 10, 100], [0.5, 0.5, 0.5]).r2 is None


def test_the_reach_is_what_half_of_the_probes_can_be_followed_for():
    last = np.array([1, 11, 21, 91])
    assert common_reach(last, 100, window=10) == 80  # reaches 90, 80, 70 and 0: two of four have 80
    assert common_reach(last[:3], 100, window=10) == 80
    assert common_reach(last, 10, window=10) == 0
    assert measured_intervals(np.array([0, 4, 8]), np.array([4, 8, -1]), 4).tolist() == [0, 4]


def test_what_a_mean_leaves_out_is_counted():
    # Probes: gains and keeps half; gets worse; never changes. One fact each, injected at update 1.
    loss = np.array(
        [[[4.0], [2.0], [3.0]], [[2.0], [3.0], [3.0]], [[3.0], [4.0], [3.0]], [[3.0], [4.0], [3.0]]]
    )
    row = measure_one(loss, "once", window=1)
    assert row["effectivity"] == pytest.approx((2 - 1 + 0) / 3)
    assert (row["encounters"], row["encounters_that_lost"], row["probes_never_improved"]) == (3, 1, 2)
    curve = row["retainability"]
    assert (curve["interval"], curve["mean"]) == ([0, 1, 2], [1.0, 0.5, 0.5])
    assert (curve["probes"], curve["unchanged"], curve["worse_than_before"]) == (1, 1, 1)
    kept = measure_one(loss, "once", window=1, compat="upstream")["retainability"]
    assert (kept["probes"], kept["mean"]) == (2, [1.0, 1.25, 1.25])  # -2 / -1 counts as 2 in the code
    injection = row["injections"][0]
    assert (injection["no_gain"], injection["retainability"], injection["retainability_counted"]) == (
        2,
        0.5,
        1,
    )


def test_a_run_that_ends_too_soon_is_said_so():
    loss = np.array([[[4.0]], [[2.0]], [[3.0]]])
    row = measure_one(loss, "once", window=50)
    assert (row["effectivity"], row["reach"], row["decay"]) == (2.0, None, None)
    assert row["retainability"]["run_ends_too_soon"] == 1
    assert row["injections"][0] | {"effectivity": None} == {
        "injection": 1,
        "effectivity": None,
        "effectivity_counted": 1,
        "effectivity_outliers": 0,
        "retainability": None,
        "retainability_counted": 0,
        "retainability_outliers": 0,
        "no_gain": 0,
        "next_injection_too_soon": 0,
        "run_ends_too_soon": 1,
    }


def test_the_gain_of_an_injection_is_not_followed_past_the_next_one():
    loss = np.array([5.0, 4.0, 4.5, 3.0, 3.5, 3.5, 3.5, 3.5]).reshape(-1, 1, 1)
    first, second = measure_one(loss, "duplication", updates=(1, 3), window=2)["injections"]
    assert (first["retainability"], first["next_injection_too_soon"]) == (None, 1)
    assert (second["retainability"], second["effectivity"]) == (pytest.approx(2 / 3), 1.5)


def test_sparse_evaluations_give_the_curve_where_they_are():
    steps = [0, 1, 11, 101]
    loss = np.array([4.0, 2.0, 2.5, 3.0]).reshape(-1, 1, 1)
    row = measure_one(loss, "once", steps=steps, window=5)
    assert row["evaluations_in_window"] == [1, 1]
    curve = row["retainability"]
    assert (curve["interval"], curve["mean"], curve["between_evaluations"]) == ([0, 10], [1.0, 0.75], 0.0)


def test_values_between_evaluations_are_counted():
    # Maxima at steps 1 and 11; ten updates later one is 2.5, the other a ninth of the way from 3 to 3.9.
    loss = np.array([[4.0, 5.0], [2.0, 4.0], [2.5, 3.0], [3.0, 3.9]])[:, None]
    curve = measure_one(loss, "once", steps=[0, 1, 11, 101], window=15)["retainability"]
    assert (curve["interval"], curve["between_evaluations"]) == ([0, 10], 0.25)
    np.testing.assert_allclose(curve["mean"], [1.0, (0.75 + (5 - 3.1) / 2) / 2], rtol=1e-12)


def test_facts_with_injections_of_their_own_are_followed_for_as_long_as_half_can_be():
    # The same curve, shifted: facts injected at update 1, 11 and 31 of a run of 40 updates.
    curve = np.concatenate([[4.0], 2 + 0.1 * np.arange(60)])
    steps = np.arange(41)
    updates = {"0": (1,), "1": (11,), "2": (31,)}
    loss = np.stack([curve[np.maximum(steps - (one[0] - 1), 0)] for one in updates.values()], axis=1)
    injected = {fact: Injected("once", one) for fact, one in updates.items()}
    measured = measure(curves(loss[:, :, None]), injected, metric_settings(window=5))
    retainability = measured["results"][0]["retainability"]
    assert measured["reach"] == 25  # 35, 25 and 5 updates are left after the windows
    assert retainability["counted"] == [3] * 6 + [2] * 20
    np.testing.assert_allclose(retainability["mean"], 1 - 0.05 * np.arange(26), atol=1e-12)


def test_k_and_a_weigh_scenarios_by_their_facts():
    # Means of a fact before and after, as log-probabilities: -4 -> -2, -1 -> -1, and -3 -> -3 never injected.
    loss = np.array([[[4.0], [1.0], [3.0]], [[2.0], [1.0], [3.0]]])
    injected = {"0": Injected("once", (1,)), "1": Injected("paraphrase", (1,)), "9": Injected("once", (1,))}
    measured = measure(curves(loss), injected)
    assert measured["performance"] == [
        {"facts": "all injected", "count": 2, "before": -2.5, "after": -1.5, "acquisition": 0.4},
        {"facts": "paraphrase", "count": 1, "before": -1.0, "after": -1.0, "acquisition": 0.0},
        {"facts": "once", "count": 1, "before": -4.0, "after": -2.0, "acquisition": 0.5},
        {"facts": "control", "count": 1, "before": -3.0, "after": -3.0, "acquisition": 0.0},
    ]
    assert measured["counts"] == {
        "facts": 3,
        "probes": 3,
        "probes_not_finite": 0,
        "facts_injected": 3,
        "facts_injected_without_probes": 1,
        "facts_without_injection": 1,
    }


def test_settings_that_measure_nothing_are_refused():
    with pytest.raises(ValueError, match="window must be at least 1 update, found 0"):
        metric_settings(window=0)
    with pytest.raises(ValueError, match="multiplier must be 0 or more, found nan"):
        metric_settings(iqr=math.nan)
