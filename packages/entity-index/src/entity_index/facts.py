"""The chunks that state each fact, looked up in the index instead of searched in all chunk mentions."""

from dataclasses import asdict
from functools import lru_cache

import numpy as np
import pyarrow as pa

from chunk_provenance.facts import KINDS, Evidence, distinct_facts
from entity_index.backend import Backend
from entity_index.bits import Ids
from entity_index.postings import contained
from entity_index.query import Entity, Thresholds

LEFT_OUT = 2.0
"""In an evidence rule, a threshold that no score reaches."""


def find_fact_chunks(index: Backend, probes: pa.Table, thresholds: Thresholds) -> pa.Table:
    """The chunks that mention the subject, the answer, and both, of every fact.

    Returns:
        `fact_id`, `kind`, `chunk_id`, equal to those of `chunk-provenance facts chunks`: facts in the order
        of the probes, kinds subject, answer, shared, chunks ascending.
    """

    @lru_cache(maxsize=100_000)
    def chunks_of(entity: str) -> Ids:
        return index.chunk_ids(Entity(entity, thresholds))

    fact_ids, kinds, chunk_ids = [], [], [np.empty(0, dtype=np.int64)]
    for fact in distinct_facts(probes).to_pylist():
        subject, answer = chunks_of(fact["subject"]), chunks_of(fact["answer"])
        for kind, chunks in zip(KINDS, (subject, answer, subject[contained(subject, answer)]), strict=True):
            fact_ids += [fact["fact_id"]] * len(chunks)
            kinds += [kind] * len(chunks)
            chunk_ids.append(chunks)
    columns = [pa.array(fact_ids, pa.string()), pa.array(kinds, pa.string()), np.concatenate(chunk_ids)]
    return pa.table(dict(zip(("fact_id", "kind", "chunk_id"), columns, strict=True)))


def evidence_rule(thresholds: Thresholds) -> Evidence:
    """The thresholds as the fact-chunks format writes them down."""
    return Evidence(
        **{source: LEFT_OUT if least is None else least for source, least in asdict(thresholds).items()}
    )
