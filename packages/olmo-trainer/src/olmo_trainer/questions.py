"""Read probes from a file and put them into tokens; one that cannot be asked is named, with the reason."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from olmo_trainer.probes import Question, encode_questions, longest

PROBE_COLUMNS = ("fact_id", "probe_id", "prompt", "answers", "distractors")


@dataclass(frozen=True)
class Probe:
    """One question as its file has it."""

    fact_id: str
    probe_id: str
    prompt: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]


@dataclass(frozen=True)
class AskedProbe:
    """A probe in tokens: what is asked of the model. A distractor that is an accepted answer is left out."""

    probe: Probe
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    distractors: tuple[tuple[int, ...], ...]

    @property
    def num_candidates(self) -> int:
        """Candidates to choose from, the accepted answers counting once."""
        return 1 + len(self.distractors)


@dataclass(frozen=True)
class Skipped:
    """A probe that cannot be asked, and why."""

    fact_id: str
    probe_id: str
    reason: str


def read_probes(path: Path) -> list[Probe]:
    """Read probes from Parquet or JSONL; columns beyond those needed here may be missing."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no probes file {str(path)!r}")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
    probes = [_probe(row, where) for where, row in rows]
    if not probes:
        raise ValueError(f"probes file {str(path)!r} is empty")
    seen: set[tuple[str, str]] = set()
    for probe in probes:
        key = (probe.fact_id, probe.probe_id)
        if key in seen:
            raise ValueError(f"probes file {str(path)!r} has the probe {key!r} twice: probe ids must differ")
        seen.add(key)
    return probes


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(f"probes file {str(path)!r} is no Parquet file: {error}") from error
    found = (metadata.get(b"format", b"probes").decode(), metadata.get(b"version", b"1").decode())
    if found != ("probes", "1"):
        raise ValueError(
            f"{str(path)!r} holds {found[0]!r} version {found[1]}, this olmo-trainer reads 'probes' version 1"
        )
    for number, row in enumerate(pq.read_table(path).to_pylist()):
        yield f"{str(path)!r} row {number}", row


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{str(path)!r} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"probes file {where} is no JSON: {error}") from error
            yield where, row


def _probe(row: Any, where: str) -> Probe:
    missing = [name for name in PROBE_COLUMNS if not isinstance(row, dict) or name not in row]
    if missing:
        raise ValueError(f"probes file {where} has no {missing[0]!r}: needed are {', '.join(PROBE_COLUMNS)}")
    texts = (row["fact_id"], row["probe_id"], row["prompt"])
    lists = (row["answers"], row["distractors"])
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists
    ):
        raise ValueError(
            f"probes file {where}: fact_id, probe_id and prompt must be strings, "
            "answers and distractors lists of strings"
        )
    return Probe(*texts, answers=tuple(lists[0]), distractors=tuple(lists[1]))


def prepare(
    probes: Sequence[Probe], tokenizer: PreTrainedTokenizerBase, *, max_length: int | None
) -> tuple[list[AskedProbe], list[Skipped]]:
    """Tokenise probes and sort out those that cannot be asked, with the reason."""
    questions = encode_questions(
        tokenizer,
        [probe.prompt for probe in probes],
        [(*probe.answers, *probe.distractors) for probe in probes],
    )
    asked: list[AskedProbe] = []
    skipped: list[Skipped] = []
    for probe, question in zip(probes, questions, strict=True):
        reason = _unaskable(probe, question, max_length)
        if reason is None:
            answers = tuple(dict.fromkeys(question.candidates[: len(probe.answers)]))
            distractors = dict.fromkeys(question.candidates[len(probe.answers) :])
            rivals = tuple(ids for ids in distractors if ids not in answers)
            asked.append(AskedProbe(probe, question.prompt, answers, rivals))
        else:
            skipped.append(Skipped(probe.fact_id, probe.probe_id, reason))
    return asked, skipped


def _unaskable(probe: Probe, question: Question, max_length: int | None) -> str | None:
    if not probe.prompt.strip() or not question.prompt:
        return "the prompt is empty"
    if not probe.answers:
        return "there is no accepted answer"
    for name, ids in zip((*probe.answers, *probe.distractors), question.candidates, strict=True):
        if not ids:
            return f"{name!r} has no tokens of its own behind the prompt"
    length = len(question.prompt) + longest(question) - 1
    if max_length is not None and length > max_length:
        return f"it takes {length} tokens, the model reads {max_length}"
    return None
