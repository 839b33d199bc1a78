"""Tables a user may bring as Parquet, JSONL or CSV, read by column name into one fixed schema."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from chunk_provenance.formats import FormatError, open_table

JSON_BLOCK = 16 << 20  # bytes; a line must fit in one block


def read_user_table(path: Path, name: str, schema: pa.Schema, *, optional: tuple[str, ...] = ()) -> pa.Table:
    """Read the columns of `schema`, whatever else stands in the file; missing `optional` ones are null.

    The ending says the form: `.parquet`, `.jsonl` or `.csv`, the last two also as `.gz` or `.zst`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it names another format, lacks a column or holds values of another type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {name} file at {str(path)!r}")
    try:
        table = _read_form(path, name, schema, optional)
        columns = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
    except pa.ArrowInvalid as error:
        raise FormatError(f"{str(path)!r} is no {name} table: {error}") from error
    _check_columns(path, name, table, schema, optional)
    return pa.table(columns, schema=schema)


def recorded_format(path: Path, known: tuple[str, ...], name: str) -> str:
    """The format a Parquet file names, if that is among the known; else, and for any other file, `name`."""
    if path.suffix != ".parquet" or not path.is_file():
        return name
    found = (pq.read_schema(path).metadata or {}).get(b"format", b"").decode()
    return found if found in known else name


def read_user_columns(path: Path, name: str, wanted: Collection[str]) -> tuple[pa.Table, list[str]]:
    """Read those of the `wanted` columns that a file has, as they stand there; of CSV all are text.

    Returns:
        The table, and the names of all columns of the file.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it names another format, is damaged or in no known form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {name} file at {str(path)!r}")
    try:
        if _form(path) == ".parquet":
            with open_table(path, name, []) as file:
                found = file.schema_arrow.names
                return file.read(columns=[column for column in found if column in wanted]), found
        table = _read_text_form(path, name)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{str(path)!r} is no {name} table: {error}") from error
    found = table.column_names
    return table.select([column for column in found if column in wanted]), found


def _read_text_form(path: Path, name: str) -> pa.Table:
    """A whole JSONL or CSV file, types of JSONL as they are, of CSV all text."""
    options = pyarrow.json.ReadOptions(block_size=JSON_BLOCK)
    if _form(path) in (".jsonl", ".ndjson"):
        with pa.input_stream(path, compression="detect") as stream:
            return pyarrow.json.read_json(stream, read_options=options)
    if _form(path) != ".csv":
        raise FormatError(_unknown_form(path, name))
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pa.input_stream(path, compression="detect") as stream:
        header = pyarrow.csv.open_csv(stream, parse_options=quoted).schema.names
    with pa.input_stream(path, compression="detect") as stream:
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        return pyarrow.csv.read_csv(stream, parse_options=quoted, convert_options=convert)


def _form(path: Path) -> str:
    return next(suffix for suffix in [*reversed(path.suffixes), ""] if suffix not in (".gz", ".zst"))


def _unknown_form(path: Path, name: str) -> str:
    return f"{str(path)!r} ends in {_form(path)!r}, a {name} file ends in .parquet, .jsonl or .csv"


def _read_form(path: Path, name: str, schema: pa.Schema, optional: tuple[str, ...]) -> pa.Table:
    form = _form(path)
    if form == ".parquet":
        return _read_parquet(path, name, schema, optional)
    if form in (".jsonl", ".ndjson"):
        with pa.input_stream(path, compression="detect") as stream:
            return pyarrow.json.read_json(
                stream,
                read_options=pyarrow.json.ReadOptions(block_size=JSON_BLOCK),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            )
    if form == ".csv":
        types = {field.name: field.type for field in schema if not pa.types.is_list(field.type)}
        with pa.input_stream(path, compression="detect") as stream:
            return pyarrow.csv.read_csv(
                stream, convert_options=pyarrow.csv.ConvertOptions(column_types=types)
            )
    raise FormatError(_unknown_form(path, name))


def _read_parquet(path: Path, name: str, schema: pa.Schema, optional: tuple[str, ...]) -> pa.Table:
    with open_table(path, name, [column for column in schema.names if column not in optional]) as file:
        found = file.schema_arrow.names
        return file.read(columns=[column for column in schema.names if column in found])


def _check_columns(
    path: Path, name: str, table: pa.Table, schema: pa.Schema, optional: tuple[str, ...]
) -> None:
    required = [column for column in schema.names if column not in optional]
    if missing := [column for column in required if column not in table.column_names]:
        raise FormatError(f"{str(path)!r} lacks the {name} columns {missing}, it has {table.column_names}")
    for column in required:
        if table[column].null_count:
            row = pc.index(pc.is_null(table[column]), True).as_py() + 1
            raise FormatError(f"{str(path)!r} row {row} has no {column!r}, every row of {name} needs one")
