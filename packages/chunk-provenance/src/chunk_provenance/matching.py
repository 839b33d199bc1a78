"""Which answers belong to which order and facts, and a list of all that does not match."""

import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.studied import StudiedFacts

LATE = "answers at a step that the order does not have: left out"
UNKNOWN = "answers to a question that the facts do not have: left out"
NOT_ASKED = "a fact that was not asked for: left out"
NO_CHUNKS = "a fact without a row in the table of chunks: counts as never seen"
UNMATCHED = pa.schema(
    [
        ("reason", pa.string()),
        ("model", pa.string()),
        ("step", pa.int64()),
        ("probe_id", pa.string()),
        ("fact_id", pa.string()),
        ("answers", pa.int64()),
    ]
)


def match_answers(answers: pa.Table, studied: StudiedFacts, num_updates: int) -> tuple[pa.Table, pa.Table]:
    """Answers that can be used, all with a `model` ("" where the file names none), and what does not match.

    Returns:
        The answers, and a table as in `UNMATCHED`: one row per model and step, question or fact.

    Raises:
        ValueError: no answer is left.
    """
    if "model" not in answers.column_names:
        answers = answers.append_column("model", pa.repeat("", answers.num_rows))
    late = pc.greater(answers["step"], num_updates)
    known = pc.is_valid(answers["fact_id"])
    kept = answers.filter(pc.and_(pc.invert(late), known))
    fact_ids = studied.facts["fact_id"].combine_chunks()
    if not kept.num_rows:
        raise ValueError(_nothing_left(answers, studied, num_updates, pc.any(known).as_py()))
    asked = pc.is_in(kept["fact_id"], value_set=fact_ids)
    if not pc.any(asked).as_py() and len(fact_ids):
        raise ValueError(
            f"no fact of the answers (e.g. {kept['fact_id'][0].as_py()!r}) is in the fact chunks "
            f"(e.g. {fact_ids[0].as_py()!r}): make the fact chunks from the same probes"
        )
    parts = [
        _count(answers.filter(late), LATE, ["model", "step"]),
        _count(answers.filter(pc.invert(known)), UNKNOWN, ["model", "probe_id"]),
        *(_not_asked(kept, model, fact_ids) for model in pc.unique(kept["model"]).to_pylist()),
        _count(kept.filter(pc.invert(asked)), NO_CHUNKS, ["fact_id"]),
    ]
    return kept, pa.concat_tables(parts).combine_chunks()


def _nothing_left(answers: pa.Table, studied: StudiedFacts, num_updates: int, any_known: bool) -> str:
    if any_known:
        low, high = pc.min(answers["step"]).as_py(), pc.max(answers["step"]).as_py()
        return (
            f"the answers are of steps {low} to {high}, the data order has {num_updates} updates: "
            "these answers come from another run"
        )
    questions = studied.facts if studied.questions is None else studied.questions
    return (
        f"no question of the answers (e.g. {answers['probe_id'][0].as_py()!r}) is among the facts "
        f"(e.g. {questions.column(0)[0].as_py()!r}): name the right column with --column question=NAME"
        if questions.num_rows
        else "there are no facts: the table of facts is empty"
    )


def _count(rows: pa.Table, reason: str, by: list[str]) -> pa.Table:
    """One row of `UNMATCHED` per value of the columns `by`."""
    grouped = rows.group_by(by, use_threads=False).aggregate([("step", "count")])
    columns = {**{name: grouped[name] for name in by}, "answers": grouped["step_count"]}
    return _table(reason, columns, grouped.num_rows)


def _not_asked(kept: pa.Table, model: str, fact_ids: pa.Array) -> pa.Table:
    asked = kept["fact_id"].filter(pc.equal(kept["model"], model)).combine_chunks()
    missing = fact_ids.filter(pc.invert(pc.is_in(fact_ids, value_set=asked)))
    return _table(NOT_ASKED, {"fact_id": missing, "model": pa.repeat(model, len(missing))}, len(missing))


def _table(reason: str, columns: dict[str, pa.Array], num_rows: int) -> pa.Table:
    return pa.table(
        [
            pa.repeat(reason, num_rows)
            if field.name == "reason"
            else columns.get(field.name, pa.nulls(num_rows, field.type))
            for field in UNMATCHED
        ],
        schema=UNMATCHED,
    )


def count_reasons(unmatched: pa.Table) -> list[dict[str, str | int]]:
    """How many rows and answers each reason has, in the order of their first row."""
    grouped = unmatched.group_by("reason", use_threads=False).aggregate(
        [("fact_id", "count"), ("reason", "count"), ("answers", "sum")]
    )
    return [
        {"reason": row["reason"], "rows": row["reason_count"], "answers": row["answers_sum"] or 0}
        for row in grouped.to_pylist()
    ]
