"""Merges as an algebra: models, and weighted sums of merges, which flatten to one weight per model.

A macro-merge (an average of averages) is one pass over its models and one rounding: nothing in between is
written. Weights are fractions, so that flattening is exact and an average of equal averages is the average.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd, lcm
from pathlib import Path
from typing import Any

LARGEST_WHOLE_WEIGHT = 1 << 16
"""Whole weights up to this are exact in every arithmetic here; beyond it weights are decimal fractions."""


@dataclass(frozen=True)
class Leaf:
    """A checkpoint."""

    reference: str


@dataclass(frozen=True)
class Linear:
    """Sum of weight times merge, divided by the sum of the weights if normalised."""

    terms: tuple[tuple[Fraction, "Expression"], ...]
    normalise: bool = True


@dataclass(frozen=True)
class Nonlinear:
    """A method of `model_merge.methods` on merges."""

    method: str
    operands: tuple["Expression", ...]
    base: "Expression | None" = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the method; one that every operand has is a list, or one value for all."""


Expression = Leaf | Linear | Nonlinear


def average(operands: Sequence[Expression], weights: Sequence[Fraction] | None = None) -> Linear:
    """The weighted average; uniform without weights.

    >>> flatten(average([Leaf("a"), average([Leaf("a"), Leaf("b")])]))
    {'a': Fraction(3, 4), 'b': Fraction(1, 4)}

    Raises:
        ValueError: the weights are not as many as the operands, or sum to zero.
    """
    weights = [Fraction(1)] * len(operands) if weights is None else weights
    if len(weights) != len(operands) or not operands:
        raise ValueError(f"{len(weights)} weights for {len(operands)} models: give one for each")
    if sum(weights) == 0:
        raise ValueError(f"the weights {_listed(weights)} sum to zero, which cannot be an average")
    return Linear(tuple(zip(weights, operands, strict=True)))


def leave_one_out(references: Sequence[str]) -> dict[str, Linear]:
    """For every model the average of the others."""
    if len(references) < 2:
        raise ValueError("leaving one out takes at least two models")
    leaves = [Leaf(reference) for reference in references]
    return {
        left_out: average([*leaves[:position], *leaves[position + 1 :]])
        for position, left_out in enumerate(references)
    }


