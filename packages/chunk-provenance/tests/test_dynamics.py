import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import DataOrder, FormatError, save_order
from chunk_provenance.dynamics import (
    accuracy_table,
    add_rates,
    bin_labels,
    check_bins,
    count_bins,
    earliness,
    facts_table,
    interval_table,
    learned_index,
    read_knowledge,
)
from chunk_provenance.dynamics_section import dynamics_section
from chunk_provenance.exposures import find_exposures
from chunk_provenance.facts import Evidence, FactChunks, write_fact_chunks
from chunk_provenance.joining import compute_dynamics, join_files, load_dynamics, save_dynamics
from chunk_provenance.sections import read_section, write_section

RATES = ["learned", "forgotten", "net", "learned_at_risk", "forgotten_at_risk"]


@pytest.fixture
def answers():
    """Builds answers from {(fact, probe): one rank a step}."""

    def build(ranks, steps):
        rows = [
            {"step": step, "fact_id": fact, "probe_id": probe, "rank": row[place]}
            for place, step in enumerate(steps)
            for (fact, probe), row in ranks.items()
        ]
        return pa.Table.from_pylist(rows)

    return build


@pytest.fixture
def order():
    """Six updates of two chunks: chunk 0 five times, chunk 1 twice, chunk 2 once, chunk 9 four times."""
    batches = [[0, 9], [0, 1], [9, 0], [0, 2], [1, 9], [9, 0]]
    return DataOrder(
        np.arange(0, 13, 2), np.array(batches).reshape(-1), np.array([0, 3]), {"store_sha256": "abc"}, None
    )


@pytest.fixture
def fact_chunks():
    """Fact a in chunk 0, b in 1, c in 2; d in a chunk that is never trained on; e in none."""
    table = pa.table({"fact_id": ["a", "b", "c", "d"], "kind": ["shared"] * 4, "chunk_id": [0, 1, 2, 7]})
    return FactChunks(table, Evidence(), "test", "abc")


@pytest.fixture
def run(answers):
    """Ranks at the steps 0, 2, 4, 6: a learned at 2, b at 4 (second probe), c, d never, e known at 0."""
    ranks = {
        ("a", "a0"): [4, 1, 1, 1],
        ("b", "b0"): [3, 3, 3, 1],
        ("b", "b1"): [2, 2, 1, 3],
        ("c", "c0"): [2, 1, 2, 1],
        ("d", "d0"): [2, 2, 2, 2],
        ("e", "e0"): [1, 2, 1, 1],
    }
    return answers(ranks, [0, 2, 4, 6])


def test_the_best_probe_speaks_for_its_fact(run):
    knowledge = read_knowledge(run)
    assert knowledge.fact_ids == ["a", "b", "c", "d", "e"]
    assert knowledge.steps.tolist() == [0, 2, 4, 6]
    assert knowledge.rank.tolist() == [[4, 1, 1, 1], [2, 2, 1, 1], [2, 1, 2, 1], [2, 2, 2, 2], [1, 2, 1, 1]]
    assert knowledge.num_probes.tolist() == [1, 2, 1, 1, 1]
    assert knowledge.known(2).all(axis=1).tolist() == [False, True, True, True, True]


def test_the_order_of_rows_does_not_matter(run):
    shuffled = run.take(np.random.default_rng(0).permutation(run.num_rows))
    straight, other = read_knowledge(run), read_knowledge(shuffled)
    place = [other.fact_ids.index(fact) for fact in straight.fact_ids]
    assert other.rank[place].tolist() == straight.rank.tolist()


def test_an_answer_that_is_missing_or_doubled_is_refused(run):
    with pytest.raises(FormatError, match=r"'e0' has no answer at step 6 \(1 such cases\)"):
        read_knowledge(run.slice(0, run.num_rows - 1))
    with pytest.raises(FormatError, match="'a0' has 2 answers at step 0"):
        read_knowledge(pa.concat_tables([run, run.slice(0, 1)]))


