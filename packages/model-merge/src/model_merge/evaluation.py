"""Evaluate planned merges on domains: one model in memory, one row a merge and domain, resumable."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from model_merge import perplexity
from model_merge.checkpoint import Checkpoint, open_checkpoint
from model_merge.domains import Documents, find_domains, read_domain
from model_merge.mixture_plan import MixturePlan, Row
from model_merge.resident import Resident, make_resident
from model_merge.result_parts import ResultParts
from model_merge.results import add_up, make_row, write_json
from model_merge.subsets import block_of

T = TypeVar("T")
Progress = Callable[[Sequence[T], str], Iterable[T]]


@dataclass(frozen=True)
class Settings:
    """How models are scored."""

    split: str | None = None
    limit: int | None = 1000
    mode: perplexity.Mode = "olmo-eval"
    length: int | None = None
    batch: int = 32
    tokenizer: Path | None = None
    device: str = "cpu"
    dtype: str = "auto"
    budget: int = 8 << 30


@dataclass(frozen=True)
class Outcome:
    """What an evaluation did."""

    evaluated: int
    present: int
    """Merges whose rows were there already."""
    missing: int
    """Merges that other processes have yet to do."""
    skipped: dict[str, int]
    """Lines that are not scored, by reason."""


def evaluate_plan(
    plan: MixturePlan,
    data: Path,
    out: Path,
    settings: Settings,
    *,
    shard: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: Progress[Any] = lambda items, title: items,
) -> Outcome:
    """Evaluate every merge of a plan on every domain of a folder, and write the result table.

    Args:
        plan: the merges.
        data: a folder of domains.
        out: the Parquet file. It appears once every merge is there; until then its parts lie in OUT.parts.
        settings: how models are scored.
        shard: this process's number and how many there are; each takes a block of neighbouring merges.
        overwrite: start again where an unfinished or another evaluation lies.
        progress: goes through things that take long.
    """
    checkpoints = [open_checkpoint(reference) for reference in plan.parts.values()]
    texts = read_texts(data, settings)
    about = describe(plan, checkpoints, texts, settings)
    parts = ResultParts(out, about, len(plan.rows))
    skipped = count_skipped(texts)
    if not parts.begin(overwrite=overwrite):
        return Outcome(0, len(plan.rows), 0, skipped)
    _write_skipped(texts, out)
    mine = [n for n in range(len(plan.rows)) if block_of(n, len(plan.rows), shard[1]) == shard[0]]
    todo = [number for number in mine if not parts.has(number)]
    if todo:
        _evaluate_rows(plan, checkpoints, texts, settings, parts, todo, progress)
    finished = parts.finish({"family": plan.family})
    missing = 0 if finished else len(plan.rows) - parts.count()
    return Outcome(len(todo), len(mine) - len(todo), missing, skipped)


def _evaluate_rows(
    plan: MixturePlan,
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[Documents],
    settings: Settings,
    parts: ResultParts,
    todo: Sequence[int],
    progress: Progress[Any],
) -> None:
    merges = [row.merge for row in plan.rows]
    resident = make_resident(
        checkpoints,
        merges,
        device=settings.device,
        dtype=settings.dtype,
        budget=settings.budget,
        progress=lambda names: iter(progress(names, "reading the parts")),
    )
    domains = prepare_domains(resident, checkpoints[0], texts, settings)
    for number in progress(todo, "evaluating"):
        row = plan.rows[number]
        try:
            resident.become(row.merge)
        except ValueError as error:
            raise ValueError(f"{row.merge_id!r}: {error}") from error
        parts.write(number, _score_domains(resident, domains, _about_row(row), settings))


def prepare_domains(
    resident: Resident, checkpoint: Checkpoint, texts: Sequence[Documents], settings: Settings
) -> list[perplexity.Prepared]:
    """Tokenise and cut the domains' documents for a model."""
    encoder = perplexity.load_encoder(
        settings.tokenizer or checkpoint.folder, resident.model.config, length=settings.length
    )
    return [
        perplexity.prepare(
            documents, encoder, mode=settings.mode, device=settings.device, batch=settings.batch
        )
        for documents in texts
    ]


def _score_domains(
    resident: Resident,
    domains: Sequence[perplexity.Prepared],
    about: dict[str, Any],
    settings: Settings,
) -> list[dict[str, Any]]:
    dtype = str(resident.model.dtype).removeprefix("torch.")
    rows = []
    for domain in domains:
        sums = add_up(perplexity.score(resident.model, domain))
        where = {"domain": domain.name, "split": domain.split, "window": settings.mode, "dtype": dtype}
        rows.append(make_row({**about, **where}, sums))
    return rows


def _about_row(row: Row) -> dict[str, Any]:
    merge = row.merge
    is_model = merge.method == "model"
    return {
        "merge_id": row.merge_id,
        "members": list(row.members),
        "weights": None if is_model else list(merge.weights),
        "mask": None if is_model else merge.mask,
        "method": merge.method,
    }


def read_texts(data: Path, settings: Settings) -> list[Documents]:
    """The documents of every domain of a folder."""
    return [read_domain(domain, limit=settings.limit) for domain in find_domains(data, settings.split)]


def describe(
    plan: MixturePlan,
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[Documents],
    settings: Settings,
) -> dict[str, Any]:
    """All that an evaluation's numbers depend on."""
    encoder = settings.tokenizer or checkpoints[0].folder
    files = sorted(encoder.glob("*token*")) if encoder.is_dir() else [encoder]
    return {
        "merges": [[row.merge_id, list(row.merge.coefficients), row.merge.divisor] for row in plan.rows],
        "parts": {
            name: checkpoint.digest() for name, checkpoint in zip(plan.names, checkpoints, strict=True)
        },
        "domains": {documents.name: documents.sha256 for documents in texts},
        "tokenizer": {file.name: _hash_file(file) for file in files if file.is_file()},
        "scoring": {"window": settings.mode, "length": settings.length, "dtype": settings.dtype},
        "device": settings.device.partition(":")[0],
    }


def count_skipped(texts: Sequence[Documents]) -> dict[str, int]:
    """Lines that are not scored, by reason."""
    counts: dict[str, int] = {}
    for line in [line for documents in texts for line in documents.skipped]:
        counts[line.reason] = counts.get(line.reason, 0) + 1
    return counts


def skipped_path(out: Path) -> Path:
    """Where the lines that are not scored are listed."""
    return out.with_name(out.name.removesuffix(".parquet") + ".skipped.json")


def _write_skipped(texts: Sequence[Documents], out: Path) -> None:
    lines = [
        {"domain": line.domain, "place": line.place, "reason": line.reason}
        for documents in texts
        for line in documents.skipped
    ]
    if lines:
        write_json({"format": "skipped-lines", "version": 1, "lines": lines}, skipped_path(out))


def _hash_file(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
