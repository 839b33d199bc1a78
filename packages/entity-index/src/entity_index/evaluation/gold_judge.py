"""The judge that knows: gold mentions of the documents that the chunks were cut from."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from chunk_provenance import ChunkStore
from chunk_provenance.tables import read_user_table
from entity_index.evaluation.asking import Question

GOLD = pa.schema(
    [("doc_id", pa.string()), ("char_start", pa.int64()), ("char_end", pa.int64()), ("entity", pa.string())]
)
Place = tuple[int, int, str]


class GoldJudge:
    """Says yes where the gold mention that fits a place best is of the entity.

    It fits best that shares most with the place (intersection over union); of equal ones each counts. A place
    that no gold mention touches is a no, and of a document without any gold mention nothing is known.
    """

    def __init__(self, store: ChunkStore, gold: pa.Table) -> None:
        """Sort the gold mentions by document and place."""
        self.store = store
        self.segments = lru_cache(maxsize=10_000)(store.segments)
        self.gold: dict[str, list[Place]] = {}
        columns = (gold[name].to_pylist() for name in GOLD.names)
        for doc_id, start, end, entity in zip(*columns, strict=True):
            self.gold.setdefault(doc_id, []).append((start, end, entity))
        for places in self.gold.values():
            places.sort()
        self.longest = {
            doc_id: max(end - start for start, end, _ in places) for doc_id, places in self.gold.items()
        }

    def judge(self, questions: Sequence[Question]) -> list[bool | None]:
        """Compare each with the gold."""
        return [self._judge(question) for question in questions]

    def _judge(self, question: Question) -> bool | None:
        place = self._in_document(question)
        if place is None or place[0] not in self.gold:
            return None
        doc_id, start, end = place
        best, entities = 0.0, set[str]()
        for left, right, entity in self._around(doc_id, start, end):
            common = min(end, right) - max(start, left)
            if common <= 0:
                continue
            fit = common / (max(end, right) - min(start, left))
            if fit > best:
                best, entities = fit, set()
            if fit == best:
                entities.add(entity)
        return question.entity in entities

    def _around(self, doc_id: str, start: int, end: int) -> list[Place]:
        """The gold mentions that may touch a span."""
        places = self.gold[doc_id]
        first = bisect_left(places, (start - self.longest[doc_id], 0, ""))
        return places[first : bisect_left(places, (end, 0, ""))]

    def _in_document(self, question: Question) -> tuple[str, int, int] | None:
        """Where the place stands in its document; None if it reaches over the border of two."""
        before = 0  # characters of the chunk that come before the segment
        for segment in self.segments(question.chunk_id):
            length = segment.char_end - segment.char_start
            if before <= question.char_start and question.char_end <= before + length:
                shift = segment.char_start - before
                return segment.doc_id, question.char_start + shift, question.char_end + shift
            before += length
        return None


def read_gold(path: Path) -> pa.Table:
    """Gold mentions from Parquet, JSONL or CSV.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it names another format or lacks a column.
        ValueError: it is empty.
    """
    gold = read_user_table(path, "gold-mentions", GOLD)
    if not gold.num_rows:
        raise ValueError(f"{str(path)!r} holds no gold mentions")
    return gold
