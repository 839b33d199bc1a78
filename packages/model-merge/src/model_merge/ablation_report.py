"""Compare merged proxies with models that were trained on the same mixtures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from model_merge.correlation import (
    RANKS,
    STATISTICS,
    Estimate,
    Values,
    decision_accuracy,
    estimate,
    regret,
    top_agreement,
)
from model_merge.costs import COLUMNS, break_even, cost_rows, training_flops
from model_merge.soup import greedy_soup

Members = frozenset[str]
MEAN = "mean of individual models"
BEST = "best individual model"
TOP = (1, 3, 5)
POOLED, CENTRED = "all, pooled", "all, domain-centred"
MEASURES = ("log-perplexity", "perplexity")


@dataclass(frozen=True)
class Comparison:
    """Proxies and truth of the mixtures that have both, as log-perplexity a token."""

    mixtures: tuple[Members, ...]
    """Of at least two parts, in the order of the joint table."""
    domains: tuple[str, ...]
    truth: Values
    """By mixture and domain."""
    proxies: Mapping[str, Values]
    """Likewise, by the proxy's name: merge methods, then the baselines."""
    individual: Mapping[str, Values]
    """By domain, for each part that was evaluated by itself."""
    left_out: tuple[str, ...]
    """What was not compared, and why."""

    @property
    def parts(self) -> list[str]:
        """The parts that occur, by name."""
        return sorted(set().union(*self.mixtures))


def join(results: pa.Table, joint: pa.Table) -> Comparison:
    """Match merges with models trained on the same parts.

    Mixtures of one part are left out: there the proxy is the model.

    Raises:
        ValueError: the tables were scored differently, or have no mixture or no domain in common.
    """
    check_comparable(results, joint)
    proxy_losses, true_losses = _losses(results), _losses(joint)
    domains = _common_domains(results, joint)
    truth = {members: losses for (_, members), losses in true_losses.items() if len(members) > 1}
    methods = list(dict.fromkeys(method for method, _ in proxy_losses))
    alone = {
        next(iter(members)): losses
        for (method, members), losses in reversed(proxy_losses.items())
        if len(members) == 1
    }
    merged = [method for method in methods if any((method, members) in proxy_losses for members in truth)]
    if not merged:
        raise ValueError("no merge of two or more parts has a jointly trained model of the same parts")
    mixtures = [m for m in truth if all((method, m) in proxy_losses for method in merged)]
    if not mixtures:
        raise ValueError(f"no mixture has all of {', '.join(merged)} and a jointly trained model")
    proxies = {
        f"merge ({method})": _matrix([proxy_losses[method, m] for m in mixtures], domains)
        for method in merged
    }
    individual = {part: _matrix([losses], domains)[0] for part, losses in sorted(alone.items())}
    if all(part in individual for mixture in mixtures for part in mixture):
        proxies |= baselines(mixtures, individual)
    true = _matrix([truth[m] for m in mixtures], domains)
    left_out = _left_out(proxy_losses, truth, mixtures, individual)
    return Comparison(tuple(mixtures), tuple(domains), true, proxies, individual, left_out)


def check_comparable(results: pa.Table, joint: pa.Table) -> None:
    """Refuse tables whose numbers do not mean the same: other windows, splits or documents.

    Raises:
        ValueError: saying what differs.
    """
    for column in ("window", "split", "num_tokens"):
        if column not in results.column_names or column not in joint.column_names:
            continue
        found = [_values_by_domain(table, column) for table in (results, joint)]
        for domain in found[0].keys() & found[1].keys():
            if found[0][domain] != found[1][domain] or len(found[0][domain]) > 1:
                raise ValueError(
                    f"the tables differ in {column!r} on {domain!r}: {sorted(found[0][domain])} in the "
                    f"results, {sorted(found[1][domain])} in the joint table"
                )


def _values_by_domain(table: pa.Table, column: str) -> dict[str, set[Any]]:
    values: dict[str, set[Any]] = {}
    for row in table.select(["domain", column]).to_pylist():
        values.setdefault(row["domain"], set()).add(row[column])
    return values


