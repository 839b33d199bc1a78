import numpy as np
import pyarrow as pa

from chunk_provenance.facts import Evidence
from chunk_provenance.facts import find_fact_chunks as find_by_reading_all
from entity_index import Thresholds
from entity_index.facts import evidence_rule, find_fact_chunks


def test_fact_chunks_equal_those_found_by_reading_all_mentions(make_store, row, tmp_path, build_pair):
    rng = np.random.default_rng(0)
    mentions = [
        row(int(rng.integers(20)), 0, 3, f"Q{rng.integers(6)}", coref=float(rng.random())) for _ in range(150)
    ]
    index, slow = build_pair(tmp_path, ["Ada"] * 20, mentions)
    pairs = [("f2", "Q0", "Q1"), ("f1", "Q2", "Q3"), ("f2", "Q0", "Q1"), ("f3", "Q4", "none")]
    probes = pa.table(
        dict(zip(("fact_id", "subject", "answer"), map(pa.array, zip(*pairs, strict=True)), strict=True))
    )
    for thresholds in (Thresholds(), Thresholds(coref=0.9, coref_cluster=None)):
        expected = find_by_reading_all(slow.store.mention_table, probes, evidence_rule(thresholds))
        found = find_fact_chunks(index, probes, thresholds)
        assert found.to_pylist() == expected.to_pylist()
        assert found.schema.equals(expected.schema)


def test_a_source_left_out_is_written_as_a_threshold_no_score_reaches():
    assert evidence_rule(Thresholds(coref=None)) == Evidence(1.0, 0.6, 2.0, 0.6)
