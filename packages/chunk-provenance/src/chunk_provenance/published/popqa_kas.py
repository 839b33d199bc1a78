"""popqa-kas: PopQA's questions with the LMEnt chunks that mention the subject, the answer, and both.

The columns that say how many chunks there are go by several names and may be absent; a list of shared chunks
that is absent follows from the other two. 14,267 questions take a second or two.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.chunk_updates import sorted_unique
from chunk_provenance.facts import FACT_CHUNKS, KINDS, Evidence, FactChunks
from chunk_provenance.formats import FormatError, open_table

Ints = npt.NDArray[np.int64]
QID = re.compile(r"Q\d+")
TABLE = pa.schema(
    [
        *((name, pa.string()) for name in ("fact_id", "subject", "answer", "relation")),
        *((name, pa.string()) for name in ("subject_name", "answer_name", "prompt")),
        ("answers", pa.list_(pa.string())),
        *((name, pa.int64()) for name in ("subject_popularity", "answer_popularity")),
        *((f"num_{kind}_chunks", pa.int64()) for kind in KINDS),
    ]
)
TEXTS = {"relation": "prop", "subject_name": "subj", "answer_name": "obj", "prompt": "question"}
NUMBERS = {"subject_popularity": "s_pop", "answer_popularity": "o_pop"}


@dataclass(frozen=True)
class PopqaKas:
    """The questions and their chunks."""

    facts: FactChunks
    table: pa.Table
    """One row per question, columns as in `TABLE`; null where the file does not have it."""
    notes: tuple[str, ...]
    """What was derived or does not agree, in sentences."""


def read_popqa_kas(path: str | Path) -> PopqaKas:
    """Read popqa-kas from a Parquet file or a folder of such (the published shards).

    `subject` and `answer` are QIDs, from `s_uri` and `o_uri` (PopQA's `subj_id` is a number of its own) or an
    id that is a QID; else "popqa:" and that number. `fact_id` is the column `id`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file is damaged or lacks the chunks, an id occurs twice, or a chunk id is negative.
    """
    path = Path(path)
    rows = _read_rows(path)
    fact_ids = _fact_ids(rows, path)
    lists, notes = _chunk_lists(rows, path)
    counts = _counts(rows, lists, notes)
    columns: dict[str, Any] = {
        "fact_id": fact_ids,
        "subject": _entities(rows, "s_uri", "subj_id"),
        "answer": _entities(rows, "o_uri", "obj_id"),
        **{name: _column(rows, column, pa.string()) for name, column in TEXTS.items()},
        "answers": _answers(rows, path),
        **{name: _column(rows, column, pa.int64()) for name, column in NUMBERS.items()},
        **counts,
    }
    table = pa.table([columns[name] for name in TABLE.names], schema=TABLE)
    facts = FactChunks(_fact_chunks(fact_ids, lists), Evidence(), "popqa-kas", None)
    return PopqaKas(facts, table, tuple(notes))


def _read_rows(path: Path) -> pa.Table:
    """All columns that are used, of all files."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no Parquet file in {str(path)!r}")
    tables = []
    for file in files:
        with open_table(file, "popqa-kas", []) as opened:
            found = opened.schema_arrow.names
            tables.append(opened.read(columns=[name for name in found if name in _used_columns()]))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise FormatError(f"the files of {str(path)!r} do not have the same columns: {error}") from error


def _used_columns() -> set[str]:
    own = {"id", "s_uri", "o_uri", "subj_id", "obj_id", "possible_answers"}
    counts = {name for kind in KINDS for name in _count_names(kind)}
    return own | {*TEXTS.values(), *NUMBERS.values()} | {f"{kind}_chunks" for kind in KINDS} | counts


def _count_names(kind: str) -> list[str]:
    return [f"{kind}_num_chunks", f"num_{kind}_chunks", f"{kind}_chunks_num", f"{kind}_chunk_count"]


def _fact_ids(rows: pa.Table, path: Path) -> pa.Array:
    """The column `id` as strings; row numbers where there is none."""
    if "id" not in rows.column_names:
        return pa.array(map(str, range(rows.num_rows)), pa.string())
    fact_ids = rows["id"].cast(pa.string()).combine_chunks()
    if fact_ids.null_count:
        raise FormatError(f"{str(path)!r} has rows without an 'id'")
    counts = fact_ids.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise FormatError(
            f"{str(path)!r} has {len(twice)} 'id' more than once, e.g. {twice[0]['values'].as_py()!r}"
        )
    return fact_ids


def _entities(rows: pa.Table, uri: str, number: str) -> pa.Array:
    uris = _column(rows, uri, pa.string()).to_pylist()
    numbers = _column(rows, number, pa.string()).to_pylist()
    return pa.array([_entity(a, b) for a, b in zip(uris, numbers, strict=True)], pa.string())


