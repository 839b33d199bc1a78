"""Cut a corpus into the base units of a data ablation: by field and period, of about equal numbers of tokens.

Each field gets units in proportion to its tokens and at least one; its years are cut into that many
consecutive periods so that the largest is as small as it can be. Train, val and test are a matter of the
document's id alone: the same document is in the same split however the corpus is cut, ordered or grown.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_merge.corpus import SPLITS, Line, Rejected, look_up

NO_FIELD = "NA"
NO_YEAR = "missing year"
PIECE = re.compile(r"\w+|[^\w\s]")

Block = tuple[int, int]
"""First and last year (included) of what is never cut: one year, or a whole unit of an earlier cutting."""


@dataclass(frozen=True)
class Keys:
    """Under which keys a document says what; dots lead into objects (`metadata.year`)."""

    field: str = "field"
    year: str = "year"
    tokens: str | None = None
    """Its number of tokens; None counts words and punctuation marks."""


@dataclass(frozen=True)
class Position:
    """Where a document belongs before there are units."""

    field: str
    block: Block
    num_tokens: int
    split: str | None
    """Of a document that comes from a unit: it keeps it, so that no test document becomes training data."""


@dataclass(frozen=True)
class Unit:
    """A base unit: a field's documents of a period."""

    field: str
    first_year: int
    last_year: int

    @property
    def name(self) -> str:
        """The folder's name, as in modular-s2orc.

        >>> Unit("Computer Science", 1970, 2004).name
        'ComputerScience,1970-2004'
        """
        return f"{field_name(self.field)},{self.first_year}-{self.last_year}"


def field_name(field: str) -> str:
    """A field without spaces and without what a folder's name cannot hold.

    >>> field_name("Agricultural and Food Sciences")
    'AgriculturalAndFoodSciences'
    """
    words = re.findall(r"[\w-]+", field)
    return "".join(word[0].upper() + word[1:] for word in words)


def locate(line: Line, keys: Keys) -> Position | Rejected:
    """Field, year and size of a document: from its keys, or from the unit that it lies in."""
    of_unit = parse_unit(line.source.unit) if line.source.unit else None
    field, year = look_up(line.row, keys.field), _year(look_up(line.row, keys.year))
    if isinstance(field, list):
        field = field[0] if field else None
    if of_unit is not None:
        field, block = of_unit.field, (of_unit.first_year, of_unit.last_year)
    elif year is not None:
        block = (year, year)
    else:
        return Rejected(line.place, NO_YEAR, line.doc_id)
    if field is None or not re.search(r"\w", str(field)):
        field = NO_FIELD
    size = _count(line, keys.tokens)
    if size is None:
        return Rejected(line.place, f"no number under {keys.tokens!r}", line.doc_id)
    return Position(str(field), block, size, line.source.split if of_unit else None)


def parse_unit(name: str) -> Unit | None:
    """The unit that a folder's name says; None where it says none.

    >>> parse_unit("Biology,1970-1993")
    Unit(field='Biology', first_year=1970, last_year=1993)
    """
    found = re.fullmatch(r"(.+),(\d+)-(\d+)", name)
    return Unit(found[1], int(found[2]), int(found[3])) if found else None


def make_units(
    sizes: Mapping[tuple[str, Block], int], *, num_units: int | None = None, unit_tokens: int | None = None
) -> dict[tuple[str, Block], Unit]:
    """The unit of every (field, block), from the tokens of each.

    Args:
        sizes: tokens of every (field, block).
        num_units: so many units in all (exactly one of `num_units` and `unit_tokens`).
        unit_tokens: as many units as come nearest to this size.

    Raises:
        ValueError: fewer units than fields, more than there are years, or two fields of the same folder name.
    """
    if (num_units is None) == (unit_tokens is None):
        raise ValueError("give exactly one of --units and --unit-tokens")
    fields = sorted({field for field, _ in sizes})
    _check_names(fields)
    blocks = {field: sorted(block for other, block in sizes if other == field) for field in fields}
    tokens = {field: [sizes[field, block] for block in blocks[field]] for field in fields}
    if unit_tokens is not None:
        counts = {
            field: min(len(blocks[field]), max(1, round(sum(tokens[field]) / unit_tokens)))
            for field in fields
        }
    else:
        counts = share_out(tokens, num_units or 0)
    units: dict[tuple[str, Block], Unit] = {}
    for field in fields:
        for first, last in cut_evenly(tokens[field], counts[field]):
            members = blocks[field][first:last]
            unit = Unit(field, members[0][0], max(end for _, end in members))
            units |= {(field, block): unit for block in members}
    return units


