"""Which elements are among the k of largest magnitude: exact, in constant memory, about 2 ns an element.

The bits of a non-negative float32 order as the numbers do. A first pass takes an evenly spread sample, which
says between which two keys the k-th largest should be; a second one counts every key there, and how many lie
above: that it is there is then known, not guessed. Where it is not, two passes of radix selection (upper 16
bits, then the lower 15 of those that share them) find it for sure. Among equal magnitudes the lower flat
index wins; where only some of the equals are kept, one more pass, left as soon as it can be, finds the last
of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_merge.dtypes import Values

Magnitudes = npt.NDArray[np.float32]
Streams = Callable[[int], Iterator[tuple[int, list[Magnitudes]]]]
"""Called once a pass: (flat start, magnitudes of every stream there), in order; of every so many-th
element."""

LOW_BITS = 15
PENDING = 1 << 18
SAMPLE = 1 << 16
DEVIATIONS = 5
"""Half the width of a guess, in standard deviations of the rank in the sample."""
MAX_BINS = 1 << 20


@dataclass(frozen=True)
class Cut:
    """The k largest magnitudes: all above `threshold`, and those equal to it up to flat index `last`."""

    threshold: float
    last: int

    def keeps(self, flat_start: int, magnitudes: Magnitudes) -> npt.NDArray[np.bool_]:
        """Whether each element, the first of them at `flat_start`, is among the k largest.

        >>> Cut(2.0, 1).keeps(0, np.array([2, 2, 2, 3, 1], np.float32)).tolist()
        [True, True, False, True, False]
        """
        threshold = np.float32(self.threshold)
        equals = self.last + 1 - flat_start
        if equals >= len(magnitudes):
            return magnitudes >= threshold
        kept = magnitudes > threshold
        if equals > 0:
            np.greater_equal(magnitudes[:equals], threshold, out=kept[:equals])
        return kept


EVERYTHING = Cut(0.0, np.iinfo(np.int64).max)
NOTHING = Cut(float("inf"), -1)


class Histogram:
    """Counts of small integers, added in batches; as long as they are few they are kept as they are.

    (`np.bincount` pays for every bin at every call.)
    """

    def __init__(self, bins: int) -> None:
        """Start with nothing counted."""
        self.bins = bins
        self.total = 0
        self._counts: npt.NDArray[np.int64] | None = None
        self._pending: list[npt.NDArray[np.uint32]] = []
        self._num_pending = 0

    def add(self, values: npt.NDArray[np.uint32]) -> None:
        """Count `values`, all below `bins`."""
        self._pending.append(values)
        self._num_pending += len(values)
        self.total += len(values)
        if self._num_pending >= PENDING:
            self._flush()

    def _flush(self) -> npt.NDArray[np.int64]:
        counts = np.zeros(self.bins, np.int64) if self._counts is None else self._counts
        if self._pending:
            counts += np.bincount(np.concatenate(self._pending), minlength=self.bins)
        self._counts, self._pending, self._num_pending = counts, [], 0
        return counts

    def find_largest(self, wanted: int) -> tuple[int, int, int]:
        """The `wanted`-th largest (from 1) of the `total`, how many are larger, and how many equal."""
        if self._counts is None:
            values = np.concatenate(self._pending)
            found = int(np.partition(values, len(values) - wanted)[len(values) - wanted])
            return found, int(np.count_nonzero(values > found)), int(np.count_nonzero(values == found))
        at_least = np.cumsum(self._flush()[::-1])
        place = int(np.searchsorted(at_least, wanted))
        above = int(at_least[place - 1]) if place else 0
        return self.bins - 1 - place, above, int(at_least[place]) - above


@dataclass
class _Search:
    """One k-th largest on its way: first its key becomes known, then the place of its last equal."""

    stream: int
    wanted: int  # of the largest that are not known to lie above
    key: int = 0
    equals: int = 0
    last: int = EVERYTHING.last


def largest(streams: Streams, ks: Sequence[Sequence[int]], *, size: int) -> list[list[Cut]]:
    """For every stream and every k asked of it, the cut that keeps its k largest of `size` elements.

    >>> values = np.array([1, 5, 3, 3, 3], np.float32)
    >>> largest(lambda step: iter([(0, every(step, 0, [values]))]), [[2, 3]], size=5)
    [[Cut(threshold=3.0, last=2), Cut(threshold=3.0, last=3)]]
    """
    searches = {
        (stream, k): _Search(stream, k) for stream, wanted in enumerate(ks) for k in wanted if 0 < k < size
    }
    if missed := _find_by_sample(streams, list(searches.values()), size):
        _find_upper_bits(streams, missed)
        _find_lower_bits(streams, missed)
    _find_last_equal(streams, [search for search in searches.values() if search.wanted < search.equals])
    return [[_cut(searches.get((stream, k)), k) for k in wanted] for stream, wanted in enumerate(ks)]


def _cut(search: _Search | None, k: int) -> Cut:
    if search is None:
        return EVERYTHING if k > 0 else NOTHING
    return Cut(float(np.uint32(search.key).view(np.float32)), search.last)


def _find_by_sample(streams: Streams, searches: list[_Search], size: int) -> list[_Search]:
    """Two passes; the searches whose key was not where the sample said."""
    samples = _sample(streams, {search.stream for search in searches}, size)
    ranges = [_expect(samples[search.stream], search.wanted, size) for search in searches]
    missed = [search for search, (low, high) in zip(searches, ranges, strict=True) if high - low >= MAX_BINS]
    counted = [
        (search, low, high, Histogram(high - low + 1))
        for search, (low, high) in zip(searches, ranges, strict=True)
        if high - low < MAX_BINS
    ]
    above = [0] * len(counted)
    for _, magnitudes in streams(1) if counted else ():
        for i, (search, low, high, histogram) in enumerate(counted):
            keys = magnitudes[search.stream].view(np.uint32)
            above[i] += int(np.count_nonzero(keys > np.uint32(high)))
            offsets = keys - np.uint32(low)  # wraps round below
            histogram.add(offsets[offsets <= np.uint32(high - low)])
    for (search, low, _, histogram), num_above in zip(counted, above, strict=True):
        if num_above < search.wanted <= num_above + histogram.total:
            search.wanted -= num_above
            search.key = low + _descend(search, histogram)
        else:
            missed.append(search)
    return missed


def _sample(streams: Streams, wanted: set[int], size: int) -> dict[int, npt.NDArray[np.uint32]]:
    """Every so many-th key of each stream; all of a small tensor. An odd step meets all columns."""
    step = -(-size // SAMPLE) | 1
    parts: dict[int, list[npt.NDArray[np.uint32]]] = {stream: [] for stream in wanted}
    for _, magnitudes in streams(step) if wanted else ():
        for stream, taken in parts.items():
            taken.append(magnitudes[stream].view(np.uint32))
    return {stream: np.concatenate(taken) for stream, taken in parts.items()}


def every(step: int, flat_start: int, values: list[Values]) -> list[Values]:
    """Of the elements from `flat_start` on those at multiples of `step`."""
    return [value[-flat_start % step :: step] for value in values] if step > 1 else values


def _expect(sample: npt.NDArray[np.uint32], wanted: int, size: int) -> tuple[int, int]:
    """The keys between which the `wanted`-th largest of `size` should be: exactly, where the sample is
    all."""
    count, share = len(sample), wanted / size
    margin = 0.0 if count == size else DEVIATIONS * (count * share * (1 - share)) ** 0.5 + 2
    place = count - share * count  # in rising order
    first, last = round(place - margin), round(place + margin)
    inner = np.partition(sample, [min(max(first, 0), count - 1), min(last, count - 1)])
    low = int(inner[first]) if first >= 0 else 0
    high = int(inner[last]) if last < count else (1 << 31) - 1
    return low, high


def _find_upper_bits(streams: Streams, searches: list[_Search]) -> None:
    histograms = {search.stream: Histogram(1 << 16) for search in searches}
    for _, magnitudes in streams(1):
        for stream, histogram in histograms.items():
            histogram.add((magnitudes[stream].view(np.uint32) >> LOW_BITS).astype(np.uint16))
    for search in searches:
        search.key = _descend(search, histograms[search.stream]) << LOW_BITS


def _find_lower_bits(streams: Streams, searches: list[_Search]) -> None:
    histograms = {(search.stream, search.key): Histogram(1 << LOW_BITS) for search in searches}
    for _, magnitudes in streams(1):
        for (stream, key), histogram in histograms.items():
            offsets = magnitudes[stream].view(np.uint32) - np.uint32(key)  # wraps round below
            histogram.add(offsets[offsets < np.uint32(1 << LOW_BITS)])
    for search in searches:
        search.key += _descend(search, histograms[search.stream, search.key])


def _descend(search: _Search, histogram: Histogram) -> int:
    """The bin that holds the `wanted`-th largest; what lies above it is found."""
    place, above, search.equals = histogram.find_largest(search.wanted)
    search.wanted -= above
    return place


def _find_last_equal(streams: Streams, searches: list[_Search]) -> None:
    """The place of the last kept among equals."""
    open_searches = searches
    for flat_start, magnitudes in streams(1) if searches else ():
        for search in open_searches:
            equal = magnitudes[search.stream].view(np.uint32) == np.uint32(search.key)
            found = int(np.count_nonzero(equal))
            if found >= search.wanted:
                search.last = flat_start + int(np.flatnonzero(equal)[search.wanted - 1])
            search.wanted -= found
        open_searches = [search for search in open_searches if search.wanted > 0]
        if not open_searches:
            return
