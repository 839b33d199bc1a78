"""Which training chunks mention an entity: one query over memory-mapped postings."""

from entity_index.backend import Backend, open_backend
from entity_index.build import build_index
from entity_index.index import EntityCount, EntityIndex, NameMatch, open_index
from entity_index.query import (
    All,
    AnyOf,
    Entity,
    Hit,
    Mention,
    Not,
    Phrase,
    Query,
    Result,
    Thresholds,
    name_phrases,
    searchable_aliases,
)
from entity_index.texts import Chunk

__all__ = [
    "All",
    "AnyOf",
    "Backend",
    "Chunk",
    "Entity",
    "EntityCount",
    "EntityIndex",
    "Hit",
    "Mention",
    "NameMatch",
    "Not",
    "Phrase",
    "Query",
    "Result",
    "Thresholds",
    "build_index",
    "name_phrases",
    "open_backend",
    "open_index",
    "searchable_aliases",
]
