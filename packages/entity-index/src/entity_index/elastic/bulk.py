"""Build both indices of a name on a server: send every chunk, count, and send again what a failure has lost.

A run that was stopped is continued: what is there is not sent again.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from elasticsearch import ApiError, Elasticsearch, TransportError

from entity_index.elastic.bulk_documents import Documents, documents_of
from entity_index.elastic.bulk_estimate import check_disk, estimate, free_bytes
from entity_index.elastic.bulk_send import Rejection, Server, Tell
from entity_index.elastic.bulk_state import (
    Plan,
    check_free,
    is_current,
    look_up,
    look_up_index,
    prepare,
    publish,
    put_back,
    unpublished_name,
)
from entity_index.elastic.mapping import RAW_TEXT_OF_LONG_CHUNKS, Json

Progress = Callable[[str, int, int], None]

THREADS = 4
BYTES_A_REQUEST = 5_000_000
PASSES = 5
PATIENCE = 600.0


@dataclass
class Outcome:
    """What was built."""

    built: bool
    """False where it was there already."""
    num_chunks: int = 0
    num_mentions: int = 0
    num_dropped: int = 0
    """Mentions without candidates, left out as in LMEnt."""
    rejected: list[Rejection] = field(default_factory=list)

    def counts(self) -> Json:
        """What the indices say of themselves."""
        rejected = {rejection.chunk_id for rejection in self.rejected}
        return {
            "num_mentions": self.num_mentions,
            "num_dropped": self.num_dropped,
            "num_rejected": len(rejected),
        }


def build_on_server(
    client: Elasticsearch,
    plan: Plan,
    *,
    threads: int = THREADS,
    bytes_a_request: int = BYTES_A_REQUEST,
    patience: float = PATIENCE,
    progress: Progress = lambda what, done, total: None,
    tell: Tell = lambda sentence: None,
) -> Outcome:
    """Build the two indices of a name, or go on where an earlier run was stopped.

    Args:
        client: from `connect`.
        plan: what to build.
        threads: how many requests to have under way at once.
        bytes_a_request: how large a request is, about.
        patience: seconds to wait while the server takes nothing.
        progress: called now and then.
        tell: called with a sentence where there is something to know.

    Returns:
        What was built. With rejected chunks that are not allowed, the indices are complete but for them, and
        not published.

    Raises:
        FileExistsError: the name stands for something else.
        ValueError: the server cannot be reached for too long, or refuses, or has too little disk.
    """
    server = Server(client, patience, tell)
    published = look_up(server, plan)
    if is_current(published, plan) and not plan.overwrite:
        return Outcome(built=False)
    check_free(published, plan)
    targets = {name: unpublished_name(name, plan, published) for name in plan.pair}
    if not any(look_up_index(server, target) for target in targets.values()):
        check_disk(estimate(plan, server.ask(free_bytes)))
    resumed = [prepare(server, plan, name, target) for name, target in targets.items()]
    work = _Work(server, plan, list(targets.values()), threads, bytes_a_request, progress)
    try:
        outcome = work.run(resumed=any(resumed))
    except BaseException:
        with suppress(ApiError, TransportError):  # what went wrong before is what counts
            put_back(client, plan, targets)
        raise
    server.ask(lambda client: put_back(client, plan, targets))
    if plan.allow_rejected or not outcome.rejected:
        publish(server, plan, targets, outcome.counts(), published)
    return outcome


@dataclass
class _Work:
    """A build that is under way."""

    server: Server
    plan: Plan
    targets: list[str]
    threads: int
    bytes_a_request: int
    progress: Progress
    num_sent: int = 0
    rejected: dict[str, list[Rejection]] = field(default_factory=dict)
    long_text_is_allowed: bool = False
    doing: str = "indexing chunks"

    def run(self, *, resumed: bool) -> Outcome:
        """Send everything, count, and send again what is missing, until all is there."""
        outcome = self.send_all(only_missing=resumed)
        for _ in range(PASSES):
            if not self.missing():
                break
            self.doing = "looking for lost chunks"
            self.send_all(only_missing=True)
        else:
            lacking = max(self.missing().values())
            raise ValueError(
                f"after {PASSES} attempts the server still lacks {lacking:,} chunks that it took: look into "
                "its logs"
            )
        outcome.rejected = [rejection for of_index in self.rejected.values() for rejection in of_index]
        return outcome

    def missing(self) -> dict[str, int]:
        """How many chunks each index lacks without having refused them; empty where none does."""
        found = {}
        for target in self.targets:
            refused = {rejection.chunk_id for rejection in self.rejected[target]}
            count = self.server.ask(partial(count_chunks, target=target))
            if short := self.plan.source.num_chunks - len(refused) - count:
                found[target] = short
        return found

    def send_all(self, *, only_missing: bool) -> Outcome:
        """Read the source once and send it to both indices."""
        self.num_sent, self.rejected = 0, {target: [] for target in self.targets}
        outcome = Outcome(built=True)
        if only_missing:
            self.server.ask(lambda client: client.indices.refresh(index=self.targets))
        with ThreadPoolExecutor(self.threads) as pool:
            under_way: set[Future[int]] = set()
            try:
                for documents in self.read(outcome):
                    for part in parts_of(documents, self.bytes_a_request):
                        under_way |= {
                            pool.submit(self.send, target, *part, only_missing=only_missing)
                            for target in self.targets
                        }
                        under_way = self.collect(under_way, at_most=2 * self.threads)
                self.collect(under_way, at_most=0)
            except BaseException:
                self.server.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if outcome.num_chunks != self.plan.source.num_chunks:
            raise ValueError(
                f"{self.plan.source.name!r} gave {outcome.num_chunks:,} chunks, expected "
                f"{self.plan.source.num_chunks:,}"
            )
        return outcome

    def read(self, outcome: Outcome) -> Iterator[Documents]:
        """The source's documents, counted."""
        for batch in self.plan.source.stream():
            documents = documents_of(batch)
            outcome.num_chunks += len(documents.chunk_ids)
            outcome.num_mentions += documents.num_mentions
            outcome.num_dropped += documents.num_dropped
            if documents.has_long_text and not self.long_text_is_allowed:
                self.allow_long_text()
            yield documents

    def allow_long_text(self) -> None:
        """Take texts that are too long for LMEnt's `text.raw`, which only the first index has."""
        target, properties = self.targets[0], RAW_TEXT_OF_LONG_CHUNKS
        self.server.ask(lambda client: client.indices.put_mapping(index=target, properties=properties))
        self.long_text_is_allowed = True

    def send(self, target: str, chunk_ids: list[int], lines: list[bytes], *, only_missing: bool) -> int:
        """Send some documents to one index; how many chunks that settles."""
        wanted = list(range(len(chunk_ids)))
        if only_missing:
            there = ids_there(self.server, target, chunk_ids)
            wanted = [i for i in wanted if chunk_ids[i] not in there]
        if wanted:
            self.rejected[target] += self.server.send(
                target, [chunk_ids[i] for i in wanted], [lines[i] for i in wanted]
            )
        return len(chunk_ids)

    def collect(self, under_way: set[Future[int]], *, at_most: int) -> set[Future[int]]:
        """Wait until no more than so many requests are under way; raises what one of them raised."""
        while len(under_way) > at_most:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            self.num_sent += sum(future.result() for future in done)
            self.progress(self.doing, self.num_sent // len(self.targets), self.plan.source.num_chunks)
        return under_way


def parts_of(documents: Documents, size: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """Documents in parts of about so many bytes."""
    chunk_ids: list[int] = []
    lines: list[bytes] = []
    held = 0
    for chunk_id, line in zip(documents.chunk_ids, documents.lines, strict=True):
        if lines and held + len(line) > size:
            yield chunk_ids, lines
            chunk_ids, lines, held = [], [], 0
        chunk_ids.append(chunk_id)
        lines.append(line)
        held += len(line)
    if lines:
        yield chunk_ids, lines


def count_chunks(client: Elasticsearch, *, target: str) -> int:
    """How many documents an index holds, whatever happens to the server from now on."""
    client.indices.flush(index=target)  # what it took is only now sure to be on its disk
    client.indices.refresh(index=target)
    return int(client.count(index=target)["count"])


def ids_there(server: Server, target: str, chunk_ids: list[int]) -> set[int]:
    """Which chunks an index has. One count where it has all or none of them."""
    within = {"range": {"chunk_id": {"gte": chunk_ids[0], "lte": chunk_ids[-1]}}}
    count = server.ask(lambda client: client.count(index=target, query=within)["count"])
    if count in (0, len(chunk_ids)):
        return set(chunk_ids) if count else set()
    names = [str(chunk_id) for chunk_id in chunk_ids]
    found: list[Json] = server.ask(
        lambda client: client.mget(index=target, ids=names, source=False, filter_path="docs._id,docs.found")[
            "docs"
        ]
    )
    return {int(document["_id"]) for document in found if document.get("found")}
