"""The names of an index: which entities a text names, and the other way round.

Sorted by the text in lower case, then as it is written, then by entity.
"""

from pathlib import Path
from typing import Any

import numpy as np

from entity_index.bits import Packed
from entity_index.strings import BLOCK, StringColumn, open_strings
from entity_index.words import lower_case

NUMBERS = ("name_entity", "name_chunks", "names_of", "names_of_starts", "name_of")


class Names:
    """The mapped files; make one with `open_names`. A name is known by its row."""

    def __init__(self, texts: StringColumn, numbers: dict[str, Packed]) -> None:
        """Take the opened columns."""
        self.texts = texts
        self._entity, self._chunks = numbers["name_entity"], numbers["name_chunks"]
        self._rows, self._starts = numbers["names_of"], numbers["names_of_starts"]
        self._usual = numbers["name_of"]

    def of_entity(self, entity: int) -> list[int]:
        """The names of an entity, the one in most chunks first."""
        rows: list[int] = self._rows.part(self._starts[entity], self._starts[entity + 1]).tolist()
        return rows

    def usual(self, entity: int) -> str | None:
        """The name that most mentions of an entity carry; None where there is none."""
        place = self._usual[entity]
        return self.texts[self._rows[self._starts[entity] + place - 1]] if place else None

    def entity(self, row: int) -> int:
        """The entity that a name names."""
        return self._entity[row]

    def chunks(self, row: int) -> int:
        """In how many chunks a name names its entity."""
        return self._chunks[row]

    def find(self, key: str, *, prefix: bool, limit: int | None) -> list[int]:
        """For each entity with a name that is `key` in lower case, or begins so, the one in most chunks.

        Ranked by these chunks, then by entity.
        """
        start, end = self._range(key, prefix=prefix)
        entities = self._entity.part(start, end).view(np.int64)
        chunks = self._chunks.part(start, end).view(np.int64)
        order = np.lexsort((np.arange(len(chunks)), -chunks, entities))
        ranked = entities[order]
        firsts = order[np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(order)])]
        best = firsts[np.lexsort((entities[firsts], -chunks[firsts]))][:limit]
        return [start + int(row) for row in best]

    def _range(self, key: str, *, prefix: bool) -> tuple[int, int]:
        sought = key.encode(errors="surrogatepass")
        return self._first_from(sought), self._first_from(sought + (b"\xff" if prefix else b"\x00"))

    def _first_from(self, sought: bytes) -> int:
        """The first name whose text in lower case is not before a key."""
        low, high = 0, -(-len(self.texts) // BLOCK)
        while high - low > 1:
            middle = (low + high) // 2
            if lowered(self.texts.block(middle, 1)[0]) < sought:
                low = middle
            else:
                high = middle
        block = self.texts.block(low) if len(self.texts) else []
        before = sum(lowered(text) < sought for text in block)
        return low * BLOCK + before


def lowered(text: bytes) -> bytes:
    """A text's UTF-8 in lower case."""
    return lower_case(text.decode()).encode()


def open_names(folder: Path, layout: dict[str, Any]) -> Names:
    """Map the names of an index folder."""
    numbers = {name: Packed(folder / f"{name}.bits", layout["widths"][name]) for name in NUMBERS}
    return Names(open_strings(folder, "names", layout["strings"]["names"]), numbers)
