"""Leave out of a corpus what overlaps with evaluation sets: documents that share n-grams of words with them.

Words are compared without case and punctuation. An n-gram is known by 64 bits: an evaluation set costs twelve
bytes a word of memory, and a chance match has a probability of (n-grams in the sets) / 2^64 a window. One
document is in memory at a time; the files of OUT are named and compressed as those they come from.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from model_merge.corpus import Line, Rejected, Source, find_sources, look_up, parse, raw_lines, read_lines
from model_merge.folders import begin, check_output, finish
from model_merge.partition_files import Progress

FORMAT = {"format": "decontamination", "version": 1}
WORD = re.compile(r"\w+")
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, its bits look random

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Threshold:
    """What makes a document go: both must hold."""

    ngram: int = 13
    """Words of an n-gram."""
    min_matches: int = 1
    """So many of the document's n-grams stand in evaluation sets."""
    min_share: float = 0.0
    """They are at least this share of all its n-grams."""

    def check(self) -> None:
        """Refuse numbers that would remove everything or mean nothing."""
        if self.ngram < 1 or self.min_matches < 1 or not 0 <= self.min_share <= 1:
            raise ValueError(
                f"--ngram {self.ngram} and --min-matches {self.min_matches} must be at least 1, "
                f"--min-share {self.min_share} between 0 and 1"
            )


@dataclass(frozen=True)
class EvaluationSets:
    """The n-grams of all evaluation sets, and which set each comes from first."""

    names: tuple[str, ...]
    hashes: Hashes  # (n-grams,) ascending, distinct
    owner: npt.NDArray[np.int32]  # (n-grams,)
    num_documents: tuple[int, ...]
    num_short: tuple[int, ...]
    """Documents of fewer than n words, which nothing can match."""


@dataclass(frozen=True)
class Removal:
    """A document that goes, and why."""

    place: str
    doc_id: str
    num_matches: int
    num_ngrams: int
    evaluation_set: str
    """The set of the first match."""
    ngram: str
    """The first match itself, as the document's words."""


def words_of(text: str) -> list[str]:
    """The words that count, without case and punctuation.

    >>> words_of("Don't panic: it's 42!")
    ['don', 't', 'panic', 'it', 's', '42']
    """
    return WORD.findall(text.casefold())


def hash_ngrams(words: Sequence[str], n: int) -> Hashes:
    """64 bits for every run of n words, (max(0, words - n + 1),)."""
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    values = np.array([_hash_word(word) for word in words], dtype=np.uint64)
    total = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for offset in range(n):  # sum of word[i + j] * MULTIPLIER^(n - j), modulo 2^64
        total = (total + values[offset : offset + len(total)]) * np.uint64(MULTIPLIER)
    return total


