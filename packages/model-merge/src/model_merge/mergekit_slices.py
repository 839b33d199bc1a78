"""Which tensors a merge writes, and which tensor of which source each is made of.

From names alone: layers are renumbered as slices put them together; embeddings come from the first slice's
sources, what follows the layers from the last one's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_merge.layers import comes_before, count_layers, place_of

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A model of a slice."""

    checkpoint: int
    parameters: Settings
    first_layer: int = 0


@dataclass(frozen=True)
class Slice:
    """Models that are merged, in whole or in some of their layers."""

    sources: tuple[Source, ...]
    scopes: tuple[Settings, ...]
    """Parameters of the slice, the module and the file."""
    base: int | None = None
    """The checkpoint that is the base."""
    num_layers: int | None = None
    """None for whole models."""
    where: str = "models"


@dataclass(frozen=True)
class Output:
    """One tensor that is written."""

    name: str
    inputs: tuple[str, ...]
    """The tensor of every source."""
    slice: Slice
    place: float
    """In its stack of layers: 0 the first, 1 the last; 0 outside of the layers."""


def outputs_of(slices: Sequence[Slice], names: Sequence[Sequence[str]]) -> tuple[list[Output], list[str]]:
    """The tensors of a module, and a sentence for each one that some source lacks.

    `names` are those of every checkpoint in this module.
    """
    if slices[0].num_layers is None:
        return _whole(slices[0], names)
    problems = _check_ranges(slices, names)
    if problems:
        return [], problems
    outputs, problems = _outside(slices[0], names, before=True)
    layer = 0
    for part in slices:
        found, wrong = _layers(part, names, layer)
        outputs, problems, layer = outputs + found, problems + wrong, layer + (part.num_layers or 0)
    found, wrong = _outside(slices[-1], names, before=False)
    return outputs + found, problems + wrong


def _whole(part: Slice, names: Sequence[Sequence[str]]) -> tuple[list[Output], list[str]]:
    used = [names[source.checkpoint] for source in part.sources]
    counts = count_layers(name for one in used for name in one)
    same, problems = _same_names(part, [dict.fromkeys(one, "") for one in used], "")
    outputs = []
    for name in same:
        place = place_of(name)
        share = _share(place.layer, counts[place.stack]) if place else 0.0
        outputs.append(Output(name, (name,) * len(used), part, share))
    return outputs, problems


def _share(layer: int, num_layers: int) -> float:
    return layer / (num_layers - 1) if num_layers > 1 else 1.0


def _same_names(part: Slice, used: Sequence[Mapping[str, str]], layer: str) -> tuple[list[str], list[str]]:
    """The names that all have, in the first one's order, and who lacks which of the others."""
    every = dict.fromkeys(name for one in used for name in one)
    problems = [
        f"model {source.checkpoint} lacks {layer}{name!r}"
        for source, one in zip(part.sources, used, strict=True)
        for name in every
        if name not in one
    ]
    return [name for name in every if all(name in one for one in used)], problems


def _check_ranges(slices: Sequence[Slice], names: Sequence[Sequence[str]]) -> list[str]:
    problems = []
    for part in slices:
        for source in part.sources:
            counts = count_layers(names[source.checkpoint])
            if len(counts) != 1:
                stacks = ", ".join(counts) or "none"
                problems.append(f"slices need one stack of layers, model {source.checkpoint} has {stacks}")
            elif source.first_layer + (part.num_layers or 0) > next(iter(counts.values())):
                last = source.first_layer + (part.num_layers or 0)
                problems.append(
                    f"{part.where}: layer_range [{source.first_layer}, {last}] of model {source.checkpoint}, "
                    f"which has {next(iter(counts.values()))} layers"
                )
    return list(dict.fromkeys(problems))


def _outside(part: Slice, names: Sequence[Sequence[str]], *, before: bool) -> tuple[list[Output], list[str]]:
    used = [
        {name: "" for name in names[source.checkpoint] if not place_of(name) and comes_before(name) == before}
        for source in part.sources
    ]
    same, problems = _same_names(part, used, "")
    return [Output(name, (name,) * len(used), part, 0.0) for name in same], problems


def _layers(part: Slice, names: Sequence[Sequence[str]], first: int) -> tuple[list[Output], list[str]]:
    outputs, problems = [], []
    num_layers = part.num_layers or 0
    by_layer = [_by_layer(names[source.checkpoint]) for source in part.sources]
    for step in range(num_layers):
        layers = [one[source.first_layer + step] for one, source in zip(by_layer, part.sources, strict=True)]
        same, wrong = _same_names(part, layers, f"in layer {step} of {part.where} ")
        problems += wrong
        for rest in same:
            inputs = tuple(one[rest] for one in layers)
            place = place_of(inputs[0])
            assert place is not None  # it came from a layer
            outputs.append(Output(place.moved_to(first + step), inputs, part, _share(step, num_layers)))
    return outputs, problems


def _by_layer(names: Sequence[str]) -> dict[int, dict[str, str]]:
    """Layer -> what follows its number -> name."""
    found: dict[int, dict[str, str]] = {}
    for name in names:
        if place := place_of(name):
            found.setdefault(place.layer, {})[place.rest] = name
    return found
