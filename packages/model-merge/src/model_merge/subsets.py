"""Families of merges, listed in orders in which neighbours differ little.

A merge is (sum of coefficient * part) / divisor. Uniform and macro averages and points of a simplex grid have
whole coefficients, so that a running sum can stay exact (see `running_sum`).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from model_merge.expression import whole_weights

LONGEST_ID = 100  # characters; a merge of more parts is named by a hash
MOST_MERGES = 1_000_000
FAMILIES = "all, size:K, loo, pairs, rolling:W, groups:FILE, list:FILE or simplex:STEP"
FORBIDDEN_IN_NAMES = "+*|"


@dataclass(frozen=True)
class Merge:
    """One mixture of parts: theta = sum of coefficients[i] * x[i] / divisor."""

    coefficients: tuple[float, ...]
    """One a part, 0 where it is no member."""
    divisor: float
    method: str = "uniform"
    """uniform, macro (average of averages), weighted, or model (no merge: a model as it is)."""
    groups: tuple[tuple[int, ...], ...] = ()
    """The groups of a macro merge."""

    @property
    def members(self) -> tuple[int, ...]:
        """Positions of the parts that take part."""
        return tuple(part for part, coefficient in enumerate(self.coefficients) if coefficient)

    @property
    def weights(self) -> tuple[float, ...]:
        """What each member counts, in the order of `members`."""
        return tuple(self.coefficients[part] / self.divisor for part in self.members)

    @property
    def mask(self) -> str:
        """One character a part, in the order of the parts: 1 for a member."""
        return "".join("1" if coefficient else "0" for coefficient in self.coefficients)

    def name(self, parts: Sequence[str]) -> str:
        """The same for the same merge of the same parts, whatever family listed it.

        >>> Merge((1, 0, 1), 2).name(["law", "art", "sea"])
        'law+sea'
        >>> Merge((3, 1, 0), 4, "weighted").name(["law", "art", "sea"])
        '3*law+1*art'
        """
        plain = len({self.coefficients[part] for part in self.members}) == 1
        terms = [
            parts[part] if plain else f"{self.coefficients[part]:.17g}*{parts[part]}" for part in self.members
        ]
        if self.divisor != sum(self.coefficients):
            terms.append(f"|{self.divisor:.17g}")
        whole = "+".join(terms)
        if len(whole) <= LONGEST_ID:
            return whole
        return f"{len(terms)} parts {hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def uniform(members: Sequence[int], num_parts: int) -> Merge:
    """The plain average of the members."""
    chosen = set(members)
    return Merge(tuple(float(part in chosen) for part in range(num_parts)), float(len(chosen)))


def macro(groups: Sequence[Sequence[int]], num_parts: int) -> Merge:
    """The average of the groups' averages, over one divisor, so that it is rounded once.

    >>> macro([[0, 1], [2]], 3).weights
    (0.25, 0.25, 0.5)
    """
    shares = [Fraction(0)] * num_parts
    for group in groups:
        for part in group:
            shares[part] += Fraction(1, len(groups) * len(group))
    coefficients, divisor = whole_weights(shares)
    return Merge(tuple(coefficients), divisor, "macro", tuple(map(tuple, groups)))


def gray_code(num_parts: int) -> Iterator[int]:
    """Every non-empty subset as a bit mask; neighbours differ in one part, bit 0 in every second step.

    >>> [f"{mask:03b}" for mask in gray_code(3)]
    ['001', '011', '010', '110', '111', '101', '100']
    """
    return (index ^ (index >> 1) for index in range(1, 1 << num_parts))


def revolving_door(num_parts: int, size: int, *, backwards: bool = False) -> Iterator[int]:
    """Every subset of `size` parts as a bit mask; from one to the next one part leaves and one enters.

    >>> [f"{mask:04b}" for mask in revolving_door(4, 2)]
    ['0011', '0110', '0101', '1100', '1010', '1001']
    """
    if size in (0, num_parts):
        yield (1 << size) - 1
        return
    top = 1 << (num_parts - 1)

    def without() -> Iterator[int]:
        return revolving_door(num_parts - 1, size, backwards=backwards)

    def with_top() -> Iterator[int]:
        return (mask | top for mask in revolving_door(num_parts - 1, size - 1, backwards=not backwards))

    for half in (with_top, without) if backwards else (without, with_top):
        yield from half()


def compositions(total: int, num_parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to share `total` units among the parts; one unit moves from one to the next.

    >>> list(compositions(2, 2))
    [(2, 0), (1, 1), (0, 2)]
    """
    return _compositions(total, num_parts, backwards=False)


