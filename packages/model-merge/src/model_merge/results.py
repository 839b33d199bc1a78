"""Result tables: what a model makes of a domain, kept as sums, so that domains can be pooled again."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NAME = "mixture-results"
TOO_LARGE = 1e30
"""A perplexity beyond float64, as OLMo-Eval writes it."""


@dataclass(frozen=True)
class Sums:
    """What is summed over documents. A null count is not known, as bytes of packed chunks."""

    sum_logprob: float = 0.0
    num_tokens: int = 0
    """Tokens that were scored."""
    num_tokens_read: int | None = None
    """Tokens in all windows, context and end token included."""
    num_bytes: int | None = None
    num_chars: int | None = None
    num_words: int | None = None
    num_docs: int = 0

    def with_logprob(self, logprob: float) -> "Sums":
        """The same counts with a log-probability."""
        return replace(self, sum_logprob=logprob)


def add_up(several: Iterable[Sums]) -> Sums:
    """The sums of documents or domains together; a count that one does not know, all do not."""
    rows = list(several)
    logprob = math.fsum(row.sum_logprob for row in rows)
    counts: dict[str, Any] = {}
    for field in fields(Sums)[1:]:
        values = [getattr(row, field.name) for row in rows]
        counts[field.name] = None if None in values else sum(values)
    return Sums(logprob, **counts)


def derive(sums: Sums) -> dict[str, float | None]:
    """Perplexities per token, character, word and byte, and bits per byte.

    >>> derive(Sums(-2 * math.log(8), num_tokens=2, num_bytes=3, num_docs=1))["bits_per_byte"]
    2.0
    """
    units = {"token": sums.num_tokens, "char": sums.num_chars, "word": sums.num_words, "byte": sums.num_bytes}
    found = {f"ppl_{unit}": _perplexity(sums.sum_logprob, count) for unit, count in units.items()}
    bits = -sums.sum_logprob / (sums.num_bytes * math.log(2)) if sums.num_bytes else None
    return {**found, "bits_per_byte": bits}


def _perplexity(logprob: float, count: int | None) -> float | None:
    if count is None:
        return None
    try:
        return math.exp(-logprob / max(count, 1))
    except OverflowError:
        return TOO_LARGE


SCHEMA = pa.schema(
    [
        ("merge_id", pa.string()),
        ("members", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float64())),
        ("mask", pa.string()),
        ("method", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("window", pa.string()),
        ("sum_logprob", pa.float64()),
        *((name, pa.int64()) for name in [field.name for field in fields(Sums)[1:]]),
        *((name, pa.float64()) for name in derive(Sums())),
        ("dtype", pa.string()),
    ]
)
NEEDED = ("members", "domain", "sum_logprob", "num_tokens")
"""Columns that a table of a user's own must have for `report`."""


def make_row(about: Mapping[str, Any], sums: Sums) -> dict[str, Any]:
    """A row of the table: what was evaluated, the sums, and what follows from them."""
    return {**about, **asdict(sums), **derive(sums)}


def make_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the format."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def write_table(table: pa.Table, path: Path, name: str = NAME, **metadata: str) -> None:
    """Write a Parquet file atomically, with its format's name and version in the metadata."""
    tagged = table.replace_schema_metadata({"format": name, "version": "1", **metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(tagged, unfinished, compression="zstd")
    os.replace(unfinished, path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path, name: str) -> None:
    """Write rows as a Parquet file of the named format."""
    write_table(pa.Table.from_pylist(list(rows)), path, name)


def read_table(path: Path, name: str = NAME, needed: Sequence[str] = ()) -> pa.Table:
    """Read a Parquet file that is, or does not deny being, a `name` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Parquet file, of another format or version, or lacks a column.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {name} file at {str(path)!r}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{str(path)!r} is no Parquet file or a damaged one: {error}") from error
    metadata = table.schema.metadata or {}
    found, version = metadata.get(b"format", name.encode()).decode(), metadata.get(b"version", b"1").decode()
    if found != name:
        raise ValueError(f"{str(path)!r} is a {found!r} file, expected {name!r}")
    if version != "1":
        raise ValueError(
            f"{str(path)!r} has {name} version {version}, this release reads 1: upgrade model-merge"
        )
    if missing := [column for column in needed if column not in table.column_names]:
        raise ValueError(f"{str(path)!r} lacks the columns {missing}, it has {table.column_names}")
    return table


def read_results(path: str | Path) -> pa.Table:
    """Read a result table; see FORMAT.md."""
    return read_table(Path(path), NAME, NEEDED)


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value metadata of a Parquet file."""
    metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def pool(table: pa.Table, groups: Mapping[str, Sequence[str]]) -> pa.Table:
    """The same merges over groups of domains: sums are added, perplexities follow from them.

    Args:
        table: a result table.
        groups: the domains of each group, by its name.

    Raises:
        ValueError: a merge lacks a domain of a group.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["merge_id"], {})[row["domain"]] = row
    pooled = []
    for merge_id, by_domain in rows.items():
        for group, domains in groups.items():
            if missing := [domain for domain in domains if domain not in by_domain]:
                raise ValueError(f"the merge {merge_id!r} has no results on {missing} of the group {group!r}")
            members = [by_domain[domain] for domain in domains]
            sums = add_up(Sums(**{field.name: row[field.name] for field in fields(Sums)}) for row in members)
            about = {key: value for key, value in members[0].items() if key in SCHEMA.names}
            pooled.append(make_row({**about, "domain": group}, sums))
    return make_table(pooled)


def write_json(value: Any, path: Path) -> None:
    """Write JSON atomically: sorted keys, two spaces, one newline at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
