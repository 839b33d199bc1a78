"""When chunks were trained on, for the pages: from an order to steps and back."""

from dataclasses import dataclass
from pathlib import Path

from chunk_provenance import ChunkStore, DataOrder, check_store, open_order, open_store
from chunk_provenance.order_questions import held_out_of
from entity_index.backend import Backend
from entity_index.texts import Chunk

PAGE = 50
"""Chunks of a step on one page."""
START = 200
"""Characters of each chunk in the list of a step."""


@dataclass(frozen=True)
class When:
    """The updates that trained on a chunk, from 1; the checkpoint of step N has seen updates 1 to N."""

    steps: tuple[int, ...]
    held_out: tuple[int, ...]
    tokens: int | None
    bucket: int | None


@dataclass(frozen=True)
class StepChunk:
    """A chunk of an update: where it comes from, and how it begins."""

    chunk_id: int
    title: str
    start: str
    tokens: int | None
    held_out: bool


@dataclass(frozen=True)
class Step:
    """What one update trained on."""

    step: int
    epoch: int
    last: int
    """The order's last update."""
    injected: int
    """Rows that are no chunk of the corpus."""
    num_chunks: int
    chunks: tuple[StepChunk, ...]
    """Those of one page."""
    page: int
    num_pages: int


@dataclass(frozen=True)
class Training:
    """A data order, and the chunk store where it is at hand: it knows the numbers of tokens."""

    order: DataOrder
    store: ChunkStore | None = None

    def of_chunk(self, chunk_id: int) -> When:
        """When a chunk was trained on."""
        held_out = held_out_of(self.order, chunk_id).tolist()
        steps = self.order.steps_of(chunk_id).tolist()
        bucket = None if self.store is None else int(self.store.bucket[chunk_id])
        return When(tuple(steps), tuple(held_out), self._tokens(chunk_id), bucket)

    def of_step(self, step: int, backend: Backend, *, page: int = 1) -> Step:
        """The chunks of the update from step - 1 to step, one page of them.

        Raises:
            ValueError: the order has no such update.
        """
        batch = self.order.batch(step)
        chunk_ids = batch[batch >= 0]
        part = chunk_ids[(page - 1) * PAGE : page * PAGE].tolist()
        held_out = self._held_out(step)
        chunks = tuple(
            self._show(backend.chunk(chunk_id), held_out=chunk_id in held_out) for chunk_id in part
        )
        return Step(
            step,
            self.order.epoch_of(step),
            self.order.num_updates,
            len(batch) - len(chunk_ids),
            len(chunk_ids),
            chunks,
            page,
            -(-len(chunk_ids) // PAGE),
        )

    def _show(self, chunk: Chunk, *, held_out: bool) -> StepChunk:
        start = " ".join(chunk.text[: START + 1].split())
        words = start if len(chunk.text) <= START else start.rpartition(" ")[0] + " …"
        tokens = self._tokens(chunk.chunk_id)
        return StepChunk(chunk.chunk_id, chunk.title or chunk.doc_id, words, tokens, held_out)

    def _held_out(self, step: int) -> set[int]:
        masked = self.order.masked
        if masked is None:
            return set()
        return set(masked["chunk_id"].to_numpy()[masked["update"].to_numpy() == step].tolist())

    def _tokens(self, chunk_id: int) -> int | None:
        return None if self.store is None else int(self.store.length[chunk_id])


def open_training(order: Path, store: Path | None, store_sha256: str | None) -> Training:
    """Open an order, and its store, and check that both belong to the index.

    Raises:
        FileNotFoundError: there is no such order or store.
        FormatError: one of them is of another format or damaged.
        ValueError: they are of different chunk stores.
    """
    opened, chunks = open_order(order), None if store is None else open_store(store)
    if chunks is not None and store_sha256 is not None and chunks.sha256 != store_sha256:
        raise ValueError(
            f"the index is not of the chunk store {str(store)!r}: build it again from that store"
        )
    known = store_sha256 if chunks is None else chunks.sha256
    if known is not None:
        check_store(opened, known)
    _ = opened.inverse  # made now, so that the first page need not wait for it
    return Training(opened, chunks)
