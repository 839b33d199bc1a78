"""Tables a user may bring as Parquet, JSONL or CSV, read by column name into one fixed schema."""

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
        table = _read_form(path, name, schema)
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


def _read_form(path: Path, name: str, schema: pa.Schema) -> pa.Table:
    form = next(suffix for suffix in [*reversed(path.suffixes), ""] if suffix not in (".gz", ".zst"))
    if form == ".parquet":
        return _read_parquet(path, name, schema)
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
    raise FormatError(f"{str(path)!r} ends in {form!r}, a {name} file ends in .parquet, .jsonl or .csv")


def _read_parquet(path: Path, name: str, schema: pa.Schema) -> pa.Table:
    with open_table(path, name, []) as file:
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
