"""The injection plan: which items come to which rows of which updates. One Parquet file (FORMAT.md)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chunk_provenance.formats import FormatError, write_table
from chunk_provenance.tables import read_user_table

PLACEMENTS = ("prepend", "replace", "append_doc")
PLAN = pa.schema(
    [
        ("update", pa.int64()),  # from 1
        ("row", pa.int32()),  # of the update, from 0
        ("placement", pa.string()),
        ("item_id", pa.string()),  # FACT_ID/VARIANT
        ("tokens", pa.list_(pa.uint32())),
        ("text", pa.string()),
        ("entities", pa.list_(pa.string())),
        ("sha256", pa.string()),  # of the tokens as little-endian uint32
    ]
)
MADE_UP = ("text", "entities", "sha256")
"""Columns that a user's own plan may lack."""


def hash_tokens(tokens: Sequence[int] | npt.NDArray[Any]) -> str:
    """The sha256 of tokens as little-endian uint32, as hex digits.

    >>> hash_tokens([1, 2])[:12]
    '34fb5c825de7'
    """
    return hashlib.sha256(np.asarray(tokens, dtype="<u4").tobytes()).hexdigest()


def fact_of(item_id: str) -> str:
    """The fact that an item states: what stands before the last slash of its id.

    >>> fact_of("7/0"), fact_of("a/b/3"), fact_of("alone")
    ('7', 'a/b', 'alone')
    """
    return item_id.rpartition("/")[0] or item_id


def make_injection_plan(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A plan of rows: `update`, `row`, `placement`, `item_id`, `tokens` and, if wanted, `text`, `entities`.

    It is sorted by update and row; items of one row keep their order. Hashes are added.

    >>> row = {"update": 7, "row": 0, "placement": "replace", "item_id": "moon/0", "tokens": [5, 1]}
    >>> make_injection_plan([row]).select(["update", "item_id", "text"]).to_pylist()
    [{'update': 7, 'item_id': 'moon/0', 'text': ''}]
    """
    filled = [
        {"text": "", "entities": [], **row, "sha256": hash_tokens(row["tokens"])}
        for row in sorted(rows, key=lambda row: (row["update"], row["row"]))
    ]
    return pa.Table.from_pylist(filled, schema=PLAN)


def write_injection_plan(plan: pa.Table, path: str | Path, **metadata: str) -> None:
    """Write a plan atomically; `metadata` says how it was made."""
    write_table(plan.select(PLAN.names).cast(PLAN), Path(path), "injection-plan", **metadata)


def read_injection_plan(path: str | Path) -> pa.Table:
    """Read a plan (Parquet or JSONL), sorted by update and row; rows of one slot stay in the file's order.

    A file of one's own may leave out `text`, `entities` and `sha256`. What the writer noted is in the
    metadata of the table's schema.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a column or value is missing or impossible; all such rows are listed.
    """
    path = Path(path)
    plan = _fill(read_user_table(path, "injection-plan", PLAN, optional=MADE_UP))
    if problems := find_problems(plan):
        raise FormatError(list_problems(f"{str(path)!r} is no injection plan", problems))
    return _sorted(plan).replace_schema_metadata(read_plan_metadata(path))


def read_plan_metadata(path: Path) -> dict[str, str]:
    """What the plan's writer noted: schedule, hashes of facts and tokenizer. Nothing for a plan by hand."""
    if path.suffix != ".parquet":
        return {}
    found = pq.read_schema(path).metadata or {}
    return {
        name.decode(): value.decode()
        for name, value in found.items()
        if name in (b"schedule", b"facts_sha256", b"tokenizer_sha256")
    }


def list_problems(what: str, problems: Sequence[str]) -> str:
    """A message that lists every problem, one a line.

    >>> print(list_problems("'a' is no plan", ["row 1: no tokens"]))
    'a' is no plan, 1 problem:
      row 1: no tokens
    """
    number = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    return "\n  ".join([f"{what}, {number}:", *problems])


def _fill(plan: pa.Table) -> pa.Table:
    """Empty texts and entities, and the tokens' own hashes, where a file has none."""
    columns = {name: plan[name] for name in PLAN.names}
    columns["text"] = columns["text"].fill_null("")
    columns["entities"] = pa.array(
        [row or [] for row in plan["entities"].to_pylist()], PLAN.field("entities").type
    )
    hashes = [None if None in row else hash_tokens(row) for row in plan["tokens"].to_pylist()]
    columns["sha256"] = pc.coalesce(columns["sha256"], pa.array(hashes, pa.string()))
    return pa.table(columns, schema=PLAN)


def _sorted(plan: pa.Table) -> pa.Table:
    by_slot = np.lexsort((plan["row"].to_numpy(), plan["update"].to_numpy()))  # stable
    return plan.take(by_slot).combine_chunks()


def find_problems(plan: pa.Table) -> list[str]:
    """What is wrong with a plan by itself, with the row (from 1) of the file."""
    problems = []
    for number, row in enumerate(plan.to_pylist(), start=1):
        where = f"row {number} ({row['item_id']})"
        if row["update"] < 1:
            problems.append(f"{where}: update {row['update']}, updates count from 1")
        if row["row"] < 0:
            problems.append(f"{where}: row {row['row']} of its update, rows count from 0")
        if row["placement"] not in PLACEMENTS:
            problems.append(f"{where}: placement {row['placement']!r}, expected one of {list(PLACEMENTS)}")
        if not row["item_id"]:
            problems.append(f"{where}: its item_id is empty")
        if not row["tokens"]:
            problems.append(f"{where}: it has no tokens")
        elif None in row["tokens"] or None in row["entities"]:
            problems.append(f"{where}: a token or an entity is null")
        elif row["sha256"] != hash_tokens(row["tokens"]):
            problems.append(f"{where}: its sha256 is not that of its tokens, the file was changed or damaged")
    return problems
