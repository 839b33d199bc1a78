"""Anyone's answers per checkpoint, read into one form: a rank for every probe at every step.

The file may be Parquet, JSONL or CSV, its columns may have any names, and it may hold ranks, verdicts (0/1,
true/false) or the texts that a model wrote, which are then scored as PopQA does. A verdict becomes a rank:
1 for right, 2 for wrong. Rows are read as fast as Arrow does, texts are scored at about a million a second.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.formats import FormatError
from chunk_provenance.tables import read_user_columns

ANSWERS = pa.schema(
    [
        ("step", pa.int64()),
        ("fact_id", pa.string()),
        ("probe_id", pa.string()),
        ("rank", pa.int32()),
        ("num_candidates", pa.int32()),
        ("logprob_sum", pa.float64()),
        ("logprob_mean", pa.float64()),
    ]
)
# What each column may be called, where the user does not say.
NAMES = {
    "step": ("step", "checkpoint"),
    "fact": ("fact_id",),
    "question": ("probe_id", "question_id", "id"),
    "model": ("model",),
    "rank": ("rank",),
    "correct": ("correct",),
    "output": ("output",),
    "aliases": ("possible_answers", "answers", "aliases"),
}
VERDICTS = ("rank", "correct", "output")
EXTRA = ("num_candidates", "logprob_sum", "logprob_mean")
STEP = re.compile(
    r"(?:(?P<model>.+?)[:@/])?(?:stage1-)?(?:(?:step|checkpoint|update)[-_]?)?(?P<step>\d+)(?:\.0+)?"
    r"(?:-tokens\d+[BMK]?)?(?:-unsharded|-hf)?",
    re.IGNORECASE,
)
WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_answers(
    path: str | Path, *, columns: Mapping[str, str] | None = None, questions: pa.Table | None = None
) -> pa.Table:
    """Read answers from Parquet, JSONL or CSV, one row per (step, probe), and model where there are several.

    Args:
        path: the file; its ending says the form.
        columns: the file's name for any of `NAMES`, e.g. {"correct": "exact_match"}.
        questions: `probe_id`, `fact_id`, and where they are known `prompt` and `answers`. The column
            `question` then holds ids or, where no id is found, the questions themselves; answers to other
            questions get no fact. Without it the file needs a column `fact`.

    Returns:
        Columns as in `ANSWERS`, and `model`, where the file says it.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a column is missing, or a value is none of its kind; the message names row and value.
    """
    path = Path(path)
    table, named = _read_named(path, dict(columns or {}))
    verdict = _pick_verdict(path, table, named, dict(columns or {}))
    step, model = parse_steps(table[named["step"]], str(path))
    if "model" in named:
        model = _filled(table, named["model"], path).cast(pa.string())
    fact_id, probe_id = _identify(path, table, named, questions)
    if verdict == "output":
        rank = _score(path, table, named, probe_id, questions)
    else:
        rank = _ranks(_filled(table, named[verdict], path), verdict, named[verdict], path)
    answers = {
        "step": step,
        "fact_id": fact_id,
        "probe_id": probe_id,
        "rank": rank,
        **{name: _numbers(table, name, path) for name in EXTRA},
    }
    result = pa.table([answers[name] for name in ANSWERS.names], schema=ANSWERS)
    return result if model is None else result.append_column("model", model)


def _read_named(path: Path, columns: dict[str, str]) -> tuple[pa.Table, dict[str, str]]:
    """The table, and the file's name of every one of our columns that it has."""
    if unknown := [name for name in columns if name not in NAMES]:
        raise ValueError(f"--column knows {list(NAMES)}, found {unknown}")
    candidates = {name: (columns[name],) if name in columns else NAMES[name] for name in NAMES}
    wanted = {column for names in candidates.values() for column in names} | set(EXTRA)
    table, found = read_user_columns(path, "answers", wanted)
    for name, column in columns.items():
        if column not in found:
            raise FormatError(
                f"{str(path)!r} has no column {column!r} (asked for as {name!r}), it has {found}"
            )
    if not table.num_rows:
        raise FormatError(f"{str(path)!r} holds no answers")
    named = {
        name: present[0]
        for name, names in candidates.items()
        if (present := [column for column in names if column in found])
    }
    missing = [] if "step" in named else ["step"]
    missing += [] if named.keys() & {"fact", "question"} else ["fact"]
    missing += [] if named.keys() & set(VERDICTS) else ["rank"]
    if missing:
        names = {"step": "step", "fact": "fact_id or probe_id", "rank": "rank, correct or output"}
        raise FormatError(
            f"{str(path)!r} lacks the answers columns {[names[name] for name in missing]}, it has {found}: "
            f"if they have other names, say so with --column {missing[0]}=NAME"
        )
    return table, named