def _losses(table: pa.Table) -> dict[tuple[str, Members], dict[str, float]]:
    """Log-perplexity a token by domain, of every (method, mixture).

    Raises:
        ValueError: two rows of one method, mixture and domain differ, as those of other weights do.
    """
    found: dict[tuple[str, Members], dict[str, float]] = {}
    for row in table.to_pylist():
        method = row.get("method") or "uniform"
        losses = found.setdefault((method, frozenset(row["members"])), {})
        loss = -row["sum_logprob"] / max(row["num_tokens"], 1)
        if losses.setdefault(row["domain"], loss) != loss:
            raise ValueError(
                f"{'+'.join(row['members'])!r} is there several times ({method}, with other numbers on "
                f"{row['domain']!r}): mixtures are told apart by their members alone, keep one row of each"
            )
    return found


def _common_domains(results: pa.Table, joint: pa.Table) -> list[str]:
    found = [set(table["domain"].to_pylist()) for table in (results, joint)]
    if not found[0] & found[1]:
        raise ValueError(
            f"the tables have no domain in common: {sorted(found[0])} in the results, "
            f"{sorted(found[1])} in the joint table"
        )
    return sorted(found[0] & found[1])


def _matrix(rows: Sequence[Mapping[str, float]], domains: Sequence[str]) -> Values:
    return np.array([[row.get(domain, math.nan) for domain in domains] for row in rows])


def baselines(mixtures: Sequence[Members], individual: Mapping[str, Values]) -> dict[str, Values]:
    """Proxies that need no merge: the mean of the members' perplexities, and the best member's."""
    of_members = [np.stack([individual[part] for part in sorted(mixture)]) for mixture in mixtures]
    return {
        MEAN: np.stack([np.log(np.exp(losses).mean(axis=0)) for losses in of_members]),
        BEST: np.stack([losses.min(axis=0) for losses in of_members]),
    }


def _left_out(
    proxies: Mapping[tuple[str, Members], Any],
    truth: Mapping[Members, Any],
    mixtures: Sequence[Members],
    individual: Mapping[str, Any],
) -> tuple[str, ...]:
    """Sentences about what was not compared."""
    merged = {members for _, members in proxies if len(members) > 1}
    counts = {
        "merges without a jointly trained model": len(merged - truth.keys()),
        "jointly trained models without all kinds of merges": len(truth.keys() - set(mixtures)),
    }
    missing = sorted(set().union(*mixtures) - individual.keys())
    sentences = [f"{count} {what}" for what, count in counts.items() if count]
    if missing:
        sentences.append(f"the baselines, because {missing} were not evaluated by themselves")
    return tuple(sentences)


def correlations(comparison: Comparison, *, seed: int = 0, resamples: int = 1000) -> list[dict[str, Any]]:
    """One row a proxy, scope (a domain, pooled, domain-centred), measure and statistic."""
    rows = []
    for name, losses in comparison.proxies.items():
        for scope, columns, centred in _scopes(comparison.domains):
            both = losses[:, columns], comparison.truth[:, columns]
            for statistic, found in _estimate_all(both, centred, seed, resamples):
                measure, kind = statistic
                row = {"proxy": name, "scope": scope, "measure": measure, "statistic": kind}
                rows.append({**row, **_as_dict(found)})
    return rows


def _estimate_all(
    both: tuple[Values, Values], centred: bool, seed: int, resamples: int
) -> Iterator[tuple[tuple[str, str], Estimate]]:
    """Every statistic of log-perplexity and of perplexity; ranks are the same in both, unless centred."""
    known: dict[str, Estimate] = {}
    for measure, view in ((MEASURES[0], lambda losses: losses), (MEASURES[1], np.exp)):
        for kind, function in STATISTICS.items():
            if centred or kind not in RANKS or kind not in known:
                x, y = map(view, both)
                known[kind] = estimate(function, x, y, centred=centred, seed=seed, resamples=resamples)
            yield (measure, kind), known[kind]


def _scopes(domains: Sequence[str]) -> Iterator[tuple[str, list[int], bool]]:
    yield from ((domain, [number], False) for number, domain in enumerate(domains))
    yield POOLED, list(range(len(domains))), False
    yield CENTRED, list(range(len(domains))), True


def _as_dict(found: Estimate) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else value
        for name, value in (("value", found.value), ("low", found.low), ("high", found.high))
    }


