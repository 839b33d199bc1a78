"""A condition in Elasticsearch's query language, for LMEnt's mapping; and its documents read back.

Nothing here speaks to a server. The server ranks by itself, with the scores of the embedded index bit for
bit: an entity scores the best `aggregated_score` of its matching candidates, `All` adds up (in float64,
rounded to float32), `AnyOf` takes the best, all else adds 0. Strings alone are ranked by BM25, as in LMEnt.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from entity_index.query import SOURCES, All, AnyOf, Clause, Entity, Mention, Not, Phrase, Thresholds
from entity_index.texts import Chunk

Json = dict[str, Any]
PhraseQuery = Callable[[Phrase], Json]
"""How a phrase is looked for: in the index that is asked, or by the ids found in its twin."""

MENTION, CANDIDATE = "entities", "entities.candidates"
SOURCE_FIELDS = {
    "hyperlink": "hyperlinks",
    "entity_linking": "entity_linking",
    "coref": "coref",
    "coref_cluster": "coref_cluster",
}
"""LMEnt's names of the four sources."""

NOTHING: Json = {"match_none": {}}
EVERYTHING: Json = {"match_all": {}}


def phrase_in_text(phrase: Phrase) -> Json:
    """A phrase in the text of the index that is asked."""
    return {"match_phrase": {"text": phrase.text.encode(errors="replace").decode()}}


def passing(thresholds: Thresholds) -> Json:
    """Candidates that pass one of the thresholds. A score that is missing counts as 0."""
    active = thresholds.active()
    if min(active.values()) <= 0:
        return EVERYTHING
    scores = {f"{CANDIDATE}.scores_by_source.{SOURCE_FIELDS[name]}": least for name, least in active.items()}
    return any_of([{"range": {name: {"gte": float(np.float32(least))}}} for name, least in scores.items()])


def carrying(entity: str) -> Json:
    """Candidates that are an entity."""
    try:
        entity.encode()
    except UnicodeEncodeError:  # half a character: no document can hold it
        return NOTHING
    return {"term": {f"{CANDIDATE}.qid": entity}}


def both(*filters: Json) -> Json:
    """What all of these let through."""
    return {"bool": {"filter": list(filters)}}


def any_of(filters: list[Json]) -> Json:
    """What one of these lets through."""
    return {"bool": {"should": filters, "minimum_should_match": 1}}


def in_mentions(candidates: Json) -> Json:
    """Mentions with such a candidate; their best score."""
    return {"nested": {"path": CANDIDATE, "query": candidates, "score_mode": "max"}}


def in_chunks(mentions: Json) -> Json:
    """Chunks with such a mention; their best score."""
    return {"nested": {"path": MENTION, "query": mentions, "score_mode": "max"}}


def matching(where: Clause, phrase_query: PhraseQuery) -> Json:
    """The chunks that fulfil a condition, without scores."""
    match where:
        case Entity():
            return in_chunks(in_mentions(both(carrying(where.entity), passing(where.thresholds))))
        case Phrase():
            return phrase_query(where)
        case All():
            wanted = [matching(part, phrase_query) for part in where.parts if not isinstance(part, Not)]
            return {"bool": {"filter": wanted or [EVERYTHING], "must_not": _unwanted(where, phrase_query)}}
        case AnyOf():
            return any_of([matching(part, phrase_query) for part in where.parts])
        case Not():
            return {"bool": {"filter": [EVERYTHING], "must_not": [matching(where.part, phrase_query)]}}
    raise TypeError(f"{where!r} is no clause of a query")


def scored(where: Clause, phrase_query: PhraseQuery) -> Json:
    """The same chunks, with scores as the embedded index gives them."""
    match where:
        case Entity():
            candidates = both(carrying(where.entity), passing(where.thresholds))
            return in_chunks(in_mentions(_by_aggregated_score(candidates)))
        case All():
            parts = [scored(part, phrase_query) for part in where.parts if not isinstance(part, Not)]
            must = [_apart(part, number) for number, part in enumerate(parts)]
            unwanted = _unwanted(where, phrase_query)
            return {"bool": {"must": must, "filter": [EVERYTHING], "must_not": unwanted}}
        case AnyOf():
            return {"dis_max": {"queries": [scored(part, phrase_query) for part in where.parts]}}
    return {"constant_score": {"filter": matching(where, phrase_query), "boost": 0}}