def moving_average(references: Sequence[str], decay: Fraction) -> Linear:
    """The exponential moving average over checkpoints in the order given: e = decay e + (1 - decay) x.

    >>> flatten(moving_average(["step0", "step1", "step2"], Fraction(1, 2)))
    {'step0': Fraction(1, 4), 'step1': Fraction(1, 4), 'step2': Fraction(1, 2)}
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay is {float(decay):g}, must be at least 0 and less than 1")
    last = len(references) - 1
    weights = [decay ** (last - i) * (1 if i == 0 else 1 - decay) for i in range(len(references))]
    return average([Leaf(reference) for reference in references], weights)


def run_checkpoints(run: str | Path, *, last: int | None = None) -> list[str]:
    """The references of a run's `step{N}` folders by N; the last ones where only so many are wanted.

    Raises:
        FileNotFoundError: there are none, or fewer than wanted.
    """
    folders = [path for path in Path(run).glob("step*") if path.is_dir()]
    steps = sorted(int(found[1]) for path in folders if (found := re.fullmatch(r"step(\d+)", path.name)))
    if not steps or (last is not None and len(steps) < last):
        wanted = "" if last is None else f", {last} are wanted"
        raise FileNotFoundError(f"{str(run)!r} holds {len(steps)} folders called step and a number{wanted}")
    return [f"{run}:step{step}" for step in (steps if last is None else steps[-last:])]


def flatten(expression: Expression) -> dict[str, Fraction]:
    """The weight of every checkpoint, in the order of first mention; one may be there several times.

    Raises:
        ValueError: a part is not linear, or normalised weights sum to zero.
    """
    if isinstance(expression, Leaf):
        return {expression.reference: Fraction(1)}
    if isinstance(expression, Nonlinear):
        raise ValueError(f"{expression.method} is not linear: it has no weights")
    total = sum(weight for weight, _ in expression.terms) if expression.normalise else Fraction(1)
    if total == 0:
        raise ValueError(f"the weights {_listed([weight for weight, _ in expression.terms])} sum to zero")
    found: dict[str, Fraction] = {}
    for weight, operand in expression.terms:
        for reference, inner in flatten(operand).items():
            found[reference] = found.get(reference, Fraction(0)) + weight * inner / total
    return found


def whole_weights(weights: Sequence[Fraction]) -> tuple[list[float], float]:
    """The same weights as small whole numbers and a divisor, or as floats and 1 where that takes large ones.

    >>> whole_weights([Fraction(1, 6), Fraction(1, 6), Fraction(1, 4)])
    ([2.0, 2.0, 3.0], 12.0)
    """
    divisor = lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * divisor) for weight in weights]
    common = gcd(divisor, *whole)
    largest = max(map(abs, [*whole, divisor])) // common
    if largest > LARGEST_WHOLE_WEIGHT:
        return [float(weight) for weight in weights], 1.0
    return [float(weight // common) for weight in whole], float(divisor // common)


def to_json(expression: Expression) -> dict[str, Any]:
    """The expression as JSON says it in merge.json."""
    if isinstance(expression, Leaf):
        return {"model": expression.reference}
    if isinstance(expression, Linear):
        terms = [{"weight": str(weight), "of": to_json(operand)} for weight, operand in expression.terms]
        return {"sum": terms, "normalise": expression.normalise}
    base = {} if expression.base is None else {"base": to_json(expression.base)}
    return base | {
        "method": expression.method,
        "of": [to_json(operand) for operand in expression.operands],
        "parameters": dict(expression.parameters),
    }


def is_linear(expression: Expression) -> bool:
    """Whether a merge is a weighted sum of checkpoints."""
    if isinstance(expression, Linear):
        return all(is_linear(operand) for _, operand in expression.terms)
    return isinstance(expression, Leaf)


def leaves(expression: Expression) -> list[str]:
    """The checkpoints of an expression, each once, in the order of first mention; a base comes first."""
    if isinstance(expression, Leaf):
        return [expression.reference]
    if isinstance(expression, Linear):
        parts = [operand for _, operand in expression.terms]
    else:
        parts = [*([] if expression.base is None else [expression.base]), *expression.operands]
    return list(dict.fromkeys(reference for part in parts for reference in leaves(part)))


def from_json(content: Any) -> Expression:
    """The expression that `to_json` wrote, or a user.

    Raises:
        ValueError: it is not of the form that FORMAT.md describes.
    """
    if isinstance(content, str):
        return Leaf(content)
    if isinstance(content, Mapping):
        keys = content.keys()
        if keys == {"model"} and isinstance(content["model"], str):
            return Leaf(content["model"])
        if {"sum"} <= keys <= {"sum", "normalise"} and isinstance(content["sum"], list):
            terms = tuple(_term(term) for term in content["sum"])
            return Linear(terms, bool(content.get("normalise", True)))
        if {"method", "of"} <= keys <= {"method", "of", "base", "parameters"} and isinstance(
            content["of"], list
        ):
            operands = tuple(from_json(operand) for operand in content["of"])
            base = from_json(content["base"]) if "base" in content else None
            return Nonlinear(str(content["method"]), operands, base, dict(content.get("parameters") or {}))
    raise ValueError(
        f"{str(content)[:80]!r} is no merge expression: expected a model, {{sum: [{{weight, of}}, ...]}} "
        "or {method, of: [...], base, parameters}"
    )


def _term(content: Any) -> tuple[Fraction, Expression]:
    if not isinstance(content, Mapping) or not {"of"} <= content.keys() <= {"weight", "of"}:
        raise ValueError(f"{str(content)[:80]!r} is no term of a sum: expected {{weight, of}}")
    try:
        return Fraction(str(content.get("weight", 1))), from_json(content["of"])
    except ZeroDivisionError as error:
        raise ValueError(f"the weight {content['weight']!r} divides by zero") from error


def _listed(weights: Sequence[Fraction]) -> str:
    return ", ".join(str(weight) for weight in weights)