def decisions(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a proxy and domain, and the mean over domains: what choosing by the proxy leads to."""
    scopes = [(domain, [number]) for number, domain in enumerate(comparison.domains)]
    scopes.append(("mean of domains", list(range(len(comparison.domains)))))
    rows = []
    for name, losses in comparison.proxies.items():
        for scope, columns in scopes:
            proxy = losses[:, columns].mean(axis=1)
            truth = comparison.truth[:, columns].mean(axis=1)
            accuracy = decision_accuracy(proxy, truth)
            row = {
                "proxy": name,
                "scope": scope,
                "decision_accuracy": None if math.isnan(accuracy) else accuracy,
                "chosen": "+".join(sorted(comparison.mixtures[int(np.argmin(proxy))])),
                "best": "+".join(sorted(comparison.mixtures[int(np.argmin(truth))])),
                "regret": regret(proxy, truth),
                "spread": float(np.ptp(truth)),
            }
            rows.append(row | {f"top_{k}": top_agreement(proxy, truth, k) for k in TOP if k <= len(truth)})
    return rows


def find_soup(results: pa.Table, domains: Sequence[str]) -> dict[str, Any] | None:
    """The greedy soup by the mean log-perplexity over domains; None if a merge that it needs is not there."""
    losses = {
        members: float(np.mean([found[domain] for domain in domains]))
        for (method, members), found in _losses(results).items()
        if method == "uniform" and all(domain in found for domain in domains)
    }
    parts = sorted(next(iter(members)) for members in losses if len(members) == 1)
    try:
        chosen = greedy_soup(parts, lambda members: losses[frozenset(members)])
    except (KeyError, IndexError):
        return None
    return {"members": list(chosen), "mean_log_perplexity": losses[frozenset(chosen)]}


def make_report(
    results: pa.Table,
    joint: pa.Table,
    *,
    seed: int = 0,
    resamples: int = 1000,
    unit_tokens: float | None = None,
    parameters: float | None = None,
) -> tuple[dict[str, Any], Comparison]:
    """Everything that `ablate report` says, and the numbers behind it.

    Args:
        results: of merges.
        joint: of jointly trained models.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        unit_tokens: tokens that one part's training takes, for the cost table.
        parameters: of the model, for the cost table.
    """
    comparison = join(results, joint)
    sizes = [len(mixture) for mixture in comparison.mixtures]
    report = {
        "format": "ablation-report",
        "version": 1,
        "mixtures": len(sizes),
        "parts": comparison.parts,
        "domains": list(comparison.domains),
        "left_out": list(comparison.left_out),
        "bootstrap": {"seed": seed, "resamples": resamples, "level": 0.95, "resampled": "mixtures"},
        "correlations": correlations(comparison, seed=seed, resamples=resamples),
        "decisions": decisions(comparison),
        "greedy_soup": find_soup(results, comparison.domains),
        "costs": _costs(len(comparison.parts), sizes, unit_tokens, parameters),
    }
    return report, comparison


def _costs(
    num_parts: int, sizes: Sequence[int], unit_tokens: float | None, parameters: float | None
) -> dict[str, Any]:
    columns, rows = list(COLUMNS), cost_rows(num_parts, sizes)
    if unit_tokens is not None:
        columns.append("tokens trained on")
        rows = [[*row, unit_tokens * row[2]] for row in rows]
    if unit_tokens is not None and parameters is not None:
        columns.append("FLOPs (6 N D)")
        rows = [[*row, training_flops(row[2], unit_tokens, parameters)] for row in rows]
    return {"columns": columns, "rows": rows, "break_even_mixtures": break_even(num_parts, sorted(sizes))}


def points(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a mixture, domain and proxy: what the scatter shows."""
    return [
        {
            "members": sorted(mixture),
            "size": len(mixture),
            "domain": domain,
            "proxy": name,
            "proxy_log_perplexity": float(losses[row, column]),
            "joint_log_perplexity": float(comparison.truth[row, column]),
        }
        for name, losses in comparison.proxies.items()
        for row, mixture in enumerate(comparison.mixtures)
        for column, domain in enumerate(comparison.domains)
    ]