def ranked_by_bm25(where: Clause, phrase_query: PhraseQuery) -> Json:
    """The same chunks for a condition on strings, with the server's own scores added up, as LMEnt does."""
    match where:
        case Phrase():
            return phrase_query(where)
        case All():
            parts = [ranked_by_bm25(part, phrase_query) for part in where.parts if not isinstance(part, Not)]
            unwanted = _unwanted(where, phrase_query)
            return {"bool": {"must": parts, "filter": [EVERYTHING], "must_not": unwanted}}
        case AnyOf():
            return any_of([ranked_by_bm25(part, phrase_query) for part in where.parts])
    return {"constant_score": {"filter": matching(where, phrase_query), "boost": 0}}


def _by_aggregated_score(candidates: Json) -> Json:
    factor = {"field": f"{CANDIDATE}.aggregated_score", "missing": 0}
    return {
        "function_score": {"query": candidates, "field_value_factor": factor, "boost_mode": "replace"},
    }


def _apart(part: Json, number: int) -> Json:
    """Keep Lucene from joining equal parts, or the parts of a nested `All`, before their scores are rounded.

    Without a function, `function_score` changes no score; a different `max_boost` makes it another query.
    """
    return {"function_score": {"query": part, "max_boost": number + 1}}


def _unwanted(where: All, phrase_query: PhraseQuery) -> list[Json]:
    return [matching(part.part, phrase_query) for part in where.parts if isinstance(part, Not)]


# What a query consists of


def leaves(where: Clause) -> Iterator[Entity | Phrase]:
    """All entities and phrases of a condition, negated ones too."""
    if isinstance(where, Entity | Phrase):
        yield where
    elif isinstance(where, Not):
        yield from leaves(where.part)
    elif isinstance(where, All | AnyOf):
        for part in where.parts:
            yield from leaves(part)


def positive(where: Clause) -> list[Entity | Phrase]:
    """The entities and phrases whose places a hit shows: all but negated ones."""
    if isinstance(where, Entity | Phrase):
        return [where]
    parts = where.parts if isinstance(where, All | AnyOf) else ()
    return [leaf for part in parts for leaf in positive(part)]


def only_strings(where: Clause) -> bool:
    """Whether a condition asks for strings and for no entity, so that BM25 ranks its hits."""
    wanted = positive(where)
    return bool(wanted) and all(isinstance(leaf, Phrase) for leaf in wanted)


# Documents


def chunk_of(document: Json) -> Chunk:
    """The chunk in a document. LMEnt has no `doc_id`: there the article's number is it."""
    doc_id = document.get("doc_id", document.get("article_id"))
    return Chunk(
        int(document["chunk_id"]),
        document.get("text") or "",
        "" if doc_id is None else str(doc_id),
        document.get("title") or "",
    )


def mentions_of(document: Json) -> Iterator[Mention]:
    """All candidates of all mentions in a document, with the scores as they are indexed, in float32."""
    for mention in document.get("entities") or ():
        place = int(mention["char_start"]), int(mention["char_end"])
        for candidate in mention.get("candidates") or ():
            if candidate.get("qid") is not None:
                yield _mention(place, candidate)


def _mention(place: tuple[int, int], candidate: Json) -> Mention:
    by_source = candidate.get("scores_by_source") or {}
    found = [candidate.get("aggregated_score"), *(by_source.get(SOURCE_FIELDS[source]) for source in SOURCES)]
    score, hyperlink, linked, coref, cluster = (float(np.float32(score or 0)) for score in found)
    row = int(candidate.get("row", -1))
    return Mention(*place, candidate["qid"], score, hyperlink, linked, coref, cluster, row)


def passes(mention: Mention, thresholds: Thresholds) -> bool:
    """Whether a mention reaches one of the thresholds, in float32."""
    return any(getattr(mention, name) >= np.float32(least) for name, least in thresholds.active().items())
