"""Join the pieces to the postings of an index: entities numbered, mentions packed, pairs listed by chunk.

Memory is bounded by what a few runs of entities take; the lists by chunk go over the disk.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entity_index.bits import MARKS, PADDING, Ids, PackedWriter, width_of
from entity_index.pieces import read_summary, read_table, sorted_codes, stable_order
from entity_index.postings import FREQUENT_COLUMNS, smallest_type
from entity_index.records import arrange, describe_records, field_widths, writers_of
from entity_index.runs import FrequentPart, Run, Source, describe_frequent, gather
from entity_index.scores import COLUMNS, ScoreCode, choose_codes

Column = npt.NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

BUCKET_PAIRS = 1 << 22
"""About so many pairs are sorted by chunk at a time."""


def join_pieces(
    pieces: Path,
    folder: Path,
    *,
    num_pieces: int,
    num_chunks: int,
    threads: int,
    run_rows: int,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Any], pa.Array, list[Ids]]:
    """Write the postings.

    Args:
        pieces: where the pieces are.
        folder: the index folder.
        num_pieces: how many pieces there are.
        num_chunks: of the store.
        threads: how many runs of entities to gather at the same time.
        run_rows: about so many mentions are in a run.
        progress: told how many mentions are done, of how many.

    Returns:
        What `meta.json` must say of them; the entities, sorted; of each piece the numbers of its entities.
    """
    summaries = [read_summary(pieces, number) for number in range(num_pieces)]
    entities, codes, row_starts = _number_entities(pieces, num_pieces)
    total = sum(summary["num_postings"] for summary in summaries)
    scores = _choose_scores(summaries)
    fields = arrange(field_widths(_largest(summaries), scores))
    source = Source(pieces, codes, row_starts, summaries, fields, scores)
    sizes = _chunk_sizes(pieces, summaries, num_chunks)
    with _Writer(folder, source, sizes, num_entities=len(entities), total=total) as writer:
        done = 0
        runs = _share_out(source, len(entities), run_rows)
        for run in _ahead(lambda entities: _work(source, entities, writer.bucket_of), runs, threads):
            writer.add(*run)
            done += len(run[0].first)
            progress(done, total)
        layout = writer.finish(threads)
    layout |= describe_records(fields, scores)
    layout |= {"num_entities": len(entities), "num_chunks": num_chunks, "num_postings": total}
    layout["num_mentions"] = sum(summary["num_mentions"] for summary in summaries)
    return layout, entities, codes


def _number_entities(pieces: Path, num_pieces: int) -> tuple[pa.Array, list[Ids], list[Ids]]:
    """All entities, sorted; of each piece the numbers of its own, and where the rows of each begin."""
    tables = [read_table(pieces, number, "entities") for number in range(num_pieces)]
    columns = [table["entity"] for table in tables]
    chunks = [chunk.cast(pa.large_string()) for column in columns for chunk in column.chunks]
    entities, codes = sorted_codes(pa.chunked_array(chunks, pa.large_string()))
    borders = np.cumsum([len(column) for column in columns])[:-1]
    starts = [np.concatenate([[0], np.cumsum(table["rows"].to_numpy(), dtype=np.int64)]) for table in tables]
    return entities, np.split(codes, borders) if tables else [], starts


def _choose_scores(summaries: list[dict[str, Any]]) -> dict[str, ScoreCode]:
    seen: dict[str, npt.NDArray[np.bool_] | None] = {}
    for name in COLUMNS:
        lists = [summary["hundredths"].get(name) for summary in summaries]
        seen[name] = None if None in lists else _marked(256, lists)
    lists = [summary["differences"] for summary in summaries]
    differences = None if None in lists else _marked(512, [[value + 256 for value in part] for part in lists])
    return choose_codes(seen, differences)


def _marked(size: int, lists: Iterable[list[int]]) -> npt.NDArray[np.bool_]:
    found = np.zeros(size, dtype=bool)
    for values in lists:
        found[np.array(values, dtype=np.int64)] = True
    return found


def _largest(summaries: list[dict[str, Any]]) -> dict[str, int]:
    names = ("char_start", "length", "place")
    return {name: max((summary["largest"][name] for summary in summaries), default=0) for name in names}


def _chunk_sizes(pieces: Path, summaries: list[dict[str, Any]], num_chunks: int) -> Column:
    """Mentions of every chunk, with and without entity, (chunks,)."""
    sizes = np.zeros(num_chunks, dtype=np.uint32)
    for number, summary in enumerate(summaries):
        part = read_table(pieces, number, "sizes")["size"].to_numpy()
        sizes[summary["first_chunk"] : summary["first_chunk"] + len(part)] = part
    return sizes


def _share_out(source: Source, num_entities: int, run_rows: int) -> list[range]:
    """Ranges of entities with about `run_rows` rows; one with more rows than that is alone."""
    counts = np.zeros(num_entities + 1, dtype=np.int64)
    for codes, starts in zip(source.codes, source.row_starts, strict=True):
        counts[codes + 1] += np.diff(starts)
    alone = np.flatnonzero(counts[1:] > run_rows)
    before = np.cumsum(counts)
    steps = np.searchsorted(before, np.arange(run_rows, int(before[-1]) + 1, run_rows))
    borders = np.unique(np.concatenate([[0], steps, alone, alone + 1, [num_entities]])).tolist()
    return [range(start, end) for start, end in pairwise(borders)]


def _ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results in order, a few of them at work."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _work(source: Source, entities: range, bucket_of: Column) -> tuple[Run, FrequentPart, Ids, Column]:
    run = gather(source, entities)
    part, rare = describe_frequent(run)
    return run, part, rare, stable_order(bucket_of[run.chunks])


class _Writer:
    """The files of the postings, filled run by run."""

    def __init__(self, folder: Path, source: Source, sizes: Column, *, num_entities: int, total: int) -> None:
        self.folder, self.sizes, self.num_pairs = folder, sizes, 0
        self.pair_counts = np.zeros(num_entities, dtype=np.uint32)
        self.frequent: list[Ids] = []
        self.columns: dict[str, list[Ids]] = {"samples": [], "listed_pairs": [], "listed_chunks": []}
        self.counts = dict.fromkeys(["frequent_pairs", "deltas", "samples", "listed"], 0)
        self.pair_bits = max(1, width_of(total))
        self._best_type: Any = np.float32 if source.scores["score"].kind == "float" else np.uint8
        self._source, self._opened = source, ExitStack()

    def __enter__(self) -> "_Writer":
        enter = self._opened.enter_context
        self.chunk_width = width_of(max(0, len(self.sizes) - 1))
        self._numbers = [enter(writer) for writer in writers_of(self.folder, self._source.fields)]
        self._first = enter(PackedWriter(self.folder / "first.bits", 1))
        self._rare = enter(PackedWriter(self.folder / "rare_chunks.bits", self.chunk_width))
        self._deltas: BinaryIO = enter((self.folder / "deltas.bits").open("wb"))
        self._best: BinaryIO = enter((self.folder / "best.tmp").open("wb"))
        self._buckets = _Buckets(self.folder, self.sizes, self.pair_bits)
        enter(self._buckets)
        self.bucket_of = self._buckets.bucket_of
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def add(self, run: Run, part: FrequentPart, rare: Ids, by_bucket: Ids) -> None:
        """Write a run; runs come in the order of their entities."""
        for writer, numbers in zip(self._numbers, run.numbers, strict=True):
            writer.append(numbers)
        self._first.append(run.first)
        self._rare.append(rare)
        self._best.write(run.best.tobytes())
        self._deltas.write(part.deltas)
        self.pair_counts[run.entities.start : run.entities.stop] = run.pair_counts
        self._buckets.add(run.chunks[by_bucket], by_bucket + self.num_pairs)
        self._add_frequent(run, part)
        self.num_pairs += len(run.chunks)

    def _add_frequent(self, run: Run, part: FrequentPart) -> None:
        sizes = run.pair_counts[part.places]
        listed = np.where(part.listed < 0, -1, part.listed + self.counts["listed"])
        columns = {
            "entity": part.places + run.entities.start,
            "pairs_through": self.counts["frequent_pairs"] + np.cumsum(sizes),
            "first_byte": part.first_byte + self.counts["deltas"],
            "width": part.widths,
            "first_sample": part.first_sample + self.counts["samples"],
            "listed": listed,
            "matching": part.matching,
        }
        self.frequent.append(np.stack([columns[name] for name in FREQUENT_COLUMNS], axis=1))
        self.columns["samples"].append(part.samples)
        self.columns["listed_pairs"].append(part.listed_pairs + self.num_pairs)
        self.columns["listed_chunks"].append(run.chunks[part.listed_pairs])
        self.counts["frequent_pairs"] += int(sizes.sum())
        self.counts["deltas"] += len(part.deltas)
        self.counts["samples"] += len(part.samples)
        self.counts["listed"] += len(part.listed_pairs)

    def finish(self, threads: int) -> dict[str, Any]:
        """Write what is known only now; returns numbers for `meta.json`."""
        self._first.append(np.ones(1, dtype=np.uint8))  # where a pair after the last would begin
        self._deltas.write(bytes(PADDING))
        self._opened.pop_all().close()
        folder = self.folder
        _save_best(folder, self._best_type)
        pair_starts = np.concatenate([[0], np.cumsum(self.pair_counts, dtype=np.int64)])
        np.save(folder / "pair_starts.npy", pair_starts.astype(smallest_type(self.num_pairs + 1)))
        columns = len(FREQUENT_COLUMNS)
        np.save(
            folder / "frequent.npy",
            np.concatenate([np.empty((0, columns), dtype=np.int64), *self.frequent]),
        )
        types = {"samples": len(self.sizes), "listed_chunks": len(self.sizes), "listed_pairs": self.num_pairs}
        for name, parts in self.columns.items():
            column = np.concatenate([np.empty(0, dtype=np.int64), *parts])
            np.save(folder / f"{name}.npy", column.astype(smallest_type(types[name])))
        _save_first_counts(folder)
        widths = {
            "chunk": self.chunk_width,
            **self._buckets.write(self.num_pairs, threads),
            "row": _write_starts(folder / "row_starts.bits", self.sizes),
        }
        rare = self.num_pairs - self.counts["frequent_pairs"]
        return {"num_pairs": self.num_pairs, "num_rare_pairs": rare, "widths": widths}


class _Buckets:
    """Pairs by ranges of chunks, on disk, until all are there."""

    def __init__(self, folder: Path, sizes: Column, pair_bits: int) -> None:
        before = np.cumsum(sizes, dtype=np.int64)
        total = int(before[-1]) if len(before) else 0
        steps = np.searchsorted(before, np.arange(BUCKET_PAIRS, total, BUCKET_PAIRS))
        self._borders = np.unique(np.concatenate([[0], steps, [len(sizes)]]))
        self._folder, self._pair_bits, self._num_chunks = folder, pair_bits, len(sizes)
        buckets = np.arange(max(0, len(self._borders) - 1), dtype=np.uint16)
        self.bucket_of = np.repeat(buckets, np.diff(self._borders))
        """The bucket of every chunk."""
        self._opened = ExitStack()
        assert width_of(len(sizes)) + pair_bits < 64, "too many chunks and mentions for one index"

    def __enter__(self) -> "_Buckets":
        self._files = [self._opened.enter_context(path.open("wb")) for path in self._paths()]
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _paths(self) -> list[Path]:
        return [self._folder / f"bucket{number}.tmp" for number in range(max(0, len(self._borders) - 1))]

    def add(self, chunks: Ids, pairs: Ids) -> None:
        """Pairs sorted by bucket."""
        keys = chunks << self._pair_bits | pairs
        ends = np.cumsum(np.bincount(self.bucket_of[chunks], minlength=len(self._files)))
        start = 0
        for file, end in zip(self._files, ends.tolist(), strict=True):
            file.write(keys[start:end].tobytes())
            start = end

    def write(self, num_pairs: int, threads: int) -> dict[str, int]:
        """Write `chunk_pairs` and `chunk_starts`; returns their widths."""
        counts = np.zeros(self._num_chunks, dtype=np.uint32)
        width = width_of(max(0, num_pairs - 1))
        with PackedWriter(self._folder / "chunk_pairs.bits", width) as writer:
            for pairs, first, found in _ahead(self._read_sorted, self._paths(), threads):
                writer.append(pairs)
                counts[first : first + len(found)] += found
        return {"pair": width, "chunk_pair": _write_starts(self._folder / "chunk_starts.bits", counts)}

    def _read_sorted(self, path: Path) -> tuple[Ids, int, npt.NDArray[np.uint32]]:
        """The pairs of a bucket by chunk; its first chunk, and the pairs of each from there on."""
        keys = np.fromfile(path, dtype=np.int64)
        path.unlink()
        keys.sort()
        pairs = keys & (1 << self._pair_bits) - 1
        keys >>= self._pair_bits
        first = int(keys[0]) if len(keys) else 0
        keys -= first
        return pairs, first, np.bincount(keys).astype(np.uint32)


def _write_starts(path: Path, sizes: Column) -> int:
    """Where each begins, and the last one ends, of so many; returns the width."""
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    width = width_of(int(starts[-1]))
    with PackedWriter(path, width) as writer:
        writer.append(starts)
    return width


def _save_best(folder: Path, dtype: Any) -> None:
    """Give `best` the header of an .npy file."""
    unfinished = folder / "best.tmp"
    length = unfinished.stat().st_size // np.dtype(dtype).itemsize
    with (folder / "best.npy").open("wb") as out, unfinished.open("rb") as file:
        header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(out, header)
        while content := file.read(1 << 24):
            out.write(content)
    unfinished.unlink()


def _save_first_counts(folder: Path) -> None:
    """How many pairs begin before every 128th mention."""
    content = np.fromfile(folder / "first.bits", dtype=np.uint64, count=-1, sep="", offset=0)
    ones = np.bitwise_count(content).astype(np.int64)
    blocks = np.add.reduceat(ones, np.arange(0, len(ones), MARKS // 64))
    counts = np.cumsum(blocks) - blocks
    np.save(folder / "first_counts.npy", counts.astype(smallest_type(int(ones.sum()) + 1)))
