"""Which text taught it: a fact's curve over the checkpoints, and the passages seen before it was learned."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.dynamics import learned_index, read_knowledge
from chunk_provenance.exposures import Exposures, find_exposures, updates_of_chunks
from chunk_provenance.facts import Evidence, FactChunks, distinct_facts
from chunk_provenance.injection.items import stating_items
from chunk_provenance.order import DataOrder
from chunk_provenance.store import ChunkStore

Span = tuple[int, int, str]
"""Half-open range of characters and what is mentioned there: subject or answer."""

PICKS = {
    "often": "learned after it was seen, known at the end, seen most often",
    "rare": "learned after it was seen, known at the end, seen least often",
    "never": "never learned, though seen most often",
}
EXCERPT_MARGIN = 160  # characters of context around the mentions
EXCERPT_LENGTH = 700  # shorter passages are shown whole


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint makes of the fact: the best of its probes."""

    step: int
    exposures: int
    rank: int
    num_candidates: int | None
    logprob_mean: float | None
    known: bool


@dataclass(frozen=True)
class Passage:
    """A chunk or an injected item that states the fact, and its updates before the fact was learned."""

    chunk_id: int | None
    """None where it is an injected item; `doc_id` is then the item's id."""
    steps: list[int]
    epochs: list[int]
    doc_id: str
    title: str | None
    source: str | None
    url: str | None
    char_start: int
    char_end: int
    text: str
    spans: list[Span]


@dataclass(frozen=True)
class Trace:
    """When a fact was seen, when it was known, and what had been read by then."""

    fact_id: str
    relation: str
    subject: str
    subject_name: str
    answer: str
    answer_name: str
    prompts: list[str]
    learned_at: int | None
    """The first step from which it stays known; None if it was never learned."""
    checkpoints: list[Checkpoint]
    passages: list[Passage]
    """In the order in which they were first seen; up to `learned_at`, or to the last checkpoint."""


def trace_fact(
    fact: str,
    *,
    store: ChunkStore,
    order: DataOrder,
    fact_chunks: FactChunks,
    answers: pa.Table,
    probes: pa.Table,
    max_rank: int = 1,
    consecutive: int = 2,
) -> Trace:
    """Trace one fact, named by its fact_id or by the id of one of its probes.

    Raises:
        ValueError: there is no such fact, or it was not asked; the message names close matches.
    """
    fact_id = resolve_fact(fact, probes)
    mine = answers.filter(pc.equal(answers["fact_id"], fact_id))
    if not mine.num_rows:
        raise ValueError(f"the answers hold nothing about the fact {fact_id!r}: evaluate its probes first")
    knowledge = read_knowledge(mine)
    facts = distinct_facts(probes)
    exposures = find_exposures(order, fact_chunks.table, [fact_id], facts=facts)
    known = knowledge.known(max_rank)
    learned = int(learned_index(known, consecutive=consecutive)[0])
    learned_at = int(knowledge.steps[learned]) if learned >= 0 else None
    last = int(knowledge.steps[-1]) if learned_at is None else learned_at
    probe = probes.filter(pc.equal(probes["fact_id"], fact_id)).to_pylist()
    return Trace(
        **{name: probe[0][name] for name in ("fact_id", "relation", "subject", "subject_name", "answer")},
        answer_name=probe[0]["answer_name"],
        prompts=[row["prompt"] for row in probe],
        learned_at=learned_at,
        checkpoints=_checkpoints(mine, exposures, max_rank=max_rank),
        passages=sorted(
            [
                *_passages(fact_id, probe[0], store, order, fact_chunks, last=last),
                *_item_passages(fact_id, probe, order, facts, last=last),
            ],
            key=_reading_order,
        ),
    )


def _reading_order(passage: Passage) -> tuple[int, bool, int, str]:
    """By the first step; of one step, chunks by their ids, then items by theirs."""
    return passage.steps[0], passage.chunk_id is None, passage.chunk_id or 0, passage.doc_id


