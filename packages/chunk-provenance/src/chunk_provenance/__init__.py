"""Training chunks that remember which text they came from and at which step they were trained on."""

from chunk_provenance.formats import FormatError
from chunk_provenance.order import (
    DataOrder,
    batch_digest,
    check_buckets,
    check_store,
    compute_order,
    load_order,
    save_order,
)
from chunk_provenance.store import ChunkStore, Segment, StoredDocument, open_store
from chunk_provenance.store_writer import write_store

__all__ = [
    "ChunkStore",
    "DataOrder",
    "FormatError",
    "Segment",
    "StoredDocument",
    "batch_digest",
    "check_buckets",
    "check_store",
    "compute_order",
    "load_order",
    "open_store",
    "save_order",
    "write_store",
]
