"""The facts that a study is about: their chunks, how popular they are, and the questions that ask for them.

They come from popqa-kas, where a fact is a (subject, answer) pair that several questions may ask for, or from
any table of fact chunks.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.chunk_updates import pack, place_chunks, sorted_unique
from chunk_provenance.facts import KINDS, FactChunks, read_fact_chunks
from chunk_provenance.published import PopqaKas, read_popqa_kas
from chunk_provenance.tables import read_user_columns

POPULARITY = ("subject_popularity", "answer_popularity")
CHUNK_COLUMNS = tuple(f"{kind}_chunks" for kind in KINDS)
FACTS = pa.schema(
    [
        *((name, pa.string()) for name in ("fact_id", "subject", "answer")),
        *((name, pa.int64()) for name in (*CHUNK_COLUMNS, *POPULARITY)),
    ]
)


@dataclass(frozen=True)
class StudiedFacts:
    """Facts and what is known about them before any model is asked."""

    chunks: FactChunks
    facts: pa.Table
    """One row per fact, columns as in `FACTS`; null where it is not known."""
    questions: pa.Table | None = None
    """`probe_id`, `fact_id`, `prompt`, `answers`, where the source has questions."""
    notes: tuple[str, ...] = ()


def open_studied_facts(path: str | Path) -> StudiedFacts:
    """Read popqa-kas (a Parquet file, or the folder of its shards) or a table of fact chunks."""
    path = Path(path)
    if path.is_dir() or (path.suffix == ".parquet" and _has_chunk_lists(path)):
        return from_popqa_kas(read_popqa_kas(path))
    return from_fact_chunks(read_fact_chunks(path))


def _has_chunk_lists(path: Path) -> bool:
    found = read_user_columns(path, "fact-chunks", ())[1]
    return bool({"shared_chunks", "subject_chunks"} & set(found))


def from_popqa_kas(popqa: PopqaKas) -> StudiedFacts:
    """Facts of popqa-kas: questions with the same subject and the same answer ask for one fact.

    A question whose subject or answer has no id is a fact of its own.
    """
    table = popqa.table
    pair = pc.binary_join_element_wise(table["subject"], table["answer"], "|")
    fact_id = pc.coalesce(pair, table["fact_id"]).combine_chunks()
    questions = pa.table(
        {
            "probe_id": table["fact_id"],
            "fact_id": fact_id,
            "prompt": table["prompt"],
            "answers": table["answers"],
        }
    )
    numbers = [f"num_{kind}_chunks" for kind in KINDS] + list(POPULARITY)
    rows = pa.table([fact_id, *(table[name] for name in ("subject", "answer", *numbers))], names=FACTS.names)
    facts = _first_or_most(rows)
    of_question = pc.index_in(popqa.facts.table["fact_id"], table["fact_id"].combine_chunks())
    chunks = popqa.facts.table.set_column(0, "fact_id", fact_id.take(of_question.combine_chunks()))
    notes = [*popqa.notes]
    if facts.num_rows < table.num_rows:
        notes.append(f"{table.num_rows:,} questions ask for {facts.num_rows:,} (subject, answer) pairs")
    if without := int(pc.sum(pc.equal(facts["shared_chunks"], 0)).as_py() or 0):
        notes.append(f"{without:,} facts have no chunk that names both subject and answer")
    return StudiedFacts(replace(popqa.facts, table=chunks), facts, questions, tuple(notes))


def _first_or_most(rows: pa.Table) -> pa.Table:
    """One row per fact, in the order of their first row: the largest of its numbers."""
    numbers = FACTS.names[3:]
    aggregated = rows.group_by(["fact_id", "subject", "answer"], use_threads=False).aggregate(
        [(name, "max") for name in numbers]
    )
    columns = ["fact_id", "subject", "answer", *(f"{name}_max" for name in numbers)]
    return aggregated.select(columns).rename_columns(FACTS.names).cast(FACTS)


def from_fact_chunks(chunks: FactChunks) -> StudiedFacts:
    """Facts of a table of fact chunks; a kind that no row has is not known."""
    codes = chunks.table["fact_id"].combine_chunks().dictionary_encode()
    fact_ids, code = codes.dictionary, codes.indices.to_numpy().astype(np.int64)
    columns: list[pa.Array] = [fact_ids, *[pa.nulls(len(fact_ids), pa.string())] * 2]
    for kind in KINDS:
        here = pc.equal(chunks.table["kind"], kind).to_numpy()
        chunk = chunks.table["chunk_id"].to_numpy()[here]
        if not len(chunk):
            columns.append(pa.nulls(len(fact_ids), pa.int64()))
            continue
        places = place_chunks(chunk)
        bits = len(places.ids).bit_length()
        pairs = sorted_unique(pack(code[here], places.find(chunk), bits))
        columns.append(pa.array(np.bincount(pairs >> bits, minlength=len(fact_ids))))
    unknown = [pa.nulls(len(fact_ids), pa.int64())] * len(POPULARITY)
    return StudiedFacts(chunks, pa.table([*columns, *unknown], schema=FACTS))
