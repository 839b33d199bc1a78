"""LMEnt's data path as its published code computes it: chunks, buckets, order of updates, batches, spans.

Each module follows one step of that code bit for bit where it is deterministic, and says what the step loses.
Where the code crashes, a ValueError says in a sentence why.
"""

from chunk_provenance.lment.buckets import bucket_members, find_buckets, instance_lengths
from chunk_provenance.lment.chunking import Chunking, chunk_documents, find_documents
from chunk_provenance.lment.collation import CollatedBatch, collate, rank_slice
from chunk_provenance.lment.curriculum import Curriculum, compute_curriculum_order, order_of_batches
from chunk_provenance.lment.fingerprint import fingerprint
from chunk_provenance.lment.spans import TokenSpans, find_token_spans, spans_in_chunk

__all__ = [
    "Chunking",
    "CollatedBatch",
    "Curriculum",
    "TokenSpans",
    "bucket_members",
    "chunk_documents",
    "collate",
    "compute_curriculum_order",
    "find_buckets",
    "find_documents",
    "find_token_spans",
    "fingerprint",
    "instance_lengths",
    "order_of_batches",
    "rank_slice",
    "spans_in_chunk",
]
