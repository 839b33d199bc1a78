"""What travels between the steps: documents, mentions, clusters; the protocols of linkers and resolvers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from entity_annotate.wikitext import Link

Span = tuple[int, int]
Cluster = list[Span]


@dataclass(frozen=True)
class Document:
    """A text with its links; `entity` is what the document is about, `names` what else it calls it."""

    id: str
    text: str
    title: str | None = None
    links: Sequence[Link] = ()
    entity: str | None = None
    names: Sequence[str] = ()
    source: str | None = None
    url: str | None = None
    text_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the text, which ties mentions to it."""
        digest = hashlib.sha256(self.text.encode("utf-8")).hexdigest()
        object.__setattr__(self, "text_sha256", digest)


class Mention(NamedTuple):
    """A span of a document's text that may stand for an entity, with the linker's confidence in [0, 1]."""

    char_start: int
    char_end: int
    entity: str
    score: float


@dataclass(frozen=True)
class Failure:
    """Why one document got no answer; the others of its batch have theirs."""

    kind: str
    message: str


class Linker(Protocol):
    """Finds entities in texts; `fingerprint` changes whenever its answers could."""

    name: str
    fingerprint: str

    def link(self, docs: Sequence[Document]) -> Sequence[Sequence[Mention] | Failure]:
        """Return one result per document, in order."""
        ...


class CorefResolver(Protocol):
    """Groups the spans of a text that speak of the same thing.

    `mentions` are what the linker found in each document; a resolver that reads only the text ignores them.
    """

    name: str
    fingerprint: str

    def resolve(
        self, docs: Sequence[Document], mentions: Sequence[Sequence[Mention]]
    ) -> Sequence[Sequence[Cluster] | Failure]:
        """Return one result per document, in order."""
        ...


def misplaced(doc: Document, spans: Sequence[Span]) -> Failure | None:
    """Return a failure if a span does not lie in the document's text."""
    for start, end in spans:
        if not 0 <= start < end <= len(doc.text):
            message = f"span [{start}, {end}) is not inside a text of {len(doc.text)} characters"
            return Failure("offset_mismatch", message)
    return None
