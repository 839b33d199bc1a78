"""Correlations apart for mixtures that hold a part of the domain's own field, and for those that hold none.

    uv run integration_tests/experiments/mixtures/relatives.py OUT

Over all mixtures a correlation mostly says whether the proxy sees that a domain's own field is missing.
Within the two groups it says whether the proxy ranks what is left. Of log-perplexities, each domain's mean
taken off; reads OUT/report/points.parquet.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import pearsonr, spearmanr

Point = dict[str, Any]


def has_relative(point: Point) -> bool:
    """Whether a part of the mixture is of the domain's field, `People,1800-1879` of `People,1880-1959`."""
    return any(field(member) == field(point["domain"]) for member in point["members"])


def field(part: str) -> str:
    """The field in a part's name."""
    return part.partition(",")[0]


def centred(points: Iterable[Point]) -> np.ndarray:
    """Proxy and joint log-perplexities with each domain's mean taken off, (2, points)."""
    columns = []
    by_domain: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        pair = (point["proxy_log_perplexity"], point["joint_log_perplexity"])
        by_domain.setdefault(point["domain"], []).append(pair)
    for pairs in by_domain.values():
        values = np.array(pairs).T
        columns.append(values - values.mean(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1)


def main() -> None:
    """Print the table."""
    points = pq.read_table(Path(sys.argv[1]) / "report" / "points.parquet").to_pylist()
    print(f"{'proxy':28}{'own field':12}{'points':>8}{'r':>8}{'rho':>8}")
    for proxy in dict.fromkeys(point["proxy"] for point in points):
        for wanted, words in ((True, "in"), (False, "missing")):
            group = [p for p in points if p["proxy"] == proxy and has_relative(p) == wanted]
            x, y = centred(group)
            r, rho = pearsonr(x, y).statistic, spearmanr(x, y).statistic
            print(f"{proxy:28}{words:12}{len(group):8}{r:8.3f}{rho:8.3f}")


if __name__ == "__main__":
    main()
