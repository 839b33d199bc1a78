"""Which chunks mention an entity, and where: a pair for every (entity, chunk), with its mentions.

A query at the default thresholds touches an entity's pairs only (and of a frequent entity, for its best hits,
a short list); the mentions are read for the hits, or for other thresholds. Arrays: E entities, P pairs
sorted by entity and chunk, C chunks. Everything is memory-mapped. FORMAT.md describes the files.
"""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_index.bits import Bitmap, Packed, map_bytes, read_bits, unaligned_words
from entity_index.bits import Ids as Ids  # part of this module's names, too
from entity_index.query import DEFAULT_THRESHOLDS, SOURCES, Thresholds
from entity_index.records import RawMention, Records, open_records
from entity_index.scores import AS_FLOAT, COLUMNS, Floats, decode_sum, passing

Column = npt.NDArray[Any]
Scores = Floats

FREQUENT = 64
"""An entity in so many chunks or more has the differences of their ids written, in as few bits as fit."""
SAMPLE = 128
"""... and every so many pairs the chunk id itself."""
LISTED_FROM, LISTED = 1024, 64
"""An entity in so many chunks or more has its best chunks listed, so many at most."""
BLOCK = 1 << 16
"""How many mentions are looked at together by what must read many: so many stay in the processor's cache."""
MASK_SHARE = 64
"""Lists of ids are compared through a byte for every id where at least one of so many is in a list."""

FREQUENT_COLUMNS = ("entity", "pairs_through", "first_byte", "width", "first_sample", "listed", "matching")