def _pick_verdict(path: Path, table: pa.Table, named: dict[str, str], columns: dict[str, str]) -> str:
    """Which column says whether an answer is right."""
    asked = [name for name in VERDICTS if name in columns]
    if len(asked) > 1:
        raise ValueError(f"give one of --column rank=, correct= and output=, found {asked}")
    return asked[0] if asked else next(name for name in VERDICTS if name in named)


def _filled(table: pa.Table, column: str, path: Path) -> pa.ChunkedArray:
    """A column in which no row may be empty."""
    if table[column].null_count:
        row = pc.index(pc.is_null(table[column]), True).as_py() + 1
        raise FormatError(f"{str(path)!r} row {row} has no {column!r}, every row of answers needs one")
    return table[column]


def _codes(column: pa.ChunkedArray) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Distinct values in the order of their first occurrence, and the number of each row's value."""
    encoded = pa.chunked_array(column).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def parse_steps(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, pa.Array | None]:
    """Steps from numbers or names such as "step10000" or "LMEnt-1B-6E:step10000", and the models named so.

    >>> steps, models = parse_steps(pa.chunked_array([["small:step0", "small:step1000-tokens4B"]]), "a.csv")
    >>> steps.to_pylist(), models.to_pylist()
    ([0, 1000], ['small', 'small'])
    """
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise FormatError(f"{where!r} row {row} has no step, every row of answers needs one")
    values, codes = _codes(column)
    parsed = [STEP.fullmatch(str(value).strip()) for value in values]
    if None in parsed:
        wrong = values[parsed.index(None)]
        row = int(np.argmax(codes == parsed.index(None))) + 1
        raise FormatError(
            f"{where!r} row {row} has the step {wrong!r}: expected a number, or a name such as 'step1000' or "
            "'LMEnt-1B-6E:step1000'"
        )
    found = [match for match in parsed if match is not None]
    steps = pa.array([int(match["step"]) for match in found], pa.int64()).take(codes)
    if not all(match["model"] for match in found):
        return steps, None
    return steps, pa.array([match["model"] for match in found], pa.string()).take(codes)


