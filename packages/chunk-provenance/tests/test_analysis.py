"""Hand-made cases, and a slow twin that follows the definitions with loops."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from chunk_provenance import DataOrder, inject, make_injection_plan
from chunk_provenance.analysis import AnalysisSettings, analyze
from chunk_provenance.analysis_section import analysis_section, analysis_sections
from chunk_provenance.facts import Evidence, FactChunks
from chunk_provenance.formats import FormatError
from chunk_provenance.matching import LATE, NO_CHUNKS, NOT_ASKED, UNKNOWN
from chunk_provenance.studied import FACTS, StudiedFacts, from_fact_chunks

BATCHES = [[0, 1], [2, 3], [0, 4], [5, 6]]  # chunk 0 is trained on in the updates 1 and 3


def make_order(batches, store=None):
    offsets = np.cumsum([0] + [len(batch) for batch in batches], dtype=np.int64)
    ids = np.array([chunk for batch in batches for chunk in batch], dtype=np.int64)
    return DataOrder(
        offsets, ids, np.zeros(1, dtype=np.int64), {} if store is None else {"store_sha256": store}
    )


def make_facts(chunks, *, popularity=None, questions=None):
    """Facts from {fact: (subject chunks, answer chunks)}."""
    rows = [
        (fact, kind, chunk)
        for fact, (subject, answer) in chunks.items()
        for kind, ids in (
            ("subject", subject),
            ("answer", answer),
            ("shared", sorted({*subject} & {*answer})),
        )
        for chunk in ids
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    table = pa.table(dict(zip(("fact_id", "kind", "chunk_id"), columns, strict=True)))
    facts = pa.table(
        [
            list(chunks),
            *[pa.nulls(len(chunks), pa.string())] * 2,
            [len(subject) for subject, _ in chunks.values()],
            [len(answer) for _, answer in chunks.values()],
            [len({*subject} & {*answer}) for subject, answer in chunks.values()],
            *(
                [[popularity[fact] for fact in chunks]] * 2
                if popularity
                else [pa.nulls(len(chunks), pa.int64())] * 2
            ),
        ],
        schema=FACTS,
    )
    table = table.cast(pa.schema([("fact_id", pa.string()), ("kind", pa.string()), ("chunk_id", pa.int64())]))
    return StudiedFacts(FactChunks(table, Evidence(), "test", "abc"), facts, questions)


def make_answers(rows, model=None):
    """Answers from {(fact, question): one verdict a step}, at the steps 0, 2, 4."""
    steps = [0, 2, 4]
    table = pa.Table.from_pylist(
        [
            {"step": step, "fact_id": fact, "probe_id": probe, "rank": 1 if right else 2}
            for (fact, probe), verdicts in rows.items()
            for step, right in zip(steps, verdicts, strict=True)
        ],
        schema=pa.schema(
            [("step", pa.int64()), ("fact_id", pa.string()), ("probe_id", pa.string()), ("rank", pa.int32())]
        ),
    )
    return table if model is None else table.append_column("model", pa.repeat(model, table.num_rows))


@pytest.fixture
def small():
    """Facts a (shown at 1, 3), b (at 2), c (never); a has two questions."""
    chunks = {"a": ([0, 7], [0, 1]), "b": ([2], [2]), "c": ([3], [4])}
    answers = make_answers(
        {
            ("a", "a1"): [False, True, False],
            ("a", "a2"): [False, False, True],
            ("b", "b1"): [False, True, False],
            ("c", "c1"): [True, False, True],
        }
    )
    return make_order(BATCHES), make_facts(chunks, popularity={"a": 20, "b": 5, "c": None}), answers


def rows_of(table, *names, **equal):
    for name, value in equal.items():
        table = table.filter(pc.is_null(table[name]) if value is None else pc.equal(table[name], value))
    return [tuple(row.values()) for row in table.select(list(names)).to_pylist()]


def test_a_fact_is_known_if_one_of_its_questions_is_answered(small):
    result = analyze(*small)
    assert rows_of(result.accuracy, "step", "count", "known", by="all", unit="fact") == [
        (0, 3, 1),
        (2, 3, 2),
        (4, 3, 2),
    ]
    assert rows_of(result.accuracy, "step", "count", "known", by="all", unit="question") == [
        (0, 4, 1),
        (2, 4, 2),
        (4, 4, 2),
    ]


def test_learned_and_forgotten_are_counted_by_exposures_within_the_interval(small):
    result = analyze(*small)
    names = ("step_from", "step_to", "exposures", "facts", "known_before", "learned", "forgotten")
    seen = [row for row in rows_of(result.intervals, *names) if row[3]]
    # (0, 2]: a and b are shown once and learned, c is not shown and forgotten.
    # (2, 4]: a is shown once, stays known; b is not shown and forgotten; c is not shown and known by luck.
    assert seen == [
        (0, 2, "0", 1, 1, 0, 1),
        (0, 2, "1-9", 2, 0, 2, 0),
        (2, 4, "0", 2, 1, 1, 1),
        (2, 4, "1-9", 1, 1, 0, 0),
    ]
    rates = ("exposures", "facts", "learned_rate", "learned_at_risk_rate", "forgotten_rate", "net_rate")
    by_bin = [row for row in rows_of(result.intervals_summed, *rates, step_from=None) if row[1]]
    assert by_bin == [
        ("0", 3, 1 / 3, 1.0, 2 / 3, pytest.approx(-1 / 3)),
        ("1-9", 3, 2 / 3, 1.0, 0.0, pytest.approx(2 / 3)),
        (None, 3, 2 / 3, 1.0, 0.0, pytest.approx(2 / 3)),  # shown at least once: the sum over those bins
    ]
    by_interval = result.intervals_summed.filter(pc.is_valid(result.intervals_summed["step_from"]))
    assert rows_of(by_interval, "step_from", "step_to", "exposures", "facts", "learned") == [
        (0, 2, None, 2, 2),
        (2, 4, None, 1, 0),
    ]


def test_accuracy_is_counted_by_chunks_popularity_and_recency(small):
    result = analyze(*small, settings=AnalysisSettings(recency_edges=(0, 2)))

    def at_end(by):
        rows = rows_of(result.accuracy, "bin", "count", "known", by=by, unit="fact", step=4)
        return [row for row in rows if row[1]]

    assert at_end("shared_chunks") == [("0", 1, 1), ("1-9", 2, 1)]
    assert at_end("subject_chunks") == [("1-9", 3, 2)]
    assert at_end("subject_popularity") == [("1-9", 1, 0), ("10-99", 1, 1)]  # c has none
    # a was last shown in update 3, one update before; b in update 2.
    assert at_end("updates_since_last") == [("0-1", 1, 1), ("2+", 1, 0), ("never seen", 1, 1)]
    assert at_end("exposures_so_far") == [("0", 1, 1), ("1-9", 2, 1)]


def test_the_facts_table_joins_what_is_known_about_a_fact_with_when_it_was_shown(small):
    facts = analyze(*small).facts
    names = (
        "fact_id",
        "subject_chunks",
        "shared_chunks",
        "subject_popularity",
        "exposures",
        "first_exposure",
    )
    assert rows_of(facts, *names, "last_exposure") == [
        ("a", 2, 1, 20, 2, 1, 3),
        ("b", 1, 1, 5, 1, 2, 2),
        ("c", 1, 0, None, 0, None, None),
    ]
    assert facts["known_by_step"].to_pylist() == [
        [False, True, True],
        [False, True, False],
        [True, False, True],
    ]


def test_intervals_may_span_several_checkpoints_and_flops_follow_the_step(small):
    result = analyze(*small, settings=AnalysisSettings(bounds=[0, 4]), flops_per_step={"": 10.0})
    assert set(rows_of(result.intervals, "step_from", "step_to")) == {(0, 4)}
    assert set(rows_of(result.accuracy, "step", "flops")) == {(0, 0.0), (2, 20.0), (4, 40.0)}


def test_several_models_are_analysed_side_by_side(small):
    order, facts, answers = small
    small_model = answers.append_column("model", pa.repeat("small", answers.num_rows))
    large = make_answers({("b", "b1"): [False, True, True], ("c", "c1"): [False, False, False]}, "large")
    result = analyze(order, facts, pa.concat_tables([small_model, large]), flops_per_step={"large": 1.0})
    alone = analyze(order, facts, answers)
    for name in ("facts", "intervals", "intervals_summed", "predictors"):
        table = getattr(result, name)
        mine = table.filter(pc.equal(table["model"], "small")).drop_columns(["model"])
        assert mine.equals(getattr(alone, name).drop_columns(["model"]).combine_chunks()) or (
            mine.to_pylist() == getattr(alone, name).drop_columns(["model"]).to_pylist()
        )
    names = ("model", "step", "known", "flops")
    assert rows_of(result.accuracy, *names, by="all", unit="fact")[3:] == [
        ("large", 0, 0, 0.0),
        ("large", 2, 1, 2.0),
        ("large", 4, 1, 4.0),
    ]
    assert rows_of(result.unmatched, "reason", "model", "fact_id") == [(NOT_ASKED, "large", "a")]
    with pytest.raises(ValueError, match=r"the answers have the models .*, FLOPs are given for \['huge'\]"):
        analyze(order, facts, answers, flops_per_step={"huge": 1.0})


def test_what_does_not_match_is_counted_and_listed():
    facts = make_facts({"a": ([0], [0]), "b": ([1], [1])})
    answers = make_answers({("a", "a1"): [True] * 3, (None, "x1"): [True] * 3, ("e", "e1"): [False] * 3})
    late = make_answers({("a", "a1"): [True] * 3}).set_column(0, "step", pa.array([5, 7, 7]))
    result = analyze(make_order(BATCHES), facts, pa.concat_tables([answers, late.slice(0, 2)]))
    names = ("reason", "step", "probe_id", "fact_id", "answers")
    assert rows_of(result.unmatched, *names) == [
        (LATE, 5, None, None, 1),
        (LATE, 7, None, None, 1),
        (UNKNOWN, None, "x1", None, 3),
        (NOT_ASKED, None, None, "b", None),
        (NO_CHUNKS, None, None, "e", 3),
    ]
    assert result.info["unmatched"] == [
        {"reason": LATE, "rows": 2, "answers": 2},
        {"reason": UNKNOWN, "rows": 1, "answers": 3},
        {"reason": NOT_ASKED, "rows": 1, "answers": 0},
        {"reason": NO_CHUNKS, "rows": 1, "answers": 3},
    ]
    assert result.facts["fact_id"].to_pylist() == ["a", "e"]


@pytest.fixture
def many():
    """Forty facts in one chunk each, half of them read in update 1 and known from then on, by two models."""
    chunks = {f"f{number}": ([number], [number]) for number in range(40)}
    order = make_order([list(range(20)), [99], [98], [97]])
    answers = make_answers(
        {(fact, fact): [False, place < 20, place < 20] for place, fact in enumerate(chunks)}
    )
    models = [answers.append_column("model", pa.repeat(name, answers.num_rows)) for name in ("m", "n")]
    popularity = {fact: 5 if place < 20 else 50 for place, fact in enumerate(chunks)}
    return analyze(
        order, make_facts(chunks, popularity=popularity), pa.concat_tables(models), flops_per_step={"": 10.0}
    )


def test_the_figures_show_what_the_tables_say(many):
    figures = {figure["title"]: figure for figure in analysis_section(many)["figures"]}
    everything = figures["Accuracy: all questions"]
    assert [one["label"] for one in everything["series"]] == ["m", "n"]
    assert everything["series"][0]["x"] == [20.0, 40.0]  # FLOPs of the steps 2 and 4; a log axis has no 0
    assert everything["series"][0]["y"] == [50.0, 50.0]
    by_popularity = figures["By popularity of the subject"]["series"][1]
    assert (by_popularity["x"], by_popularity["y"]) == (["1-9", "10-99"], [100.0, 0.0])
    changes = {one["label"]: one for one in figures["Learned and forgotten, by exposures, n"]["series"]}
    # (0, 2] shows 20 facts and teaches them; in (2, 4] nothing is shown or learned: 20 and 60 of 80.
    assert changes["learned"]["x"] == ["0", "1-9"]
    assert (
        changes["learned"]["y"],
        changes["forgotten"]["y"],
        changes["net (learned - forgotten)"]["y"],
    ) == (
        [0.0, 100.0],
        [0.0, 0.0],
        [0.0, 100.0],
    )
    recency = figures["Facts known at the last checkpoint, by how long ago they were last shown"]["series"][0]
    assert (recency["x"], recency["y"]) == (["0-99", "never seen"], [100.0, 0.0])


def test_the_tables_have_a_column_or_a_table_a_model(many):
    tables = {table["title"]: table for table in analysis_section(many)["tables"]}
    accuracy = tables["Questions answered at the end, %"]
    assert accuracy["columns"] == ["by", "bin", "questions", "m", "n"]
    assert accuracy["rows"][0] == ["chunks with both", "1-9", 40, "50.0 (35-65)", "50.0 (35-65)"]
    changes = tables["Learned and forgotten by exposures in the interval, m"]
    # exposures, facts, learned and its two shares, forgotten and its two shares, net
    assert changes["rows"][1] == ["1-9", 20, 20, 100.0, 100.0, 0, 0.0, None, 100.0]
    rho = tables["Rank correlation (Spearman's rho) with being known at the last checkpoint"]
    assert [row[0] for row in rho["rows"]] == [
        "popularity of the subject",
        "popularity of the answer",
        "exposures in the run",
    ]
    assert rho["rows"][0][1].startswith("-1.000")
    assert rho["rows"][2][1].startswith("1.000")


def test_one_checkpoint_gives_accuracy_and_says_that_nothing_can_change(small):
    order, facts, answers = small
    result = analyze(order, facts, answers.filter(pc.equal(answers["step"], 2)))
    assert (result.intervals.num_rows, result.intervals_summed.num_rows) == (0, 0)
    assert rows_of(result.accuracy, "step", "known", by="all", unit="fact") == [(2, 2)]
    changes = analysis_sections(result)[2]
    assert (changes["tables"], changes["figures"]) == ([], [])
    assert changes["summary"] == "There are answers at one checkpoint only: learning and forgetting need two."


def test_injected_items_count_through_the_entities_of_a_fact(small):
    order, facts, answers = small
    named = [("x/0", 2, ["Q1", "Q2"]), ("y/0", 3, ["Q1"])]
    rows = [
        {
            "update": update,
            "row": 0,
            "placement": "append_doc",
            "item_id": item,
            "tokens": [1],
            "entities": who,
        }
        for item, update, who in named
    ]
    width = np.full(9, 8)
    store = SimpleNamespace(num_chunks=9, sha256="abc", bucket=width, length=width - 2, vocab_size=9)
    injected = inject(order, make_injection_plan(rows), store)
    known = facts.facts.set_column(1, "subject", pa.array(["Q1", "Q1", "Q1"]))
    known = known.set_column(2, "answer", pa.array(["Q2", "Q3", None], pa.string()))
    result = analyze(injected, dataclasses.replace(facts, facts=known), answers)
    before = analyze(order, facts, answers)
    assert result.info["injected_items"] == 2
    assert "2 injected items in the order are exposures of the facts they state" in result.info["notes"]
    more = dict(zip(known["fact_id"].to_pylist(), [1, 0, 0], strict=True))
    for fact, old in zip(result.facts.to_pylist(), before.facts.to_pylist(), strict=True):
        assert fact["exposures"] == old["exposures"] + more[fact["fact_id"]]


def test_chunks_that_are_never_trained_on_are_counted(small):
    _, facts, answers = small
    result = analyze(make_order([[0, 1], [5, 3], [0, 4], [5, 6]]), facts, answers)  # b's chunk 2 is missing
    assert result.info["notes"] == ["1 of the 2 chunks that state a fact are never trained on"]


def test_inputs_that_do_not_belong_together_are_refused(small):
    order, facts, answers = small
    with pytest.raises(
        FormatError, match=r"none of the 2 chunks that state a fact .*ids go up to 99\): the facts"
    ):
        analyze(make_order([[98, 99], [97, 96], [95], [94]]), facts, answers)
    with pytest.raises(FormatError, match="belongs to the chunk store other"):
        analyze(make_order(BATCHES, "other"), facts, answers)
    with pytest.raises(ValueError, match="the answers are of steps 2 to 4, the data order has 1 updates"):
        analyze(make_order(BATCHES[:1]), facts, answers.filter(pc.greater(answers["step"], 0)))
    with pytest.raises(
        ValueError, match=r"no fact of the answers \(e.g. 'z'\) is in the fact chunks \(e.g. 'a'\)"
    ):
        analyze(order, facts, make_answers({("z", "z1"): [True] * 3}))
    with pytest.raises(ValueError, match=r"no question of the answers \(e.g. 'z1'\) is among the facts"):
        analyze(order, facts, make_answers({(None, "z1"): [True] * 3}))


def test_answers_that_come_twice_or_are_missing_are_refused_with_the_model(small):
    order, facts, answers = small
    named = answers.append_column("model", pa.repeat("m", answers.num_rows))
    with pytest.raises(
        FormatError, match="model 'm': every probe needs one answer at every step, but 'a1' has 2"
    ):
        analyze(order, facts, pa.concat_tables([named, named.slice(0, 1)]))
    with pytest.raises(FormatError, match="'a1' has no answer at step 0"):
        analyze(order, facts, answers.slice(1))
    with pytest.raises(FormatError, match=r"model 'm': no answers at the steps \[3\], there are \[0, 2, 4\]"):
        analyze(order, facts, named, settings=AnalysisSettings(bounds=[0, 3]))


@pytest.mark.parametrize("edges", [(1, 10), (), (0, 10, 10)])
def test_bins_that_do_not_ascend_from_0_are_refused(edges):
    with pytest.raises(ValueError, match="bins must begin at 0 and ascend"):
        AnalysisSettings(popularity_edges=edges)


def slow_analysis(batches, chunks, verdicts, steps, edges):
    """The definitions, with loops: (accuracy by shared chunks, learned and forgotten by exposures)."""

    def bin_of(number):
        return max(place for place, edge in enumerate(edges) if edge <= number)

    def shown(fact, low, high):
        shared = set(chunks[fact][0]) & set(chunks[fact][1])
        return sum(len(shared & set(batch)) for batch in batches[low:high])

    def known(fact, place):
        return any(rows[place] for (owner, _), rows in verdicts.items() if owner == fact)

    asked = {fact for fact, _ in verdicts}
    accuracy, changes = {}, {}
    for place, step in enumerate(steps):
        for fact in asked:
            shared = bin_of(len(set(chunks[fact][0]) & set(chunks[fact][1])))
            count, right = accuracy.get((step, shared), (0, 0))
            accuracy[step, shared] = (count + 1, right + known(fact, place))
            if place:
                cell = (steps[place - 1], bin_of(shown(fact, steps[place - 1], step)))
                was, now = known(fact, place - 1), known(fact, place)
                facts, before, learned, forgotten = changes.get(cell, (0, 0, 0, 0))
                changes[cell] = (
                    facts + 1,
                    before + was,
                    learned + (now and not was),
                    forgotten + (was and not now),
                )
    return accuracy, changes


@pytest.mark.parametrize("seed", range(5))
def test_an_analysis_equals_the_slow_twin(seed):
    rng = np.random.default_rng(seed)
    batches = [rng.integers(0, 30, 6).tolist() for _ in range(4)]
    names = [f"f{number}" for number in range(12)]
    chunks = {
        name: tuple(rng.choice(30, rng.integers(0, 20), replace=False).tolist() for _ in range(2))
        for name in names
    }
    verdicts = {
        (name, f"{name}-{question}"): (rng.random(3) < 0.5).tolist()
        for name in names
        for question in range(rng.integers(0, 3))
    }
    edges, steps = (0, 1, 3, 8), [0, 2, 4]
    result = analyze(
        make_order(batches),
        make_facts(chunks),
        make_answers(verdicts),
        settings=AnalysisSettings(edges=edges),
    )
    accuracy, changes = slow_analysis(batches, chunks, verdicts, steps, edges)
    labels = ["0", "1-2", "3-7", "8+"]
    found = rows_of(result.accuracy, "step", "bin", "count", "known", by="shared_chunks", unit="fact")
    assert {
        (step, labels.index(name)): (count, hits) for step, name, count, hits in found if count
    } == accuracy
    columns = ("step_from", "exposures", "facts", "known_before", "learned", "forgotten")
    found = rows_of(result.intervals, *columns)
    assert {(low, labels.index(name)): tuple(rest) for low, name, *rest in found if rest[0]} == changes


def test_facts_of_a_plain_table_have_no_popularity_and_no_subject_chunks(small):
    order, facts, answers = small
    shared = facts.chunks.table.filter(pc.equal(facts.chunks.table["kind"], "shared"))
    plain = from_fact_chunks(FactChunks(shared, Evidence(), "test", None))
    result = analyze(order, plain, answers)
    assert set(result.accuracy["by"].to_pylist()) == {
        "all",
        "shared_chunks",
        "exposures_so_far",
        "exposures_in_run",
        "updates_since_last",
    }
    # c has no row in the table: it has no chunk and counts as never seen.
    assert rows_of(result.unmatched, "reason", "fact_id") == [(NO_CHUNKS, "c")]
    assert rows_of(result.accuracy, "bin", "count", by="shared_chunks", unit="fact", step=4)[0] == ("0", 1)
