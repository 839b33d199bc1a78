"""Whether an index on a server is one of ours: LMEnt's mapping, under any name."""

import re
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError

from entity_index.elastic.index_requests import one_sentence
from entity_index.elastic.mapping import CASED
from entity_index.elastic.queries import CANDIDATE, MENTION, SOURCE_FIELDS

FIELDS = {
    "chunk_id": "integer",
    "text": "text",
    MENTION: "nested",
    f"{MENTION}.text_mention.raw": "keyword",
    CANDIDATE: "nested",
    f"{CANDIDATE}.qid": "keyword",
    f"{CANDIDATE}.name.raw": "keyword",
    f"{CANDIDATE}.aggregated_score": "float",
    **{f"{CANDIDATE}.scores_by_source.{field}": "float" for field in SOURCE_FIELDS.values()},
}
"""What queries need of the mapping. More may be there."""


def check_name(name: str) -> None:
    """Refuse what is no name of one index: patterns, lists and what Elasticsearch itself forbids."""
    if not re.fullmatch(r"[^\\/*?\"<>| ,#:A-Z_+.-][^\\/*?\"<>| ,#:A-Z%\x00-\x20]*", name) or len(name) > 200:
        raise ValueError(
            f"{name!r} is no name of an index: it is in lower case, begins with a letter or digit, and has "
            'none of \\ / * ? " < > | , # : % or space'
        )


def check_index(client: Elasticsearch, name: str, *, case_sensitive: bool) -> None:
    """Refuse an index that is not there, is none of ours, or cuts text into other words."""
    try:
        with one_sentence():
            found = client.indices.get_mapping(index=name).body
    except ValueError as error:
        if isinstance(error.__cause__, NotFoundError):
            raise ValueError(f"there is no index {name!r} on the server{_others(client)}") from None
        raise
    if len(found) != 1:
        raise ValueError(f"{name!r} stands for {len(found)} indices ({', '.join(sorted(found))}): name one")
    ((_, described),) = found.items()
    there = dict(_types(described["mappings"].get("properties", {})))
    for field, wanted in FIELDS.items():
        if there.get(field) != wanted:
            is_there = f"is of type {there[field]!r}" if field in there else "is missing"
            raise ValueError(
                f"{name!r} is no entity index: its field {field!r} {is_there}, expected {wanted!r}"
            )
    _check_words(client, name, case_sensitive=case_sensitive)


def _check_words(client: Elasticsearch, name: str, *, case_sensitive: bool) -> None:
    """Have the server cut a short text, which tells its analyzer without its configuration."""
    with one_sentence():
        tokens = client.indices.analyze(index=name, field="text", text="The Ada's Notes").body["tokens"]
    words = [token["token"] for token in tokens]
    as_written, lowered = ["The", "Ada's", "Notes"], ["the", "ada's", "notes"]
    if words == (as_written if case_sensitive else lowered):
        return
    if words == as_written:
        pair = f": give {name.removesuffix(CASED)!r}" if name.endswith(CASED) else ""
        raise ValueError(f"{name!r} is the case-sensitive one of a pair of indices{pair}")
    raise ValueError(f'{name!r} is no entity index: its analyzer makes {words} of "The Ada\'s Notes"')


def _types(properties: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Full name and type of every field, of those inside others too."""
    found = []
    for name, field in properties.items():
        full = f"{path}{name}"
        found.append((full, field.get("type", "object")))
        for inner in ("properties", "fields"):
            found += _types(field.get(inner, {}), f"{full}.")
    return found


def _others(client: Elasticsearch) -> str:
    with one_sentence():
        names = sorted(client.indices.get(index="*", features="aliases").body)
    return f", only {', '.join(names[:10])}" if names else ", which has none at all"