def _compositions(total: int, num_parts: int, *, backwards: bool) -> Iterator[tuple[int, ...]]:
    if num_parts == 1:
        yield (total,)
        return
    for last in range(total, -1, -1) if backwards else range(total + 1):
        turned = backwards != bool(last % 2)
        for first in _compositions(total - last, num_parts - 1, backwards=turned):
            yield (*first, last)


def rolling_windows(num_parts: int, width: int) -> Iterator[tuple[int, ...]]:
    """Every `width` neighbours; from one window to the next one part leaves and one enters."""
    return (tuple(range(start, start + width)) for start in range(num_parts - width + 1))


def count_family(family: str, num_parts: int) -> int | None:
    """How many merges a family has, by formula; None where a file lists them.

    >>> [count_family(family, 10) for family in ("all", "size:3", "loo", "rolling:3", "simplex:1/4")]
    [1023, 120, 10, 8, 715]
    """
    kind, argument = split_family(family)
    if kind == "all":
        return (1 << num_parts) - 1
    if kind in ("size", "pairs", "loo"):
        return math.comb(num_parts, _subset_size(kind, argument, num_parts))
    if kind == "rolling":
        return max(0, num_parts - _whole_number(family, argument) + 1)
    if kind == "simplex":
        steps = parse_step(argument)
        return math.comb(steps + num_parts - 1, num_parts - 1)
    return None


def list_family(
    family: str,
    parts: Sequence[str],
    costs: Sequence[float] | None = None,
    read_file: Callable[[str], Any] | None = None,
) -> list[Merge]:
    """The merges of a family in the order in which they are evaluated.

    Args:
        family: `all`, `size:K`, `loo`, `pairs`, `rolling:W`, `groups:FILE`, `list:FILE` or `simplex:STEP`.
        parts: the parts' names.
        costs: what it costs to load each part; the dearest sits on the highest bit, which changes least.
        read_file: reads the FILE of `groups` and `list` as the object that it holds.

    Raises:
        ValueError: the family is unknown, impossible with so many parts, or has more than a million merges.
    """
    num_parts = len(parts)
    count = count_family(family, num_parts)
    if count is not None and not 0 < count <= MOST_MERGES:
        raise ValueError(_count_problem(family, num_parts, count))
    kind, argument = split_family(family)
    if kind in ("groups", "list"):
        assert read_file is not None
        content = read_file(argument)
        return list(_read_groups(content, parts) if kind == "groups" else _read_list(content, parts))
    if kind == "rolling":
        windows = rolling_windows(num_parts, _whole_number(family, argument))
        return [uniform(window, num_parts) for window in windows]
    places = sorted(range(num_parts), key=lambda part: (costs[part] if costs else 0, part))
    if kind == "simplex":
        total = parse_step(argument)
        return [_weighted_at(units, places, total) for units in compositions(total, num_parts)]
    masks = (
        gray_code(num_parts)
        if kind == "all"
        else revolving_door(num_parts, _subset_size(kind, argument, num_parts))
    )
    return [
        uniform([places[bit] for bit in range(num_parts) if mask >> bit & 1], num_parts) for mask in masks
    ]


def _weighted_at(units: Sequence[int], places: Sequence[int], total: int) -> Merge:
    shares = [Fraction(0)] * len(places)
    for place, unit in zip(places, units, strict=True):
        shares[place] = Fraction(unit, total)
    return Merge(tuple(float(share * total) for share in shares), float(total), "weighted")


def _count_problem(family: str, num_parts: int, count: int) -> str:
    if count <= 0:
        return f"the family {family!r} has no merge of {num_parts} parts"
    return (
        f"the family {family!r} of {num_parts} parts has {count:,} merges, more than {MOST_MERGES:,}: "
        "take size:K, simplex with a larger STEP, or list:FILE"
    )


def split_family(family: str) -> tuple[str, str]:
    """The kind of a family and what follows its colon."""
    kind, colon, argument = family.partition(":")
    with_argument = kind in ("size", "rolling", "groups", "list", "simplex")
    without = kind in ("all", "loo", "pairs")
    if not (with_argument or without) or with_argument != bool(argument) or (without and colon):
        raise ValueError(f"no family {family!r}: choose {FAMILIES}")
    return kind, argument


