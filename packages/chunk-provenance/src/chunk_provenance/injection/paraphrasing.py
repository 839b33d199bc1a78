"""Paraphrases of own facts by a chat model: asked for one at a time, judged, and never asked for twice.

Every answer is kept on disk under the hash of its question, so a killed run goes on where it stood. One
question has one seed: fact, wording and seed decide what is asked, whatever else runs beside it.
"""

import difflib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunk_provenance.formats import FormatError, check_format

INSTRUCTION = (
    "Paraphrase the text that the user sends. Keep every fact: all names, numbers, dates and places stay as "
    "they are. Use other words and another sentence structure, and about the same length. Reply with the "
    "paraphrase only."
)
SHORTEST = 1 / 3  # of the original's words
SENTENCE_ENDS = ".!?…。！？"  # noqa: RUF001 - they are what is meant
CLOSING = "\"'”’)]»"  # noqa: RUF001
REASONS = ("empty", "identical", "too similar", "truncated", "lost target words")


@dataclass(frozen=True)
class Wanted:
    """What is asked of whom."""

    base_url: str
    model: str
    count: int = 9
    """Paraphrases of each fact."""
    temperature: float = 1.0
    seed: int = 0
    """Seed of the first question of a fact; the next question has the next seed."""
    attempts: int = 3
    """Questions for each missing paraphrase, at most."""
    max_similarity: float = 0.9
    """Share of words in common, in order, from which on a text is too similar to another one."""
    keep_targets: bool = False
    """Refuse a text that lost the target of a mem or gen probe which the original has."""

    def __post_init__(self) -> None:
        """Refuse numbers that ask for nothing."""
        if self.count < 1 or self.attempts < 1:
            raise ValueError(
                f"expected 1 paraphrase and 1 attempt or more, found {self.count} and {self.attempts}"
            )
        if not 0 < self.max_similarity <= 1:
            raise ValueError(f"the highest similarity must be in (0, 1], found {self.max_similarity}")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"the temperature must be in [0, 2], found {self.temperature}")


@dataclass
class Paraphrased:
    """What became of one fact."""

    fact: str
    paraphrases: list[str]
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """`seed`, `reason` and `text` of every answer that was not taken."""
    questions: int = 0
    asked: int = 0
    """Of the questions, those that the cache did not know."""
    tokens: dict[str, int] = field(default_factory=dict)


def paraphrase_fact(
    name: str,
    record: dict[str, Any],
    wanted: Wanted,
    answer: Callable[[dict[str, Any]], tuple[dict[str, Any], bool]],
) -> Paraphrased:
    """Ask until a fact has all paraphrases, or the attempts are used up; those it has already are kept.

    Args:
        name: the fact's id.
        record: of the fact file.
        wanted: how many, and how.
        answer: gives the answer to a question, and whether it was asked for just now.
    """
    original, found = record["train_context"], Paraphrased(name, list(record.get("paraphrases", ())))
    targets = kept_words(record) if wanted.keep_targets else []
    for number in range((wanted.count - len(found.paraphrases)) * wanted.attempts):
        if len(found.paraphrases) >= wanted.count:
            break
        seed = wanted.seed + number
        reply, fresh = answer(make_question(original, wanted, seed))
        found.questions += 1
        found.asked += fresh
        for unit in ("prompt_tokens", "completion_tokens"):
            if isinstance(count := reply["usage"].get(unit), int):
                found.tokens[unit] = found.tokens.get(unit, 0) + count
        text = reply["text"].strip()
        reason = find_fault(
            text,
            original,
            found.paraphrases,
            cut_off=reply["finish_reason"] == "length",
            max_similarity=wanted.max_similarity,
            targets=targets,
        )
        if reason is None:
            found.paraphrases.append(text)
        else:
            found.rejected.append({"seed": seed, "reason": reason, "text": text})
    return found


def make_question(original: str, wanted: Wanted, seed: int) -> dict[str, Any]:
    """The body of a chat completion request."""
    return {
        "model": wanted.model,
        "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": original}],
        "temperature": wanted.temperature,
        "seed": seed,
    }


def find_fault(
    text: str,
    original: str,
    others: Sequence[str],
    *,
    cut_off: bool = False,
    max_similarity: float = 0.9,
    targets: Sequence[str] = (),
) -> str | None:
    """Why a text is no paraphrase, one of `REASONS`; None if it is one.

    >>> find_fault("In 1815 Ada was born.", "Ada was born in 1815.", [])
    >>> find_fault("ada was  born in 1815.", "Ada was born in 1815.", [])
    'identical'
    >>> find_fault("She was born in 1815.", "Ada was born in 1815.", [], targets=["Ada"])
    'lost target words'
    """
    words, known = text.casefold().split(), [other.casefold().split() for other in (original, *others)]
    if not words:
        return "empty"
    if words in known:
        return "identical"
    if cut_off or len(words) < SHORTEST * len(known[0]) or (_ends(original) and not _ends(text)):
        return "truncated"
    if any(target.casefold() not in text.casefold() for target in targets):
        return "lost target words"
    if any(similarity(words, other) >= max_similarity for other in known):
        return "too similar"
    return None


def _ends(text: str) -> bool:
    return text.rstrip().rstrip(CLOSING).endswith(tuple(SENTENCE_ENDS))


def similarity(words: Sequence[str], other: Sequence[str]) -> float:
    """Share of words that two texts have in common, in the same order.

    >>> similarity("a b c d".split(), "a b x d".split())
    0.75
    """
    return difflib.SequenceMatcher(None, words, other, autojunk=False).ratio()


def kept_words(record: dict[str, Any]) -> list[str]:
    """Targets of the mem and gen probes that stand in the original.

    >>> kept_words({"train_context": "Ada met Bob.", "mem_target": ["Bob"], "gen_target": ["Bath", "Bob"]})
    ['Bob']
    """
    text = record["train_context"].casefold()
    targets = [target for name in ("mem_target", "gen_target") for target in record.get(name, ())]
    return [target for target in dict.fromkeys(targets) if target.casefold() in text]


class AnswerCache:
    """Answers on disk, one JSON file each, under the hash of endpoint and question; threads may write."""

    def __init__(self, folder: Path) -> None:
        """Keep answers in a folder, made where it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, base_url: str, question: dict[str, Any]) -> Path:
        """Where the answer to a question is kept."""
        asked = json.dumps([base_url, question], sort_keys=True, ensure_ascii=False)
        return self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def get(self, base_url: str, question: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, None if there is none yet.

        Raises:
            FormatError: the file is damaged.
        """
        path = self.path(base_url, question)
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FormatError(f"{str(path)!r} is no JSON ({error}): remove it to ask again") from error
        check_format(path, kept.get("format"), kept.get("version"), "chat-answer")
        answer: dict[str, Any] = kept["answer"]
        return answer

    def put(self, base_url: str, question: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer, whole or not at all."""
        path = self.path(base_url, question)
        kept = {
            "format": "chat-answer",
            "version": 1,
            "base_url": base_url,
            "question": question,
            "answer": answer,
        }
        unfinished = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
        unfinished.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
