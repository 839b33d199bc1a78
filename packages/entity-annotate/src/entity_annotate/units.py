"""Units of work that survive a kill: a part file, then a small JSON that says from what it was made.

A unit is done again unless its JSON carries the same key, a hash of everything that went into it.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from entity_annotate.tables import replacing, write_json


def key_of(*parts: object) -> str:
    """Return a hash of anything that prints its content: strings, numbers, tuples of them."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


class Units:
    """The parts of one stage in a folder.

    A part's Parquet is written first, its JSON second, both by a rename: what a kill leaves is never half a
    unit.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        """Take the folder, made when the first unit is written, and the name of the stage."""
        self.folder = folder
        self.stage = stage

    def part(self, number: int) -> Path:
        """Return the path of a unit's rows."""
        return self.folder / f"{self.stage}-{number:05d}.parquet"

    def record(self, number: int, key: str) -> dict[str, Any] | None:
        """Return what was recorded about a finished unit, or None where it has to be done (again)."""
        path = self.part(number).with_suffix(".done.json")
        if not path.exists() or not self.part(number).exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found["record"] if found["key"] == key else None

    def finish(
        self, number: int, key: str, rows: Iterable[dict[str, Any]], schema: pa.Schema, record: dict[str, Any]
    ) -> None:
        """Write a unit's rows and its record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.part(number)) as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")
        write_json(self.part(number).with_suffix(".done.json"), {"key": key, "record": record})

    def read(self, number: int) -> pa.Table:
        """Return a unit's rows."""
        return pq.read_table(self.part(number))
