"""An index on an Elasticsearch server, asked with the same queries as the embedded one.

A query of up to 1,000 hits is one request. All ids of a condition come in pages of 10,000; counts of all
entities read every mention once a page of 10,000 entities.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from elasticsearch import Elasticsearch

from entity_index.elastic import index_names
from entity_index.elastic.connection import connect
from entity_index.elastic.index_requests import HITS_A_PAGE, IDS_A_PAGE, Target, one_sentence
from entity_index.elastic.mapping import CASED
from entity_index.elastic.mapping_check import check_index, check_name
from entity_index.elastic.queries import (
    CANDIDATE,
    EVERYTHING,
    Json,
    PhraseQuery,
    any_of,
    chunk_of,
    leaves,
    matching,
    mentions_of,
    only_strings,
    passes,
    passing,
    phrase_in_text,
    positive,
    ranked_by_bm25,
    scored,
)
from entity_index.index import EntityCount, NameMatch
from entity_index.postings import Ids
from entity_index.query import (
    DEFAULT_THRESHOLDS,
    Clause,
    Entity,
    Hit,
    Mention,
    Phrase,
    Query,
    Result,
    Thresholds,
)
from entity_index.texts import Chunk
from entity_index.words import phrase_spans

IDS_A_CLAUSE = 50_000
"""Ids that one `terms` clause takes; the server's bound is 65,536."""


