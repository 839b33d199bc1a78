"""Check a data order against what the trainer logged: one digest of the batch for every update."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunk_provenance.formats import FormatError
from chunk_provenance.order import DataOrder, batch_digest


@dataclass(frozen=True)
class Verification:
    """What a comparison found; `step` is the first that differs, None where all agree."""

    num_verified: int
    num_missing: int
    """Updates of the order that the log does not tell about."""
    step: int | None = None
    logged: str | None = None
    expected: str | None = None
    """The order's digest at `step`; None where the order has no such update."""


def verify_log(order: DataOrder, metrics: str | Path) -> Verification:
    """Compare the `batch_digest` of every line of a `metrics.jsonl` with the order.

    A last line that a killed run left unfinished is not read.

    Raises:
        FileNotFoundError: there is no such log.
        FormatError: a line is no JSON object, or none has `step` and `batch_digest`.
    """
    seen: set[int] = set()
    for step, logged in _read_digests(Path(metrics)):
        inside = 1 <= step <= order.num_updates
        expected = batch_digest(order.batch(step)) if inside else None
        if logged != expected:
            return Verification(len(seen), order.num_updates - len(seen), step, logged, expected)
        seen.add(step)
    return Verification(len(seen), order.num_updates - len(seen))


def _read_digests(path: Path) -> list[tuple[int, str]]:
    """(step, digest) of every line that logs an update, by step."""
    if not path.is_file():
        raise FileNotFoundError(f"no log at {str(path)!r}: expected a run's metrics.jsonl")
    content = path.read_text(encoding="utf-8")
    lines = content.split("\n")[:-1]  # what follows the last newline was not finished
    digests = [(row["step"], row["batch_digest"]) for row in _parse(path, lines) if "batch_digest" in row]
    if not digests:
        raise FormatError(
            f"{str(path)!r} has no line with 'step' and 'batch_digest': nothing can be verified"
        )
    return sorted(digests)


def _parse(path: Path, lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or ("batch_digest" in row and not isinstance(row.get("step"), int)):
            raise FormatError(f"line {number} of {str(path)!r} is no line of metrics: {line[:60]!r}")
        yield row
