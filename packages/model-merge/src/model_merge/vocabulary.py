"""Embeddings for another tokenizer: rows in its order, and something for the tokens that a model lacks.

A token that one model has comes from it; one that several have from the base, if it does, else it is their
mean; one that none has is zero. Padding rows (beyond all tokens) stay where they are, and are the mean of a
model's tokens where no model has them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values
from model_merge.methods.spec import Prepare
from model_merge.methods.sums import Doubles, add_rows
from model_merge.plan import Inputs, Kernel

Rows = npt.NDArray[np.int64]
Fill = Callable[[int, list[Values]], list[Values]]
"""(flat start, inputs as they are read) -> the inputs of the method, complete."""


@dataclass(frozen=True)
class Filling:
    """How the inputs of one tensor are completed."""

    num_models: int
    """Inputs of the method; those after them hold what was chosen for single tokens."""
    base: int | None
    """Which of them is the base."""
    absent: Sequence[npt.NDArray[np.bool_]]
    """Of every input and row, whether it is missing."""
    zero: npt.NDArray[np.bool_]
    """Of every row, whether it was chosen to be zero where it is missing."""
    num_tokens: int
    """Rows from here on are padding."""


def filled(prepare: Prepare, filling: Filling) -> Prepare:
    """A method whose inputs are completed before it sees them."""

    def complete(inputs: Inputs) -> Kernel:
        fill = _fill(inputs, filling)
        kernel = prepare(_Filled(inputs, fill))
        return lambda flat_start, values: kernel(flat_start, fill(flat_start, values))

    return complete


@dataclass(frozen=True)
class _Filled:
    """Inputs, completed."""

    inputs: Inputs
    fill: Fill

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return self.inputs.shape

    def blocks(self) -> Iterator[tuple[int, list[Values]]]:
        """As `Inputs.blocks`."""
        for flat_start, values in self.inputs.blocks():
            yield flat_start, self.fill(flat_start, values)


def _fill(inputs: Inputs, filling: Filling) -> Fill:
    width = int(np.prod(inputs.shape[1:]))

    def fill_tokens(flat_start: int, values: list[Values]) -> list[Values]:
        models = values[: filling.num_models]
        rows = (flat_start + np.arange(len(models[0]))) // width
        missing = [absent[rows] for absent in filling.absent]
        if not any(one.any() for one in missing[: filling.num_models]):
            return models
        substitute = _substitute(models, missing, filling.base)
        substitute[filling.zero[rows]] = 0
        for i in range(filling.num_models, len(values)):
            np.copyto(substitute, values[i], where=~missing[i])
        return [np.where(missing[i], substitute, model) for i, model in enumerate(models)]

    if inputs.shape[0] == filling.num_tokens:
        return fill_tokens
    return _with_padding(inputs, filling, fill_tokens, width)


def _substitute(
    models: Sequence[Values], missing: Sequence[npt.NDArray[np.bool_]], base: int | None
) -> Values:
    """What stands for a missing value: the base's, else the mean of those that are there, else 0."""
    total = np.zeros(len(models[0]))
    count = np.zeros(len(models[0]))
    for model, one in zip(models, missing, strict=False):  # what was chosen for single tokens comes after
        np.add(total, model, out=total, where=~one)
        count += ~one
    substitute = np.zeros_like(models[0])
    np.divide(total, np.maximum(count, 1), out=substitute, casting="same_kind")
    if base is not None:
        np.copyto(substitute, models[base], where=~missing[base])
    return substitute


def _with_padding(inputs: Inputs, filling: Filling, fill_tokens: Fill, width: int) -> Fill:
    """Padding rows that no model has are the mean of each model's tokens: one pass more."""
    end = filling.num_tokens * width
    means = [np.zeros(width) for _ in range(filling.num_models)]
    for flat_start, values in inputs.blocks():
        if flat_start < end:
            for mean, model in zip(means, fill_tokens(flat_start, values), strict=True):
                add_rows(mean, flat_start, model[: end - flat_start].astype(np.float64))
    rows: list[Doubles] = [mean / max(filling.num_tokens, 1) for mean in means]

    nobody = np.logical_and.reduce(filling.absent)

    def fill(flat_start: int, values: list[Values]) -> list[Values]:
        complete = fill_tokens(flat_start, values)
        places = flat_start + np.arange(len(complete[0]))
        places = places[(places >= end) & nobody[places // width]]
        if len(places):
            for model, mean in zip(complete, rows, strict=True):
                model[places - flat_start] = mean[places % width]
        return complete

    return fill
