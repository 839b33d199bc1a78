"""What a trainer trains on in an order with injected items: its rows, chunks and tokens, slot by slot."""

import numpy as np
import numpy.typing as npt

from chunk_provenance.csr import Ints
from chunk_provenance.injection.slots import InjectedSlots
from chunk_provenance.order import DataOrder
from chunk_provenance.store import ChunkStore

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]


def order_rows(store: ChunkStore, order: DataOrder, update: int) -> Rows:
    """Padded token rows of an update and the document of each token, as `store.rows`, with injected items.

    An item is a document of its own: before the chunk's documents (`prepend`), after those of its tokens that
    are left (`append_doc`) or alone (`replace`).

    Returns:
        `input_ids` (row, seq), padded with the store's `pad_id`, and `doc_ids` (row, seq), counted from 0 in
        each row, -1 on padding.
    """
    input_ids, doc_ids = store.rows(update_chunks(order, update))
    if order.injected is not None:
        for slot in order.injected.of_update(update):
            row = int(order.injected.row[slot])
            input_ids[row], doc_ids[row] = inject_row(
                order.injected, slot, input_ids[row], doc_ids[row], pad_id=store.pad_id
            )
    return input_ids, doc_ids


def inject_row(
    slots: InjectedSlots,
    slot: int,
    input_ids: npt.NDArray[np.int64],
    doc_ids: npt.NDArray[np.int32],
    *,
    pad_id: int,
) -> Rows:
    """The row of a chunk, (seq,), with the items of a slot put into it."""
    kept = int(slots.kept[slot])
    items = [slots.tokens_of(item) for item in slots.items_of(slot)]
    tokens, documents = np.concatenate(items), np.repeat(np.arange(len(items)), [len(item) for item in items])
    begin = 0
    row, of_document = np.full_like(input_ids, pad_id), np.full_like(doc_ids, -1)
    if slots.placement[slot] == "append_doc":
        begin, documents = kept, documents + int(doc_ids[:kept].max(initial=-1)) + 1
        row[:kept], of_document[:kept] = input_ids[:kept], doc_ids[:kept]
    end = begin + len(tokens)
    row[begin:end], of_document[begin:end] = tokens, documents
    if slots.placement[slot] == "prepend":
        row[end : end + kept], of_document[end : end + kept] = input_ids[:kept], doc_ids[:kept] + len(items)
    return row, of_document


def update_chunks(order: DataOrder, update: int) -> Ints:
    """The chunk in each slot of an update, (row,): under an injected item the one it was put into."""
    batch = order.batch(update)
    if order.injected is None or not len(slots := order.injected.of_update(update)):
        return batch
    chunks = np.array(batch)
    part = slice(slots.start, slots.stop)
    chunks[order.injected.row[part]] = order.injected.chunk_id[part]
    return chunks


def slot_chunks(order: DataOrder) -> Ints:
    """The chunk that stands in each slot, (total,); under an injected item the one it was put into."""
    return order.chunk_ids


def slot_tokens(store: ChunkStore, order: DataOrder) -> npt.NDArray[np.int32]:
    """Real tokens trained on in each slot, (total,): injected ones, but no displaced or held-out ones."""
    tokens = store.length[order.chunk_ids].astype(np.int32)
    if order.trained is not None:
        tokens[~order.trained] = 0
    if order.injected is not None:
        slots = order.injected
        tokens[slots.positions(order.offsets)] = slots.kept + slots.num_tokens
    return tokens


def injected_items(order: DataOrder, update: int) -> tuple[str, ...]:
    """The ids of the items that an update trains on, in the order of their rows."""
    order.batch(update)  # refuses an update that is not there
    slots = order.injected
    if slots is None:
        return ()
    return tuple(slots.item_ids[item] for slot in slots.of_update(update) for item in slots.items_of(slot))
