"""From a chunk to its documents, steps and mentions, and from a document or a step to its chunks."""

from typing import Any

import pyarrow.compute as pc

from chunk_provenance.injection.items import items_at, items_on
from chunk_provenance.injection.rows import Rows, order_rows, update_chunks
from chunk_provenance.mixtures import MixtureStore
from chunk_provenance.order import DataOrder
from chunk_provenance.order_questions import held_out_of
from chunk_provenance.store import ChunkStore


def describe_chunk(store: ChunkStore, chunk_id: int, order: DataOrder | None = None) -> dict[str, Any]:
    """A chunk's text, the documents it stands in, its mentions, and the steps that trained on it."""
    text = store.chunk_text(chunk_id)
    segments = []
    for segment in store.segments(chunk_id):
        document = store.document(segment.doc_id)
        segments.append(
            {
                "doc_id": segment.doc_id,
                "title": document.title,
                "source": document.source,
                "url": document.url,
                "char_start": segment.char_start,
                "char_end": segment.char_end,
                "tokens": segment.chunk_token_end - segment.chunk_token_start,
            }
        )
    wanted = ["char_start", "char_end", "surface", "entity", "name", "score"]
    return {
        "chunk_id": chunk_id,
        **_place_in_mixture(store, chunk_id),
        "tokens": int(store.length[chunk_id]),
        "bucket": int(store.bucket[chunk_id]),
        "segments": segments,
        "steps": None if order is None else order.steps_of(chunk_id).tolist(),
        "held_out_at": None if order is None else held_out_of(order, chunk_id).tolist(),
        "injected_at": None if order is None else items_on(order, chunk_id),
        "mentions": store.mentions_of(chunk_id).select(wanted).to_pylist(),
        "text": text,
    }


def _place_in_mixture(store: ChunkStore, chunk_id: int) -> dict[str, Any]:
    if not isinstance(store, MixtureStore):
        return {}
    part, local = store.locate(chunk_id)
    return {"of_store": part.name, "chunk_id_there": local}


def describe_document(store: ChunkStore, doc_id: str, order: DataOrder | None = None) -> dict[str, Any]:
    """A document's chunks with their characters and steps, and what of it is in no chunk.

    Raises:
        ValueError: the store has no such document; where it was refused, the message says why.
    """
    lost = store.dropped_table.filter(pc.equal(store.dropped_table["doc_id"], doc_id))
    if not store.has_document(doc_id) and lost.num_rows:
        refused = lost.to_pylist()[0]
        raise ValueError(f"document {doc_id!r} was dropped: {refused['reason']} ({refused['place']})")
    document = store.document(doc_id)
    chunks = []
    for chunk_id in store.chunks_of_document(doc_id).tolist():
        for segment in store.segments(chunk_id):
            if segment.doc_id == doc_id:
                chunks.append(
                    {
                        "chunk_id": chunk_id,
                        "char_start": segment.char_start,
                        "char_end": segment.char_end,
                        "tokens": segment.chunk_token_end - segment.chunk_token_start,
                        "steps": None if order is None else order.steps_of(chunk_id).tolist(),
                    }
                )
    return {
        "doc_id": doc_id,
        "title": document.title,
        "source": document.source,
        "url": document.url,
        "characters": None if document.text is None else len(document.text),
        "chunks": chunks,
        "dropped": lost.select(["char_start", "char_end", "num_tokens", "reason", "place"]).to_pylist(),
    }


def describe_step(store: ChunkStore, step: int, order: DataOrder, *, decode: bool = False) -> dict[str, Any]:
    """The chunks that the update from step `step - 1` to step `step` trained on, row by row.

    A row into which items are injected also has `injected`: the items, their texts, and how many tokens of
    the chunk are left. With `decode`, every row also has `decoded`: its tokens as the store's tokenizer
    decodes them.

    Raises:
        ValueError: the order has no such update, or a chunk that the store lacks.
    """
    batch = update_chunks(order, step)
    store.check_chunk(int(batch.max(initial=0)))
    held_out = set() if order.masked is None else set(_masked_in(order, step))
    injected = {place["row"]: place for place in items_at(order, step)}
    rows = order_rows(store, order, step) if decode and injected else None
    chunks = [
        {
            "chunk_id": chunk_id,
            "tokens": int(store.length[chunk_id]),
            "documents": [segment.doc_id for segment in store.segments(chunk_id)],
            "held_out": chunk_id in held_out,
            "text": store.chunk_text(chunk_id),
            **({"injected": _with_texts(order, injected[row])} if row in injected else {}),
            **({"decoded": _decode_row(store, chunk_id, rows, row, row in injected)} if decode else {}),
        }
        for row, chunk_id in enumerate(batch.tolist())
    ]
    return {
        "step": step,
        "epoch": order.epoch_of(step),
        "bucket": int(store.bucket[batch].max(initial=0)),
        "injected": sum(len(place["items"]) for place in injected.values()),
        "chunks": chunks,
    }


def _with_texts(order: DataOrder, place: dict[str, Any]) -> dict[str, Any]:
    """A row with items, and their texts."""
    assert order.injections is not None
    table = order.injections
    here = pc.and_(pc.equal(table["update"], place["step"]), pc.equal(table["row"], place["row"]))
    return {**place, "texts": table.filter(here)["text"].to_pylist()}


def _decode_row(store: ChunkStore, chunk_id: int, rows: Rows | None, row: int, injected: bool) -> str:
    """All tokens of a row, padding apart: of a chunk alone, or with the items in it."""
    if rows is None or not injected:
        return store.decode(chunk_id)
    input_ids, doc_ids = rows
    return store.decode_tokens(input_ids[row][doc_ids[row] >= 0])


def _masked_in(order: DataOrder, update: int) -> list[int]:
    assert order.masked is not None
    found: list[int] = order.masked.filter(pc.equal(order.masked["update"], update))["chunk_id"].to_pylist()
    return found
