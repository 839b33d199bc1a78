"""The slots of an order that hold injected items: which items, which chunk under them, what of it stays.

Arrays of the size of the plan, whatever the size of the order. The chunk under an item is the one whose row
it was put into; `kept` of its tokens are still trained on there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chunk_provenance.csr import Ints
from chunk_provenance.injection.plan_file import PLAN

INJECTIONS = pa.schema(
    [
        *PLAN,
        ("chunk_id", pa.int64()),  # whose slot it is
        ("displaced", pa.int32()),  # tokens of the chunk that fell out; on the slot's first row
        ("kept", pa.int32()),  # tokens of the chunk that are trained on; on the slot's first row
    ]
)


@dataclass(frozen=True)
class InjectedSlots:
    """One entry a slot, ascending by update and row, if not said otherwise."""

    update: Ints
    row: Ints
    chunk_id: Ints
    displaced: Ints
    kept: Ints
    placement: list[str]
    first_item: Ints
    """(slots + 1,) the items of slot `i` are the rows `first_item[i] : first_item[i + 1]` of the table."""
    item_ids: list[str]
    """One a row of the table."""
    first_token: Ints
    """(items + 1,) where each item's tokens begin, and the end."""
    tokens: npt.NDArray[np.uint32]

    @property
    def ids(self) -> Ints:
        """What `ids.npy` holds in each slot: -(k + 1), k the first row of the slot in the table."""
        return -(self.first_item[:-1] + 1)

    @property
    def num_tokens(self) -> Ints:
        """Injected tokens of each slot."""
        return self.first_token[self.first_item[1:]] - self.first_token[self.first_item[:-1]]

    def positions(self, offsets: Ints) -> Ints:
        """Where each slot stands in the order's ids."""
        positions: Ints = offsets[self.update - 1] + self.row
        return positions

    def of_update(self, update: int) -> range:
        """The numbers of the slots of one update."""
        first, last = np.searchsorted(self.update, [update, update + 1]).tolist()
        return range(first, last)

    def items_of(self, slot: int) -> range:
        """The rows of the table that one slot holds."""
        return range(int(self.first_item[slot]), int(self.first_item[slot + 1]))

    def tokens_of(self, item: int) -> npt.NDArray[np.uint32]:
        """The tokens of one row of the table."""
        return self.tokens[self.first_token[item] : self.first_token[item + 1]]


def read_slots(table: pa.Table) -> InjectedSlots:
    """The slots of a table of `INJECTIONS`, which is sorted by update and row."""
    update, row = (table[name].to_numpy().astype(np.int64) for name in ("update", "row"))
    opens = np.ones(len(update), dtype=bool)
    opens[1:] = (update[1:] != update[:-1]) | (row[1:] != row[:-1])
    first = np.flatnonzero(opens)
    tokens = table["tokens"].combine_chunks()
    placement = table["placement"].to_pylist()
    chunk_id, displaced, kept = (
        table[name].to_numpy()[first].astype(np.int64) for name in ("chunk_id", "displaced", "kept")
    )
    return InjectedSlots(
        update=update[first],
        row=row[first],
        chunk_id=chunk_id,
        displaced=displaced,
        kept=kept,
        placement=[placement[at] for at in first.tolist()],
        first_item=np.append(first, len(update)),
        item_ids=table["item_id"].to_pylist(),
        first_token=np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy(), dtype=np.int64)]),
        tokens=tokens.flatten().to_numpy(),
    )


def count_displaced(placement: str, *, item_tokens: int, chunk_tokens: int, bucket: int) -> int:
    """How many tokens of a chunk fall out of its row where items come to it.

    >>> count_displaced("prepend", item_tokens=3, chunk_tokens=6, bucket=8)
    1
    >>> count_displaced("replace", item_tokens=3, chunk_tokens=6, bucket=8)
    6
    """
    if placement == "replace":
        return chunk_tokens
    return max(0, min(chunk_tokens, item_tokens + chunk_tokens - bucket))
