"""Learning dynamics: which facts a run learns and forgets, joined with how often it had seen them.

A fact is known at a checkpoint if the answer to at least one of its probes ranks first; it is learned at the
first step from which it stays known for two consecutive checkpoints (both numbers are options). All
arithmetic is on dense (facts, steps) arrays: 100,000 facts at 100 checkpoints take seconds and about 0.5 GB.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.exposures import Exposures
from chunk_provenance.formats import FormatError
from chunk_provenance.statistics import (
    Counts,
    Floats,
    bootstrap_spearman,
    net_change,
    spearman,
    wilson,
)

Bools = npt.NDArray[np.bool_]
DEFAULT_BINS = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Knowledge:
    """How well each fact is known at each checkpoint."""

    fact_ids: list[str]
    steps: Counts  # (steps,) ascending
    rank: npt.NDArray[np.int32]  # (facts, steps) of the best probe, 1 = the answer comes first
    num_probes: Counts  # (facts,)

    def known(self, max_rank: int = 1) -> Bools:
        """Whether an accepted answer ranks among the first `max_rank` candidates, (facts, steps)."""
        return self.rank <= max_rank

    def select(self, steps: Sequence[int]) -> "Knowledge":
        """The same facts at some of the checkpoints."""
        if missing := sorted(set(steps) - set(self.steps.tolist())):
            raise ValueError(f"no answers at the steps {missing}, there are {self.steps.tolist()}")
        columns = np.searchsorted(self.steps, sorted(set(steps)))
        return Knowledge(self.fact_ids, self.steps[columns], self.rank[:, columns], self.num_probes)


def read_knowledge(answers: pa.Table) -> Knowledge:
    """The best rank of each fact at each step; facts in the order in which they first occur.

    Raises:
        FormatError: a probe lacks an answer at some step, has two, or belongs to two facts.
    """
    steps, step = np.unique(answers["step"].to_numpy(), return_inverse=True)
    probe_ids, probe = _codes(answers["probe_id"])
    fact_ids, fact = _codes(answers["fact_id"])
    _check_complete(steps, step, probe_ids, probe)
    fact_of_probe = np.zeros(len(probe_ids), dtype=np.int64)
    fact_of_probe[probe] = fact
    if (clash := np.flatnonzero(fact_of_probe[probe] != fact)).size:
        raise FormatError(f"the probe {probe_ids[probe[clash[0]]]!r} belongs to more than one fact")
    rank = np.empty((len(probe_ids), len(steps)), dtype=np.int32)
    rank[probe, step] = answers["rank"].to_numpy()
    by_fact = np.argsort(fact_of_probe, kind="stable")
    num_probes = np.bincount(fact_of_probe)
    begins = np.cumsum(num_probes) - num_probes
    return Knowledge(fact_ids, steps, np.minimum.reduceat(rank[by_fact], begins, axis=0), num_probes)


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Counts]:
    """Distinct values in the order of their first occurrence, and the number of each row's value."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _check_complete(steps: Counts, step: Counts, probe_ids: list[str], probe: Counts) -> None:
    answered = np.bincount(probe * len(steps) + step, minlength=len(probe_ids) * len(steps))
    wrong = np.flatnonzero(answered != 1)
    if not len(wrong):
        return
    first_probe, first_step = np.divmod(int(wrong[0]), len(steps))
    found = "no answer" if answered[wrong[0]] == 0 else f"{answered[wrong[0]]} answers"
    raise FormatError(
        f"every probe needs one answer at every step, but {probe_ids[first_probe]!r} has {found} at step "
        f"{steps[first_step]} ({len(wrong)} such cases): evaluate all checkpoints on the same probes"
    )


def learned_index(known: Bools, *, consecutive: int = 2) -> Counts:
    """The first checkpoint from which a fact stays known for so many checkpoints, -1 if there is none.

    >>> learned_index(np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)).tolist()
    [3, -1]
    """
    if known.shape[1] < consecutive:
        return np.full(len(known), -1)
    windows = np.lib.stride_tricks.sliding_window_view(known, consecutive, axis=1)
    stays: Bools = np.all(windows, axis=-1)  # (facts, steps - consecutive + 1)
    return np.where(stays.any(axis=1), stays.argmax(axis=1), -1)


