"""Link-cloze probes: sentences of the training text, cut before a link; the link's target is the answer.

One pass over the documents; a sentence is used if
- it has at least `MIN_WORDS` words before the link, and a space right before it,
- the link's label is the target's name or an alias (otherwise the text goes on with something else),
- no name of the target stands before the link, and the target is not the document's own subject.
Each pair of document and target gives one probe, its first such sentence. Sentences that name their subject
before the link are taken first: the others can often be completed without knowing anything about it.
"""

import hashlib
import heapq
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.facts import PROBES
from chunk_provenance.formats import FormatError, open_table, write_table
from chunk_provenance.store import ChunkStore
from chunk_provenance.tables import read_user_table

MIN_WORDS = 4
MAX_PROMPT = 600  # characters
MAX_ANSWERS = 10
NUM_DISTRACTORS = 31
ENTITIES = pa.schema([("entity", pa.string()), ("name", pa.string()), ("aliases", pa.list_(pa.string()))])

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]\u201d\u2019]*\s+|\n+")
ABBREVIATION = re.compile(
    r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Sgt|Jr|Sr|No|Vol|vs|ca|cf|approx|e\.g|i\.e))\.$"
)
QUALIFIER = re.compile(r" \([^()]*\)$")


@dataclass(frozen=True)
class Link:
    """A hyperlink in a document."""

    doc_id: str
    char_start: int
    surface: str
    entity: str


@dataclass(frozen=True)
class Target:
    """Something that links point to."""

    entity: str
    name: str
    """Its title."""
    label: str
    """How running text writes it: its most frequent link label among name and aliases."""
    names: frozenset[str]
    """Name and aliases, case-folded; a distractor is never one of the answer's."""
    aliases: tuple[str, ...]
    num_links: int


def make_cloze_probes(
    store: ChunkStore, *, aliases: pa.Table | None = None, max_probes: int = 1000, seed: int = 0
) -> pa.Table:
    """Link-cloze probes of a chunk store that has texts and hyperlink mentions.

    Args:
        store: the store; mentions with a hyperlink score of 1 are its links.
        aliases: `entity`, `name`, `aliases`; without it only the target's own name is accepted.
        max_probes: a sample of so many, the same for the same seed and texts.
        seed: of the sample.

    Returns:
        Probes in the order of the documents.
    """
    if not store.has_text:
        raise ValueError(f"{str(store.path)!r} was built with --no-text: cloze probes need the texts")
    links, titles = find_links(store)
    if not links:
        raise ValueError(
            f"{str(store.path)!r} has no hyperlinks among its mentions: build it with --mentions"
        )
    targets = find_targets(links, titles, aliases)
    subjects = {target.name: entity for entity, target in targets.items()}
    if aliases is not None:
        subjects |= dict(zip(aliases["name"].to_pylist(), aliases["entity"].to_pylist(), strict=True))
    candidates = enumerate(_cut_sentences(store, links, targets, subjects))
    chosen = heapq.nsmallest(max_probes, candidates, key=lambda item: _draw(item[1], seed))
    alike = sorted(targets.values(), key=_likeness)
    places = {target.entity: place for place, target in enumerate(alike)}
    rows = [
        {**probe, "distractors": choose_distractors(probe, alike, places[probe["answer"]])}
        for _, probe in sorted(chosen, key=itemgetter(0))
    ]
    return pa.Table.from_pylist(rows, schema=PROBES)


def _draw(probe: dict[str, Any], seed: int) -> tuple[bool, bytes]:
    """Subject named first, then a hash of fact and seed: more text leaves the draws of others alone."""
    subject = QUALIFIER.sub("", probe["subject_name"]).casefold()
    named = occurs(subject, probe["prompt"].casefold())
    return not named, _hash(f"{seed} {probe['fact_id']}")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def find_links(store: ChunkStore) -> tuple[dict[str, list[Link]], dict[str, str]]:
    """The hyperlinks of each document in the order of the text, and the title of each target."""
    mentions = store.mention_table
    mentions = mentions.filter(
        pc.and_(pc.greater_equal(mentions["hyperlink"], 1.0), pc.is_valid(mentions["entity"]))
    )
    columns = ["doc_id", "doc_char_start", "surface", "entity", "name"]
    links: dict[str, dict[tuple[int, str], Link]] = {}
    titles: dict[str, str] = {}
    values = (mentions[column].to_pylist() for column in columns)
    for doc_id, start, surface, entity, name in zip(*values, strict=True):
        links.setdefault(doc_id, {})[start, entity] = Link(doc_id, start, surface, entity)
        titles.setdefault(entity, name or surface)
    return {doc_id: [found[key] for key in sorted(found)] for doc_id, found in links.items()}, titles


def find_targets(
    links: dict[str, list[Link]], titles: dict[str, str], aliases: pa.Table | None
) -> dict[str, Target]:
    """Everything that is linked to, with its names and how often."""
    labels: dict[str, Counter[str]] = {}
    for found in links.values():
        for link in found:
            labels.setdefault(link.entity, Counter())[link.surface] += 1
    known = {} if aliases is None else {row["entity"]: row for row in aliases.to_pylist()}
    targets = {}
    for entity, counts in labels.items():
        row = known.get(entity, {})
        name = row.get("name") or titles[entity]
        others = tuple(row.get("aliases") or ())
        names = frozenset(alias.casefold() for alias in (name, QUALIFIER.sub("", name), *others))
        fitting = [(-count, label) for label, count in counts.items() if label.casefold() in names]
        label = min(fitting)[1] if fitting else QUALIFIER.sub("", name)
        targets[entity] = Target(entity, name, label, names, others, counts.total())
    return targets


