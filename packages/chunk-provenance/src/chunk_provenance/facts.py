"""Facts, the probes that ask for them, and the chunks that state them.

A chunk states a fact as far as one can tell from mentions: it mentions the subject and the answer. An entity
is mentioned if one candidate of one mention carries it and passes at least one threshold of the evidence
rule. The chunks of 100,000 facts among 10 M mentions take seconds: one sort by entity, then slices.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.csr import gather, offsets_of
from chunk_provenance.formats import FormatError, open_table, write_table
from chunk_provenance.tables import read_user_table

PROBES = pa.schema(
    [
        *((name, pa.string()) for name in ("fact_id", "probe_id", "relation", "subject", "answer")),
        *((name, pa.string()) for name in ("subject_name", "answer_name", "prompt")),
        *((name, pa.list_(pa.string())) for name in ("answers", "distractors")),
    ]
)
FACT_CHUNKS = pa.schema([("fact_id", pa.string()), ("kind", pa.string()), ("chunk_id", pa.int64())])
KINDS = ("subject", "answer", "shared")
SOURCES = ("hyperlink", "entity_linking", "coref", "coref_cluster")


@dataclass(frozen=True)
class Evidence:
    """How sure a mention must be: at least one score of the candidate reaches its threshold.

    A threshold above 1 leaves the source out. Scores and thresholds are compared as float32.
    """

    hyperlink: float = 1.0
    entity_linking: float = 0.6
    coref: float = 0.6
    coref_cluster: float = 0.6

    def __post_init__(self) -> None:
        """Refuse thresholds that every mention would pass."""
        if wrong := {name: value for name, value in asdict(self).items() if not value > 0}:
            raise ValueError(f"evidence thresholds must be above 0, found {wrong}: a score of 0 says nothing")

    def passes(self, mentions: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a mention table are sure enough, (rows,)."""
        passing = np.zeros(mentions.num_rows, dtype=bool)
        for source, threshold in asdict(self).items():
            scores = mentions[source].cast(pa.float32()).fill_null(0).to_numpy()
            passing |= scores >= np.float32(threshold)
        return passing


@dataclass(frozen=True)
class FactChunks:
    """The rows of a fact-chunks file and where they come from."""

    table: pa.Table
    """`fact_id`, `kind` (subject, answer or shared), `chunk_id`."""
    evidence: Evidence
    source: str
    store_sha256: str | None
    """Hash of the chunk store that the chunk ids belong to, where the file says so."""


def read_probes(path: str | Path) -> pa.Table:
    """Read probes from Parquet or JSONL, one row per probe; other columns are ignored.

    Raises:
        FormatError: a column or value is missing, a probe_id occurs twice, or the probes of one fact disagree
            on its subject or answer.
    """
    path = Path(path)
    probes = read_user_table(path, "probes", PROBES)
    counts = probes["probe_id"].value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise FormatError(
            f"{str(path)!r} has {len(twice)} probe_id more than once, e.g. {twice[0]['values'].as_py()!r}: "
            "every probe needs an id of its own"
        )
    facts = distinct_facts(probes)
    of_fact = pc.index_in(probes["fact_id"], facts["fact_id"].combine_chunks())
    for column in ("subject", "answer"):
        differs = pc.not_equal(probes[column], facts[column].take(of_fact))
        if pc.any(differs).as_py():
            fact_id = probes["fact_id"].filter(differs)[0].as_py()
            raise FormatError(f"{str(path)!r} gives the fact {fact_id!r} more than one {column}")
    return probes