def bin_labels(edges: Sequence[int]) -> list[str]:
    """Names of exposure bins that begin at `edges`; the last one is open.

    >>> bin_labels([0, 1, 2, 4])
    ['0', '1', '2-3', '4+']
    """
    ends = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return [*ends, f"{edges[-1]}+"]


def check_bins(edges: Sequence[int]) -> None:
    """Refuse bin edges that do not ascend from 0."""
    if not edges or edges[0] != 0 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"exposure bins must begin at 0 and ascend, found {list(edges)}")


def count_bins(counts: Counts, edges: Sequence[int]) -> Counts:
    """The number of the bin that each exposure count falls into."""
    return np.searchsorted(np.asarray(edges), counts, side="right") - 1


def facts_table(
    knowledge: Knowledge, exposures: Exposures, *, max_rank: int = 1, consecutive: int = 2
) -> pa.Table:
    """One row per fact: exposures, when it was first and last seen, first known, learned; null = never.

    The list columns hold one value per checkpoint, in the order of `knowledge.steps`.
    """
    known, steps = knowledge.known(max_rank), knowledge.steps
    counts, last = exposures.counts(steps), exposures.last(steps)
    learned = learned_index(known, consecutive=consecutive)
    first_known = learned_index(known, consecutive=1)
    end = steps[-1]
    first = exposures.first()
    first = np.where(first <= end, first, 0)
    at_learned = np.take_along_axis(counts, np.maximum(learned, 0)[:, None], axis=1)[:, 0]
    return pa.table(
        {
            "fact_id": pa.array(knowledge.fact_ids, pa.string()),
            "num_probes": knowledge.num_probes,
            "exposures": counts[:, -1],
            "first_exposure": pa.array(first, mask=first == 0),
            "last_exposure": pa.array(last[:, -1], mask=last[:, -1] == 0),
            "known_at_start": known[:, 0] & (steps[0] == 0),
            "first_known": pa.array(steps[first_known], mask=first_known < 0),
            "learned_at": pa.array(steps[learned], mask=learned < 0),
            "exposures_when_learned": pa.array(at_learned, mask=learned < 0),
            "known_at_end": known[:, -1],
            "known_by_step": _lists(known),
            "rank_by_step": _lists(knowledge.rank),
            "exposures_by_step": _lists(counts),
            "last_exposure_by_step": _lists(last),
        }
    )


