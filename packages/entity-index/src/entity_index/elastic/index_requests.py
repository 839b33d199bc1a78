"""Requests to one index on a server, and their answers page by page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from elasticsearch import ApiError, Elasticsearch, TransportError

from entity_index.elastic.connection import innermost_reason
from entity_index.elastic.queries import Json

HITS_A_PAGE = 1000
"""Hits with their documents: some 10 MB."""
IDS_A_PAGE = 10_000
"""Hits without; the server gives no more at once."""
BUCKETS_A_PAGE = 10_000
KEEP_ALIVE = "5m"
SECONDS = 600
"""What a request may take: counts over all mentions of LMEnt take minutes."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """What a server or the way to it refuses, as a ValueError of one sentence."""
    try:
        yield
    except ApiError as error:
        raise ValueError(f"Elasticsearch refused (status {error.meta.status}): {reason_of(error)}") from error
    except TransportError as error:
        raise ValueError(f"Elasticsearch cannot be reached: {innermost_reason(error)}") from error


def reason_of(error: ApiError) -> str:
    """The innermost reason in a server's answer."""
    found: Any = error.body.get("error", {}) if isinstance(error.body, dict) else {}
    if not isinstance(found, dict):
        return str(found)
    for deeper in (found.get("root_cause"), found.get("failed_shards")):
        if deeper:
            inner = deeper[0].get("reason", deeper[0])
            found = inner if isinstance(inner, dict) else deeper[0]
    while isinstance(found.get("caused_by"), dict):
        found = found["caused_by"]
    return " ".join(str(found.get("reason") or error.message).split())


@dataclass(frozen=True)
class Target:
    """One index of one server."""

    client: Elasticsearch
    index: str

    def search(self, **body: Any) -> Json:
        """One search; all matches are counted."""
        with one_sentence():
            client = self.client.options(request_timeout=SECONDS)
            return client.search(index=self.index, **body).body  # type: ignore[no-any-return]

    def count(self, query: Json) -> int:
        """How many documents match."""
        with one_sentence():
            return int(self.client.count(index=self.index, query=query)["count"])

    def num_shards(self) -> int:
        """Of how many shards it consists; LMEnt's are of one."""
        with one_sentence():
            (found,) = self.client.indices.get_settings(index=self.index).body.values()
        return int(found["settings"]["index"]["number_of_shards"])

    def pages(self, query: Json, *, limit: int | None, size: int, **body: Any) -> Iterator[Json]:
        """Answers with up to `limit` hits in all (None: every one), of one state of the index."""
        with one_sentence():
            opened = self.client.open_point_in_time(index=self.index, keep_alive=KEEP_ALIVE)["id"]
        try:
            while limit is None or limit > 0:
                wanted = size if limit is None else min(size, limit)
                with one_sentence():
                    answer: Json = (
                        self.client.options(request_timeout=SECONDS)
                        .search(
                            query=query, size=wanted, pit={"id": opened, "keep_alive": KEEP_ALIVE}, **body
                        )
                        .body
                    )
                yield answer
                hits = answer["hits"]["hits"]
                if len(hits) < wanted:
                    return
                opened, body["search_after"] = answer["pit_id"], hits[-1]["sort"]
                limit = None if limit is None else limit - len(hits)
        finally:
            with one_sentence():
                self.client.close_point_in_time(id=opened)

    def buckets(
        self, query: Json, fields: dict[str, str], around: list[Json], within: Json
    ) -> Iterator[Json]:
        """Every combination of values of some keyword fields, in order, with what is counted in each.

        Args:
            query: the chunks to look into.
            fields: label -> field.
            around: the aggregations from the chunk to where these fields are, outermost first.
            within: the aggregations inside each combination.
        """
        sources = [{label: {"terms": {"field": field}}} for label, field in fields.items()]
        composite: Json = {"size": BUCKETS_A_PAGE, "sources": sources}
        while True:
            answer = self.aggregated(query, around, {"composite": composite, "aggs": within})
            yield from answer["buckets"]
            if len(answer["buckets"]) < BUCKETS_A_PAGE:
                return
            composite["after"] = answer["after_key"]

    def aggregated(self, query: Json, around: list[Json], aggregation: Json) -> Json:
        """The answer of one aggregation inside others."""
        for outer in reversed(around):
            aggregation = {**outer, "aggs": {"inside": aggregation}}
        answer: Json = self.search(query=query, size=0, aggs={"inside": aggregation})["aggregations"]
        while "buckets" not in answer:
            answer = answer["inside"]
        return answer
