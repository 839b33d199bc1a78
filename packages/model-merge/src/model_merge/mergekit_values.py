"""Parameters of a mergekit file: a number, a gradient over the layers, or values by the names of tensors.

A list is interpolated linearly over the layers of its slice; of truths and words one is chosen. Tensors
outside of the layers (embedding, last norm, lm_head) take the first value, a slice of one layer the last: so
mergekit.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_merge.methods.spec import Method, Parameter

IGNORED = {"int8_mask"}
"""A matter of memory in mergekit: taken by every method, without effect."""


def evaluate(setting: Any, parameter: Parameter, *, tensor: str, place: float) -> Any:
    """The value for a tensor at `place` (0 first layer, 1 last); None where no filter fits its name.

    >>> weight = Parameter("weight", "number")
    >>> evaluate([0, 1, 0], weight, tensor="x", place=0.25)
    0.5
    >>> evaluate([{"filter": "mlp", "value": 3}, {"value": 4}], weight, tensor="a.attn", place=0)
    4.0
    """
    for condition in _conditions(setting):
        wanted = condition.get("filter")
        if wanted is None or wanted == "*" or wanted in tensor:
            return _at(condition["value"], parameter, place)
    return None


def _conditions(setting: Any) -> list[Mapping[str, Any]]:
    if isinstance(setting, Mapping):
        return [setting]
    if isinstance(setting, list) and setting and all(isinstance(entry, Mapping) for entry in setting):
        return setting
    return [{"value": setting}]


def _at(value: Any, parameter: Parameter, place: float) -> Any:
    if not isinstance(value, list):
        return parameter.check(value)
    values = [parameter.check(entry) for entry in value]
    if parameter.kind in {"flag", "rescale"}:
        return values[int(place * (len(values) - 1))]
    scaled = place * (len(values) - 1)
    lower = int(scaled)
    upper = min(lower + 1, len(values) - 1)
    return parameter.check((1 - (scaled - lower)) * values[lower] + (scaled - lower) * values[upper])


def resolve(
    parameters: Iterable[Parameter],
    scopes: Sequence[Mapping[str, Any]],
    *,
    tensor: str,
    place: float,
) -> dict[str, Any]:
    """The values that are given, each from the first scope that has one for this tensor."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        for scope in scopes:
            if parameter.name in scope:
                value = evaluate(scope[parameter.name], parameter, tensor=tensor, place=place)
                if value is not None:
                    found[parameter.name] = value
                    break
    return found


def check_settings(method: Method, settings: Mapping[str, Any], *, of_model: bool, where: str) -> None:
    """ValueError for a parameter that the method does not have or that has no effect there, and for wrong
    values."""
    known = {parameter.name: parameter for parameter in method.parameters}
    for name, setting in settings.items():
        if name in IGNORED and name not in known:
            continue
        if name not in known:
            raise ValueError(f"{where}.{name}: {method.name} has no such parameter{_hint(name, known)}")
        if of_model and known[name].of == "merge" and name not in IGNORED:
            raise ValueError(
                f"{where}.{name}: {method.name} takes it for the whole merge: "
                "put it under the parameters of the file"
            )
        _check_setting(known[name], setting, f"{where}.{name}")


def _hint(name: str, known: Mapping[str, Parameter]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f", did you mean {close[0]!r}?" if close else f" (it has {', '.join(known) or 'none'})"


def _check_setting(parameter: Parameter, setting: Any, where: str) -> None:
    for condition in _conditions(setting):
        if unknown := sorted(set(condition) - {"filter", "value"}):
            raise ValueError(f"{where}: unknown key {unknown[0]!r} (known here: filter, value)")
        if "value" not in condition or not isinstance(condition.get("filter"), str | None):
            raise ValueError(f"{where}: a condition is a mapping of value and, if wanted, a text as filter")
        value = condition["value"]
        if value == []:
            raise ValueError(f"{where} is an empty list")
        for entry in value if isinstance(value, list) else [value]:
            try:
                parameter.check(entry)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