def distinct_facts(probes: pa.Table) -> pa.Table:
    """`fact_id`, `subject`, `answer` of every fact, in the order of its first probe."""
    codes = probes["fact_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.sort(np.unique(codes, return_index=True)[1])
    return probes.select(["fact_id", "subject", "answer"]).take(first)


def find_fact_chunks(mentions: pa.Table, probes: pa.Table, evidence: Evidence) -> pa.Table:
    """The chunks that mention the subject, the answer, and both, of every fact.

    Args:
        mentions: chunk mentions: `chunk_id`, `entity` and the four scores.
        probes: `fact_id`, `subject`, `answer`, as `read_probes` gives them.
        evidence: which mentions count.

    Returns:
        `fact_id`, `kind`, `chunk_id`: facts in the order of the probes, kinds as in `KINDS`, chunks
        ascending.
    """
    facts = distinct_facts(probes)
    both = pa.chunked_array([*facts["subject"].chunks, *facts["answer"].chunks], pa.string())
    entities = pc.unique(both)
    keys, width = _mention_keys(mentions, entities, evidence)
    offsets = offsets_of(keys // width, len(entities))
    rows, kinds, chunks = [], [], []
    subject, answer = (
        pc.index_in(facts[name], entities).to_numpy().astype(np.int64) for name in ("subject", "answer")
    )
    for kind, entity in enumerate((subject, answer)):
        fact, position = gather(offsets, entity)
        rows.append(fact)
        kinds.append(np.full(len(fact), kind))
        chunks.append(keys[position] % width)
    shared = _contains(keys, answer[rows[0]] * width + chunks[0])
    rows.append(rows[0][shared])
    kinds.append(np.full(int(shared.sum()), KINDS.index("shared")))
    chunks.append(chunks[0][shared])
    fact, kind_code, chunk_id = (np.concatenate(parts) for parts in (rows, kinds, chunks))
    order = np.argsort(fact * len(KINDS) + kind_code, kind="stable")  # chunks already ascend within
    return pa.table(
        {
            "fact_id": facts["fact_id"].take(fact[order]).cast(pa.string()),
            "kind": pa.array(KINDS).take(pa.array(kind_code[order])),
            "chunk_id": chunk_id[order],
        }
    )


def _mention_keys(
    mentions: pa.Table, entities: pa.Array, evidence: Evidence
) -> tuple[npt.NDArray[np.int64], int]:
    """Every (entity, chunk) that is mentioned, once, as the sorted number entity * width + chunk."""
    code = pc.index_in(mentions["entity"], entities).fill_null(-1).to_numpy().astype(np.int64)
    chunk = mentions["chunk_id"].to_numpy()
    width = int(chunk.max(initial=0)) + 1
    counts = (code >= 0) & evidence.passes(mentions)
    return np.unique(code[counts] * width + chunk[counts]), width


def _contains(sorted_keys: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    hits: npt.NDArray[np.bool_] = sorted_keys[position] == keys
    return hits


def write_fact_chunks(
    table: pa.Table, path: str | Path, *, evidence: Evidence, source: str, store_sha256: str | None = None
) -> None:
    """Write fact chunks with the evidence rule, their source and the store that the chunk ids belong to."""
    metadata = {"evidence": json.dumps(asdict(evidence)), "source": source}
    if store_sha256 is not None:
        metadata["store_sha256"] = store_sha256
    write_table(table.select(FACT_CHUNKS.names).cast(FACT_CHUNKS), Path(path), "fact-chunks", **metadata)


def read_fact_chunks(path: str | Path) -> FactChunks:
    """Read fact chunks from Parquet, JSONL or CSV: `fact_id`, `kind` (absent: all shared), `chunk_id`.

    A file that names no evidence rule is taken to follow the default one.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is another format, or has an unknown kind or chunk id.
    """
    path = Path(path)
    table = read_user_table(path, "fact-chunks", FACT_CHUNKS, optional=("kind",))
    if table["kind"].null_count == table.num_rows:
        table = table.set_column(1, FACT_CHUNKS.field("kind"), pa.repeat("shared", table.num_rows))
    unknown = set(pc.unique(table["kind"]).to_pylist()) - set(KINDS)
    if unknown:
        raise FormatError(f"{str(path)!r} has the kinds {sorted(map(str, unknown))}, expected {list(KINDS)}")
    if table.num_rows and pc.min(table["chunk_id"]).as_py() < 0:
        raise FormatError(f"{str(path)!r} has negative chunk ids: they count from 0")
    metadata = _read_metadata(path)
    store_sha256 = metadata.get(b"store_sha256")
    return FactChunks(
        table,
        Evidence(**json.loads(metadata.get(b"evidence", b"{}"))),
        metadata.get(b"source", b"unknown").decode(),
        store_sha256.decode() if store_sha256 is not None else None,
    )


def _read_metadata(path: Path) -> Mapping[bytes, bytes]:
    """What a Parquet file says about itself; other files say nothing."""
    if path.suffix != ".parquet":
        return {}
    with open_table(path, "fact-chunks", []) as file:
        return file.schema_arrow.metadata or {}