def _entity(uri: str | None, number: str | None) -> str | None:
    """
    >>> _entity("http://www.wikidata.org/entity/Q5543720", "1850297"), _entity(None, "1850297")
    ('Q5543720', 'popqa:1850297')
    """
    for words in (uri, number):
        if words and (found := QID.fullmatch(words.rpartition("/")[2])):
            return found.group()
    return f"popqa:{number}" if number else None


def _column(rows: pa.Table, name: str, wanted: pa.DataType) -> pa.Array:
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows, wanted)
    try:
        return rows[name].combine_chunks().cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"the popqa-kas column {name!r} is {rows[name].type}: {error}") from error


def _answers(rows: pa.Table, path: Path) -> pa.Array:
    """`possible_answers`, a list or the JSON of one."""
    wanted = pa.list_(pa.string())
    if "possible_answers" not in rows.column_names or not pa.types.is_string(rows["possible_answers"].type):
        return _column(rows, "possible_answers", wanted)
    lists = []
    for number, words in enumerate(rows["possible_answers"].to_pylist()):
        try:
            value = None if words is None else json.loads(words)
        except (ValueError, RecursionError):
            value = words
        if value is not None and not (
            isinstance(value, list) and all(isinstance(answer, str) for answer in value)
        ):
            raise FormatError(
                f"{str(path)!r} row {number}: 'possible_answers' is {words[:60]!r}, no JSON list"
            )
        lists.append(value)
    return pa.array(lists, wanted)


def _chunk_lists(rows: pa.Table, path: Path) -> tuple[dict[str, Ints], list[str]]:
    """For each kind that is there or follows, row * WIDTH + chunk, ascending, each once."""
    lists = {kind: _keys(rows[f"{kind}_chunks"], kind, path) for kind in KINDS if _has(rows, kind)}
    if "shared" in lists:
        return lists, []
    if missing := [f"{kind}_chunks" for kind in ("subject", "answer") if kind not in lists]:
        raise FormatError(
            f"{str(path)!r} has neither 'shared_chunks' nor {missing}: no chunk is known to state a fact; "
            f"it has {rows.column_names}"
        )
    lists["shared"] = np.intersect1d(lists["subject"], lists["answer"], assume_unique=True)
    return lists, ["shared_chunks is not in the file: the chunks in both subject_chunks and answer_chunks"]


WIDTH = 1 << 40  # chunk ids are below


def _has(rows: pa.Table, kind: str) -> bool:
    return f"{kind}_chunks" in rows.column_names


def _keys(column: pa.ChunkedArray, kind: str, path: Path) -> Ints:
    lists = column.combine_chunks()
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise FormatError(f"{str(path)!r}: '{kind}_chunks' is {lists.type}, expected lists of chunk ids")
    row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    values = pc.list_flatten(lists)
    try:
        chunk = values.cast(pa.int64()).fill_null(-1).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"{str(path)!r}: '{kind}_chunks' holds {values.type}: {error}") from error
    wrong = np.flatnonzero((chunk < 0) | (chunk >= WIDTH))
    if len(wrong):
        raise FormatError(
            f"{str(path)!r} row {row[wrong[0]]}: '{kind}_chunks' holds {values[int(wrong[0])]}, no chunk id"
        )
    return sorted_unique(row * WIDTH + chunk)


def _counts(rows: pa.Table, lists: dict[str, Ints], notes: list[str]) -> dict[str, pa.Array]:
    """Chunks per question and kind: as the file says, else the length of the list."""
    counts = {}
    for kind in KINDS:
        listed = None
        if kind in lists:
            listed = pa.array(np.bincount(lists[kind] // WIDTH, minlength=rows.num_rows).astype(np.int64))
        name = next((name for name in _count_names(kind) if name in rows.column_names), None)
        said = pa.nulls(rows.num_rows, pa.int64()) if name is None else _column(rows, name, pa.int64())
        counts[f"num_{kind}_chunks"] = said if listed is None else pc.coalesce(said, listed)
        if name is not None and listed is not None:
            differ = pc.sum(pc.not_equal(said, listed)).as_py() or 0
            notes += [f"{name} differs from the {kind} chunks listed in {differ:,} rows"] if differ else []
    return counts


def _fact_chunks(fact_ids: pa.Array, lists: dict[str, Ints]) -> pa.Table:
    """Rows of the fact-chunks format, facts in the order of the file."""
    kinds: Sequence[str] = [kind for kind in KINDS if kind in lists]
    keys = np.concatenate([lists[kind] for kind in kinds])
    kind = np.repeat([KINDS.index(name) for name in kinds], [len(lists[name]) for name in kinds])
    row, chunk = keys // WIDTH, keys % WIDTH
    order = np.argsort(row * len(KINDS) + kind, kind="stable")  # chunks ascend within
    columns = [fact_ids.take(row[order]), pa.array(KINDS).take(pa.array(kind[order])), chunk[order]]
    return pa.table(columns, schema=FACT_CHUNKS)
