"""The analyses of the LMEnt paper over anyone's order, facts and answers, for one model or several.

Accuracy by how often subject, answer and both are named, by popularity, exposures and recency; learned,
forgotten and net by exposures in an interval, with both denominators; which number goes best with knowing. A
fact is known to a checkpoint that answers at least one of its questions. The definitions are those of
`chunk_provenance.dynamics`, only the bins are the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.dynamics import (
    Bools,
    Knowledge,
    accuracy_by,
    bin_labels,
    check_bins,
    count_bins,
    earliness,
    facts_table,
    interval_table,
    read_knowledge,
    sum_intervals,
)
from chunk_provenance.exposures import Exposures, find_exposures
from chunk_provenance.formats import FormatError
from chunk_provenance.joining import check_same_store
from chunk_provenance.matching import count_reasons, match_answers
from chunk_provenance.order import DataOrder
from chunk_provenance.statistics import Counts, bootstrap_spearman, spearman
from chunk_provenance.studied import CHUNK_COLUMNS, POPULARITY, StudiedFacts

PAPER_BINS = (0, 1, 10, 100, 1000)
POPULARITY_BINS = (0, 1, 10, 100, 1000, 10_000, 100_000)
RECENCY_BINS = (0, 100, 1000, 10_000, 100_000)
NEVER = "never seen"


@dataclass(frozen=True)
class Analysis:
    """The tables of an analysis folder (FORMAT.md) and its summary."""

    facts: pa.Table
    intervals: pa.Table
    intervals_summed: pa.Table
    accuracy: pa.Table
    predictors: pa.Table
    unmatched: pa.Table
    info: dict[str, Any]


@dataclass(frozen=True)
class AnalysisSettings:
    """How to analyse; the defaults are the paper's."""

    edges: Sequence[int] = PAPER_BINS
    """Where the bins of chunks and of exposures begin."""
    popularity_edges: Sequence[int] = POPULARITY_BINS
    recency_edges: Sequence[int] = RECENCY_BINS
    """Where the bins of updates since the last exposure begin."""
    bounds: Sequence[int] | None = None
    """The checkpoints that bound the intervals (default: all)."""
    max_rank: int = 1
    consecutive: int = 2
    seed: int = 0
    """Of the bootstrap intervals of rank correlations."""

    def __post_init__(self) -> None:
        """Refuse what no analysis can follow."""
        for edges in (self.edges, self.popularity_edges, self.recency_edges):
            check_bins(edges)
        if self.max_rank < 1 or self.consecutive < 1:
            raise ValueError(
                f"ranks and checkpoints count from 1, found {self.max_rank} and {self.consecutive}"
            )


def analyze(
    order: DataOrder,
    studied: StudiedFacts,
    answers: pa.Table,
    *,
    settings: AnalysisSettings | None = None,
    flops_per_step: Mapping[str, float] | None = None,
) -> Analysis:
    """Join what was seen when with what each model knew when.

    Args:
        order: the data order that all models were trained on.
        studied: as `open_studied_facts` reads them.
        answers: as `read_answers` gives them, with a column `model` where there are several.
        settings: bins, intervals and definitions.
        flops_per_step: of each model; the key "" stands for all models.

    >>> from chunk_provenance.facts import Evidence, FactChunks
    >>> from chunk_provenance.studied import from_fact_chunks
    >>> order = DataOrder(np.array([0, 2, 4]), np.array([0, 1, 0, 2]), np.array([0]))  # [0, 1], then [0, 2]
    >>> chunks = pa.table({"fact_id": ["a"], "kind": ["shared"], "chunk_id": [0]})
    >>> facts = from_fact_chunks(FactChunks(chunks, Evidence(), "by hand", None))
    >>> rows = {"step": [0, 2], "fact_id": ["a", "a"], "probe_id": ["a", "a"], "rank": [3, 1]}
    >>> found = analyze(order, facts, pa.table(rows)).intervals
    >>> found.filter(pc.greater(found["facts"], 0)).select(["step_to", "exposures", "learned"]).to_pylist()
    [{'step_to': 2, 'exposures': '1-9', 'learned': 1}]
    """
    settings = settings or AnalysisSettings()
    check_same_store(order, studied.chunks)
    kept, unmatched = match_answers(answers, studied, order.num_updates)
    fact_ids = pc.unique(kept["fact_id"])
    exposures = find_exposures(order, studied.chunks.table, fact_ids.to_pylist(), facts=studied.facts)
    notes = [*studied.notes, *_never_trained(exposures, order)]
    if exposures.num_injected:
        words = "injected items in the order are exposures of the facts they state"
        notes.append(f"{exposures.num_injected:,} {words}")
    models = pc.unique(kept["model"]).to_pylist()
    parts = [
        _analyze_model(
            model,
            kept.filter(pc.equal(kept["model"], model)),
            (fact_ids, exposures, studied.facts),
            settings,
            _flops_of(model, models, flops_per_step or {}),
        )
        for model in models
    ]
    names = ("facts", "intervals", "intervals_summed", "accuracy", "predictors")
    tables = {name: pa.concat_tables([part[name] for part in parts]).combine_chunks() for name in names}
    info = {
        "num_updates": order.num_updates,
        "epoch_starts": order.epoch_starts.tolist(),
        "injected_items": exposures.num_injected,
        "parameters": {
            **asdict(settings),
            "bounds": None if settings.bounds is None else list(settings.bounds),
            "flops_per_step": dict(flops_per_step or {}),
        },
        "facts": studied.facts.num_rows,
        "notes": notes,
        "unmatched": count_reasons(unmatched),
        "models": [part["summary"] for part in parts],
    }
    return Analysis(**tables, unmatched=unmatched, info=info)


