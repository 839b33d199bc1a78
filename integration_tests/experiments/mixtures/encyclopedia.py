"""The quickstart's encyclopedia as documents with a field and a year, and another one for the seed model.

The seed's is drawn with another random seed: the same language, names made of the same syllables,
but other people, places and facts. What a branch or joint model learns beyond it is its units' own.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOOL = Path(__file__).resolve().parents[3] / "tools" / "synthetic_wikipedia.py"
FIELDS = {"person": "People", None: "Annals", "place": "Places", "organisation": "Organisations"}
"""By the type of an article's subject; a year page has none. Works, a line each, make no field."""


def write_documents(out: Path, *, num_facts: int, parts: int, seed: int) -> None:
    """Write OUT/documents.jsonl (fields and years, for the parts) and OUT/seed.jsonl, each atomically."""
    fields = list(FIELDS.values())[:parts]  # no more fields than parts
    units = [row for row in articles(num_facts=num_facts, seed=seed) if row["field"] in fields]
    write_lines(thin_out(units), out / "documents.jsonl")
    write_lines(articles(num_facts=num_facts, seed=seed + 1), out / "seed.jsonl")


def articles(*, num_facts: int, seed: int) -> Iterator[dict[str, Any]]:
    """The clean texts of an encyclopedia, with their field (or none) and year."""
    wikipedia = load_tool()
    rng = np.random.default_rng(seed)
    entities = wikipedia.make_entities(rng, num_facts * 3 // 5)
    facts = wikipedia.make_facts(rng, entities, num_facts)
    for article in wikipedia.write_articles(rng, entities, facts):
        topic = article.topic
        yield {
            "id": f"{seed}:{article.title}",
            "text": article.text,
            "field": FIELDS.get(topic.type if topic else None),
            "year": int(article.title.split()[2].rstrip(",")) if topic is None else topic.year,
        }


def thin_out(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep as much of the annals, evenly over the years, as there is of people: they would be nine tenths."""
    people = sum(len(row["text"]) for row in rows if row["field"] == FIELDS["person"])
    annals = [row for row in rows if row["field"] == FIELDS[None]]
    if not annals:
        return rows
    wanted = people / sum(len(row["text"]) for row in annals)
    kept = {
        row["id"] for number, row in enumerate(annals) if int(number * wanted) < int((number + 1) * wanted)
    }
    return [row for row in rows if row["field"] != FIELDS[None] or row["id"] in kept]


def write_lines(rows: Any, path: Path) -> None:
    """Write JSONL atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(unfinished, path)


def load_tool() -> Any:
    """The module tools/synthetic_wikipedia.py."""
    if TOOL.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[TOOL.stem] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[TOOL.stem]