@dataclass(frozen=True)
class ElasticIndex:
    """An opened pair of indices, `NAME` and `NAME_case_sensitive`; make one with `open_elastic`."""

    client: Elasticsearch
    reference: str
    name: str

    @cached_property
    def _lower(self) -> Target:
        return Target(self.client, self.name)

    @cached_property
    def _cased(self) -> Target:
        """The twin whose words are as they are written; only case-sensitive strings need it."""
        check_index(self.client, self.name + CASED, case_sensitive=True)
        return Target(self.client, self.name + CASED)

    @property
    def store_sha256(self) -> str | None:
        """Of the chunk store it was made from; LMEnt's own indices do not say."""
        with one_sentence():
            (found,) = self.client.indices.get_mapping(index=self.name).body.values()
        return found["mappings"].get("_meta", {}).get("store_sha256")  # type: ignore[no-any-return]

    # Queries

    def search(self, query: Query) -> Result:
        """The chunks that fulfil a query: how many, and the best of them with the places in them."""
        wanted = positive(query.where)
        target, phrase_query = self._where_to_look(query.where)
        by_bm25 = only_strings(query.where) and phrase_query is phrase_in_text
        build = ranked_by_bm25 if by_bm25 else scored
        found = build(query.where, phrase_query)
        body: Json = {
            "sort": [{"_score": "desc"}, {"chunk_id": "asc"}],
            "source": ["chunk_id", *_needed(wanted)],
            "track_total_hits": True,
        }
        if query.limit is not None and query.limit <= HITS_A_PAGE:
            pages: Iterator[Json] = iter([target.search(query=found, size=query.limit, **body)])
        else:
            pages = target.pages(found, limit=query.limit, size=HITS_A_PAGE, **body)
        total, hits = 0, []
        for page in pages:
            total = page["hits"]["total"]["value"]
            hits += [_hit(hit, wanted) for hit in page["hits"]["hits"]]
        return Result(total, tuple(hits))

    def count(self, where: Clause) -> int:
        """How many chunks fulfil a condition."""
        target, phrase_query = self._where_to_look(where)
        return target.count(matching(where, phrase_query))

    def chunk_ids(self, where: Clause) -> Ids:
        """All chunks that fulfil a condition, ascending."""
        target, phrase_query = self._where_to_look(where)
        return _all_ids(target, matching(where, phrase_query))

    def _where_to_look(self, where: Clause) -> tuple[Target, PhraseQuery]:
        """The index to ask. Where strings of both kinds are mixed, the twin's are looked up there first."""
        cased = {leaf.case_sensitive for leaf in leaves(where) if isinstance(leaf, Phrase)}
        if cased != {True, False}:
            return (self._cased if True in cased else self._lower), phrase_in_text

        def phrase_query(phrase: Phrase) -> Json:
            if not phrase.case_sensitive:
                return phrase_in_text(phrase)
            ids = _all_ids(self._cased, phrase_in_text(phrase)).tolist()
            parts = [ids[start : start + IDS_A_CLAUSE] for start in range(0, len(ids), IDS_A_CLAUSE)]
            return any_of([{"terms": {"chunk_id": part}} for part in parts or [[]]])

        return self._lower, phrase_query

    # One chunk

    def chunk(self, chunk_id: int) -> Chunk:
        """The text, title and document of a chunk."""
        return chunk_of(self._document(chunk_id, ["chunk_id", "text", "doc_id", "article_id", "title"]))

    def mentions_of(self, chunk_id: int, thresholds: Thresholds | None = None) -> tuple[Mention, ...]:
        """The mentions in a chunk by place; all candidates, or those that pass a threshold."""
        found = mentions_of(self._document(chunk_id, ["chunk_id", "entities"]))
        return tuple(sorted(m for m in found if thresholds is None or passes(m, thresholds)))

    def entities_of(self, chunk_id: int, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> list[str]:
        """The entities a chunk mentions, sorted."""
        return sorted({mention.entity for mention in self.mentions_of(chunk_id, thresholds)})

    def _document(self, chunk_id: int, fields: list[str]) -> Json:
        query: Json = {"term": {"chunk_id": chunk_id}} if 0 <= chunk_id < 1 << 31 else {"match_none": {}}
        hits = self._lower.search(query=query, size=1, source=fields)["hits"]["hits"]
        if not hits:
            raise ValueError(f"no chunk {chunk_id} in {self.reference!r}: it has {self.num_chunks:,} chunks")
        return hits[0]["_source"]  # type: ignore[no-any-return]

    # Entities and names

    @property
    def num_chunks(self) -> int:
        """How many chunks the index has, with and without mentions."""
        return self._lower.count(EVERYTHING)

    @cached_property
    def entities(self) -> list[str]:
        """All entities that any mention has as a candidate. Reads all mentions."""
        return [entity for entity, _ in self._counted(DEFAULT_THRESHOLDS)]

    def chunk_counts(self, thresholds: Thresholds | None = None) -> Ids:
        """In how many chunks each entity is, (entities,). Reads all mentions."""
        counted = [count for _, count in self._counted(thresholds or DEFAULT_THRESHOLDS)]
        return np.array(counted, dtype=np.int64)

    def _counted(self, thresholds: Thresholds) -> Iterator[tuple[str, int]]:
        chunks: Json = {"filter": passing(thresholds), "aggs": {"chunks": {"reverse_nested": {}}}}
        around: list[Json] = [{"nested": {"path": CANDIDATE}}]
        fields = {"entity": f"{CANDIDATE}.qid"}
        for bucket in self._lower.buckets(EVERYTHING, fields, around, {"passing": chunks}):
            yield bucket["key"]["entity"], bucket["passing"]["chunks"]["doc_count"]

    def name_of(self, entity: str) -> str | None:
        """What an entity is called most often; None where no mention says, or there is no such entity."""
        return index_names.main_names(self._lower, [entity]).get(entity)

    def names_of(self, entity: str) -> list[NameMatch]:
        """The strings that name an entity, the one in most chunks first. Pronouns are none."""
        return index_names.names_of(self._lower, entity)

    def names(self, text: str, *, prefix: bool = False, limit: int | None = 10) -> list[NameMatch]:
        """The entities that a name may mean, case ignored; the one it names in most chunks first."""
        return index_names.names(self._lower, text, prefix=prefix, limit=limit)

    def co_occurring(
        self, entity: str, thresholds: Thresholds = DEFAULT_THRESHOLDS, *, limit: int | None = 10
    ) -> list[EntityCount]:
        """The entities in the same chunks as this one, by the number of chunks they share, then by entity."""
        where = matching(Entity(entity, thresholds), phrase_in_text)
        return index_names.co_occurring(self._lower, where, entity, thresholds, limit=limit)


def open_elastic(reference: str) -> ElasticIndex:
    """Open an index by its address, such as `http://localhost:9200/enwiki`.

    Raises:
        ValueError: the server cannot be reached or is too old, or the index is not there or none of ours.
    """
    address, name = split_reference(reference)
    client = connect(address)
    check_index(client, name, case_sensitive=False)
    return ElasticIndex(client, reference, name)


def split_reference(reference: str) -> tuple[str, str]:
    """The server's address and the index's name.

    >>> split_reference("https://search.example:9200/enwiki")
    ('https://search.example:9200', 'enwiki')
    """
    found = re.fullmatch(r"(https?://[^/?#]+)/+([^/?#]+)/*", reference, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{reference!r} is not SERVER/INDEX, such as http://localhost:9200/enwiki")
    check_name(found[2])
    return found[1], found[2]


def _needed(wanted: list[Entity | Phrase]) -> list[str]:
    """What a hit's document must bring along to show the places."""
    kinds = {"entities" if isinstance(leaf, Entity) else "text" for leaf in wanted}
    return sorted(kinds)


def _hit(hit: Json, wanted: list[Entity | Phrase]) -> Hit:
    """One result, with the places that the query's entities and phrases have in it."""
    document = hit["_source"]
    all_mentions, text = list(mentions_of(document)), document.get("text") or ""
    mentions: set[Mention] = set()
    spans: set[tuple[int, int]] = set()
    for leaf in wanted:
        if isinstance(leaf, Phrase):
            spans.update(phrase_spans(text, leaf.text, case_sensitive=leaf.case_sensitive))
        else:
            of_entity = (mention for mention in all_mentions if mention.entity == leaf.entity)
            mentions.update(mention for mention in of_entity if passes(mention, leaf.thresholds))
    score = float(np.float32(hit["_score"]))
    return Hit(int(document["chunk_id"]), score, tuple(sorted(mentions)), tuple(sorted(spans)))


def _all_ids(target: Target, query: Json) -> Ids:
    """The ids of all chunks that match, ascending."""
    pages = target.pages(
        {"constant_score": {"filter": query}},
        limit=None,
        size=IDS_A_PAGE,
        sort=["_shard_doc"],
        source=False,
        stored_fields="_none_",
        docvalue_fields=["chunk_id"],
        track_total_hits=False,
    )
    found = [hit["fields"]["chunk_id"][0] for page in pages for hit in page["hits"]["hits"]]
    return np.sort(np.array(found, dtype=np.int64))
