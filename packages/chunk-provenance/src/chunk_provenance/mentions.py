"""Read a mentions file by document, whatever order its rows are in, without holding it in memory.

One pass over its `doc_id` column notes where each document's rows are (about 100 bytes a document). In the
order of the documents, as entity-annotate writes it, every row is then read once; of a shuffled file with
more row groups than are kept in memory, many are read again and again.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.formats import FormatError, open_table
from chunk_provenance.store import MENTIONS

REQUIRED = ["doc_id", "char_start", "char_end", "surface", "entity"]
GROUPS_KEPT = 8

SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("text_sha256", pa.string()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
    ]
    + [MENTIONS.field(i) for i in range(MENTIONS.get_field_index("surface"), len(MENTIONS))]
)
"""The mentions format; what a user's own file lacks beyond `REQUIRED` is null."""


class MentionFile:
    """A mentions Parquet file.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is another format, or lacks a column.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file and note where each document's rows are."""
        self.path = Path(path)
        self._file = open_table(self.path, "mentions", REQUIRED)
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._group_starts = np.cumsum([0, *groups])
        self._runs = self._find_runs()
        self._read_group = lru_cache(maxsize=GROUPS_KEPT)(self._read_group_from_file)

    @property
    def num_rows(self) -> int:
        """Rows of the file: one per (span, candidate)."""
        return int(self._group_starts[-1])

    def rows_of(self, doc_ids: Iterable[str]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The rows of some documents, and whose each is (position in `doc_ids`); ask for a document once."""
        found = [(i, run) for i, doc_id in enumerate(doc_ids) for run in self._runs.pop(doc_id, ())]
        parts = [self._slice(start, stop) for start, stop in _join([run for _, run in found])]
        owners = np.repeat([i for i, _ in found] or [0], [stop - start for _, (start, stop) in found] or [0])
        return (pa.concat_tables(parts) if parts else SCHEMA.empty_table()), owners

    def unclaimed(self) -> tuple[int, list[str]]:
        """How many rows belong to documents never asked for, and some of these documents."""
        rows = sum(stop - start for runs in self._runs.values() for start, stop in runs)
        return rows, sorted(self._runs)[:5]

    def _find_runs(self) -> dict[str, list[tuple[int, int]]]:
        """Row ranges of each document."""
        runs: dict[str, list[tuple[int, int]]] = {}
        for number, begin in enumerate(self._group_starts[:-1].tolist()):
            ids = self._column(self._file.read_row_group(number, columns=["doc_id"]), "doc_id")
            encoded = pc.run_end_encode(ids.combine_chunks())
            stops = (encoded.run_ends.to_numpy() + begin).tolist()
            for doc_id, start, stop in zip(encoded.values.to_pylist(), [begin, *stops], stops, strict=False):
                runs.setdefault(doc_id, []).append((start, stop))
        return runs

    def _slice(self, start: int, stop: int) -> pa.Table:
        group = int(np.searchsorted(self._group_starts, start, side="right")) - 1
        parts = []
        while start < stop:
            begin, end = self._group_starts[group : group + 2].tolist()
            parts.append(self._read_group(group).slice(start - begin, min(stop, end) - start))
            start, group = end, group + 1
        return pa.concat_tables(parts)

    def _read_group_from_file(self, group: int) -> pa.Table:
        names = self._file.schema_arrow.names
        table = self._file.read_row_group(group, columns=[name for name in SCHEMA.names if name in names])
        columns = {name: self._column(table, name) for name in SCHEMA.names}
        return pa.table(columns, schema=SCHEMA)

    def _column(self, table: pa.Table, name: str) -> Any:
        """A column in the format's type; null where the file does not have it."""
        wanted = SCHEMA.field(name).type
        if name not in table.column_names:
            return pa.nulls(table.num_rows, wanted)
        column = table[name]
        try:
            column = column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            found = str(column.type)
            raise FormatError(
                f"{str(self.path)!r}: {name} is {found}, expected {wanted} ({error})"
            ) from error
        if column.null_count and name in ("doc_id", "char_start", "char_end"):
            raise FormatError(f"{str(self.path)!r} has mentions without {name}")
        return column


def _join(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs that follow one another, as one."""
    i = 0
    while i < len(runs):
        start, stop = runs[i]
        while i + 1 < len(runs) and runs[i + 1][0] == stop:
            i += 1
            stop = runs[i][1]
        yield start, stop
        i += 1
