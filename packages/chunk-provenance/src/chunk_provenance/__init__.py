"""Training chunks that remember which text they came from and at which step they were trained on."""

from chunk_provenance.analysis import Analysis, AnalysisSettings, analyze
from chunk_provenance.analysis_files import save_analysis
from chunk_provenance.answers import read_answers
from chunk_provenance.bucket_checks import check_buckets
from chunk_provenance.cloze import make_cloze_probes
from chunk_provenance.exposures import Exposures, find_exposures
from chunk_provenance.facts import (
    Evidence,
    FactChunks,
    find_fact_chunks,
    read_fact_chunks,
    read_probes,
    write_fact_chunks,
)
from chunk_provenance.formats import FormatError
from chunk_provenance.injection.applying import inject
from chunk_provenance.injection.plan_file import (
    make_injection_plan,
    read_injection_plan,
    write_injection_plan,
)
from chunk_provenance.injection.rows import injected_items, order_rows, slot_chunks, slot_tokens
from chunk_provenance.joining import Dynamics, compute_dynamics, load_dynamics, save_dynamics
from chunk_provenance.mixture_order import compute_store_order
from chunk_provenance.mixtures import MixtureStore, write_mixture
from chunk_provenance.order import (
    DataOrder,
    batch_digest,
    check_store,
    compute_order,
    load_order,
    save_order,
)
from chunk_provenance.published import PopqaKas, open_order, read_popqa_kas
from chunk_provenance.report import make_report, write_report
from chunk_provenance.sampling import stratified_sample
from chunk_provenance.sections import read_section, section, write_section
from chunk_provenance.store import ChunkStore, Segment, StoredDocument, open_store
from chunk_provenance.store_writer import write_store
from chunk_provenance.studied import StudiedFacts, open_studied_facts
from chunk_provenance.trace import Trace, trace_fact

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "ChunkStore",
    "DataOrder",
    "Dynamics",
    "Evidence",
    "Exposures",
    "FactChunks",
    "FormatError",
    "MixtureStore",
    "PopqaKas",
    "Segment",
    "StoredDocument",
    "StudiedFacts",
    "Trace",
    "analyze",
    "batch_digest",
    "check_buckets",
    "check_store",
    "compute_dynamics",
    "compute_order",
    "compute_store_order",
    "find_exposures",
    "find_fact_chunks",
    "inject",
    "injected_items",
    "load_dynamics",
    "load_order",
    "make_cloze_probes",
    "make_injection_plan",
    "make_report",
    "open_order",
    "open_store",
    "open_studied_facts",
    "order_rows",
    "read_answers",
    "read_fact_chunks",
    "read_injection_plan",
    "read_popqa_kas",
    "read_probes",
    "read_section",
    "save_analysis",
    "save_dynamics",
    "save_order",
    "section",
    "slot_chunks",
    "slot_tokens",
    "stratified_sample",
    "trace_fact",
    "write_fact_chunks",
    "write_injection_plan",
    "write_mixture",
    "write_report",
    "write_section",
    "write_store",
]