def _never_trained(exposures: Exposures, order: DataOrder) -> list[str]:
    """A note about chunks of the facts that the order lacks; refuses facts of which it has none."""
    trained = exposures.seen.lengths[: len(exposures.seen.rows) - exposures.num_items] > 0
    if len(trained) and not trained.any() and not exposures.num_items:
        raise FormatError(
            f"none of the {len(trained):,} chunks that state a fact is in the data order (its ids go up to "
            f"{int(order.ids.max(initial=-1)):,}): the facts belong to another dataset"
        )
    missing = int(np.count_nonzero(~trained))
    words = f"{missing:,} of the {len(trained):,} chunks that state a fact are never trained on"
    return [words] if missing else []


def _flops_of(model: str, models: list[str], flops_per_step: Mapping[str, float]) -> float | None:
    if unknown := sorted(set(flops_per_step) - {"", *models}):
        raise ValueError(f"the answers have the models {models}, FLOPs are given for {unknown}")
    return flops_per_step.get(model, flops_per_step.get(""))


def _analyze_model(
    model: str,
    answers: pa.Table,
    seen: tuple[pa.Array, Exposures, pa.Table],
    settings: AnalysisSettings,
    flops: float | None,
) -> dict[str, Any]:
    """All tables of one model, each with the model's name in front."""
    try:
        knowledge = read_knowledge(answers)
        by_question = read_knowledge(answers.set_column(1, "fact_id", answers["probe_id"]))
        bounds = None if settings.bounds is None else knowledge.select(settings.bounds).steps.tolist()
    except ValueError as error:
        raise FormatError(f"model {model!r}: {error}" if model else str(error)) from error
    fact_ids, all_exposures, all_facts = seen
    asked = pa.array(knowledge.fact_ids, pa.string())
    exposures = all_exposures.take(pc.index_in(asked, fact_ids).to_numpy())
    counts = exposures.counts(knowledge.steps)
    known = knowledge.known(settings.max_rank)
    facts = facts_table(knowledge, exposures, max_rank=settings.max_rank, consecutive=settings.consecutive)
    facts = _add_facts(facts, all_facts)
    intervals = interval_table(known, counts, knowledge.steps, edges=settings.edges, bounds=bounds)
    accuracy = _accuracy(facts, counts, settings, known, by_question, answers)
    step = accuracy["step"].to_numpy()
    tables = {
        "facts": facts,
        "intervals": intervals,
        "intervals_summed": _summed(intervals),
        "accuracy": accuracy.append_column(
            "flops", pa.nulls(len(step), pa.float64()) if flops is None else pa.array(step * float(flops))
        ),
        "predictors": _predictors(facts, settings.seed),
    }
    named = {
        name: table.add_column(0, "model", pa.repeat(model, table.num_rows)) for name, table in tables.items()
    }
    return {**named, "summary": _summary(model, knowledge, by_question, facts, settings)}


def _add_facts(facts: pa.Table, studied: pa.Table) -> pa.Table:
    """Subject, answer, chunks and popularity beside the exposures."""
    place = pc.index_in(facts["fact_id"], studied["fact_id"].combine_chunks()).combine_chunks()
    for at, name in enumerate(studied.column_names[1:], start=1):
        values = studied[name].take(place)
        if name in CHUNK_COLUMNS and studied[name].null_count < studied.num_rows:
            values = values.fill_null(0)  # a fact without a row has no chunk
        facts = facts.add_column(at, name, values)
    return facts


