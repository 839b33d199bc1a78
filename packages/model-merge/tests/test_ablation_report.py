"""Correlations, decisions, costs and the report, on tables whose answers are known."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from model_merge.ablation_report import BEST, CENTRED, MEAN, POOLED, join, make_report
from model_merge.cli import app
from model_merge.correlation import (
    centre,
    decision_accuracy,
    estimate,
    kendall,
    pearson,
    regret,
    spearman,
    top_agreement,
)
from model_merge.costs import break_even, cost_rows
from model_merge.report_page import make_page, make_section
from model_merge.results import Sums, make_row, make_table, write_table
from model_merge.soup import greedy_soup

PARTS = ["art", "law", "sea", "war"]
DOMAINS = ["poems", "laws", "ships"]
TOKENS = 1000


def subsets(smallest):
    return [chosen for size in range(smallest, 5) for chosen in combinations(PARTS, size)]


def table(losses, *, method="uniform", tokens=TOKENS, **more):
    """A result table from {(members, domain): log-perplexity}."""
    rows = []
    for (members, domain), loss in losses.items():
        about = {"merge_id": "+".join(members), "members": list(members), "weights": None, "mask": None}
        about |= {
            "method": method,
            "domain": domain,
            "split": "val",
            "window": "olmo-eval",
            "dtype": "float32",
        }
        rows.append(make_row(about | more, Sums(-loss * tokens, tokens, num_bytes=3 * tokens, num_docs=5)))
    return make_table(rows)


def truth_of(members, domain):
    """The more parts the lower, each part helps its own domain, and domains differ in level."""
    helped = sum((PARTS.index(part) + 1) * 0.01 for part in members) / len(members)
    own = 0.1 if DOMAINS.index(domain) in [PARTS.index(part) for part in members] else 0.0
    no_ties = 0.001 * math.sin(sum(7 ** PARTS.index(part) for part in members) + DOMAINS.index(domain))
    return 3 + DOMAINS.index(domain) - own - helped - 0.02 * len(members) + no_ties


def exact_tables(error=0.0):
    """Merges whose losses are those of the joint models plus 0.3, up to an error."""
    rng = np.random.default_rng(0)
    merges = {(m, d): truth_of(m, d) + 0.3 + error * rng.normal() for m in subsets(1) for d in DOMAINS}
    joint = {(m, d): truth_of(m, d) for m in subsets(2) for d in DOMAINS}
    return table(merges), table(joint, method="model")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr), (kendall, stats.kendalltau)]
)
def test_statistics_by_rows_are_scipys(ours, theirs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 30)), rng.normal(size=(5, 30))
    y[1] = np.round(y[1])  # ties
    y[2] = x[2] * 3 + 1
    expected = [theirs(left, right).statistic for left, right in zip(x, y, strict=True)]
    np.testing.assert_allclose(ours(x, y), expected, rtol=1e-12, atol=1e-14)


def test_a_side_that_does_not_vary_has_no_correlation():
    x, y = np.ones((1, 5)), np.arange(5.0)[None]
    assert all(np.isnan(statistic(x, y)[0]) for statistic in (pearson, spearman, kendall))


def test_a_bootstrap_interval_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    proxies = rng.normal(size=(20, 3))
    truth = proxies + rng.normal(size=(20, 3))
    found = estimate(pearson, proxies, truth, centred=True, seed=5, resamples=200)
    drawn = np.random.default_rng(5).integers(0, 20, (200, 20))
    values = [
        stats.pearsonr(centre(proxies[rows]).ravel(), centre(truth[rows]).ravel()).statistic for rows in drawn
    ]
    expected = stats.pearsonr(centre(proxies).ravel(), centre(truth).ravel()).statistic
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [expected, *np.quantile(values, [0.025, 0.975])], rtol=1e-12
    )
    assert found == estimate(pearson, proxies, truth, centred=True, seed=5, resamples=200)


def test_a_95_percent_interval_holds_the_true_correlation_about_95_times_of_100():
    rng = np.random.default_rng(2)
    held = 0
    for number in range(200):
        x = rng.normal(size=(60, 1))
        y = 0.6 * x + 0.8 * rng.normal(size=(60, 1))
        found = estimate(pearson, x, y, seed=number, resamples=300)
        held += found.low <= 0.6 <= found.high
    assert 178 <= held <= 198


def test_decisions_count_pairs_ordered_as_in_truth():
    assert decision_accuracy(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(2 / 3)
    assert decision_accuracy(np.array([3.0, 2, 1]), np.array([1.0, 2, 3])) == 0
    assert math.isnan(decision_accuracy(np.array([1.0, 2]), np.array([4.0, 4])))
    assert regret(np.array([3.0, 1, 2]), np.array([0.1, 0.4, 0.2])) == pytest.approx(0.3)
    assert top_agreement(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3]), 2) == 1


def test_costs_follow_the_formulas():
    assert cost_rows(10, [k for k in range(1, 11) for _ in range(math.comb(10, k))])[1] == [
        "these mixtures, each trained",
        1023,
        5120,
        1023,
    ]
    assert cost_rows(6, [2] * 57)[0][:3] == ["these mixtures, merged", 6, 6]
    assert break_even(6, [2, 2, 2]) is None
    assert break_even(6, [2, 2, 2, 2]) == 4


def test_merges_that_are_the_truth_up_to_a_shift_correlate_fully():
    report, comparison = make_report(*exact_tables(), resamples=50)
    assert len(comparison.mixtures) == 11
    for row in report["correlations"]:
        if row["proxy"] == "merge (uniform)" and (
            row["measure"] == "log-perplexity" or row["statistic"] != "pearson"
        ):
            assert row["value"] == pytest.approx(1), row
    for row in report["decisions"]:
        if row["proxy"] == "merge (uniform)":
            assert (row["decision_accuracy"], row["regret"], row["top_1"], row["top_3"]) == (1, 0, 1, 1)
            assert row["chosen"] == row["best"]


def test_every_number_has_its_row():
    report, _ = make_report(*exact_tables(0.05), resamples=20)
    found = [(row["proxy"], row["scope"], row["measure"], row["statistic"]) for row in report["correlations"]]
    expected = {
        (proxy, scope, measure, statistic)
        for proxy in ("merge (uniform)", MEAN, BEST)
        for scope in (*DOMAINS, POOLED, CENTRED)
        for measure in ("log-perplexity", "perplexity")
        for statistic in ("pearson", "spearman", "kendall")
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert len(report["decisions"]) == 3 * 4
    assert all(row["low"] <= row["high"] for row in report["correlations"])


def test_pooling_over_domains_flatters_and_centring_shows_it():
    """Domains two nats apart: random proxies look perfect when pooled."""
    merges, joint = exact_tables()
    rng = np.random.default_rng(3)
    noise = {
        (tuple(r["members"]), r["domain"]): 3 + DOMAINS.index(r["domain"]) + 0.05 * rng.normal()
        for r in merges.to_pylist()
    }
    report, _ = make_report(table(noise), joint, resamples=20)
    found = {
        row["scope"]: row["value"]
        for row in report["correlations"]
        if (row["proxy"], row["measure"], row["statistic"])
        == ("merge (uniform)", "log-perplexity", "pearson")
    }
    assert found[POOLED] > 0.97
    assert abs(found[CENTRED]) < 0.6


def test_baselines_are_the_mean_perplexity_and_the_best_members():
    comparison = join(*exact_tables())
    row = comparison.mixtures.index(frozenset({"art", "sea"}))
    domains = comparison.domains
    alone = np.array([[truth_of((part,), domain) + 0.3 for domain in domains] for part in ("art", "sea")])
    np.testing.assert_allclose(comparison.proxies[MEAN][row], np.log(np.exp(alone).mean(axis=0)))
    np.testing.assert_allclose(comparison.proxies[BEST][row], alone.min(axis=0))


def test_what_is_not_compared_is_said():
    merges, joint = exact_tables()
    rows = [r for r in merges.to_pylist() if r["members"] not in (["art"], ["law", "sea"])]
    comparison = join(
        make_table(rows), make_table([r for r in joint.to_pylist() if r["members"] != ["art", "war"]])
    )
    assert len(comparison.mixtures) == 9
    assert comparison.left_out == (
        "1 merges without a jointly trained model",
        "1 jointly trained models without all kinds of merges",
        "the baselines, because ['art'] were not evaluated by themselves",
    )
    assert list(comparison.proxies) == ["merge (uniform)"]


def test_several_kinds_of_merges_are_compared_side_by_side():
    merges, joint = exact_tables()
    macro = {(tuple(r["members"]), r["domain"]): 4.0 + 0.1 * len(r["members"]) for r in joint.to_pylist()}
    rows = [*merges.to_pylist(), *table(macro, method="macro").to_pylist()]
    assert list(join(make_table(rows), joint).proxies) == ["merge (uniform)", "merge (macro)", MEAN, BEST]


def test_tables_that_were_scored_differently_are_refused():
    merges, joint = exact_tables()
    losses = {(tuple(r["members"]), r["domain"]): 3.0 for r in joint.to_pylist()}
    with pytest.raises(ValueError, match="differ in 'window' on"):
        make_report(merges, table(losses, window="packed"))
    with pytest.raises(ValueError, match=r"differ in 'num_tokens' on .*\[1000\] in the results, \[999\]"):
        make_report(merges, table(losses, tokens=999))


def test_tables_with_nothing_in_common_are_refused():
    merges, _ = exact_tables()
    with pytest.raises(ValueError, match="no domain in common"):
        join(merges, table({(("art", "law"), "elsewhere"): 3.0}))
    with pytest.raises(ValueError, match="no merge of two or more parts"):
        join(merges, table({(("art", "moon"), "poems"): 3.0}))


def test_merges_of_the_same_parts_with_other_weights_are_not_mixed_up():
    merges, joint = exact_tables()
    again = table({(("art", "law"), "poems"): 2.0})
    with pytest.raises(
        ValueError, match=r"'art\+law' is there several times \(uniform, with other numbers on"
    ):
        join(make_table([*merges.to_pylist(), *again.to_pylist()]), joint)
    same = make_table([*merges.to_pylist(), *merges.to_pylist()])
    assert len(join(same, joint).mixtures) == 11


def test_the_greedy_soup_is_found_in_the_table():
    merges, joint = exact_tables()
    report, _ = make_report(merges, joint, resamples=5)
    losses = {m: np.mean([truth_of(m, d) + 0.3 for d in DOMAINS]) for m in subsets(1)}
    assert report["greedy_soup"]["members"] == list(
        greedy_soup(PARTS, lambda members: losses[tuple(sorted(members))])
    )
    rows = [row for row in merges.to_pylist() if len(row["members"]) != 2]
    assert (
        make_report(
            make_table(rows),
            joint.filter(np.array([len(m) == 3 for m in joint["members"].to_pylist()])),
            resamples=5,
        )[0]["greedy_soup"]
        is None
    )


def test_a_soup_keeps_only_what_helps():
    losses = {
        frozenset("a"): 3.0,
        frozenset("b"): 1.0,
        frozenset("c"): 2.0,
        frozenset("bc"): 1.1,
        frozenset("ab"): 0.9,
    }
    assert greedy_soup(["a", "b", "c"], lambda members: losses[frozenset(members)]) == ("b", "a")


@pytest.fixture
def written(tmp_path):
    merges, joint = exact_tables(0.01)
    write_table(merges, tmp_path / "results.parquet")
    write_table(joint, tmp_path / "joint.parquet")
    return [str(tmp_path / "results.parquet"), str(tmp_path / "joint.parquet")]


def test_the_command_writes_page_tables_and_figures_twice_the_same(tmp_path, written):
    contents = []
    for name in ("one", "one"):
        arguments = ["ablate", "report", *written, str(tmp_path / name), "--resamples", "20", "--overwrite"]
        result = CliRunner().invoke(
            app, [*arguments, "--section", str(tmp_path / "section.json"), "--unit-tokens", "1e6"]
        )
        assert result.exit_code == 0, result.output
        assert "11 mixtures of 4 parts on 3 domains" in result.stdout
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [
        "correlations.csv",
        "decisions.csv",
        "points.parquet",
        "report.html",
        "report.json",
        "scatter.png",
        "scatter.svg",
    ]
    report = json.loads(contents[0]["report.json"])
    assert (report["format"], report["version"], report["mixtures"]) == ("ablation-report", 1, 11)
    assert contents[0]["correlations.csv"].startswith(b"proxy,scope,measure,statistic,value,low,high\n")
    section = json.loads((tmp_path / "section.json").read_text(encoding="utf-8"))
    assert (section["format"], section["version"]) == ("report-section", 1)
    for table_ in section["tables"]:
        assert all(len(row) == len(table_["columns"]) for row in table_["rows"])
    for series in section["figures"][0]["series"]:
        assert len(series["x"]) == len(series["y"]) == len(series["low"]) == len(series["high"]) == 5


def test_a_report_is_not_overwritten_unasked(tmp_path, written):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["ablate", "report", *written, str(tmp_path / "out")])
    assert isinstance(result.exception, FileExistsError)
    assert (tmp_path / "out/report.json").read_text(encoding="utf-8") == "mine"


def test_names_are_escaped_in_the_page():
    merges, joint = exact_tables()
    report, _ = make_report(merges, joint, resamples=5)
    report["decisions"][0]["chosen"] = "<script>alert(1)</script>"
    page = make_page(report, "<svg></svg>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert make_section(report)["summary"].startswith("11 mixtures of 4 parts")
