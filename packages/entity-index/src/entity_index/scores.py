"""Scores in few bits, without loss: two decimals as a number in a list, others as the 32 bits they are.

Published scores have two decimals, and their sum is nearly the weighted mean of the four sources: what is
kept of the sum is by how many hundredths it differs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_index.bits import Words, width_of
from entity_index.query import SOURCES, Thresholds

Floats = npt.NDArray[np.float32]
Hundredths = npt.NDArray[np.uint8]

COLUMNS = ("score", *SOURCES)
FLOAT_BITS = 32
WEIGHTS = dict(zip(SOURCES, (4, 3, 2, 1), strict=True))  # of the sum, in tenths, as LMEnt has it
AS_FLOAT: Floats = (np.arange(256) / 100).astype(np.float32)
"""The score of so many hundredths."""


def as_hundredths(scores: Floats) -> Hundredths | None:
    """The scores in hundredths, where every one is exactly the float32 nearest to such a number.

    >>> as_hundredths(np.array([0.57, 1.0], dtype=np.float32))
    array([ 57, 100], dtype=uint8)
    >>> as_hundredths(np.array([0.575], dtype=np.float32))
    """
    rounded = np.rint(scores * np.float32(100))
    if len(scores) and not (rounded.min() >= 0 and rounded.max() <= 255):
        return None
    codes: Hundredths = rounded.astype(np.uint8)
    return codes if np.array_equal(AS_FLOAT[codes], scores) else None


def expected_score(sources: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int16]:
    """The weighted mean of the sources in hundredths, rounded down, at most 100."""
    total = sum(sources[name].astype(np.int16) * weight for name, weight in WEIGHTS.items())
    return np.minimum(np.asarray(total, dtype=np.int16) // 10, 100)


@dataclass(frozen=True)
class ScoreCode:
    """How one column of scores is written.

    Kinds: `hundredths`, the position of the score in `values`; `sum` (of `score` only), the position in
    `values` of the difference to `expected_score`; `float`, the bits of the float32.
    """

    kind: str
    values: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Bits of a score."""
        return FLOAT_BITS if self.kind == "float" else width_of(max(0, len(self.values) - 1))

    def encode(self, numbers: npt.NDArray[Any]) -> Words:
        """Codes of scores: float32, or where the kind has `values`, numbers that stand in these."""
        if self.kind == "float":
            return numbers.view(np.uint32).astype(np.uint64)
        least = self.values[0] if self.values else 0
        codes = np.zeros(self.values[-1] - least + 1 if self.values else 0, dtype=np.uint64)
        codes[np.array(self.values, dtype=np.int64) - least] = np.arange(len(self.values))
        return codes[numbers.astype(np.int16) - least]

    def numbers(self, codes: Words) -> npt.NDArray[np.int16]:
        """The numbers in `values` that the codes stand for."""
        return np.array(self.values or (0,), dtype=np.int16)[codes.astype(np.int64)]

    def at_least(self, codes: Words, least: float) -> npt.NDArray[np.bool_]:
        """Which scores of a source reach a threshold, compared in float32."""
        if self.kind == "float":
            passing: npt.NDArray[np.bool_] = self.floats(codes) >= np.float32(least)
            return passing
        reached = np.searchsorted(AS_FLOAT[list(self.values)], np.float32(least))
        return codes >= np.uint64(reached)

    def floats(self, codes: Words) -> Floats:
        """Scores of codes (not of the kind `sum`)."""
        if self.kind == "float":
            bits: npt.NDArray[np.uint32] = codes.astype(np.uint32)
            floats: Floats = bits.view(np.float32)
            return floats
        exact: Floats = AS_FLOAT[self.numbers(codes)]
        return exact


def passing(
    codes: dict[str, Words], described: dict[str, ScoreCode], thresholds: Thresholds
) -> npt.NDArray[np.bool_]:
    """Which mentions pass at least one threshold."""
    result: npt.NDArray[np.bool_] = np.logical_or.reduce(
        [described[source].at_least(codes[source], least) for source, least in thresholds.active().items()]
    )
    return result


def decode_sum(codes: dict[str, Words], described: dict[str, ScoreCode]) -> Floats:
    """The aggregated scores."""
    score = described["score"]
    if score.kind != "sum":
        return score.floats(codes["score"])
    sources = {source: described[source].numbers(codes[source]) for source in SOURCES}
    sums: Floats = AS_FLOAT[expected_score(sources) + score.numbers(codes["score"])]
    return sums


def choose_codes(
    seen: dict[str, npt.NDArray[np.bool_] | None], differences: npt.NDArray[np.bool_] | None
) -> dict[str, ScoreCode]:
    """How to write each column.

    Args:
        seen: for each column, (256,) which hundredths occur; None where other scores do.
        differences: (512,) which differences of the sum to what is expected occur, from -256.
    """
    codes = {
        name: ScoreCode("float") if found is None else ScoreCode("hundredths", _listed(found))
        for name, found in seen.items()
    }
    if differences is not None and all(code.kind == "hundredths" for code in codes.values()):
        as_sum = ScoreCode("sum", tuple(value - 256 for value in _listed(differences)))
        if as_sum.width < codes["score"].width:
            codes["score"] = as_sum
    return codes


def _listed(found: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(found).tolist())