class Postings:
    """The mapped files of an index folder; make one with `open_postings`."""

    def __init__(self, folder: Path, layout: dict[str, Any]) -> None:
        """Map the files."""
        self.num_entities, self.num_chunks = int(layout["num_entities"]), int(layout["num_chunks"])
        self.num_pairs = int(layout["num_pairs"])
        widths = layout["widths"]
        self.pair_starts = load_column(folder, "pair_starts")
        self.best = load_column(folder, "best")
        self.records: Records = open_records(folder, layout)
        self._first = Bitmap(folder / "first.bits", load_column(folder, "first_counts"))
        frequent = load_column(folder, "frequent")
        self._frequent = {name: np.array(frequent[:, i]) for i, name in enumerate(FREQUENT_COLUMNS)}
        self._decoding = np.stack(
            [self._frequent[name] for name in ("first_byte", "width", "first_sample")], axis=1
        )
        self._rare_chunks = Packed(folder / "rare_chunks.bits", widths["chunk"])
        self._deltas: mmap.mmap = map_bytes(folder / "deltas.bits")
        self._delta_words = unaligned_words(self._deltas)
        self._samples = load_column(folder, "samples")
        self._listed_pairs = load_column(folder, "listed_pairs")
        self._listed_chunks = load_column(folder, "listed_chunks")
        self._row_starts = Packed(folder / "row_starts.bits", widths["row"])
        self._chunk_starts = Packed(folder / "chunk_starts.bits", widths["chunk_pair"])
        self._chunk_pairs = Packed(folder / "chunk_pairs.bits", widths["pair"])

    # Pairs of an entity

    def pairs_of(self, entity: int) -> tuple[int, int]:
        """The half-open range of an entity's pairs."""
        return int(self.pair_starts[entity]), int(self.pair_starts[entity + 1])

    def chunks_of(self, entity: int) -> Ids:
        """The chunks of all pairs of an entity, ascending."""
        start, end = self.pairs_of(entity)
        place = self._frequent_place(entity)
        if place is None:
            before = start - self._rare_before(entity)
            return self._rare_chunks.part(before, before + end - start).view(np.int64)
        return self._decode(place, 0, end - start)

    def best_of(self, entity: int, thresholds: Thresholds, limit: int) -> tuple[int, Ids, Ids, Scores]:
        """How many chunks of an entity match; pairs, chunks and scores of the best.

        A frequent entity has those at the default thresholds listed: nothing else is read.
        """
        start, end = self.pairs_of(entity)
        if not is_default(thresholds):
            pairs, scores = self._passing_pairs(start, end, thresholds)
            best = best_ranked(scores, limit)
            return len(pairs), pairs[best], self.chunks_of(entity)[pairs[best] - start], scores[best]
        place = self._frequent_place(entity) if end - start >= LISTED_FROM and limit <= LISTED else None
        if place is not None:
            first, total = (int(self._frequent[name][place]) for name in ("listed", "matching"))
            rows = slice(first, first + min(limit, total))
            pairs = self._listed_pairs[rows].astype(np.int64)
            chunks = self._listed_chunks[rows].astype(np.int64)
            return total, pairs, chunks, self.scores_of(self.best[pairs])
        codes = self.best[start:end]
        total = int(np.count_nonzero(matching(codes)))
        chosen = descending(codes)[: min(limit, total)]  # those that do not match come last
        return total, chosen + start, self.chunks_of(entity)[chosen], self.scores_of(codes[chosen])

    def count(self, entity: int, thresholds: Thresholds) -> int:
        """In how many chunks a mention of an entity passes."""
        start, end = self.pairs_of(entity)
        if is_default(thresholds):
            return int(np.count_nonzero(matching(self.best[start:end])))
        return len(self._passing_pairs(start, end, thresholds)[0])

    def matches(self, entity: int, thresholds: Thresholds) -> tuple[Ids, Scores]:
        """The chunks of an entity where a mention passes, ascending, with the best score among those."""
        start, end = self.pairs_of(entity)
        codes = self.best[start:end]
        if not is_default(thresholds):
            pairs, scores = self._passing_pairs(start, end, thresholds)
            return self.chunks_of(entity)[pairs - start], scores
        found = matching(codes)
        if found.all():
            return self.chunks_of(entity), self.scores_of(codes)
        return self.chunks_of(entity)[found], self.scores_of(codes[found])

    def pair_of(self, entity: int, chunk_id: int) -> int | None:
        """The pair of an entity and a chunk, where there is one."""
        start, end = self.pairs_of(entity)
        place, first = self._frequent_place(entity), 0
        if place is None:
            chunks = self.chunks_of(entity)
        else:
            sample = int(self._frequent["first_sample"][place])
            samples = self._samples[sample : sample - (start - end) // SAMPLE]
            block = int(np.searchsorted(samples, samples.dtype.type(chunk_id), side="right")) - 1
            if block < 0:
                return None
            first = block * SAMPLE
            chunks = self._decode(place, first, min(end - start, first + SAMPLE))
        found = int(np.searchsorted(chunks, chunk_id))
        if found == len(chunks) or chunks[found] != chunk_id:
            return None
        return start + first + found

    def _decode(self, place: int, first: int, end: int) -> Ids:
        """Chunks `first` (of a sample) to `end` of a frequent entity."""
        first_byte, width, sample = self._decoding[place].tolist()
        bits = np.arange(first, end - 1) * width
        bits += first_byte * 8
        chunks = np.empty(end - first, dtype=np.int64)
        chunks[0] = self._samples[sample + first // SAMPLE]
        chunks[1:] = read_bits(self._delta_words, bits, width).view(np.int64)
        chunks[1:] += 1
        return np.cumsum(chunks, out=chunks)

    def _frequent_place(self, entity: int) -> int | None:
        entities = self._frequent["entity"]
        place = int(entities.searchsorted(entity))
        return place if place < len(entities) and entities[place] == entity else None

    def _rare_before(self, entity: int) -> int:
        """How many pairs before this entity's are of frequent entities."""
        place = int(self._frequent["entity"].searchsorted(entity))
        return int(self._frequent["pairs_through"][place - 1]) if place else 0

    # Mentions of pairs

    def mentions_of(self, pairs: Ids) -> list[list[RawMention]]:
        """The mentions of each pair, by place; `place` becomes the row in the store only by `first_row`."""
        length, found = self._first.run_length, []
        for part in range(0, len(pairs), BLOCK):
            starts = self._first.place_of(pairs[part : part + BLOCK]).tolist()
            found += self.records.read([(start, length(start)) for start in starts])
        return found

    def first_row(self, chunk_id: int) -> int:
        """The row of a chunk's first mention in the store."""
        return self._row_starts[chunk_id]

    def _passing_pairs(self, start: int, end: int, thresholds: Thresholds) -> tuple[Ids, Scores]:
        """Those of a range of pairs that have a passing mention, and the best score among those."""
        pairs, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for found, positions in self._passing(start, end, thresholds):
            codes = self.records.scores(COLUMNS, positions)
            pairs.append(found)
            scores.append(decode_sum(codes, self.records.codes))
        return best_per_chunk(np.concatenate(pairs), np.concatenate(scores))

    def _passing(self, start: int, end: int, thresholds: Thresholds) -> Iterator[tuple[Ids, Ids]]:
        """The passing mentions of a range of pairs, a block at a time: of each its pair, and its position."""
        if start == end:
            return
        first, last = self._first.place_of(np.array([start, end])).tolist()
        for begin in range(first, last, BLOCK):
            stop = min(begin + BLOCK, last)
            codes = self.records.scores(list(thresholds.active()), np.arange(begin, stop))
            keep = np.flatnonzero(passing(codes, self.records.codes, thresholds))
            owner = np.cumsum(self._first.flags(begin, stop), dtype=np.int64)
            yield owner[keep] + (start - 1), keep + begin
            start += int(owner[-1])

    # Pairs of chunks

    def pairs_in(self, chunk_ids: Ids) -> Ids:
        """The pairs of some chunks, chunk by chunk, ascending in each."""
        starts = self._chunk_starts.at(chunk_ids).view(np.int64)
        sizes = self._chunk_starts.at(chunk_ids + 1).view(np.int64) - starts
        before = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(starts - before, sizes)
        return self._chunk_pairs.at(places).view(np.int64)

    def entities_of(self, pairs: Ids) -> Ids:
        """The entities of pairs."""
        key = pairs.astype(self.pair_starts.dtype)
        return np.searchsorted(self.pair_starts, key, side="right") - 1

    def count_passing(self, parts: Iterable[Ids], thresholds: Thresholds) -> Ids:
        """How many of some pairs pass, for every entity, (E,). Takes a byte for every pair there is."""
        if is_default(thresholds):
            marked = self._mark(parts)
            marked &= matching(self.best[:]).view(np.uint8)  # from end to end: quicker than at many places
            return self._sums(marked)
        return self._sums(self._mark(self.passing_pairs(pairs, thresholds) for pairs in parts))

    def _mark(self, parts: Iterable[Ids]) -> npt.NDArray[np.uint8]:
        """1 for every pair that is in one of the parts, (pairs,)."""
        marked = np.zeros(self.num_pairs, dtype=np.uint8)
        for pairs in parts:
            marked[pairs] = 1
        return marked

    def _sums(self, marked: npt.NDArray[np.uint8]) -> Ids:
        """How many pairs of each entity are marked; every entity has a pair."""
        if not self.num_entities:
            return np.empty(0, dtype=np.int64)
        return np.add.reduceat(marked, self.pair_starts[:-1].astype(np.int64), dtype=np.int64)

    def passing_pairs(self, pairs: Ids, thresholds: Thresholds) -> Ids:
        """Those of some pairs that have a passing mention."""
        if is_default(thresholds):
            return pairs[matching(self.best[pairs])]
        if not len(pairs):
            return pairs
        starts = self._first.place_of(pairs)
        sizes = self._first.place_of(pairs + 1) - starts
        owners = np.repeat(np.arange(len(pairs)), sizes)
        positions = np.arange(len(owners)) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        codes = self.records.scores(SOURCES, positions)
        kept = np.zeros(len(pairs), dtype=bool)
        kept[owners[passing(codes, self.records.codes, thresholds)]] = True
        return pairs[kept]

    # Everything

    def count_chunks(self, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Ids:
        """For every entity, (E,), in how many chunks a mention of it passes. Reads all pairs or mentions."""
        if is_default(thresholds):
            return self._sums(matching(self.best[:]).view(np.uint8))
        return self._sums(self._mark(pairs for pairs, _ in self._passing(0, self.num_pairs, thresholds)))

    def scores_of(self, codes: Column) -> Scores:
        """Scores of `best`."""
        if codes.dtype == np.float32:
            return np.array(codes)
        return _SCORE_OF_CODE[codes]


_SCORE_OF_CODE = np.concatenate([AS_FLOAT[:1], AS_FLOAT[:-1]])  # code k > 0 is k - 1 hundredths


def is_default(thresholds: Thresholds) -> bool:
    """Whether they are those behind `best`; mostly they are the same object."""
    return thresholds is DEFAULT_THRESHOLDS or thresholds == DEFAULT_THRESHOLDS


def matching(best: Column) -> npt.NDArray[np.bool_]:
    """Which pairs match at the default thresholds, by their best scores."""
    result: npt.NDArray[np.bool_] = best >= 0 if best.dtype == np.float32 else best != 0
    return result


def best_per_chunk(chunks: Ids, scores: Scores) -> tuple[Ids, Scores]:
    """Chunks (sorted, with repeats) and scores to each chunk once with its highest score."""
    if not len(chunks):
        return chunks, scores
    firsts = np.flatnonzero(np.concatenate([[True], chunks[1:] != chunks[:-1]]))
    return chunks[firsts], np.maximum.reduceat(scores, firsts)


def best_ranked(scores: Column, limit: int | None) -> Ids:
    """Places of the highest scores, highest first, equal ones in the order they come.

    Sorts only what is returned: the rest is separated by a partition.
    """
    if limit is None or limit >= len(scores):
        return np.argsort(-scores.astype(np.float64), kind="stable")
    if limit == 0:
        return np.empty(0, dtype=np.int64)
    least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: limit - len(above)]
    return np.concatenate([above[np.argsort(-scores[above].astype(np.float64), kind="stable")], equal])


def descending(scores: Column) -> Ids:
    """Places of scores or their codes, the highest first, equal ones in the order they come."""
    if scores.dtype == np.uint8:
        return np.argsort(~scores, kind="stable")
    return np.argsort(-scores, kind="stable")


def contained(chunk_ids: Ids, others: Ids) -> npt.NDArray[np.bool_]:
    """Which of these ids are among the others; both ascending.

    Long lists are compared through a byte for every id, few ids by binary search.
    """
    if not len(chunk_ids) or not len(others):
        return np.zeros(len(chunk_ids), dtype=bool)
    least, greatest = int(others[0]), int(others[-1])
    if greatest - least < MASK_SHARE * (len(chunk_ids) + len(others)):
        found = np.zeros(greatest - least + 2, dtype=bool)  # the last one is for ids outside
        found[others - least] = True
        return found[np.clip(chunk_ids - least, -1, len(found) - 1)]
    places = np.searchsorted(others, chunk_ids)
    inside = places < len(others)
    inside[inside] = others[places[inside]] == chunk_ids[inside]
    return inside


def smallest_type(count: int) -> npt.DTypeLike:
    """Unsigned 32 bits for numbers below `count` if they fit, else 64 bits."""
    return np.uint32 if count <= 1 << 32 else np.int64


def load_column(folder: Path, name: str) -> Column:
    """Map a .npy file, as a plain array: slices of those are quicker than of NumPy's memory maps."""
    column: Column = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return column


def open_postings(folder: Path, layout: dict[str, Any]) -> Postings:
    """Map the postings of an index folder, as its `meta.json` describes them."""
    return Postings(folder, layout)