def _lists(values: npt.NDArray[Any]) -> pa.Array:
    offsets = np.arange(0, values.size + 1, max(values.shape[1], 1), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def interval_table(
    known: Bools,
    counts: Counts,
    steps: Counts,
    *,
    edges: Sequence[int] = DEFAULT_BINS,
    bounds: Sequence[int] | None = None,
) -> pa.Table:
    """Learned, forgotten and net per interval of checkpoints and bin of exposures within the interval.

    Args:
        known: (facts, steps).
        counts: exposures up to each step, (facts, steps).
        steps: the checkpoints, ascending.
        edges: where the exposure bins begin.
        bounds: the checkpoints that bound the intervals; each pair of neighbours is one (default: all steps).

    Returns:
        Per interval and bin the counts `facts`, `known_before`, `learned`, `forgotten` and what `add_rates`
        adds.
    """
    columns = np.searchsorted(steps, steps if bounds is None else bounds)
    labels = bin_labels(edges)
    parts = []
    for before, after in pairwise(columns.tolist()):
        of_bin = count_bins(counts[:, after] - counts[:, before], edges)
        was, now = known[:, before], known[:, after]
        tallies = {
            "facts": np.ones_like(was),
            "known_before": was,
            "learned": ~was & now,
            "forgotten": was & ~now,
        }
        parts.append(
            {
                "step_from": np.full(len(edges), steps[before]),
                "step_to": np.full(len(edges), steps[after]),
                **{name: np.bincount(of_bin[hit], minlength=len(edges)) for name, hit in tallies.items()},
            }
        )
    names = ["step_from", "step_to", "facts", "known_before", "learned", "forgotten"]
    joined = {
        name: np.concatenate([np.empty(0, dtype=np.int64), *(part[name] for part in parts)]) for name in names
    }
    table = pa.table(joined)
    return add_rates(table.add_column(2, "exposures", pa.array(labels * len(parts), pa.string())))


def add_rates(counts: pa.Table) -> pa.Table:
    """Add shares with 95% intervals to counts of `facts`, `known_before`, `learned`, `forgotten`.

    `learned`, `forgotten` and `net` are shares of all facts in the bin; `learned_at_risk` is the share of
    those not known before, `forgotten_at_risk` of those known before. Each has `_rate`, `_low`, `_high`;
    null if of none.
    """
    facts, before, learned, forgotten = (
        counts[name].to_numpy() for name in ("facts", "known_before", "learned", "forgotten")
    )
    rates = {
        "learned": wilson(learned, facts),
        "forgotten": wilson(forgotten, facts),
        "net": net_change(learned, forgotten, before, facts),
        "learned_at_risk": wilson(learned, facts - before),
        "forgotten_at_risk": wilson(forgotten, before),
    }
    for name, values in rates.items():
        for suffix, column in zip(("rate", "low", "high"), values, strict=True):
            counts = counts.append_column(f"{name}_{suffix}", pa.array(column, from_pandas=True))
    return counts


def sum_intervals(intervals: pa.Table, by: Sequence[str]) -> pa.Table:
    """The rows of `interval_table` that agree in the columns `by` added up, with the shares of the sums."""
    names = ["facts", "known_before", "learned", "forgotten"]
    grouped = intervals.group_by(list(by), use_threads=False).aggregate([(name, "sum") for name in names])
    return add_rates(grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names]))


def accuracy_by(known: Bools, of_bin: Counts, labels: Sequence[str], steps: Counts) -> pa.Table:
    """Share of known facts (or questions) per checkpoint and bin, with 95% Wilson intervals.

    Args:
        known: (facts, steps).
        of_bin: the bin of each fact, (facts,), or at each step, (facts, steps); -1 = in none.
        labels: the names of the bins.
        steps: the checkpoints.

    >>> table = accuracy_by(np.array([[True], [False]]), np.array([0, 0]), ["all"], np.array([5]))
    >>> table.select(["step", "bin", "facts", "known", "accuracy"]).to_pylist()
    [{'step': 5, 'bin': 'all', 'facts': 2, 'known': 1, 'accuracy': 0.5}]
    """
    of_bin = np.broadcast_to(of_bin if of_bin.ndim == 2 else of_bin[:, None], known.shape)
    width = len(labels)
    cell = np.where(of_bin < 0, len(steps) * width, np.arange(len(steps)) * width + of_bin)
    facts = np.bincount(cell.reshape(-1), minlength=len(steps) * width + 1)[:-1]
    hits = np.bincount(cell[known], minlength=len(steps) * width + 1)[:-1]
    shares = dict(zip(("accuracy", "low", "high"), wilson(hits, facts), strict=True))
    return pa.table(
        {
            "step": np.repeat(steps, width),
            "bin": pa.array([*labels] * len(steps), pa.string()),
            "facts": facts,
            "known": hits,
            **{name: pa.array(values, from_pandas=True) for name, values in shares.items()},
        }
    )


def accuracy_table(
    known: Bools, counts: Counts, steps: Counts, *, edges: Sequence[int] = DEFAULT_BINS
) -> pa.Table:
    """Share of known facts per checkpoint and exposure bin, with 95% Wilson intervals.

    `by` says which exposures place a fact in its bin: `so_far` those up to the row's step (a fact moves
    between bins), `in_run` those up to the last step (the same facts at every step).
    """
    parts = []
    for by, placed in (("so_far", counts), ("in_run", counts[:, -1])):
        rows = accuracy_by(known, count_bins(placed, edges), bin_labels(edges), steps)
        parts.append(rows.add_column(0, "by", pa.repeat(by, rows.num_rows)))
    table = pa.concat_tables(parts).combine_chunks()
    return table.rename_columns(["exposures" if name == "bin" else name for name in table.column_names])