def _identify(
    path: Path, table: pa.Table, named: dict[str, str], questions: pa.Table | None
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Fact and probe of every answer; the fact is null where the questions do not know the probe."""
    texts = {
        name: pa.chunked_array(_filled(table, named[name], path)).cast(pa.string())
        for name in ("fact", "question")
        if name in named
    }
    if questions is None:
        if "fact" not in texts:
            raise FormatError(
                f"{str(path)!r} has no column of facts, it has {named}: say which with --column fact=NAME"
            )
        return texts["fact"], texts.get("question", texts["fact"])
    if "question" not in texts:
        return _known_facts(texts["fact"], questions), texts["fact"]
    return find_questions(texts["question"], questions)


def _known_facts(facts: pa.ChunkedArray, questions: pa.Table) -> pa.ChunkedArray:
    known = pc.is_in(facts, value_set=questions["fact_id"].combine_chunks())
    return pc.if_else(known, facts, pa.scalar(None, pa.string()))


def find_questions(asked: pa.ChunkedArray, questions: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Fact and probe of questions given by id or, where no id is found at all, by their text.

    Raises:
        FormatError: a text belongs to several questions.
    """
    place = pc.index_in(asked, questions["probe_id"].combine_chunks())
    if place.null_count == len(place) and "prompt" in questions.column_names:
        place = pc.index_in(asked, questions["prompt"].combine_chunks())
        counts = questions["prompt"].value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        several = pc.is_in(asked, value_set=twice)
        if pc.any(pc.and_(several, pc.is_valid(place))).as_py():
            text = asked.filter(several)[0].as_py()
            raise FormatError(
                f"the question {text!r} stands for several facts: "
                "name a column with ids of questions, --column question=NAME"
            )
    known = questions["probe_id"].take(place.combine_chunks())
    return questions["fact_id"].take(place.combine_chunks()), pc.coalesce(known, asked)


def _ranks(values: pa.ChunkedArray, verdict: str, column: str, path: Path) -> pa.Array:
    """Ranks, or verdicts as ranks."""
    distinct, codes = _codes(values)
    read = _read_rank if verdict == "rank" else _read_correct
    ranks = [read(value) for value in distinct]
    if None in ranks:
        wrong, row = distinct[ranks.index(None)], int(np.argmax(codes == ranks.index(None))) + 1
        expected = "a whole number from 1 on" if verdict == "rank" else "0 or 1, true or false"
        raise FormatError(
            f"{str(path)!r} is no answers table: row {row} has the {column} {wrong!r}, expected {expected}"
        )
    return pa.array(ranks, pa.int32()).take(codes)


def _read_rank(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and 1 <= number < 2**31 else None


def _read_correct(value: Any) -> int | None:
    words = str(value).strip().lower()
    words = words.removesuffix(".0")
    return (1 if WORDS[words] else 2) if words in WORDS else None


def _numbers(table: pa.Table, name: str, path: Path) -> pa.Array | pa.ChunkedArray:
    wanted = ANSWERS.field(name).type
    if name not in table.column_names:
        return pa.nulls(table.num_rows, wanted)
    try:
        return table[name].cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"{str(path)!r} is no answers table: {name}: {error}") from error


def answer_is_right(output: str, accepted: Sequence[str]) -> bool:
    """PopQA's rule: an accepted answer, as it is, in lower case or capitalised, stands in the text.

    >>> answer_is_right("She is a politician.", ["Politician"]), answer_is_right("POLITICIAN", ["politician"])
    (True, False)
    """
    return any(
        form in output for answer in accepted for form in (answer, answer.lower(), answer.capitalize())
    )


def _score(
    path: Path, table: pa.Table, named: dict[str, str], probe_id: pa.ChunkedArray, questions: pa.Table | None
) -> pa.Array:
    """Ranks of texts: 1 where one holds an accepted answer, else 2. No text is a wrong answer."""
    outputs = table[named["output"]].cast(pa.string()).fill_null("").to_pylist()
    unknown = np.zeros(len(outputs), dtype=bool)
    if "aliases" in named:
        values = _filled(table, named["aliases"], path).to_pylist()
    elif questions is not None and "answers" in questions.column_names:
        place = pc.index_in(probe_id, questions["probe_id"].combine_chunks())
        values = questions["answers"].take(pa.chunked_array(place).combine_chunks()).to_pylist()
        unknown = pc.is_null(place).to_numpy()
    else:
        raise FormatError(
            f"{str(path)!r} has texts in {named['output']!r}, but nothing says which answers are right: "
            "name the column of accepted answers with --column aliases=NAME"
        )
    accepted_of: dict[str, list[str]] = {}
    ranks = np.full(len(outputs), 2, dtype=np.int32)
    for row in np.flatnonzero(~unknown).tolist():
        key = values[row] if isinstance(values[row], str) else json.dumps(values[row])
        if key not in accepted_of:
            accepted_of[key] = read_aliases(values[row], f"{str(path)!r} row {row + 1}")
        if answer_is_right(outputs[row], accepted_of[key]):
            ranks[row] = 1
    return pa.array(ranks)


def read_aliases(value: Any, where: str) -> list[str]:
    """Accepted answers from a list, the JSON or Python text of one, or a single answer.

    >>> read_aliases('["Rome", "Roma"]', "row 1"), read_aliases("['Rome']", "row 2")
    (['Rome', 'Roma'], ['Rome'])
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)  # as pandas writes lists into CSV; literals only
            except (ValueError, SyntaxError):
                raise FormatError(f"{where} has the accepted answers {value!r}, no list of texts") from None
    answers = [value] if isinstance(value, str) else list(value or [])
    kept = [answer for answer in answers if isinstance(answer, str) and answer.strip()]
    if not kept:
        raise FormatError(f"{where} has no accepted answer: {value!r}")
    return kept