def _summed(intervals: pa.Table) -> pa.Table:
    """Sums over intervals, over bins of one exposure and more, and over both; null = summed over."""
    seen = intervals.filter(pc.not_equal(intervals["exposures"], "0"))
    parts = [sum_intervals(intervals, ["exposures"]), sum_intervals(seen, ["step_from", "step_to"])]
    in_all = seen.append_column("all", pa.repeat(0, seen.num_rows))
    parts.append(sum_intervals(in_all, ["all"]))
    return pa.concat_tables([_with_columns(part, intervals.schema) for part in parts])


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`: null where it has none of the name."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _groups(
    facts: pa.Table, counts: Counts, steps: Counts, settings: AnalysisSettings
) -> dict[str, tuple[Counts, list[str]]]:
    """Every way to divide the facts: the bin of each fact (at each step), and the bins' names."""
    everything = np.zeros(facts.num_rows, dtype=np.int64)
    groups = {"all": (everything, ["all"])}
    for names, edges in ((CHUNK_COLUMNS, settings.edges), (POPULARITY, settings.popularity_edges)):
        for name in names:
            if facts[name].null_count < facts.num_rows:
                values = facts[name].fill_null(-1).to_numpy()
                groups[name] = (count_bins(values, edges), bin_labels(edges))
    labels = bin_labels(settings.edges)
    groups["exposures_so_far"] = (count_bins(counts, settings.edges), labels)
    groups["exposures_in_run"] = (count_bins(counts[:, -1], settings.edges), labels)
    last = np.array(facts["last_exposure_by_step"].combine_chunks().flatten()).reshape(counts.shape)
    since = count_bins(steps - last, settings.recency_edges)
    groups["updates_since_last"] = (
        np.where(last == 0, len(settings.recency_edges), since),
        [*bin_labels(settings.recency_edges), NEVER],
    )
    return groups


def _accuracy(
    facts: pa.Table,
    counts: Counts,
    settings: AnalysisSettings,
    known: Bools,
    by_question: Knowledge,
    answers: pa.Table,
) -> pa.Table:
    """Accuracy of facts and of questions, by every way to divide the facts."""
    steps = by_question.steps
    first = pc.index_in(pa.array(by_question.fact_ids, pa.string()), answers["probe_id"].combine_chunks())
    fact_of_question = pc.index_in(
        answers["fact_id"].take(first), facts["fact_id"].combine_chunks()
    ).to_numpy()
    answered = by_question.known(settings.max_rank)
    parts = []
    for by, (of_bin, labels) in _groups(facts, counts, steps, settings).items():
        for unit, hits, placed in (("fact", known, of_bin), ("question", answered, of_bin[fact_of_question])):
            rows = accuracy_by(hits, placed, labels, steps)
            rows = rows.rename_columns(["count" if name == "facts" else name for name in rows.column_names])
            rows = rows.add_column(0, "unit", pa.repeat(unit, rows.num_rows))
            parts.append(rows.add_column(0, "by", pa.repeat(by, rows.num_rows)))
    return pa.concat_tables(parts)


def _predictors(facts: pa.Table, seed: int) -> pa.Table:
    """Rank correlation of each number of a fact with knowing it at the last checkpoint."""
    rows = []
    for name in (*CHUNK_COLUMNS, *POPULARITY, "exposures"):
        there = facts.filter(pc.is_valid(facts[name]))
        if not there.num_rows:
            continue
        values, known = there[name].to_numpy(), there["known_at_end"].to_numpy()
        numbers = (spearman(values, known), *bootstrap_spearman(values, known, seed=seed))
        rho, low, high = (None if np.isnan(number) else float(number) for number in numbers)
        rows.append({"predictor": name, "facts": there.num_rows, "rho": rho, "low": low, "high": high})
    names = [("predictor", pa.string()), ("facts", pa.int64())]
    numbers_too = [(name, pa.float64()) for name in ("rho", "low", "high")]
    return pa.Table.from_pylist(rows, schema=pa.schema(names + numbers_too))


def _summary(
    model: str, knowledge: Knowledge, by_question: Knowledge, facts: pa.Table, settings: AnalysisSettings
) -> dict[str, Any]:
    answered = by_question.known(settings.max_rank)[:, -1]
    return {
        "model": model,
        "steps": knowledge.steps.tolist(),
        "facts": facts.num_rows,
        "questions": len(by_question.fact_ids),
        "facts_seen": int(np.count_nonzero(facts["exposures"].to_numpy())),
        "known_at_end": int(np.count_nonzero(facts["known_at_end"].to_numpy())),
        "answered_at_end": int(answered.sum()),
        "learned": int(pc.sum(pc.is_valid(facts["learned_at"])).as_py() or 0),
        "earliness": asdict(earliness(facts, seed=settings.seed)),
    }
