"""What can be asked of an index, wherever it lies: memory-mapped files, or an Elasticsearch server.

`open_backend` takes one string for both. The same question gives the same answer on both, chunk for chunk and
score for score; only the order of a search for strings alone differs (by chunk id here, by BM25 there).
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from entity_index.index import EntityCount, NameMatch, open_index
from entity_index.postings import Ids
from entity_index.query import DEFAULT_THRESHOLDS, Clause, Mention, Query, Result, Thresholds
from entity_index.texts import Chunk


class Strings(Protocol):
    """A sorted column of strings."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, position: int, /) -> str:
        """One of them."""
        ...

    def __iter__(self) -> Iterator[str]:
        """All of them in order."""
        ...


class Backend(Protocol):
    """An opened index. `EntityIndex` is the embedded one, `ElasticIndex` the one on a server."""

    @property
    def reference(self) -> str:
        """What it was opened by: a folder, or the address of an Elasticsearch index."""
        ...

    @property
    def store_sha256(self) -> str | None:
        """Of the chunk store it was made from; None where the index does not say."""
        ...

    @property
    def num_chunks(self) -> int:
        """How many chunks it has, with and without mentions."""
        ...

    @property
    def entities(self) -> Strings:
        """All entities that any mention has as a candidate, sorted by their UTF-8 bytes."""
        ...

    def search(self, query: Query) -> Result:
        """The chunks that fulfil a query: how many, and the best of them with the places in them."""
        ...

    def count(self, where: Clause) -> int:
        """How many chunks fulfil a condition."""
        ...

    def chunk_ids(self, where: Clause) -> Ids:
        """All chunks that fulfil a condition, ascending."""
        ...

    def chunk(self, chunk_id: int) -> Chunk:
        """The text, title and document of a chunk."""
        ...

    def mentions_of(self, chunk_id: int, thresholds: Thresholds | None = None) -> tuple[Mention, ...]:
        """The mentions in a chunk by place; all candidates, or those that pass a threshold."""
        ...

    def entities_of(self, chunk_id: int, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> list[str]:
        """The entities a chunk mentions, sorted."""
        ...

    def chunk_counts(self, thresholds: Thresholds | None = None) -> Ids:
        """In how many chunks each of `entities` is, (entities,)."""
        ...

    def name_of(self, entity: str) -> str | None:
        """What an entity is called most often; None where no mention says, or there is no such entity."""
        ...

    def names_of(self, entity: str) -> list[NameMatch]:
        """The strings that name an entity, the one in most chunks first. Pronouns are none."""
        ...

    def names(self, text: str, *, prefix: bool = False, limit: int | None = 10) -> list[NameMatch]:
        """The entities that a name may mean, case ignored; the one it names in most chunks first."""
        ...

    def co_occurring(
        self, entity: str, thresholds: Thresholds = DEFAULT_THRESHOLDS, *, limit: int | None = 10
    ) -> list[EntityCount]:
        """The entities in the same chunks as this one, by the number of chunks they share, then by entity."""
        ...


def open_backend(reference: str | Path) -> Backend:
    """Open an index by its folder, or by the address of an Elasticsearch index (`http://host:9200/enwiki`).

    >>> open_backend("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no entity index at 'nowhere': 'entity-index build' makes one

    Raises:
        FileNotFoundError: there is no such folder.
        FormatError: this release does not read it.
        ValueError: the server cannot be reached, or what is there is no entity index.
    """
    if not is_address(str(reference)):
        return open_index(reference)
    check_client()
    from entity_index.elastic.index import open_elastic

    return open_elastic(str(reference))


def check_client() -> None:
    """Say in one sentence that the client of Elasticsearch, an extra, is not installed."""
    if find_spec("elasticsearch") is None:
        raise ValueError(
            "an index on a server needs one more package: pip install 'entity-index[elasticsearch]'"
        )


def is_address(reference: str) -> bool:
    """Whether a reference means a server, not a folder.

    >>> is_address("https://localhost:9200/enwiki"), is_address("data/index")
    (True, False)
    """
    return re.match(r"https?://", reference, re.IGNORECASE) is not None
