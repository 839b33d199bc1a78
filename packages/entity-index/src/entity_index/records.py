"""The mentions of the postings, each packed into one number of at most 57 bits, or a few such numbers.

A field is a run of bits of one of these: `char_start`, `length` (`char_end` is their sum), `place` (which of
its chunk's mentions in the store it is) and the five scores.
"""

import struct
from collections.abc import Callable, Sequence
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
        self._places = [(*fields[name][:2], (1 << fields[name].width) - 1) for name in (*PLACES, *SOURCES)]
        score = fields["score"]
        self._score_place = (*score[:2], (1 << score.width) - 1)
        self._as_float = [_decoder(codes[source]) for source in SOURCES]
        self._score = self._sum_decoder() if codes["score"].kind == "sum" else _decoder(codes["score"])

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

    def __getitem__(self, position: int) -> RawMention:
        """One mention, decoded in plain Python: for few that is quicker than arrays."""
        numbers = [packed[position] for packed in self._numbers]
        start, length, place, *sources = [
            numbers[number] >> shift & mask for number, shift, mask in self._places
        ]
        number, shift, mask = self._score_place
        score = self._score(numbers[number] >> shift & mask, sources)
        h, e, c, cc = [decode(code, ()) for decode, code in zip(self._as_float, sources, strict=True)]
        return start, start + length, score, h, e, c, cc, place

    def _sum_decoder(self) -> "Decode":
        tables = [
            [weight * value for value in self.codes[name].values or (0,)] for name, weight in WEIGHTS.items()
        ]
        one, two, three, four = tables
        differences = self.codes["score"].values or (0,)
        floats: list[float] = AS_FLOAT.tolist()

        def decode(code: int, sources: Sequence[int]) -> float:
            h, e, c, cc = sources
            expected = min(100, (one[h] + two[e] + three[c] + four[cc]) // 10)
            return floats[expected + differences[code]]

        return decode


Decode = Callable[[int, Sequence[int]], float]


def _decoder(code: ScoreCode) -> Decode:
    if code.kind == "float":
        unpack, pack = struct.Struct("<f").unpack, struct.Struct("<I").pack
        return lambda number, _: float(unpack(pack(number))[0])
    floats: list[float] = AS_FLOAT[list(code.values or (0,))].tolist()
    return lambda number, _: floats[number]


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