@lru_cache(maxsize=1 << 18)
def _hash_word(word: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def collect_sets(places: Sequence[Path], n: int, *, text_key: str = "text") -> EvaluationSets:
    """Read all evaluation sets; a set is a file or a folder of files, its name is the path's last part."""
    hashes: list[Hashes] = []
    owners: list[npt.NDArray[np.int32]] = []
    num_documents, num_short = [0] * len(places), [0] * len(places)
    for number, place in enumerate(places):
        for text in _texts(place, text_key):
            found = hash_ngrams(words_of(text), n)
            num_documents[number] += 1
            num_short[number] += not len(found)
            hashes.append(np.unique(found))
            owners.append(np.full(len(hashes[-1]), number, dtype=np.int32))
        if num_documents[number] == num_short[number]:
            raise ValueError(
                f"evaluation set {str(place)!r} has no document of {n} words under {text_key!r}: "
                "give its --text-key, or a smaller --ngram"
            )
    distinct, first = np.unique(np.concatenate(hashes), return_index=True)
    names = tuple(place.name for place in places)
    return EvaluationSets(
        names, distinct, np.concatenate(owners)[first], tuple(num_documents), tuple(num_short)
    )


def find_overlap(line: Line, sets: EvaluationSets, threshold: Threshold) -> Removal | None:
    """Why a document must go; None where it may stay."""
    words = words_of(line.text)
    hashes = hash_ngrams(words, threshold.ngram)
    places = np.minimum(np.searchsorted(sets.hashes, hashes), len(sets.hashes) - 1)
    matches = np.flatnonzero(sets.hashes[places] == hashes)
    if len(matches) < threshold.min_matches or len(matches) < threshold.min_share * len(hashes):
        return None
    first = int(matches[0])
    return Removal(
        line.place,
        line.doc_id,
        num_matches=len(matches),
        num_ngrams=len(hashes),
        evaluation_set=sets.names[sets.owner[places[first]]],
        ngram=" ".join(words[first : first + threshold.ngram]),
    )


def decontaminate(
    sources: Sequence[Source],
    out: Path,
    against: Sequence[Path],
    threshold: Threshold,
    *,
    id_key: str = "id",
    text_key: str = "text",
    overwrite: bool = False,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Write a corpus without the documents that overlap with the evaluation sets; what happened, in numbers.

    Writes the kept lines to OUT under their files' names, OUT/removed.jsonl, OUT/skipped.jsonl and
    OUT/decontamination.json. OUT appears complete or not at all.
    """
    threshold.check()
    check_output(out, "decontamination.json", overwrite=overwrite)
    sets = collect_sets(against, threshold.ngram, text_key=text_key)
    unfinished = begin(out)
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    with Listing(unfinished / "removed.jsonl") as removals, Listing(unfinished / "skipped.jsonl") as rejects:
        for source in progress(sources):
            with open_output(unfinished / source.name) as file:
                for line in read_lines([source], id_key=id_key, text_key=text_key, seen=seen):
                    if isinstance(line, Rejected):
                        counts["skipped", line.reason] += 1
                        rejects.add(line)
                    elif (removal := find_overlap(line, sets, threshold)) is not None:
                        counts["removed", removal.evaluation_set] += 1
                        removals.add(removal)
                    else:
                        counts["kept", ""] += 1
                        file.write(line.raw.rstrip(b"\r\n") + b"\n")
    settings = {**asdict(threshold), "id_key": id_key, "text_key": text_key}
    summary = {**FORMAT, "settings": settings, **summarise(counts, sets)}
    (unfinished / "decontamination.json").write_text(
        json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    finish(unfinished, out)
    return summary


def summarise(counts: Counter[tuple[str, str]], sets: EvaluationSets) -> dict[str, Any]:
    """The numbers of decontamination.json."""
    per_set = zip(sets.names, sets.num_documents, sets.num_short, strict=True)
    return {
        "evaluation_sets": [
            {
                "name": name,
                "documents": documents,
                "too_short": short,
                "removed": counts["removed", name],
            }
            for name, documents, short in per_set
        ],
        "num_kept": counts["kept", ""],
        "num_removed": sum(number for (what, _), number in counts.items() if what == "removed"),
        "num_skipped": {
            reason: number for (what, reason), number in sorted(counts.items()) if what == "skipped"
        },
    }


class Listing:
    """A JSONL file of records."""

    def __init__(self, path: Path) -> None:
        """Begin the file."""
        self.file = path.open("w", encoding="utf-8")

    def add(self, record: Removal | Rejected) -> None:
        """Append a record."""
        self.file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")

    def __enter__(self) -> "Listing":
        """Nothing more to open."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.file.close()


@contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, compressed as its name says; same lines, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if path.suffix.lower() == ".gz":
            plain = stack.enter_context(path.open("wb"))
            zipped = gzip.GzipFile("", "wb", 6, plain, mtime=0)
            yield cast(IO[bytes], stack.enter_context(zipped))
        elif path.suffix.lower() == ".zst":
            import pyarrow as pa  # the reader has already said it if the extra is missing

            yield stack.enter_context(pa.output_stream(str(path), compression="zstd"))
        else:
            yield stack.enter_context(path.open("wb"))


def _texts(place: Path, text_key: str) -> Iterator[str]:
    """The texts of an evaluation set; ids do not matter there."""
    for source in find_sources(place):
        for raw in raw_lines(source.path):
            row = parse(raw)
            text = look_up(row, text_key) if isinstance(row, dict) else None
            if isinstance(text, str):
                yield text
