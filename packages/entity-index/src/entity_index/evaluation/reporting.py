"""An evaluation as tables and a figure, for people and for the report."""

from typing import Any

from entity_index.evaluation.comparing import Outcome, compare, of_class, precision, precision_curve
from entity_index.evaluation.running import Evaluation, JudgedEntity
from entity_index.evaluation.sampling import CLASSES

Table = tuple[str, list[str], list[list[Any]]]
NONE = "-"


def groups_of(evaluation: Evaluation) -> dict[str, list[JudgedEntity]]:
    """All entities, then those of each class that has any."""
    classes = {kind: of_class(evaluation, kind) for kind in CLASSES}
    return {"all": list(evaluation.entities), **{kind: found for kind, found in classes.items() if found}}


def tables_of(evaluation: Evaluation) -> list[Table]:
    """Precision, chunks found and wins, of every method for every class."""
    groups = groups_of(evaluation)
    first, *others = evaluation.methods
    headed = [f"{label} ({len(entities):,})" for label, entities in groups.items()]
    shares = [
        [method, *(share(precision(group, method)) for group in groups.values())]
        for method in [first, *others]
    ]
    found = [
        [method, *(mean_found(group, method) for group in groups.values())] for method in [first, *others]
    ]
    wins = [
        [other, *(outcome_words(compare(group, first, other)) for group in groups.values())]
        for other in others
    ]
    return [
        ("Right ones among the judged chunks", ["method", *headed], shares),
        ("Chunks found for an entity, on average", ["method", *headed], found),
        (f"{first}: more right chunks / as many / fewer", ["than", *headed], wins),
    ]


def share(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f"{value:.1%}"


def mean_found(entities: list[JudgedEntity], method: str) -> float:
    """Chunks that a method finds for an entity."""
    return sum(entity.methods[method].found for entity in entities) / len(entities)


def outcome_words(outcome: Outcome) -> str:
    """Wins, ties and losses in percent."""
    return " / ".join(f"{part / outcome.total:.1%}" for part in (outcome.wins, outcome.ties, outcome.losses))


def figure_of(evaluation: Evaluation) -> dict[str, Any]:
    """Precision among the first k chunks, a line for each method."""
    curves = {method: precision_curve(evaluation.entities, method) for method in evaluation.methods}
    return {
        "title": "Right ones among the first k chunks",
        "kind": "line",
        "x_label": "k",
        "y_label": "share right, mean over entities",
        "x_scale": "log",
        "series": [
            {
                "label": method,
                "x": list(curve.ks),
                "y": list(curve.precision),
                "low": list(curve.low),
                "high": list(curve.high),
            }
            for method, curve in curves.items()
            if curve.ks
        ],
    }


def summary_of(evaluation: Evaluation, judged_by: str) -> str:
    """What was done, in sentences."""
    judged = sum(one.num_judged for entity in evaluation.entities for one in entity.methods.values())
    drawn = f"{len(evaluation.entities):,} entities, as many from each power of ten of their"
    left_out = f" {evaluation.nameless:,} more have no name to search for and were left out."
    return (
        f"{drawn} {evaluation.counted} as there are (seed {evaluation.seed})."
        f"{left_out if evaluation.nameless else ''} Of each method up to 100 chunks of an entity were "
        f"judged, {judged:,} in all, by {judged_by}."
    )


def record_of(evaluation: Evaluation) -> dict[str, Any]:
    """Everything as a program would read it."""
    first, *others = evaluation.methods
    groups = groups_of(evaluation)
    return {
        "format": "retrieval-evaluation",
        "version": 1,
        "seed": evaluation.seed,
        "counted": evaluation.counted,
        "nameless": evaluation.nameless,
        "classes": {label: len(entities) for label, entities in groups.items()},
        "methods": {
            method: {
                "precision": {label: precision(group, method) for label, group in groups.items()},
                "found": {label: mean_found(group, method) for label, group in groups.items()},
                "precision_at": _curve(evaluation, method),
            }
            for method in evaluation.methods
        },
        "wins": {
            other: {label: _outcome(compare(group, first, other)) for label, group in groups.items()}
            for other in others
        },
        "compared": first,
    }


def _outcome(outcome: Outcome) -> dict[str, int]:
    return {"wins": outcome.wins, "ties": outcome.ties, "losses": outcome.losses}


def _curve(evaluation: Evaluation, method: str) -> list[dict[str, float]]:
    curve = precision_curve(evaluation.entities, method)
    columns = (curve.ks, curve.precision, curve.low, curve.high, curve.entities)
    return [
        dict(zip(("k", "precision", "low", "high", "entities"), row, strict=True))
        for row in zip(*columns, strict=True)
    ]
