"""The mentions of the postings, each packed into one number of at most 57 bits, or a few such numbers.

A field is a run of bits of one of these: `char_start`, `length` (`char_end` is their sum), `place` (which of
its chunk's mentions in the store it is) and the five scores.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from entity_index.bits import WIDEST, Ids, Packed, PackedWriter, Words
from entity_index.query import SOURCES
from entity_index.scores import AS_FLOAT, COLUMNS, WEIGHTS, ScoreCode

PLACES = ("char_start", "length", "place")
RawMention = tuple[int, int, float, float, float, float, float, int]
"""`char_start, char_end, score, hyperlink, entity_linking, coref, coref_cluster`, place among its chunk's."""


class Field(NamedTuple):
    """Where a field is: in which number, from which bit, and how many bits."""

    number: int
    shift: int
    width: int


def arrange(widths: dict[str, int]) -> dict[str, Field]:
    """Share fields out to as few numbers as follow from putting each into the first that has room.

    >>> arrange({"char_start": 32, "score": 32, "place": 7})["place"]
    Field(number=0, shift=32, width=7)
    """
    used: list[int] = [0]
    fields = {}
    for name, width in widths.items():
        number = next((i for i, bits in enumerate(used) if bits + width <= WIDEST), len(used))
        if number == len(used):
            used.append(0)
        fields[name] = Field(number, used[number], width)
        used[number] += width
    return fields


def number_widths(fields: dict[str, Field]) -> list[int]:
    """Bits of each number that a mention is packed into."""
    count = 1 + max(field.number for field in fields.values())
    return [sum(field.width for field in fields.values() if field.number == i) for i in range(count)]


def join_fields(fields: dict[str, Field], values: dict[str, Words]) -> list[Words]:
    """The numbers of some mentions, from the values of their fields."""
    numbers = [np.zeros(len(values["place"]), dtype=np.uint64) for _ in number_widths(fields)]
    for name, field in fields.items():
        numbers[field.number] |= values[name] << np.uint64(field.shift)
    return numbers


class Records:
    """The mapped mentions."""

    def __init__(self, folder: Path, fields: dict[str, Field], codes: dict[str, ScoreCode]) -> None:
        """Map the files `mentions_0.bits`, `mentions_1.bits` ..."""
        self.fields, self.codes = fields, codes
        widths = number_widths(fields)
        self._numbers = [
            Packed(folder / f"mentions_{number}.bits", width) for number, width in enumerate(widths)
        ]
        before = np.cumsum([0, *widths]).tolist()  # bits of the numbers before each, side by side
        self._joined = [
            (before[field.number] + field.shift, (1 << field.width) - 1)
            for field in (fields[name] for name in (*PLACES, *SOURCES, "score"))
        ]
        self._offsets = before[:-1]
        self._tables = [_table(codes[source]) for source in SOURCES]
        self._is_sum = codes["score"].kind == "sum"
        self._score = [0.0] if self._is_sum else _table(codes["score"])
        self._differences = codes["score"].values or (0,)
        self._terms = [
            [weight * value for value in codes[name].values or (0,)] for name, weight in WEIGHTS.items()
        ]

    def field(self, name: str, positions: Ids) -> Words:
        """One field of many mentions."""
        field = self.fields[name]
        return _extract(self._numbers[field.number].at(positions), field)

    def scores(self, names: Sequence[str], positions: Ids) -> dict[str, Words]:
        """The codes of some scores of many mentions; each number is read once."""
        read = {number: self._numbers[number].at(positions) for number in self._used_by(names)}
        return {name: _extract(read[self.fields[name].number], self.fields[name]) for name in names}

    def _used_by(self, names: Sequence[str]) -> set[int]:
        return {self.fields[name].number for name in names}

    def read(self, runs: Iterable[tuple[int, int]]) -> list[list[RawMention]]:
        """Runs of mentions (first, how many), decoded in plain Python: quicker than arrays for few."""
        (s0, m0), (s1, m1), (s2, m2), (s3, m3), (s4, m4), (s5, m5), (s6, m6), (s7, m7) = self._joined
        table_h, table_e, table_c, table_k = self._tables
        join = self._numbers[0].__getitem__ if len(self._numbers) == 1 else self._join
        score_of = self._sum if self._is_sum else self._score_alone
        found = []
        for start, count in runs:
            mentions = []
            for position in range(start, start + count):
                bits = join(position)
                begin = bits >> s0 & m0
                h, e, c, k = bits >> s3 & m3, bits >> s4 & m4, bits >> s5 & m5, bits >> s6 & m6
                score, end = score_of(bits >> s7 & m7, h, e, c, k), begin + (bits >> s1 & m1)
                sources = table_h[h], table_e[e], table_c[c], table_k[k]
                mentions.append((begin, end, score, *sources, bits >> s2 & m2))
            found.append(mentions)
        return found

    def _join(self, position: int) -> int:
        """The numbers of a mention side by side."""
        bits = 0
        for packed, offset in zip(self._numbers, self._offsets, strict=True):
            bits |= packed[position] << offset
        return bits

    def _sum(self, code: int, h: int, e: int, c: int, k: int) -> float:
        """A score that is written as a difference."""
        one, two, three, four = self._terms
        expected = (one[h] + two[e] + three[c] + four[k]) // 10
        return SCORES[(100 if expected > 100 else expected) + self._differences[code]]

    def _score_alone(self, code: int, *_: int) -> float:
        return self._score[code]


SCORES: list[float] = AS_FLOAT.tolist()


class _Floats:
    """Stands for a list of the scores of all bits of a float32."""

    _number, _float = struct.Struct("<I"), struct.Struct("<f")

    def __getitem__(self, bits: int) -> float:
        return float(self._float.unpack(self._number.pack(bits))[0])


def _table(code: ScoreCode) -> "list[float] | _Floats":
    """The score of each code."""
    if code.kind == "float":
        return _Floats()
    return [SCORES[value] for value in code.values or (0,)]


def _extract(numbers: Words, field: Field) -> Words:
    return (numbers >> np.uint64(field.shift)) & np.uint64((1 << field.width) - 1)


def describe_records(fields: dict[str, Field], codes: dict[str, ScoreCode]) -> dict[str, Any]:
    """What `open_records` must know, for `meta.json`."""
    return {
        "fields": {name: list(field) for name, field in fields.items()},
        "scores": {name: {"kind": code.kind, "values": list(code.values)} for name, code in codes.items()},
    }


def open_records(folder: Path, described: dict[str, Any]) -> Records:
    """Map the mentions of an index folder."""
    fields = {name: Field(*field) for name, field in described["fields"].items()}
    codes = {
        name: ScoreCode(code["kind"], tuple(code["values"])) for name, code in described["scores"].items()
    }
    return Records(folder, fields, codes)


def writers_of(folder: Path, fields: dict[str, Field]) -> list[PackedWriter]:
    """Open the files of the mentions for writing."""
    return [
        PackedWriter(folder / f"mentions_{number}.bits", width)
        for number, width in enumerate(number_widths(fields))
    ]


def field_widths(largest: dict[str, int], codes: dict[str, ScoreCode]) -> dict[str, int]:
    """Bits of every field: what its largest number needs."""
    places = {name: largest[name].bit_length() for name in PLACES}
    return {**places, **{name: codes[name].width for name in COLUMNS}}
