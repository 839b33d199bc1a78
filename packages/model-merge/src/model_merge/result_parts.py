"""A result table that grows merge by merge and is never half-written.

    OUT.parquet.parts/meta.json        what is evaluated; another evaluation does not continue it
    OUT.parquet.parts/000017.parquet   the rows of merge 17 of the plan
    OUT.parquet                        all of them, once all are there; the parts are gone then

Several processes may work on one table: each part file appears complete, and only one of those that see the
last one succeeds in renaming the folder before it is put together.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model_merge.results import make_table, read_metadata, write_json, write_table


@dataclass(frozen=True)
class ResultParts:
    """The unfinished table of an evaluation."""

    out: Path
    about: Mapping[str, Any]
    """All that the numbers depend on."""
    num_merges: int

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.out.with_name(self.out.name + ".parts")

    @property
    def _sealed(self) -> Path:
        return self.out.with_name(self.out.name + ".parts.complete")

    @property
    def digest(self) -> str:
        """Identifies the evaluation."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

    def begin(self, *, overwrite: bool) -> bool:
        """Make ready to write; false if the finished table of just this evaluation is there.

        Raises:
            FileExistsError: another evaluation's table, finished or not, is in the way.
        """
        if overwrite:
            for folder in (self.folder, self._sealed):
                shutil.rmtree(folder, ignore_errors=True)
            self.out.unlink(missing_ok=True)
        if self.out.exists():
            if _evaluation_of(self.out) == self.digest:
                return False
            raise FileExistsError(
                f"{str(self.out)!r} exists and is of another evaluation: "
                "choose another place or give --overwrite"
            )
        if self._sealed.exists():  # a process died while it put the table together
            os.replace(self._sealed, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = self.folder / "meta.json"
        if not meta.exists():
            write_json({"format": "mixture-result-parts", "version": 1, **self.about}, meta)
        found = json.loads(meta.read_text(encoding="utf-8"))
        if different := sorted(key for key, value in self.about.items() if found.get(key) != value):
            raise FileExistsError(
                f"{str(self.folder)!r} is an unfinished evaluation with another {', '.join(different)}: "
                "choose another place or give --overwrite"
            )
        return True

    def has(self, number: int) -> bool:
        """Whether a merge's rows are there."""
        return self._path(number).exists()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def write(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a merge's rows."""
        write_table(make_table(rows), self._path(number))

    def count(self) -> int:
        """How many merges have their rows."""
        return sum(self.has(number) for number in range(self.num_merges))

    def finish(self, metadata: Mapping[str, str]) -> bool:
        """Put the table together, if all parts are there; false if some are not."""
        if not self.folder.exists() or self.count() < self.num_merges:
            return self.out.exists()
        try:
            os.rename(self.folder, self._sealed)
        except FileNotFoundError:  # another process was faster
            return True
        tables = [pq.read_table(self._sealed / f"{number:06d}.parquet") for number in range(self.num_merges)]
        table = pa.concat_tables([one.replace_schema_metadata(None) for one in tables])
        write_table(table, self.out, evaluation=self.digest, **metadata)
        shutil.rmtree(self._sealed)
        return True


def _evaluation_of(path: Path) -> str | None:
    try:
        return read_metadata(path).get("evaluation")
    except (pa.ArrowInvalid, OSError):
        return None