def resolve_fact(fact: str, probes: pa.Table) -> str:
    """The fact_id that a fact_id or probe_id means."""
    if pc.index(probes["fact_id"], fact).as_py() >= 0:
        return fact
    place = pc.index(probes["probe_id"], fact).as_py()
    if place >= 0:
        fact_id: str = probes["fact_id"][place].as_py()
        return fact_id
    found = ", ".join(_close_matches(fact, probes))
    advice = f"close ones: {found}" if found else "'chunk-provenance trace --list' names some"
    raise ValueError(f"no fact or probe {fact!r} among {probes.num_rows} probes; {advice}")


def _close_matches(fact: str, probes: pa.Table) -> list[str]:
    """Up to five facts whose id, subject or answer looks or sounds like the given one, with their names."""
    wanted = fact.casefold()
    named: dict[str, str] = {}
    keys: dict[str, str] = {}
    columns = (probes[name].to_pylist() for name in ("fact_id", "subject_name", "answer_name", "probe_id"))
    for fact_id, subject, answer, probe_id in zip(*columns, strict=True):
        named[fact_id] = f"{fact_id!r} ({subject}: {answer})"
        for key in (fact_id, probe_id, subject, answer):
            keys.setdefault(key.casefold(), fact_id)
    within = [fact_id for key, fact_id in keys.items() if wanted and wanted in key]
    close = [keys[key] for key in difflib.get_close_matches(wanted, keys, n=5, cutoff=0.6)]
    return [named[fact_id] for fact_id in dict.fromkeys([*within, *close])][:5]


def _checkpoints(answers: pa.Table, exposures: Exposures, *, max_rank: int) -> list[Checkpoint]:
    """The best probe of every step: lowest rank, then highest log-probability."""
    best: dict[int, dict[str, Any]] = {}
    for row in answers.to_pylist():
        held = best.get(row["step"])
        if held is None or _quality(row) > _quality(held):
            best[row["step"]] = row
    steps = np.array(sorted(best), dtype=np.int64)
    return [
        Checkpoint(
            step=step,
            exposures=count,
            rank=best[step]["rank"],
            num_candidates=best[step]["num_candidates"],
            logprob_mean=best[step]["logprob_mean"],
            known=best[step]["rank"] <= max_rank,
        )
        for step, count in zip(steps.tolist(), exposures.counts(steps)[0].tolist(), strict=True)
    ]


def _quality(row: dict[str, Any]) -> tuple[int, float]:
    logprob = row["logprob_mean"]
    return -row["rank"], float("-inf") if logprob is None else logprob


def _passages(
    fact_id: str, probe: dict[str, Any], store: ChunkStore, order: DataOrder, facts: FactChunks, *, last: int
) -> list[Passage]:
    table = facts.table
    hits = pc.and_(pc.equal(table["fact_id"], fact_id), pc.equal(table["kind"], "shared"))
    chunks = np.unique(table.filter(hits)["chunk_id"].to_numpy())
    offsets, updates = updates_of_chunks(order, chunks)
    entities = {probe["answer"]: "answer", probe["subject"]: "subject"}
    passages = []
    for number, chunk_id in enumerate(chunks.tolist()):
        seen = updates[offsets[number] : offsets[number + 1]]
        if steps := seen[seen <= last].tolist():
            passages.append(_passage(chunk_id, steps, entities, store, order, facts.evidence))
    return passages


def _item_passages(
    fact_id: str, probes: list[dict[str, Any]], order: DataOrder, facts: pa.Table, *, last: int
) -> list[Passage]:
    """The injected items that state the fact; its names are marked where they stand literally in the text."""
    named = [(probes[0]["subject_name"], "subject"), *((row["answer_name"], "answer") for row in probes)]
    passages = []
    for item_id, text, updates in stating_items(order, fact_id, facts):
        if steps := [update for update in updates if update <= last]:
            spans = [
                (found.start(), found.end(), kind)
                for name, kind in named
                for found in re.finditer(rf"\b{re.escape(name)}\b", text)
            ]
            passages.append(
                Passage(
                    chunk_id=None,
                    steps=steps,
                    epochs=[order.epoch_of(step) for step in steps],
                    doc_id=item_id,
                    title=None,
                    source="injected item",
                    url=None,
                    char_start=0,
                    char_end=len(text),
                    text=text,
                    spans=separate_spans(spans),
                )
            )
    return passages