def share_out(tokens: Mapping[str, Sequence[int]], num_units: int) -> dict[str, int]:
    """How many units each field gets: the next one always goes to the field whose units are largest.

    >>> share_out({"Art": [10], "Biology": [30, 30, 30, 30], "Law": [35, 5]}, 5)
    {'Art': 1, 'Biology': 3, 'Law': 1}
    """
    most = sum(len(years) for years in tokens.values())
    if not len(tokens) <= num_units <= most:
        raise ValueError(
            f"--units {num_units}: the corpus has {len(tokens)} fields with {most} years among them, "
            f"so between {len(tokens)} and {most} units are possible"
        )
    counts = dict.fromkeys(tokens, 1)
    for _ in range(num_units - len(tokens)):
        divisible = [field for field in tokens if counts[field] < len(tokens[field])]
        counts[max(divisible, key=lambda field: sum(tokens[field]) / counts[field])] += 1
    return counts


def cut_evenly(sizes: Sequence[int], num_parts: int) -> list[tuple[int, int]]:
    """Consecutive non-empty parts [first, last) with the least possible largest sum; then the most even ones.

    >>> cut_evenly([5, 1, 1, 1, 6], 3)
    [(0, 1), (1, 4), (4, 5)]
    """
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    # best[i] = (largest part, sum of squares, cuts) of the first i sizes in as many parts as rounds so far
    best: list[tuple[int, int, tuple[int, ...]] | None] = [(0, 0, ())] + [None] * len(sizes)
    for part in range(1, num_parts + 1):
        best = [
            min(
                (
                    (max(found[0], ends[i] - ends[j]), found[1] + (ends[i] - ends[j]) ** 2, (*found[2], i))
                    for j in range(part - 1, i)
                    if (found := best[j]) is not None
                ),
                default=None,
            )
            for i in range(len(sizes) + 1)
        ]
    chosen = best[-1]
    assert chosen is not None  # no more parts than sizes
    return list(zip((0, *chosen[2][:-1]), chosen[2], strict=True))


def split_of(doc_id: str, *, val: float, test: float, seed: int = 0) -> str:
    """The split of a document, by a hash of its id.

    >>> [split_of(f"doc{i}", val=0.25, test=0.25) for i in range(6)]
    ['train', 'test', 'train', 'val', 'test', 'val']
    """
    digest = hashlib.sha256(f"{seed}/{doc_id}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[1] if place < val else SPLITS[2] if place < val + test else SPLITS[0]


def add_up(positions: Iterable[Position]) -> Counter[tuple[str, Block]]:
    """Tokens of every (field, block)."""
    sizes: Counter[tuple[str, Block]] = Counter()
    for position in positions:
        sizes[position.field, position.block] += position.num_tokens
    return sizes


def _check_names(fields: list[str]) -> None:
    first: dict[str, str] = {}
    for field in fields:
        name = field_name(field).casefold()
        if name in first:
            raise ValueError(
                f"the fields {first[name]!r} and {field!r} would share the folder {field_name(field)!r}: "
                "give them one spelling"
            )
        first[name] = field


def _year(value: Any) -> int | None:
    """A year from 1999, "1999" or "1999-05-01"."""
    found = re.match(r"\d{1,4}(?!\d)", str(value)) if value is not None else None
    return int(found[0]) if found else None


def _count(line: Line, key: str | None) -> int | None:
    if key is None:
        return len(PIECE.findall(line.text))
    found = look_up(line.row, key)
    return (
        int(found) if isinstance(found, int | float) and not isinstance(found, bool) and found >= 0 else None
    )