def test_a_probe_of_two_facts_is_refused(answers):
    table = answers({("a", "p"): [1]}, [0])
    other = answers({("b", "p"): [1]}, [1])
    both = pa.concat_tables([table, other])
    with pytest.raises(FormatError, match="'p' belongs to more than one fact"):
        read_knowledge(both)


@pytest.mark.parametrize(
    ("known", "consecutive", "expected"),
    [
        ("0011", 2, 2),
        ("1011", 2, 2),
        ("1101", 2, 0),
        ("0101", 2, -1),
        ("0101", 1, 1),
        ("0111", 3, 1),
        ("11", 3, -1),
        ("1", 1, 0),
        ("1", 2, -1),
    ],
)
def test_learned_is_where_a_fact_begins_to_stay_known(known, consecutive, expected):
    row = np.array([[letter == "1" for letter in known]])
    assert learned_index(row, consecutive=consecutive).tolist() == [expected]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 4))
def test_learned_equals_the_slow_twin(known, consecutive):
    slow = next(
        (i for i in range(len(known) - consecutive + 1) if all(known[i : i + consecutive])),
        -1,
    )
    assert learned_index(np.array([known]), consecutive=consecutive).tolist() == [slow]


def test_bins_are_named_by_what_falls_into_them():
    edges = (0, 1, 2, 4, 8, 16)
    assert bin_labels(edges) == ["0", "1", "2-3", "4-7", "8-15", "16+"]
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 15, 16, 999])
    assert count_bins(counts, edges).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("edges", [(), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_bins_that_do_not_ascend_from_0_are_refused(edges):
    with pytest.raises(ValueError, match="must begin at 0 and ascend"):
        check_bins(edges)


def test_the_facts_table_says_when_each_fact_was_seen_and_known(run, order, fact_chunks):
    knowledge = read_knowledge(run)
    table = facts_table(knowledge, find_exposures(order, fact_chunks.table, knowledge.fact_ids))
    assert table.to_pydict() == {
        "fact_id": ["a", "b", "c", "d", "e"],
        "num_probes": [1, 2, 1, 1, 1],
        "exposures": [5, 2, 1, 0, 0],
        "first_exposure": [1, 2, 4, None, None],
        "last_exposure": [6, 5, 4, None, None],
        "known_at_start": [False, False, False, False, True],
        "first_known": [2, 4, 2, None, 0],
        "learned_at": [2, 4, None, None, 4],
        "exposures_when_learned": [2, 1, None, None, 0],
        "known_at_end": [True, True, True, False, True],
        "known_by_step": [
            [False, True, True, True],
            [False, False, True, True],
            [False, True, False, True],
            [False, False, False, False],
            [True, False, True, True],
        ],
        "rank_by_step": [[4, 1, 1, 1], [2, 2, 1, 1], [2, 1, 2, 1], [2, 2, 2, 2], [1, 2, 1, 1]],
        "exposures_by_step": [[0, 2, 4, 5], [0, 1, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        "last_exposure_by_step": [[0, 2, 4, 6], [0, 2, 2, 5], [0, 0, 4, 4], [0, 0, 0, 0], [0, 0, 0, 0]],
    }


def test_exposures_after_the_last_checkpoint_do_not_count(answers, order, fact_chunks):
    knowledge = read_knowledge(answers({("a", "a0"): [1, 1], ("c", "c0"): [1, 1]}, [0, 2]))
    table = facts_table(knowledge, find_exposures(order, fact_chunks.table, knowledge.fact_ids))
    assert table["exposures"].to_pylist() == [2, 0]
    assert table["first_exposure"].to_pylist() == [1, None]
    assert table["last_exposure"].to_pylist() == [2, None]


def test_intervals_count_by_exposures_within_the_interval():
    # facts:               a            b            c            d
    known = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=bool)
    counts = np.array([[0, 2, 4], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
    table = interval_table(known, counts, np.array([0, 10, 20]), edges=(0, 1, 2))
    names = ["step_from", "step_to", "exposures", "facts", "known_before", "learned", "forgotten"]
    assert [list(row.values()) for row in table.select(names).to_pylist()] == [
        [0, 10, "0", 2, 1, 0, 1],  # b and d
        [0, 10, "1", 1, 1, 0, 0],  # c
        [0, 10, "2+", 1, 0, 1, 0],  # a
        [10, 20, "0", 2, 1, 0, 1],  # c and d
        [10, 20, "1", 1, 0, 1, 0],  # b
        [10, 20, "2+", 1, 1, 0, 0],  # a
    ]


def test_merged_intervals_look_at_their_bounds_only():
    known = np.array([[0, 1, 0], [0, 0, 1]], dtype=bool)
    counts = np.array([[0, 1, 3], [0, 0, 1]])
    table = interval_table(known, counts, np.array([0, 10, 20]), edges=(0, 2), bounds=[0, 20])
    names = ["step_from", "step_to", "exposures", "facts", "learned", "forgotten"]
    assert [list(row.values()) for row in table.select(names).to_pylist()] == [
        [0, 20, "0-1", 1, 1, 0],
        [0, 20, "2+", 1, 0, 0],
    ]


def test_rates_have_both_denominators():
    counts = pa.table(
        {"facts": [10, 0, 4], "known_before": [4, 0, 0], "learned": [3, 0, 0], "forgotten": [1, 0, 0]}
    )
    table = add_rates(counts)
    rates = {name: table[f"{name}_rate"].to_pylist() for name in RATES}
    assert rates == {
        "learned": [0.3, None, 0.0],
        "forgotten": [0.1, None, 0.0],
        "net": [pytest.approx(0.2), None, 0.0],
        "learned_at_risk": [0.5, None, 0.0],
        "forgotten_at_risk": [0.25, None, None],
    }
    for name in RATES:
        low, rate, high = (table[f"{name}_{suffix}"][0].as_py() for suffix in ("low", "rate", "high"))
        assert low < rate < high


def test_accuracy_is_counted_by_exposures_so_far_and_in_the_run():
    known = np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)
    counts = np.array([[0, 2], [0, 1], [0, 0]])
    table = accuracy_table(known, counts, np.array([0, 8]), edges=(0, 1, 2))
    names = ["by", "step", "exposures", "facts", "known", "accuracy"]
    assert [list(row.values()) for row in table.select(names).to_pylist()] == [
        ["so_far", 0, "0", 3, 1, pytest.approx(1 / 3)],
        ["so_far", 0, "1", 0, 0, None],
        ["so_far", 0, "2+", 0, 0, None],
        ["so_far", 8, "0", 1, 0, 0.0],
        ["so_far", 8, "1", 1, 1, 1.0],
        ["so_far", 8, "2+", 1, 1, 1.0],
        ["in_run", 0, "0", 1, 1, 1.0],
        ["in_run", 0, "1", 1, 0, 0.0],
        ["in_run", 0, "2+", 1, 0, 0.0],
        ["in_run", 8, "0", 1, 0, 0.0],
        ["in_run", 8, "1", 1, 1, 1.0],
        ["in_run", 8, "2+", 1, 1, 1.0],
    ]


@given(st.data())
def test_intervals_equal_the_slow_twin(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    known = np.array(data.draw(st.lists(st.lists(st.booleans(), **sized(shape[1])), **sized(shape[0]))))
    grown = np.array(data.draw(st.lists(st.lists(st.integers(0, 5), **sized(shape[1])), **sized(shape[0]))))
    counts, steps = np.cumsum(grown, axis=1), np.arange(shape[1]) * 3
    table = interval_table(known, counts, steps, edges=(0, 1, 3)).to_pylist()
    assert len(table) == 3 * (shape[1] - 1)
    for row in table:
        before, after = row["step_from"] // 3, row["step_to"] // 3
        inside = {"0": (0,), "1-2": (1, 2), "3+": range(3, 99)}[row["exposures"]]
        facts = [i for i in range(shape[0]) if counts[i, after] - counts[i, before] in inside]
        assert (row["facts"], row["known_before"]) == (len(facts), sum(known[i, before] for i in facts))
        assert row["learned"] == sum(not known[i, before] and known[i, after] for i in facts)
        assert row["forgotten"] == sum(known[i, before] and not known[i, after] for i in facts)


def sized(length):
    return {"min_size": length, "max_size": length}


def test_earliness_leaves_out_what_the_untrained_model_knew():
    table = pa.table(
        {
            "exposures": [9, 4, 1, 0, 0],
            "learned_at": pa.array([2, 8, 16, None, 0], pa.int64()),
            "known_at_start": [False, False, False, False, True],
        }
    )
    found = earliness(table)
    assert (found.rho, found.facts, found.known_at_start) == (pytest.approx(1.0), 4, 1)
    nobody = earliness(table.slice(4))
    assert (nobody.rho, nobody.low, nobody.high, nobody.facts) == (None, None, None, 0)


def test_rho_is_the_rank_correlation_of_exposures_and_minus_the_step(run, order, fact_chunks):
    result = compute_dynamics(order, fact_chunks, run)
    summary = result.info["summary"]
    # a, b, c, d without e: exposures 5, 2, 1, 0; learned at 2, 4, never, never. Ranks 4 3 2 1, 4 3 1.5 1.5;
    # from their mean 1.5 0.5 -0.5 -1.5, 1.5 0.5 -1 -1: products 2.25 + 0.25 + 0.5 + 1.5, squares 5, 4.5.
    assert summary["earliness"]["rho"] == pytest.approx(4.5 / np.sqrt(5 * 4.5))
    assert {name: summary[name] for name in ("facts", "probes", "facts_seen", "learned", "known_at_end")} == {
        "facts": 5,
        "probes": 6,
        "facts_seen": 3,
        "learned": 2,
        "known_at_end": 4,
    }
    assert [list(row.values())[:6] for row in summary["by_exposures"]] == [
        ["0", 2, 1, 0, None, 1],
        ["1", 1, 0, 0, None, 1],
        ["2-3", 1, 0, 1, 4, 1],
        ["4-7", 1, 0, 1, 2, 1],
        ["8-15", 0, 0, 0, None, 0],
        ["16+", 0, 0, 0, None, 0],
    ]


def test_a_single_checkpoint_gives_accuracy_but_no_intervals(answers, order, fact_chunks):
    result = compute_dynamics(order, fact_chunks, answers({("a", "a0"): [1], ("b", "b0"): [2]}, [6]))
    assert result.intervals.num_rows == 0
    assert result.facts["learned_at"].to_pylist() == [None, None]
    assert result.info["summary"]["earliness"]["rho"] is None
    at_end = result.accuracy.filter(pc.greater(result.accuracy["facts"], 0))
    assert at_end["accuracy"].to_pylist() == [0.0, 1.0, 0.0, 1.0]
    assert len(dynamics_section(result)["figures"]) == 3


def test_fact_chunks_without_rows_mean_that_nothing_was_seen(run, order, fact_chunks):
    empty = replace(fact_chunks, table=fact_chunks.table.slice(0, 0))
    result = compute_dynamics(order, empty, run)
    assert result.facts["exposures"].to_pylist() == [0] * 5
    assert result.info["summary"]["earliness"]["rho"] is None


def test_inputs_that_do_not_belong_together_are_refused(run, order, fact_chunks, answers):
    with pytest.raises(ValueError, match="steps 0 to 7, the data order has 6 updates"):
        compute_dynamics(order, fact_chunks, answers({("a", "a0"): [1, 1]}, [0, 7]))
    with pytest.raises(ValueError, match=r"no fact of the answers \(e\.g\. 'z'\) is in the fact chunks"):
        compute_dynamics(order, fact_chunks, answers({("z", "z0"): [1, 1]}, [0, 6]))
    with pytest.raises(FormatError, match="belongs to the chunk store abc, the fact chunks to other"):
        compute_dynamics(order, replace(fact_chunks, store_sha256="other"), run)
    with pytest.raises(ValueError, match=r"no answers at the steps \[3\], there are \[0, 2, 4, 6\]"):
        compute_dynamics(order, fact_chunks, run, bounds=[0, 3])
    with pytest.raises(ValueError, match="count from 1, found 0 and 2"):
        compute_dynamics(order, fact_chunks, run, max_rank=0)


@pytest.fixture
def input_files(tmp_path, run, order, fact_chunks):
    """The three inputs of `dynamics` on disk."""
    save_order(order, tmp_path / "order")
    write_fact_chunks(
        fact_chunks.table, tmp_path / "facts.parquet", evidence=Evidence(), source="test", store_sha256="abc"
    )
    pq.write_table(run, tmp_path / "answers.parquet")
    return [tmp_path / name for name in ("order", "facts.parquet", "answers.parquet")]


def test_a_dynamics_folder_is_read_back_and_written_alike_twice(tmp_path, input_files):
    result = join_files(*input_files, command="x")
    for name in ("first", "second"):
        save_dynamics(result, tmp_path / name)
    back = load_dynamics(tmp_path / "first")
    assert back.info == result.info
    for name in ("facts", "intervals", "accuracy"):
        assert getattr(back, name).to_pydict() == getattr(result, name).to_pydict()
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


def test_the_hashes_of_the_inputs_are_kept(tmp_path, input_files):
    before = join_files(*input_files, command="x").info["inputs"]
    shutil.copy(input_files[1], tmp_path / "same.parquet")
    again = join_files(input_files[0], tmp_path / "same.parquet", input_files[2], command="y").info["inputs"]
    assert before == again
    ids = np.load(input_files[0] / "ids.npy")
    ids[0] = 5
    np.save(input_files[0] / "ids.npy", ids)
    changed = join_files(*input_files, command="x").info["inputs"]
    assert {name for name in before if before[name] != changed[name]} == {"order"}


def test_only_a_dynamics_folder_is_overwritten_and_only_on_request(tmp_path, input_files):
    result = join_files(*input_files, command="x")
    save_dynamics(result, tmp_path / "out")
    with pytest.raises(FileExistsError, match="give --overwrite"):
        save_dynamics(result, tmp_path / "out")
    save_dynamics(result, tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="is no dynamics folder"):
        save_dynamics(result, tmp_path / "mine", overwrite=True)


def test_a_folder_that_is_no_dynamics_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dynamics at"):
        load_dynamics(tmp_path)
    (tmp_path / "dynamics.json").write_text(
        json.dumps({"format": "dynamics", "version": 2}), encoding="utf-8"
    )
    with pytest.raises(FormatError, match="dynamics version 2, this release reads 1"):
        load_dynamics(tmp_path)


def test_the_section_of_dynamics_is_one_that_the_report_reads(tmp_path, input_files):
    result = join_files(*input_files, command="chunk-provenance dynamics a b c")
    write_section(dynamics_section(result), tmp_path / "s.json")
    back = read_section(tmp_path / "s.json")
    assert (back["title"], back["command"]) == ("Learning dynamics", "chunk-provenance dynamics a b c")
    assert [figure["kind"] for figure in back["figures"]] == ["line", "bar", "bar", "bar", "heatmap"]
    learned_when = back["figures"][-1]["series"]
    # Columns: 0 (d never, e at 4), 1 (c never), 2-3 (b at 4), 4-7 (a at 2).
    assert {row["label"]: row["y"] for row in learned_when} == {
        "0 (untrained)": [0.0, 0.0, 0.0, 0.0],
        "2": [0.0, 0.0, 0.0, 100.0],
        "4": [50.0, 0.0, 100.0, 0.0],
        "never": [50.0, 100.0, 0.0, 0.0],
    }
