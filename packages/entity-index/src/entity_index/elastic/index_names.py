"""Names and entities of an index on a server, ranked by the chunks they name, counted by aggregations.

As in the embedded index, an entity's own name counts in every chunk that mentions it (default thresholds),
the text of a mention where more than its cluster ties it to the entity. A look-up reads the mentions with
this name, a prefix those of all names that begin so; a text that is both kinds costs one more request.
"""

import re
import sys
from collections.abc import Iterable
from functools import cache

from entity_index.elastic.index_requests import BUCKETS_A_PAGE, Target
from entity_index.elastic.queries import (
    CANDIDATE,
    MENTION,
    Json,
    any_of,
    both,
    carrying,
    in_chunks,
    in_mentions,
    passing,
)
from entity_index.index import EntityCount, NameMatch
from entity_index.query import DEFAULT_THRESHOLDS, Thresholds
from entity_index.words import lower_case

NAME, TEXT, QID = f"{CANDIDATE}.name.raw", f"{MENTION}.text_mention.raw", f"{CANDIDATE}.qid"
RESOLVED = Thresholds(coref_cluster=None)
ENTITIES_A_REQUEST = 1000
PATTERN_CHARACTERS = 100
"""Of a longer name only the beginning goes into the server's pattern, which may have 1,000 characters."""

Footprints = dict[tuple[str, str], int]
"""(text, entity) -> in how many chunks this text names this entity."""


def main_names(target: Target, entities: Iterable[str]) -> dict[str, str]:
    """The name that most mentions of each entity carry, of equals the first; without one it is left out."""
    wanted, found = list(entities), dict[str, tuple[int, str]]()
    for start in range(0, len(wanted), ENTITIES_A_REQUEST):
        some = any_of([carrying(entity) for entity in wanted[start : start + ENTITIES_A_REQUEST]])
        around: list[Json] = [{"nested": {"path": CANDIDATE}}, {"filter": some}]
        fields = {"entity": QID, "name": NAME}
        for bucket in target.buckets(in_chunks(in_mentions(some)), fields, around, {}):
            entity, counted = bucket["key"]["entity"], (-bucket["doc_count"], bucket["key"]["name"])
            if counted[1]:  # LMEnt writes an empty name where there is none
                found[entity] = min(found.get(entity, counted), counted)
    return {entity: name for entity, (_, name) in found.items()}


def names_of(target: Target, entity: str) -> list[NameMatch]:
    """The strings that name an entity, by chunks, then in alphabetical order of the lower case."""
    is_entity = carrying(entity)
    footprints = _united(
        target,
        _by_name(target, is_entity),
        _by_text(target, in_mentions(both(is_entity, passing(RESOLVED))), is_entity),
    )
    name = main_names(target, [entity]).get(entity)
    ranked = sorted(footprints.items(), key=lambda item: (-item[1], lower_case(item[0][0]), item[0][0]))
    return [NameMatch(entity, name, chunks, text) for (text, _), chunks in ranked]


def names(target: Target, text: str, *, prefix: bool, limit: int | None) -> list[NameMatch]:
    """The entities that a name may mean, in their best spelling; the one it names in most chunks first."""
    text = text.encode(errors="replace").decode()
    pattern, key = _any_case(text, prefix=prefix), lower_case(text)
    named = _by_name(target, {"regexp": {NAME: pattern}})
    called = _by_text(target, {"regexp": {TEXT: pattern}}, {"match_all": {}})

    def asked(footprints: Footprints) -> Footprints:
        found = {pair: lower_case(pair[0]) for pair in footprints}
        fits = (pair for pair, name in found.items() if name == key or (prefix and name.startswith(key)))
        return {pair: footprints[pair] for pair in fits}

    best: dict[str, tuple[int, str, str]] = {}
    for (spelling, entity), chunks in _united(target, asked(named), asked(called)).items():
        ranked = -chunks, lower_case(spelling), spelling
        best[entity] = min(best.get(entity, ranked), ranked)
    order = sorted(best, key=lambda entity: (best[entity][0], entity))[:limit]
    main = main_names(target, order)
    return [NameMatch(entity, main.get(entity), -best[entity][0], best[entity][2]) for entity in order]


