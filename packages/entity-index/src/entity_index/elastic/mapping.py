"""LMEnt's mapping, and the two indices that have it: NAME, and NAME_case_sensitive with words as written.

Nothing here speaks to a server.
"""

from typing import Any

from entity_index.elastic.queries import SOURCE_FIELDS

Json = dict[str, Any]

CASED = "_case_sensitive"
FORMAT, VERSION = "entity-index", 1
INTEGER, FLOAT, TEXT, KEYWORD = ({"type": name} for name in ("integer", "float", "text", "keyword"))
TEXT_AND_RAW = {**TEXT, "fields": {"raw": KEYWORD}}
CANDIDATES: Json = {
    "type": "nested",
    "properties": {
        "qid": KEYWORD,
        "name": TEXT_AND_RAW,
        "aggregated_score": FLOAT,
        "scores_by_source": {"type": "object", "properties": dict.fromkeys(SOURCE_FIELDS.values(), FLOAT)},
    },
}
MENTIONS: Json = {
    "type": "nested",
    "properties": {
        "char_start": INTEGER,
        "char_end": INTEGER,
        "text_mention": TEXT_AND_RAW,
        "candidates": CANDIDATES,
    },
}
SETTINGS: Json = {
    "number_of_shards": 1,
    "similarity": {"default": {"type": "BM25"}},
    "mapping": {"nested_objects": {"limit": 100_000_000}},
}
AS_WRITTEN: Json = {"analyzer": {"default": {"type": "custom", "tokenizer": "standard"}}}


def names_of_pair(name: str) -> dict[str, bool]:
    """The two indices of a name, and whether each tells upper from lower case."""
    return {name: False, name + CASED: True}


def settings_of(*, case_sensitive: bool) -> Json:
    """The settings that LMEnt made the index with, but for the number of replicas."""
    return {**SETTINGS, "analysis": AS_WRITTEN} if case_sensitive else SETTINGS


def mapping_of(*, case_sensitive: bool) -> Json:
    """LMEnt's mapping. What a document holds besides (`doc_id`, a candidate's `row`) is kept, not indexed."""
    properties = {
        **dict.fromkeys(("chunk_id", "article_id", "start", "end"), INTEGER),
        **dict.fromkeys(("title", "metadata_source"), TEXT),
        "text": TEXT if case_sensitive else TEXT_AND_RAW,
        "entities": MENTIONS,
    }
    return {"dynamic": False, "properties": properties}


LONGEST_KEYWORD = 32_766
"""Bytes of the longest value that a keyword may have; a document with a longer one is refused."""
RAW_TEXT_OF_LONG_CHUNKS: Json = {"text": {**TEXT, "fields": {"raw": {**KEYWORD, "ignore_above": 8191}}}}
"""What a corpus with such chunks needs: `text.raw` of chunks with more characters is left out, no more."""