def _passage(
    chunk_id: int,
    steps: list[int],
    entities: dict[str, str],
    store: ChunkStore,
    order: DataOrder,
    evidence: Evidence,
) -> Passage:
    text = store.chunk_text(chunk_id)
    mentions = store.mentions_of(chunk_id)
    mentions = mentions.filter(pa.array(evidence.passes(mentions)))
    rows = [row for row in mentions.to_pylist() if row["entity"] in entities]
    # Text decoded from tokens may differ from the document's: a span that does not fit is left out.
    spans = [
        (row["char_start"], row["char_end"], entities[row["entity"]])
        for row in rows
        if text[row["char_start"] : row["char_end"]] == row["surface"]
    ]
    segments = store.segments(chunk_id)
    doc_id = rows[0]["doc_id"] if rows else segments[0].doc_id
    segment = next((part for part in segments if part.doc_id == doc_id), segments[0])
    document = store.document(segment.doc_id)
    return Passage(
        chunk_id=chunk_id,
        steps=steps,
        epochs=[order.epoch_of(step) for step in steps],
        doc_id=segment.doc_id,
        title=document.title,
        source=document.source,
        url=document.url,
        char_start=segment.char_start,
        char_end=segment.char_end,
        text=text,
        spans=separate_spans(spans),
    )


def separate_spans(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, without overlaps: of two that overlap the one that begins first, then the longer,
    stays.

    >>> separate_spans([(4, 9, "answer"), (0, 5, "subject"), (0, 3, "answer"), (9, 10, "answer")])
    [(0, 5, 'subject'), (9, 10, 'answer')]
    """
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span[0], -span[1], span[2])):
        if span[0] < span[1] and (not kept or span[0] >= kept[-1][1]):
            kept.append(span)
    return kept


def excerpt(text: str, spans: list[Span]) -> tuple[str, list[Span]]:
    """A long passage cut down to its mentions and some context, on word borders; the spans move along."""
    if len(text) <= EXCERPT_LENGTH or not spans:
        return text, spans
    start, end = max(spans[0][0] - EXCERPT_MARGIN, 0), min(spans[-1][1] + EXCERPT_MARGIN, len(text))
    start = text.find(" ", start, spans[0][0]) + 1 or start if start else 0
    end = text.rfind(" ", spans[-1][1], end) if end < len(text) and " " in text[spans[-1][1] : end] else end
    before, after = "… " if start else "", " …" if end < len(text) else ""
    shift = len(before) - start
    moved = [(low + shift, high + shift, kind) for low, high, kind in spans]
    return before + text[start:end] + after, moved


def pick_facts(facts: pa.Table, *, count: int) -> dict[str, list[int]]:
    """Rows of a dynamics facts table that are worth a look: for each of `PICKS`, the first `count`.

    Facts known at step 0 and facts never seen are left out.
    """
    seen = facts["exposures"].to_numpy()
    never = pc.is_null(facts["learned_at"]).to_numpy()
    taught = facts["exposures_when_learned"].fill_null(0).to_numpy() > 0  # not a lucky guess before any text
    learned = taught & facts["known_at_end"].to_numpy()
    fresh = ~facts["known_at_start"].to_numpy() & (seen > 0)
    often, rarely = np.argsort(-seen, kind="stable"), np.argsort(seen, kind="stable")
    groups = {"often": (often, learned), "rare": (rarely, learned), "never": (often, never)}
    return {name: by[(fresh & group)[by]][:count].tolist() for name, (by, group) in groups.items()}