def _cut_sentences(
    store: ChunkStore, links: dict[str, list[Link]], targets: dict[str, Target], subjects: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """One probe without distractors for every document and target that has a fitting sentence."""
    with open_table(
        store.path / "documents.parquet", "stored-documents", ["doc_id", "title", "text"]
    ) as file:
        for batch in file.iter_batches(batch_size=256, columns=["doc_id", "title", "text"]):
            for row in batch.to_pylist():
                if row["title"] and row["doc_id"] in links:
                    subject = subjects.get(row["title"], f"title:{row['title'].replace(' ', '_')}")
                    yield from _probes_of(row, subject, links[row["doc_id"]], targets)


def _probes_of(
    document: dict[str, Any], subject: str, links: list[Link], targets: dict[str, Target]
) -> Iterator[dict[str, Any]]:
    used = {subject}
    for link in links:
        target = targets[link.entity]
        if link.entity in used or link.surface.casefold() not in target.names:
            continue
        prompt = cut_before(document["text"], link.char_start)
        if prompt is None or any(occurs(name, prompt.casefold()) for name in target.names):
            continue
        used.add(link.entity)
        accepted = dict.fromkeys(
            [link.surface, target.label, QUALIFIER.sub("", target.name), *target.aliases]
        )
        yield {
            "fact_id": f"{subject}|{link.entity}",
            "probe_id": f"{document['doc_id']}:{link.char_start}",
            "relation": "links to",
            "subject": subject,
            "answer": link.entity,
            "subject_name": document["title"],
            "answer_name": target.name,
            "prompt": prompt,
            "answers": list(accepted)[:MAX_ANSWERS],
        }


def cut_before(text: str, char_start: int) -> str | None:
    """The sentence up to `char_start`, or None if it is too short, too long or not followed by one space.

    >>> cut_before("It rained. Ada Lovelace was born in London.", 36)
    'Ada Lovelace was born in'
    """
    if text[char_start - 1 : char_start] != " ":
        return None
    begin = max(char_start - MAX_PROMPT, 0)
    window = text[begin:char_start]
    ends = [
        match.end()
        for match in SENTENCE_END.finditer(window)
        if not ABBREVIATION.search(window[: match.start()])
    ]
    if not ends and begin:
        return None
    prompt = window[ends[-1] if ends else 0 : -1]
    return prompt if len(prompt.split()) >= MIN_WORDS and prompt == prompt.strip() else None


def _likeness(target: Target) -> tuple[bool, bool, int, int, bytes]:
    """A sort key by which neighbours look alike: kind of first letter, frequency class, length; then any."""
    first = target.label[:1]
    frequency_class = int(math.log2(target.num_links))
    return first.isdigit(), first.islower(), frequency_class, len(target.label), _hash(target.entity)


def choose_distractors(probe: dict[str, Any], alike: list[Target], place: int) -> list[str]:
    """Labels of the targets nearest to the answer, none of them a name of it or in the prompt.

    Args:
        probe: `prompt` and `answers`.
        alike: all targets, neighbours looking alike.
        place: where the answer stands among them.
    """
    taken = set(alike[place].names) | {name.casefold() for name in probe["answers"]}
    prompt = probe["prompt"].casefold()
    chosen: list[str] = []
    for distance in range(1, len(alike)):
        both_sides = [number for number in (place - distance, place + distance) if 0 <= number < len(alike)]
        for target in (alike[number] for number in both_sides):
            label = target.label.casefold()
            if label not in taken and not occurs(label, prompt):
                taken.add(label)
                chosen.append(target.label)
        if len(chosen) >= NUM_DISTRACTORS:
            break
    return chosen[:NUM_DISTRACTORS]


def occurs(words: str, text: str) -> bool:
    """Whether the words stand in the text, not only inside of longer ones.

    >>> occurs("us", "a famous us ship"), occurs("us", "a famous ship")
    (True, False)
    """
    return words in text and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def read_aliases(path: str | Path) -> pa.Table:
    """Read an entities table: `entity`, `name`, `aliases`."""
    return read_user_table(Path(path), "entities", ENTITIES, optional=("aliases",))


def check_ending(path: Path) -> None:
    """Refuse a name that does not say which form the probes take."""
    if path.suffix not in (".parquet", ".jsonl"):
        raise FormatError(f"{str(path)!r} must end in .parquet or .jsonl")


def write_probes(probes: pa.Table, path: str | Path) -> None:
    """Write probes as Parquet or, if the name ends so, as JSONL."""
    path = Path(path)
    check_ending(path)
    if path.suffix == ".parquet":
        write_table(probes, path, "probes")
        return
    unfinished = path.with_name(path.name + ".tmp")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in probes.to_pylist())
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, path)
