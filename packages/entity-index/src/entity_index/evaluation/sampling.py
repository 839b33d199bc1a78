"""Which entities, and which of their chunks, are judged. A seed draws the same ones on either backend."""

from collections.abc import Sequence

import numpy as np

from chunk_provenance import stratified_sample
from entity_index.backend import Backend
from entity_index.postings import Ids
from entity_index.query import Thresholds

CLASSES = ("tail", "torso", "head")
LIMITS = (10, 1000)
"""Chunks with a hyperlink up to which an entity belongs to the tail, and to the torso."""
CHUNKS = 100
"""Of each entity and method at most so many chunks are judged."""
HYPERLINKS = Thresholds(1.0, None, None, None)


def count_for_strata(backend: Backend) -> tuple[Ids, str]:
    """In how many chunks each entity is linked; where nothing is, in how many it is mentioned."""
    linked = backend.chunk_counts(HYPERLINKS)
    if linked.any():
        return linked, "chunks with a hyperlink"
    return backend.chunk_counts(), "chunks"


def sample_entities(counts: Ids, size: int, *, seed: int) -> Ids:
    """Numbers of entities of all frequencies, ascending: as many from each power of ten, as far as there are.

    What some powers lack comes from those with more, in proportion to what these can spare.
    """
    return stratified_sample(counts, size, seed=seed)[0]


def class_of(count: int, limits: Sequence[int] = LIMITS) -> str:
    """The class of an entity by its frequency.

    >>> class_of(10), class_of(11), class_of(1001)
    ('tail', 'torso', 'head')
    """
    return CLASSES[int(np.searchsorted(limits, count, side="left"))]


def sample_ranks(num_found: int, *, seed: int, entity: int, method: int) -> Ids:
    """Which of the chunks found are judged, by their rank from 0, ascending."""
    if num_found <= CHUNKS:
        return np.arange(num_found)
    rng = np.random.default_rng([seed, entity, method])
    return np.sort(rng.choice(num_found, CHUNKS, replace=False))
