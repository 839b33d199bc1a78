"""Carry out a partition: two passes over the corpus, one line in memory, a folder that appears complete.

    OUT/Biology,1970-1993/{train,val,test}/00000.json.gz    the documents' own lines, unchanged
    OUT/partition.json                                      units, sizes, settings, what was skipped
    OUT/skipped.jsonl                                       every document left out: place, id, reason

Lines are collected per unit and split and appended as gzip members of about a megabyte, so that hundreds of
units need neither hundreds of open files nor memory.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model_merge.corpus import SPLITS, Line, Rejected, Source, read_lines
from model_merge.folders import begin, check_output, finish
from model_merge.partition import Keys, Position, add_up, locate, make_units, split_of

FORMAT = {"format": "partition", "version": 1}
MEMBER_BYTES = 1 << 20
SHARD = "00000.json.gz"


@dataclass(frozen=True)
class Settings:
    """How to cut."""

    num_units: int | None = None
    unit_tokens: int | None = None
    val: float = 0.05
    test: float = 0.05
    seed: int = 0
    id_key: str = "id"
    text_key: str = "text"
    keys: Keys = field(default_factory=Keys)

    def check(self) -> None:
        """Refuse shares that leave nothing to train on."""
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(
                f"--val {self.val} and --test {self.test} must be at least 0 and leave something to train on"
            )


Progress = Callable[[Sequence[Source]], Iterable[Source]]
"""Wraps the sources, so that a caller can show how far the reading is."""


def partition(
    sources: list[Source],
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Cut a corpus into `out`; returns what partition.json says.

    Raises:
        FileExistsError: `out` is there and may not be replaced, or is no partition.
        ValueError: the corpus cannot be cut so; the message says why.
    """
    settings.check()
    check_output(out, "partition.json", overwrite=overwrite)
    positions = (found for _, found in _located(sources, settings, progress) if isinstance(found, Position))
    sizes = add_up(positions)
    if not sizes:
        raise ValueError(
            "no document has an id, a text and a year: --id-key, --text-key and --year-key say where"
        )
    units = make_units(sizes, num_units=settings.num_units, unit_tokens=settings.unit_tokens)
    unfinished = begin(out)
    writer = UnitWriter(unfinished)
    counts: Counter[tuple[str, str, str]] = Counter()
    skipped: Counter[str] = Counter()
    with (unfinished / "skipped.jsonl").open("w", encoding="utf-8") as listing:
        for line, found in _located(sources, settings, progress):
            if isinstance(found, Rejected):
                skipped[found.reason] += 1
                listing.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
                continue
            assert line is not None  # what has a position is a line
            unit = units[found.field, found.block]
            split = found.split or split_of(
                line.doc_id, val=settings.val, test=settings.test, seed=settings.seed
            )
            writer.add(unit.name, split, line.raw)
            counts[unit.name, split, "documents"] += 1
            counts[unit.name, split, "tokens"] += found.num_tokens
    writer.close()
    summary = {
        **FORMAT,
        "settings": asdict(settings),
        "sources": [source.name for source in sources],
        "units": [
            {**asdict(unit), "name": unit.name, **_unit_counts(counts, unit.name)}
            for unit in sorted(set(units.values()), key=lambda unit: unit.name)
        ],
        "num_skipped": dict(sorted(skipped.items())),
    }
    (unfinished / "partition.json").write_text(
        json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    finish(unfinished, out)
    return summary


class UnitWriter:
    """Collects lines per (unit, split) and appends them to UNIT/SPLIT/00000.json.gz."""

    def __init__(self, folder: Path) -> None:
        """Write below `folder`."""
        self.folder = folder
        self.waiting: dict[tuple[str, str], bytearray] = {}

    def add(self, unit: str, split: str, raw: bytes) -> None:
        """Take a line, with or without its end."""
        held = self.waiting.setdefault((unit, split), bytearray())
        held += raw.rstrip(b"\r\n") + b"\n"
        if len(held) >= MEMBER_BYTES:
            self._append(unit, split)

    def close(self) -> None:
        """Write what is held; a split of a unit that got no document is an empty file, not a missing one."""
        for unit, _ in sorted(self.waiting):
            for split in SPLITS:
                if (unit, split) in self.waiting or not self._path(unit, split).exists():
                    self._append(unit, split)

    def _append(self, unit: str, split: str) -> None:
        path = self._path(unit, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            # no time and no name in the header: same lines, same bytes
            file.write(gzip.compress(bytes(self.waiting.get((unit, split), b"")), 6, mtime=0))
        self.waiting[unit, split] = bytearray()

    def _path(self, unit: str, split: str) -> Path:
        return self.folder / unit / split / SHARD


def _located(
    sources: list[Source], settings: Settings, progress: Progress
) -> Iterator[tuple[Line | None, Position | Rejected]]:
    lines = read_lines(progress(sources), id_key=settings.id_key, text_key=settings.text_key)
    for line in lines:
        if isinstance(line, Rejected):
            yield None, line
        else:
            yield line, locate(line, settings.keys)


def _unit_counts(counts: Counter[tuple[str, str, str]], unit: str) -> dict[str, dict[str, int]]:
    return {what: {split: counts[unit, split, what] for split in SPLITS} for what in ("documents", "tokens")}
