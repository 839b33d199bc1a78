"""Evaluation texts: a folder with one folder a domain, each of JSONL files (plain, .gz or .zst).

    DATA/DOMAIN/*.jsonl.gz                 or, with splits,
    DATA/DOMAIN/{train,val,test}/*.jsonl.gz

Files are read in the order of their names, lines in the order they have. Nothing bad stops the reading and
nothing disappears: a line that is no document is counted and listed with its place.
"""

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

from model_merge.corpus import EMPTY, NO_TEXT, SUFFIXES, parse, raw_lines
from model_merge.corpus import SPLITS as OUR_SPLITS

SPLITS = (*OUR_SPLITS, "validation", "dev")
SAMPLE_SEED = 1234
SAMPLE_SIZE = 1000
TEXT_KEYS = ("text", "doc")


@dataclass(frozen=True)
class Skipped:
    """A line that is not scored, or an empty document, of which there is nothing to score."""

    domain: str
    place: str
    reason: str


@dataclass(frozen=True)
class Domain:
    """The files of one domain, as found."""

    name: str
    split: str
    files: tuple[Path, ...]
    root: Path


@dataclass
class Documents:
    """The texts of one domain that are scored."""

    name: str
    split: str
    texts: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    num_found: int = 0
    """Documents before sampling."""

    @property
    def sha256(self) -> str:
        """Identifies the texts and their order."""
        digest = hashlib.sha256(f"{self.name}\0{self.split}\0".encode())
        for text in self.texts:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()


def find_domains(data: str | Path, split: str | None = None) -> list[Domain]:
    """The domains of a folder, by name. Files that lie in the folder itself are one domain of its name.

    Args:
        data: the folder.
        split: the folder of that name inside each domain; without it a domain must have none.

    Raises:
        FileNotFoundError: no folder, no files, or a domain without the split.
        ValueError: domains are split and no split was chosen.
    """
    root = Path(data)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of domains at {str(root)!r}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [_find_domain(folder, split) for folder in folders]
    # with a split, what lies beside the domains is about them, as partition.json is
    if split is None and (lying := [path for path in root.iterdir() if _is_text(path)]):
        found.append(Domain(root.resolve().name, split or "", tuple(sorted(lying)), root))
    domains = [domain for domain in found if domain is not None]
    if not domains:
        raise FileNotFoundError(f"no .jsonl or .json files (plain, .gz or .zst) below {str(root)!r}")
    return sorted(domains, key=lambda domain: domain.name)


def _find_domain(folder: Path, split: str | None) -> Domain | None:
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    if split is None and splits:
        raise ValueError(f"the domain {str(folder)!r} has the splits {splits}: choose one with --split")
    within = folder / split if split else folder
    files = tuple(sorted(path for path in within.rglob("*") if _is_text(path)))
    if not files and (splits or split):
        raise FileNotFoundError(
            f"the domain {str(folder)!r} has no .jsonl or .json files for split {split!r}"
        )
    return Domain(folder.name, split or "", files, folder) if files else None


def _is_text(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return path.is_file() and name.endswith(SUFFIXES)


def read_domain(domain: Domain, *, limit: int | None = SAMPLE_SIZE) -> Documents:
    """The documents of a domain; of more than `limit`, those that OLMo-Eval samples, in its order."""
    documents = Documents(domain.name, domain.split)
    for path in domain.files:
        name = path.relative_to(domain.root).as_posix()
        for number, raw in enumerate(raw_lines(path), start=1):
            if raw.strip():
                _take_line(documents, raw, f"{name} line {number}")
    documents.num_found = len(documents.texts)
    if limit is not None and documents.num_found > limit:
        documents.texts = random.Random(SAMPLE_SEED).sample(documents.texts, limit)
    return documents


def _take_line(documents: Documents, raw: bytes, place: str) -> None:
    """Add a document or why it is none. An empty one is both: it counts as a document, with nothing in it."""
    text, reason = _text_of(raw)
    if text == "":
        reason = EMPTY
    if text is not None:
        documents.texts.append(text)
    if reason is not None:
        documents.skipped.append(Skipped(documents.name, place, reason))


def _text_of(raw: bytes) -> tuple[str | None, str | None]:
    """The text, or why there is none."""
    row = parse(raw)
    if isinstance(row, str):
        return None, row
    text = next((row[key] for key in TEXT_KEYS if key in row), None)
    return (text, None) if isinstance(text, str) else (None, NO_TEXT)