def _subset_size(kind: str, argument: str, num_parts: int) -> int:
    if kind == "pairs":
        return 2
    return num_parts - 1 if kind == "loo" else _whole_number(f"size:{argument}", argument)


def _whole_number(family: str, argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise ValueError(f"the family {family!r} needs a whole number from 1 on, not {argument!r}")
    return int(argument)


def parse_step(text: str) -> int:
    """In how many steps the grid of `simplex:STEP` divides 1.

    >>> parse_step("0.25"), parse_step("1/3")
    (4, 3)
    """
    try:
        steps = 1 / Fraction(text)
    except (ValueError, ZeroDivisionError):
        steps = Fraction(0)
    if steps.denominator != 1 or steps < 1:
        raise ValueError(f"the step {text!r} of a simplex must divide 1, as 0.25 or 1/3 do")
    return int(steps)


def _read_groups(content: Any, parts: Sequence[str]) -> Iterator[Merge]:
    """Every group by itself (micro), then all of them (macro)."""
    if not isinstance(content, dict) or not content:
        raise ValueError("a file of groups maps each group's name to the list of its parts")
    groups = [_positions(members, parts, f"group {name!r}") for name, members in content.items()]
    yield from (uniform(group, len(parts)) for group in groups)
    yield macro(groups, len(parts))


def _read_list(content: Any, parts: Sequence[str]) -> Iterator[Merge]:
    if not isinstance(content, list) or not content:
        raise ValueError(
            "a file of merges is a list of {members: [...]}, {weights: {...}} or {groups: [...]}"
        )
    for number, entry in enumerate(content, start=1):
        yield _read_entry(entry, parts, f"merge {number} of the list")


def _read_entry(entry: Any, parts: Sequence[str], where: str) -> Merge:
    if isinstance(entry, list):
        entry = {"members": entry}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"{where} needs exactly one of 'members', 'weights' and 'groups'")
    ((key, value),) = entry.items()
    if key == "members":
        return uniform(_positions(value, parts, where), len(parts))
    if key == "groups" and isinstance(value, list) and value:
        return macro([_positions(group, parts, where) for group in value], len(parts))
    if key == "weights" and isinstance(value, dict) and value:
        return weighted(value, parts, where)
    raise ValueError(f"{where} has {key!r}: {value!r}, expected 'members', 'weights' or 'groups'")


def weighted(weights: Mapping[str, Any], parts: Sequence[str], where: str = "the merge") -> Merge:
    """Weights as they are written (0.1 is a tenth), divided by their sum.

    Raises:
        ValueError: a weight is no number, names no part, or the sum is 0.
    """
    shares = [Fraction(0)] * len(parts)
    for part, value in zip(_positions(list(weights), parts, where), weights.values(), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where}: the weight {value!r} of {parts[part]!r} is no finite number")
        shares[part] = Fraction(str(value))
    total = sum(shares)
    if total == 0:
        raise ValueError(f"{where}: the weights {dict(weights)} sum to 0")
    coefficients, divisor = whole_weights([share / total for share in shares])
    return Merge(tuple(coefficients), divisor, "weighted")


def _positions(names: Any, parts: Sequence[str], where: str) -> list[int]:
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where} needs a list of parts, not {names!r}")
    if unknown := [name for name in names if name not in parts]:
        raise ValueError(f"{where} names {unknown}, the parts are {list(parts)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{where} names a part twice: {names}")
    return [parts.index(name) for name in names]


def check_part_names(names: Sequence[str]) -> None:
    """Refuse names that could not be told apart in a merge's name.

    Raises:
        ValueError: a name is empty, doubled or holds one of + * |.
    """
    for name in names:
        if not name or any(character in name for character in FORBIDDEN_IN_NAMES):
            raise ValueError(
                f"the part name {name!r} is empty or holds one of {' '.join(FORBIDDEN_IN_NAMES)}"
            )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the part names {doubled} are given twice")


def block_of(row: int, num_rows: int, num_blocks: int) -> int:
    """Which of `num_blocks` processes evaluates a row.

    Blocks are of neighbours. In the Gray code of n parts and 2**k blocks, they are the values of the k
    highest bits.

    >>> [block_of(row, 7, 2) for row in range(7)]
    [0, 0, 0, 1, 1, 1, 1]
    """
    return (row + 1) * num_blocks // (num_rows + 1)
