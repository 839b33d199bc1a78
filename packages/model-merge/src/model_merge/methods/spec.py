"""What a merge method is: a name, its parameters, and the arithmetic of one output tensor."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from model_merge.dtypes import Values
from model_merge.plan import Inputs, Kernel

Prepare = Callable[[Inputs], Kernel]

REQUIRED = object()
"""The default of a parameter that has none."""

STEP = 1 << 15
"""Elements of a chunk that an arithmetic takes at a time, so that what lies between stays in the cache."""


@dataclass(frozen=True)
class Call:
    """One use of a method, on one output tensor."""

    tensor: str
    shape: tuple[int, ...]
    has_base: bool
    """The first input is the base, which `models` does not describe."""
    models: Sequence[Mapping[str, Any]]
    """Parameters of every model, in order."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def each(self, name: str) -> list[float]:
        """One parameter of every model."""
        return [float(model[name]) for model in self.models]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method, with mergekit's name and default."""

    name: str
    kind: Literal["number", "count", "flag", "rescale"]
    default: Any = REQUIRED
    of: Literal["merge", "model"] = "merge"
    low: float = -math.inf
    high: float = math.inf

    def check(self, value: Any) -> Any:
        """The value in its type; ValueError where it has another or is out of range.

        >>> Parameter("density", "number", low=0, high=1).check("1e-1")
        0.1
        """
        if value is None and self.default is None:
            return None
        if self.kind in {"flag", "rescale"}:
            return self._check_flag(value)
        number = _number(self.name, value)
        if not self.low <= number <= self.high:
            raise ValueError(f"{self.name} is {value!r}, must be {self._range()}")
        if self.kind == "count":
            if number != int(number):
                raise ValueError(f"{self.name} is {value!r}, must be a whole number")
            return int(number)
        return number

    def _check_flag(self, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, int) and value in {0, 1}):
            return bool(value)
        if self.kind == "rescale" and value in {"l1", "density"}:
            return value
        choices = "true, false, l1 or density" if self.kind == "rescale" else "true or false"
        raise ValueError(f"{self.name} is {value!r}, must be {choices}")

    def _range(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}, must be a number")
    return number


@dataclass(frozen=True)
class Method:
    """A merge method."""

    name: str
    summary: str
    build: Callable[[Call], Prepare]
    parameters: tuple[Parameter, ...] = ()
    base: Literal["required", "optional", "none"] = "none"
    """`none`: a base model is an input like the others."""
    min_models: int = 1
    """The base not counted, for a method that has one."""
    max_models: int | None = None
    wide: bool = False
    """Computes in float64 whatever the inputs are."""

    def check_models(self, num_models: int, *, has_base: bool, where: str) -> None:
        """ValueError where the method does not take that many models, or wants a base."""
        if self.base == "required" and not has_base:
            raise ValueError(f"{where}: {self.name} needs a base_model")
        most = math.inf if self.max_models is None else self.max_models
        if not self.min_models <= num_models <= most:
            raise ValueError(f"{where}: {self.name} takes {self._takes()}, found {num_models}")

    def _takes(self) -> str:
        besides = " besides the base" if self.base == "required" else ""
        noun = "model" if self.min_models == 1 == self.max_models else "models"
        count = f"{self.min_models}" if self.max_models == self.min_models else f"at least {self.min_models}"
        return f"{count} {noun}{besides}"


def settle(
    method: Method,
    *,
    tensor: str,
    shape: tuple[int, ...],
    has_base: bool,
    models: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any],
    seed: int = 0,
) -> Call:
    """A call with every parameter checked and every default in its place."""
    per_model = [parameter for parameter in method.parameters if parameter.of == "model"]
    per_merge = [parameter for parameter in method.parameters if parameter.of == "merge"]
    return Call(
        tensor=tensor,
        shape=shape,
        has_base=has_base,
        models=[_settled(method, per_model, given, tensor) for given in models],
        shared=_settled(method, per_merge, shared, tensor),
        seed=seed,
    )


def _settled(
    method: Method, parameters: Sequence[Parameter], given: Mapping[str, Any], tensor: str
) -> dict[str, Any]:
    known = [parameter.name for parameter in parameters]
    for name in given:
        if name not in known:
            raise ValueError(
                f"{method.name} has no parameter {name!r} here, only {', '.join(known) or 'none'}"
            )
    settled = {}
    for parameter in parameters:
        value = given.get(parameter.name, parameter.default)
        if value is REQUIRED:
            raise ValueError(f"{tensor}: {method.name} needs the parameter {parameter.name!r}")
        settled[parameter.name] = parameter.check(value)
    return settled


def stepwise(arithmetic: Callable[[int, list[Values]], Values]) -> Kernel:
    """A kernel that takes `STEP` elements at a time."""

    def kernel(flat_start: int, values: list[Values]) -> Values:
        result = np.empty_like(values[0])
        for step in range(0, len(result), STEP):
            piece = [value[step : step + STEP] for value in values]
            result[step : step + STEP] = arithmetic(flat_start + step, piece)
        return result

    return kernel


def elementwise(arithmetic: Callable[[int, list[Values]], Values]) -> Prepare:
    """An arithmetic that needs no statistics."""
    kernel = stepwise(arithmetic)
    return lambda inputs: kernel
