"""The client of a server."""

from elasticsearch import Elasticsearch


def connect(url: str) -> Elasticsearch:
    """A client that speaks to one server."""
    return Elasticsearch(url)