@dataclass(frozen=True)
class Earliness:
    """Spearman's rho between exposures in the run and how early a fact was learned."""

    facts: int
    known_at_start: int
    """Facts left out because the untrained model already knew them."""
    rho: float | None
    """None where it is undefined: fewer than two facts, or one side does not vary."""
    low: float | None
    high: float | None


def earliness(facts: pa.Table, *, seed: int = 0, resamples: int = 1000) -> Earliness:
    """Do facts seen more often get learned earlier? Over the rows of `facts_table`.

    How early = minus the step at which the fact was learned; a fact never learned is later than every step,
    so all of them share the last rank. Facts known at step 0 are left out. The interval resamples facts,
    `seed`ed.
    """
    kept = facts.filter(pc.invert(facts["known_at_start"]))
    seen = kept["exposures"].to_numpy()
    early = -kept["learned_at"].cast(pa.float64()).fill_null(np.inf).to_numpy()
    found = (spearman(seen, early), *bootstrap_spearman(seen, early, seed=seed, resamples=resamples))
    rho, low, high = (None if np.isnan(value) else value for value in found)
    return Earliness(kept.num_rows, facts.num_rows - kept.num_rows, rho, low, high)


def group_summary(facts: pa.Table, edges: Sequence[int]) -> list[dict[str, Any]]:
    """Per bin of exposures in the run: how many facts were learned, how fast, and are known at the end.

    `learned` and `half_learned_at` (the step by which half of them were learned) leave out facts known at
    step 0.
    """
    of_bin = count_bins(facts["exposures"].to_numpy(), edges)
    at_start, at_end = (facts[name].to_numpy() for name in ("known_at_start", "known_at_end"))
    learned_at = facts["learned_at"].cast(pa.float64()).fill_null(np.inf).to_numpy()
    sizes = np.bincount(of_bin, minlength=len(edges))
    known = np.bincount(of_bin[at_end], minlength=len(edges))
    accuracy, low, high = (
        [None if np.isnan(share) else float(share) for share in shares] for shares in wilson(known, sizes)
    )
    rows = []
    for number, label in enumerate(bin_labels(edges)):
        here = of_bin == number
        steps = learned_at[here & ~at_start]
        half = _lower_median(steps)
        rows.append(
            {
                "exposures": label,
                "facts": int(sizes[number]),
                "known_at_start": int(at_start[here].sum()),
                "learned": int(np.isfinite(steps).sum()),
                "half_learned_at": int(half) if np.isfinite(half) else None,
                "known_at_end": int(known[number]),
                "accuracy": accuracy[number],
                "low": low[number],
                "high": high[number],
            }
        )
    return rows


def _lower_median(values: Floats) -> float:
    """The step by which half of the facts were learned, inf if it never came to half."""
    return float(np.sort(values)[(len(values) - 1) // 2]) if len(values) else float("inf")


def check_join(
    order_updates: int, knowledge: Knowledge, fact_chunks: pa.Table, *, injected: Set[str] = frozenset()
) -> None:
    """Refuse answers that cannot belong to the order or to the fact chunks; some facts may be injected."""
    if knowledge.steps[0] < 0 or knowledge.steps[-1] > order_updates:
        raise ValueError(
            f"the answers are of steps {knowledge.steps[0]} to {knowledge.steps[-1]}, the data order has "
            f"{order_updates} updates: these answers come from another run"
        )
    found = pc.unique(fact_chunks["fact_id"])
    asked = pa.array(knowledge.fact_ids, pa.string())
    if len(found) and not pc.any(pc.is_in(asked, found)).as_py() and injected.isdisjoint(knowledge.fact_ids):
        raise ValueError(
            f"no fact of the answers (e.g. {asked[0].as_py()!r}) is in the fact chunks "
            f"(e.g. {found[0].as_py()!r}): make the fact chunks from the same probes"
        )