def co_occurring(
    target: Target, where: Json, entity: str, thresholds: Thresholds, *, limit: int | None
) -> list[EntityCount]:
    """The other entities in these chunks, by chunks, then by entity."""
    around: list[Json] = [{"nested": {"path": CANDIDATE}}, {"filter": passing(thresholds)}]
    if limit is None or target.num_shards() > 1:  # several shards each have other best ones
        buckets = target.buckets(where, {"entity": QID}, around, _CHUNKS)
        counts = [(-bucket["chunks"]["doc_count"], bucket["key"]["entity"]) for bucket in buckets]
    else:
        order = [{"chunks": "desc"}, {"_key": "asc"}]
        counted: Json = {"terms": {"field": QID, "size": limit + 1, "order": order}, "aggs": _CHUNKS}
        found = target.aggregated(where, around, counted)["buckets"]
        counts = [(-bucket["chunks"]["doc_count"], bucket["key"]) for bucket in found]
    best = sorted(pair for pair in counts if pair[1] != entity)[:limit]
    named = main_names(target, [other for _, other in best])
    return [EntityCount(other, named.get(other), -count) for count, other in best]


def _by_name(target: Target, candidates: Json) -> Footprints:
    """Chunks by the name that these candidates carry; names of no chunk with evidence count 0."""
    around: list[Json] = [{"nested": {"path": CANDIDATE}}, {"filter": candidates}]
    fields = {"text": NAME, "entity": QID}
    within: Json = {"evident": {"filter": passing(DEFAULT_THRESHOLDS), "aggs": _CHUNKS}}
    buckets = target.buckets(in_chunks(in_mentions(candidates)), fields, around, within)
    counts = {(b["key"]["text"], b["key"]["entity"]): b["evident"]["chunks"]["doc_count"] for b in buckets}
    return {pair: chunks for pair, chunks in counts.items() if pair[0]}


def _by_text(target: Target, mentions: Json, candidates: Json) -> Footprints:
    """Chunks by the text of these mentions, where more than a cluster ties it to these candidates."""
    around: list[Json] = [{"nested": {"path": MENTION}}, {"filter": mentions}]
    entities: Json = {"terms": {"field": QID, "size": BUCKETS_A_PAGE}, "aggs": _CHUNKS}
    resolved: Json = {"filter": both(candidates, passing(RESOLVED)), "aggs": {"entities": entities}}
    within: Json = {"candidates": {"nested": {"path": CANDIDATE}, "aggs": {"resolved": resolved}}}
    found: Footprints = {}
    for bucket in target.buckets(in_chunks(mentions), {"text": TEXT}, around, within):
        text, counted = bucket["key"]["text"], bucket["candidates"]["resolved"]["entities"]
        if counted["sum_other_doc_count"]:
            raise ValueError(f"{text!r} names more than {BUCKETS_A_PAGE:,} entities: too many to rank")
        if text:
            found |= {(text, entity["key"]): entity["chunks"]["doc_count"] for entity in counted["buckets"]}
    return found


_CHUNKS: Json = {"chunks": {"reverse_nested": {}}}


def _united(target: Target, named: Footprints, called: Footprints) -> Footprints:
    """Both kinds together; the chunks of a text that is both are counted once."""
    found = {**named, **called}
    for text, entity in named.keys() & called.keys():
        if named[text, entity]:
            is_entity = carrying(entity)
            by_name = both({"term": {NAME: text}}, is_entity, passing(DEFAULT_THRESHOLDS))
            by_text = both({"term": {TEXT: text}}, in_mentions(both(is_entity, passing(RESOLVED))))
            one_of = any_of([in_chunks(in_mentions(by_name)), in_chunks(by_text)])
            found[text, entity] = target.count(one_of)
    return found


def _any_case(text: str, *, prefix: bool) -> str:
    """A regular expression of Lucene's for a text in any case; of a long one for its beginning."""
    key = lower_case(text)
    pattern = "".join(_variants(character) for character in key[:PATTERN_CHARACTERS])
    return pattern + (".*" if prefix or len(key) > PATTERN_CHARACTERS else "")


def _variants(character: str) -> str:
    upper = [_escaped(other) for other in _upper_cases().get(character, ())]
    return f"[{_escaped(character)}{''.join(upper)}]" if upper else _escaped(character)


def _escaped(character: str) -> str:
    return character if re.match(r"[^\W_]", character) else "\\" + character


@cache
def _upper_cases() -> dict[str, list[str]]:
    """For each character, those that become it in lower case."""
    found: dict[str, list[str]] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        lower = lower_case(character)
        if lower != character:
            found.setdefault(lower, []).append(character)
    return found
