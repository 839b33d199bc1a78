"""K and P, what a model knows of injected facts and can do elsewhere, and A and F, their change (2410.01380).

K is a mean log-probability, hence negative. The paper divides its change by K, which would call an
improvement negative; here, as in its tables, A is positive where the model improved and F where it got worse.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chunk_provenance.formats import FormatError
from chunk_provenance.injection.metrics import Floats

# The paper's six tasks, and how each scores a choice: by its log-probability, summed or per character.
PAPER_TASKS = {
    "sciq": "acc",
    "winogrande": "acc",
    "piqa": "acc_norm",
    "openbookqa": "acc_norm",
    "hellaswag": "acc_norm",
    "arc_easy": "acc",
}


def probe_performance(fact_means: Mapping[str, Sequence[float] | Floats]) -> float:
    """K: the mean log-probability of each scenario's facts, weighted by how many facts it has.

    >>> probe_performance({"once": [-4.0, -2.0], "paraphrase": [-1.0]})
    -2.3333333333333335
    """
    sizes = [len(values) for values in fact_means.values()]
    means = [float(np.mean(np.asarray(values))) for values in fact_means.values()]
    return sum(size * mean for size, mean in zip(sizes, means, strict=True)) / sum(sizes)


def acquisition(before: float, after: float) -> float | None:
    """A = (K_after - K_before) / |K_before|; None where nothing can be gained.

    >>> round(acquisition(-0.3757, -0.281), 3)
    0.252
    """
    return (after - before) / abs(before) if before else None


def forgetting(before: float, after: float) -> float | None:
    """F = (P_before - P_after) / P_before; None where nothing can be lost.

    >>> round(forgetting(60.335, 54.0), 3)
    0.105
    """
    return (before - after) / before if before else None


def parse_tasks(words: list[str]) -> dict[str, str]:
    """Tasks as one gives them on the command line, NAME or NAME=METRIC; the paper's six where none is given.

    >>> parse_tasks(["boolq", "hellaswag=acc_norm"])
    {'boolq': 'acc', 'hellaswag': 'acc_norm'}
    """
    if not words:
        return dict(PAPER_TASKS)
    pairs = [word.partition("=") for word in words]
    return {name: metric or PAPER_TASKS.get(name, "acc") for name, _, metric in pairs}


def read_task_scores(path: str | Path, tasks: Mapping[str, str]) -> dict[str, float]:
    """The score of every task from a JSON file: {"sciq": 0.91, ...}, or what lm-eval writes.

    In lm-eval's `results` a task has one number a metric ("acc,none", "acc_norm,none"); `tasks` says which
    one counts.

    Raises:
        FormatError: a task or its metric is missing, or a score is no number in [0, 100].
    """
    path = Path(path)
    found = _load(path)
    results = found["results"] if isinstance(found.get("results"), dict) else found
    scores, problems = {}, []
    for task, metric in tasks.items():
        score = _score(results.get(task), metric)
        if score is None:
            problems.append(f"{task} ({metric})")
        else:
            scores[task] = score
    if problems:
        raise FormatError(
            f"{str(path)!r} lacks scores in [0, 100] of {', '.join(problems)}: it has {sorted(results)}"
        )
    return scores


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no task scores at {str(path)!r}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(
            f"{str(path)!r} holds a {type(found).__name__}, expected an object of tasks and scores"
        )
    return found


def _score(value: Any, metric: str) -> float | None:
    """A plain number, or the metric of a task under any of lm-eval's filters."""
    if isinstance(value, dict):
        named = [number for name, number in value.items() if name.partition(",")[0] == metric]
        value = named[0] if named else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= 100 else None


def task_performance(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """P before and after (the mean over the tasks) and F, of all tasks and of each.

    >>> result = task_performance({"sciq": 0.8, "piqa": 0.6}, {"sciq": 0.6, "piqa": 0.6})
    >>> result["before"], round(result["after"], 9), round(result["forgetting"], 9)
    (0.7, 0.6, 0.142857143)
    """
    if (max(before.values()) <= 1) != (max(after.values()) <= 1):
        raise ValueError(
            f"the scores before ({max(before.values()):g} at most) and after ({max(after.values()):g} at "
            "most) are not on one scale: give both as fractions or both in percent"
        )
    old, new = float(np.mean(list(before.values()))), float(np.mean(list(after.values())))
    rows = [
        {
            "task": task,
            "before": before[task],
            "after": after[task],
            "forgetting": forgetting(before[task], after[task]),
        }
        for task in before
    ]
    return {"before": old, "after": new, "forgetting": forgetting(old, new), "tasks": rows}
