"""Compare mentions with gold: precision, recall and F1 of each source, exact span and entity."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from entity_annotate.tables import GOLD, MENTIONS, read_table

Key = tuple[str, int, int, str]
THRESHOLD = 0.6
ALL = "all by the evidence rule"


@dataclass(frozen=True)
class Score:
    """How the answers of one source compare with the gold mentions."""

    source: str
    predicted: int
    gold: int
    correct: int

    @property
    def precision(self) -> float:
        """Return the share of answers that are right; 0 without answers."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Return the share of gold mentions that were found; 0 without gold."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall."""
        total = self.predicted + self.gold
        return 2 * self.correct / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return counts and figures under their names."""
        return asdict(self) | {"precision": self.precision, "recall": self.recall, "f1": self.f1}


@dataclass(frozen=True)
class Evaluation:
    """The scores by source, and the share of gold mentions of each kind that the evidence rule finds."""

    sources: list[Score]
    kinds: dict[str, tuple[int, int]]
    num_documents: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON would hold it."""
        return {
            "format": "annotation-evaluation",
            "version": 1,
            "documents": self.num_documents,
            "sources": [score.to_dict() for score in self.sources],
            "kinds": {
                kind: {"gold": gold, "found": found, "recall": found / gold}
                for kind, (gold, found) in self.kinds.items()
            },
        }


def evaluate_mentions(mentions_path: Path, gold_path: Path, *, threshold: float = THRESHOLD) -> Evaluation:
    """Evaluate a mentions file against gold mentions, on the documents that have gold mentions.

    A source's answers are the (span, entity) pairs whose score reaches the threshold (hyperlinks: 1).
    """
    gold_table = read_table(gold_path, GOLD)
    if not gold_table.num_rows:
        raise ValueError(f"{str(gold_path)!r} holds no gold mentions")
    mentions = read_table(mentions_path, MENTIONS)
    mentions = mentions.filter(pc.is_valid(mentions["entity"]))
    gold: dict[Key, str] = {}
    for key, kind in zip(_keys(gold_table), gold_table["kind"].to_pylist(), strict=True):
        gold[key] = kind or "mention"
    documents = {key[0] for key in gold}
    answers = {name: {k for k in found if k[0] in documents} for name, found in _answers(mentions, threshold)}
    scores = [Score(name, len(found), len(gold), len(found & gold.keys())) for name, found in answers.items()]
    return Evaluation(scores, _by_kind(gold, answers[ALL]), len(documents))


def _by_kind(gold: dict[Key, str], found: set[Key]) -> dict[str, tuple[int, int]]:
    kinds: dict[str, tuple[int, int]] = {}
    for key, kind in gold.items():
        total, right = kinds.get(kind, (0, 0))
        kinds[kind] = (total + 1, right + (key in found))
    return dict(sorted(kinds.items()))


def _answers(mentions: pa.Table, threshold: float) -> Iterator[tuple[str, set[Key]]]:
    """Yield each source's name and answers; a threshold is compared as float32, as the scores are stored."""
    limit = pa.scalar(threshold, pa.float32())
    reaches = {
        name: pc.greater_equal(mentions[name], limit) for name in ("entity_linking", "coref", "coref_cluster")
    }
    link = pc.greater_equal(mentions["hyperlink"], pa.scalar(1.0, pa.float32()))
    linker = reaches["entity_linking"]
    coref = pc.or_(reaches["coref"], reaches["coref_cluster"])
    yield "hyperlinks", set(_keys(mentions.filter(link)))
    yield f"entity_linking >= {threshold:g}", set(_keys(mentions.filter(linker)))
    yield f"coref or coref_cluster >= {threshold:g}", set(_keys(mentions.filter(coref)))
    yield ALL, set(_keys(mentions.filter(pc.or_(pc.or_(link, linker), coref))))
    yield "best candidate of each span, no threshold", _best(mentions)


def _best(mentions: pa.Table) -> set[Key]:
    best: dict[tuple[str, int, int], tuple[float, Key]] = {}
    for key, score in zip(_keys(mentions), mentions["score"].to_pylist(), strict=True):
        if key[:3] not in best or score > best[key[:3]][0]:
            best[key[:3]] = (score, key)
    return {key for _, key in best.values()}


def _keys(table: pa.Table) -> Iterator[Key]:
    columns = (table[name].to_pylist() for name in ("doc_id", "char_start", "char_end", "entity"))
    return zip(*columns, strict=True)
