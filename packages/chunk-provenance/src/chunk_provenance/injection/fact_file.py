"""Facts to inject: JSON files of texts, their paraphrases, and the probes that ask for them.

The schema is that of the Fictional Knowledge data (arXiv 2406.11813): a list of objects with `train_context`,
`paraphrases`, and lists `mem_input`, `mem_target`, `gen_*`, `hard_gen_*`. Own facts may add `id` and
`entities` (the first two are subject and answer), and have any number of probes and paraphrases, or none.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from chunk_provenance.facts import PROBES
from chunk_provenance.formats import FormatError
from chunk_provenance.injection.plan_file import list_problems

DEPTHS = ("mem", "gen", "hard_gen")
"""Kinds of probes: a sentence of the text, a paraphrase of it, what follows from several sentences."""
PAIRS = tuple(f"{depth}_{part}" for depth in DEPTHS for part in ("input", "target"))
FIELDS = ("id", "train_context", "paraphrases", "entities", *PAIRS)


@dataclass(frozen=True)
class InjectableFact:
    """A text to inject, with its paraphrases and probes."""

    fact_id: str
    texts: tuple[str, ...]
    """Variant 0 is the original, variant k the k-th paraphrase."""
    probes: dict[str, tuple[tuple[str, str], ...]]
    """Depth -> (input, target); the text of a probe is both with a blank between."""
    entities: tuple[str, ...] = ()


def read_injectable_facts(paths: Sequence[str | Path]) -> list[InjectableFact]:
    """Read fact files, one after the other; a fact without `id` is named by its position over all of them.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file is no JSON list, or records are wrong: all problems, with record and field.
    """
    facts: list[InjectableFact] = []
    problems: list[str] = []
    for path in map(Path, paths):
        for number, record in enumerate(_read_list(path)):
            if found := list(_record_problems(record)):
                problems += [f"{path.name} record {number}, {problem}" for problem in found]
                continue
            facts.append(_make_fact(record, position=len(facts)))
    if problems:
        raise FormatError(list_problems("the facts cannot be used", problems))
    _check_ids(facts)
    return facts


def fact_probes(facts: Sequence[InjectableFact], *, num_distractors: int = 0) -> pa.Table:
    """The ordinary probes of facts: one row a probe, `relation` is its depth.

    Subject and answer are the fact's first two entities; a fact with fewer has its own id for both, so that
    only its own items count as exposures. Distractors are targets of the facts that follow (after the last
    comes the first), of probes of the same depth and number; without any, the answer always ranks first.

    Raises:
        ValueError: a probe has fewer other targets than distractors are asked for.
    """
    rows = [row for number in range(len(facts)) for row in _probe_rows(facts, number, num_distractors)]
    return pa.Table.from_pylist(rows, schema=PROBES)


def _probe_rows(
    facts: Sequence[InjectableFact], number_of_fact: int, num_distractors: int
) -> Iterator[dict[str, Any]]:
    fact = facts[number_of_fact]
    others = [*facts[number_of_fact + 1 :], *facts[:number_of_fact]]
    subject, answer = fact.entities[:2] if len(fact.entities) > 1 else (fact.fact_id, fact.fact_id)
    for depth, probes in fact.probes.items():
        for number, (prompt, target) in enumerate(probes):
            yield {
                "fact_id": fact.fact_id,
                "probe_id": f"{fact.fact_id}-{depth}-{number}",
                "relation": depth,
                "subject": subject,
                "answer": answer,
                "subject_name": subject,
                "answer_name": target,
                "prompt": prompt,
                "answers": [target],
                "distractors": _distractors(others, depth, number, target, num_distractors),
            }


def _distractors(
    others: Sequence[InjectableFact], depth: str, number: int, target: str, wanted: int
) -> list[str]:
    """The first targets of other facts that differ from the probe's own and from each other."""
    found: dict[str, str] = {}
    for fact in others:
        probes = fact.probes.get(depth, ())
        if len(found) == wanted:
            break
        if probes and (other := probes[number % len(probes)][1]).casefold() != target.casefold():
            found.setdefault(other.casefold(), other)
    if len(found) < wanted:
        raise ValueError(
            f"--distractors {wanted}: the facts have only {len(found)} other targets of {depth} probes for "
            f"{target!r}"
        )
    return list(found.values())


def _read_list(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no facts at {str(path)!r}: a JSON list of records with 'train_context'")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, list) or not content:
        what = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise FormatError(f"{str(path)!r} holds {what}, expected a list of facts")
    return content


def _make_fact(record: dict[str, Any], *, position: int) -> InjectableFact:
    pairs = {
        depth: tuple(zip(record.get(f"{depth}_input", ()), record.get(f"{depth}_target", ()), strict=True))
        for depth in DEPTHS
    }
    return InjectableFact(
        fact_id=str(record.get("id", position)),
        texts=(record["train_context"], *record.get("paraphrases", ())),
        probes={depth: probes for depth, probes in pairs.items() if probes},
        entities=tuple(record.get("entities", ())),
    )


def _check_ids(facts: Sequence[InjectableFact]) -> None:
    ids = [fact.fact_id for fact in facts]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise FormatError(
            f"{len(twice)} ids belong to more than one fact, e.g. {twice[0]!r}: a fact without an id has its "
            "position, from 0, as its id"
        )


def _record_problems(record: Any) -> Iterator[str]:
    """What is wrong with a record: its field, and what was found there."""
    if not isinstance(record, dict):
        yield f"found a {type(record).__name__}, expected an object"
        return
    for name in sorted(set(record) - set(FIELDS)):
        if close := difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8):
            yield f"{name}: no such field, did you mean {close[0]!r}?"
    if "id" in record and not (type(record["id"]) is int or _is_text(record["id"])):
        yield f"id: found {record['id']!r}, expected a text or a whole number"
    if not _is_text(record.get("train_context")):
        yield f"train_context: found {_shown(record, 'train_context')}, expected a text"
    for name in ("paraphrases", "entities", *PAIRS):
        yield from _list_problems(record, name)
    for depth in DEPTHS:
        inputs, targets = (record.get(f"{depth}_{part}", []) for part in ("input", "target"))
        if isinstance(inputs, list) and isinstance(targets, list) and len(inputs) != len(targets):
            yield f"{depth}_target: {len(targets)} targets for {len(inputs)} inputs"


def _list_problems(record: dict[str, Any], name: str) -> Iterator[str]:
    values = record.get(name, [])
    if not isinstance(values, list):
        yield f"{name}: found {_shown(record, name)}, expected a list of texts"
        return
    for number, value in enumerate(values):
        if not _is_text(value):
            yield f"{name}[{number}]: found {value!r}, expected a text"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shown(record: dict[str, Any], name: str) -> str:
    if name not in record:
        return "nothing"
    value = record[name]
    return (
        repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
    )
