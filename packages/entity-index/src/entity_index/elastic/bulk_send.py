"""Send documents to an index until the server has them or says why it will not.

What may pass is tried again, more and more slowly: a full queue (429), a full disk, a shard that moves, a
node or server that is gone. Sending twice is harmless, as a document's id is its chunk's.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from elasticsearch import ApiError, Elasticsearch, SSLError, TransportError

from entity_index.elastic.index_requests import one_sentence, reason_of

TRANSIENT = {408, 429, 500, 502, 503, 504}
TOO_LARGE = 413
FIRST_WAIT, LONGEST_WAIT = 0.25, 20.0
REQUEST_SECONDS = 120
ANSWER = "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"

Tell = Callable[[str], None]
"""Told, in a sentence, why nothing is going on."""


@dataclass(frozen=True)
class Rejection:
    """A chunk that an index does not take, and why."""

    index: str
    chunk_id: int
    status: int
    kind: str
    reason: str


@dataclass
class Server:
    """Where to send, and how long to bear with it when it takes nothing."""

    client: Elasticsearch
    patience: float
    """Seconds without success after which to give up."""
    tell: Tell
    _told: set[str] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let all threads that wait give up."""
        self._stopped.set()

    def waits(self) -> Iterator[Callable[[str], None]]:
        """One attempt after the other; each gets the function that waits, for a reason, before the next."""
        began, pause = time.monotonic(), FIRST_WAIT

        def wait(reason: str) -> None:
            if time.monotonic() - began > self.patience:
                raise ValueError(
                    f"given up after {self.patience:.0f} s, all that was sent is kept, the same command goes "
                    f"on: {reason}"
                )
            if reason not in self._told and pause > FIRST_WAIT:  # a short moment is not worth a word
                self._told.add(reason)
                self.tell(f"waiting for the server, up to {self.patience:.0f} s: {reason}")
            if self._stopped.wait(pause):
                raise ValueError("stopped")

        while True:
            yield wait
            pause = min(2 * pause, LONGEST_WAIT)

    @contextmanager
    def speaking(self) -> Iterator[Elasticsearch]:
        """The client, with its errors as sentences."""
        with one_sentence():
            yield self.client

    def ask(self, question: Callable[[Elasticsearch], Any]) -> Any:
        """An answer to something that may be asked twice, waiting while the server is not there."""
        for wait in self.waits():
            try:
                return question(self.client)
            except (ApiError, TransportError) as error:
                if not is_transient(error):
                    with one_sentence():
                        raise
                wait(in_words(error))
        raise AssertionError("waits() never ends")

    def send(self, index: str, chunk_ids: Sequence[int], lines: Sequence[bytes]) -> list[Rejection]:
        """Put documents into an index that is being built; returns those that it refuses.

        Raises:
            ValueError: the server takes nothing for too long, or forbids it.
        """
        rejected: list[Rejection] = []
        left = list(range(len(chunk_ids)))
        for wait in self.waits():
            try:
                items = self._request(index, [(chunk_ids[i], lines[i]) for i in left])
            except (ApiError, TransportError) as error:
                if isinstance(error, ApiError) and error.meta.status == TOO_LARGE:
                    return rejected + self._send_halves(index, [(chunk_ids[i], lines[i]) for i in left])
                if not is_transient(error):
                    with one_sentence():
                        raise
                wait(in_words(error))
                continue
            failed = [(i, item) for i, item in zip(left, items, strict=False) if "error" in item]
            check_index_is_there(item for _, item in failed)
            final = [(i, item) for i, item in failed if not is_passing(item)]
            rejected += [_rejection(index, chunk_ids[i], item) for i, item in final]
            left = [i for i, item in failed if is_passing(item)]
            if not left:
                return rejected
            reason = next(item["error"]["reason"] for _, item in failed if is_passing(item))
            wait(" ".join(str(reason).split())[:300])
        raise AssertionError("waits() never ends")

    def _request(self, index: str, documents: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
        """One bulk request; what the server says of each document, or nothing where all went well."""
        operations: list[Any] = [
            part for chunk_id, line in documents for part in (b'{"index": {"_id": "%d"}}' % chunk_id, line)
        ]
        answer = self.client.options(request_timeout=REQUEST_SECONDS).bulk(
            index=alias_while_building(index),
            operations=operations,
            require_alias=True,
            timeout="10s",
            filter_path=ANSWER,
        )
        return [item["index"] for item in answer["items"]] if answer["errors"] else []

    def _send_halves(self, index: str, documents: list[tuple[int, bytes]]) -> list[Rejection]:
        """A request that is too large for the server, in two; one document that is too large is refused."""
        if len(documents) == 1:
            reason = f"{len(documents[0][1]):,} bytes are more than the server's http.max_content_length"
            return [Rejection(index, documents[0][0], TOO_LARGE, "content_too_large", reason)]
        middle = len(documents) // 2
        halves = documents[:middle], documents[middle:]
        return [
            rejection
            for half in halves
            for rejection in self.send(index, [number for number, _ in half], [line for _, line in half])
        ]


def alias_while_building(index: str) -> str:
    """All is sent to this alias: a server would make an index that it does not know, but never an alias."""
    return f"{index}-building"


def is_transient(error: ApiError | TransportError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ApiError):
        return error.meta.status in TRANSIENT
    return not isinstance(error, SSLError)


def is_passing(item: dict[str, Any]) -> bool:
    """Whether the same document may be taken later. A block is there while the disk is too full."""
    return item["status"] in TRANSIENT or item["error"]["type"] == "cluster_block_exception"


def in_words(error: ApiError | TransportError) -> str:
    """What went wrong, in one line."""
    if isinstance(error, ApiError):
        return f"status {error.meta.status}, {reason_of(error)}"
    return f"no answer ({type(error).__name__})"


def check_index_is_there(items: Iterator[dict[str, Any]]) -> None:
    """Stop where the index is gone: the server must not make another one."""
    for item in items:
        if item["status"] == 404:
            raise ValueError(f"the index that is being built is gone: {item['error']['reason']}")


def _rejection(index: str, chunk_id: int, item: dict[str, Any]) -> Rejection:
    """A refusal, with the deeper reason first: the other quotes the document."""
    error = item["error"]
    reasons = [error.get("caused_by", {}).get("reason"), error["reason"]]
    words = " ".join("; ".join(filter(None, reasons)).split())
    return Rejection(index, chunk_id, item["status"], error["type"], words[:500])
