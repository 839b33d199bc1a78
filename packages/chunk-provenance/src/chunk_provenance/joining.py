"""Join a data order, fact chunks and answers into a dynamics folder: seen when, known when (FORMAT.md)."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from chunk_provenance.answers import read_answers
from chunk_provenance.dynamics import (
    DEFAULT_BINS,
    accuracy_table,
    check_bins,
    check_join,
    earliness,
    facts_table,
    group_summary,
    interval_table,
    read_knowledge,
)
from chunk_provenance.exposures import find_exposures
from chunk_provenance.facts import FactChunks, distinct_facts, read_fact_chunks, read_probes
from chunk_provenance.formats import FormatError, check_format, open_table, write_json, write_table
from chunk_provenance.hashing import hash_file
from chunk_provenance.injection.items import injected_facts
from chunk_provenance.order import DataOrder
from chunk_provenance.published import open_order, order_files

TABLES = {
    "facts": "dynamics-facts",
    "intervals": "dynamics-intervals",
    "accuracy": "dynamics-accuracy",
}


@dataclass(frozen=True)
class Dynamics:
    """The tables of a dynamics folder and its summary, `dynamics.json`."""

    facts: pa.Table
    intervals: pa.Table
    accuracy: pa.Table
    info: dict[str, Any]


def compute_dynamics(
    order: DataOrder,
    fact_chunks: FactChunks,
    answers: pa.Table,
    *,
    max_rank: int = 1,
    consecutive: int = 2,
    edges: Sequence[int] = DEFAULT_BINS,
    bounds: Sequence[int] | None = None,
    seed: int = 0,
    probes: pa.Table | None = None,
) -> Dynamics:
    """When each fact was seen and when it was known.

    Args:
        order: the recorded data order of the run.
        fact_chunks: which chunks state each fact.
        answers: one row per (step, probe), as `read_answers` gives them.
        max_rank: a fact is known if its answer is among so many best candidates.
        consecutive: a fact is learned once it stays known for so many consecutive checkpoints.
        edges: where the exposure bins begin.
        bounds: the checkpoints that bound the intervals (default: all).
        seed: of the bootstrap interval of rho.
        probes: as `read_probes` gives them; with them injected items count through their entities, too.
    """
    check_bins(edges)
    if max_rank < 1 or consecutive < 1:
        raise ValueError(f"ranks and checkpoints count from 1, found {max_rank} and {consecutive}")
    check_same_store(order, fact_chunks)
    knowledge = read_knowledge(answers)
    check_join(order.num_updates, knowledge, fact_chunks.table, injected=injected_facts(order))
    steps = knowledge.steps
    if bounds is not None:
        bounds = knowledge.select(bounds).steps.tolist()
    asked = None if probes is None else distinct_facts(probes)
    exposures = find_exposures(order, fact_chunks.table, knowledge.fact_ids, facts=asked)
    known, counts = knowledge.known(max_rank), exposures.counts(steps)
    facts = facts_table(knowledge, exposures, max_rank=max_rank, consecutive=consecutive)
    groups = group_summary(facts, edges)
    info = {
        "steps": steps.tolist(),
        "num_updates": order.num_updates,
        "epoch_starts": order.epoch_starts.tolist(),
        "parameters": {
            "max_rank": max_rank,
            "consecutive": consecutive,
            "bins": list(edges),
            "intervals": bounds,
            "seed": seed,
            "evidence": asdict(fact_chunks.evidence),
        },
        "summary": {
            "facts": facts.num_rows,
            "probes": int(knowledge.num_probes.sum()),
            "facts_seen": int((counts[:, -1] > 0).sum()),
            "injected_items": exposures.num_injected,
            "learned": sum(row["learned"] for row in groups),
            "known_at_end": int(known[:, -1].sum()),
            "earliness": asdict(earliness(facts, seed=seed)),
            "by_exposures": groups,
        },
    }
    intervals = interval_table(known, counts, steps, edges=edges, bounds=bounds)
    return Dynamics(facts, intervals, accuracy_table(known, counts, steps, edges=edges), info)


def check_same_store(order: DataOrder, fact_chunks: FactChunks) -> None:
    """Refuse fact chunks of another store than that of the order, where both say which."""
    ours, theirs = order.info.get("store_sha256"), fact_chunks.store_sha256
    if ours is not None and theirs is not None and ours != theirs:
        raise FormatError(
            f"the data order belongs to the chunk store {ours[:12]}, the fact chunks to {theirs[:12]}: "
            "chunk ids mean different text there, make the fact chunks from the store of the run"
        )


def join_files(
    order: Path,
    fact_chunks: Path,
    answers: Path,
    *,
    command: str,
    probes: Path | None = None,
    **options: Any,
) -> Dynamics:
    """Read the inputs, join them (options: `compute_dynamics`), note the command and their hashes."""
    result = compute_dynamics(
        open_order(order),
        read_fact_chunks(fact_chunks),
        read_answers(answers),
        probes=None if probes is None else read_probes(probes),
        **options,
    )
    inputs = {
        "order": hash_files(order_files(order)) or str(order),
        "fact_chunks": hash_files([fact_chunks]),
        "answers": hash_files([answers]),
        **({} if probes is None else {"probes": hash_files([probes])}),
    }
    info = {**result.info, "command": command, "inputs": inputs}
    return Dynamics(result.facts, result.intervals, result.accuracy, info)


def hash_files(paths: Sequence[Path]) -> str:
    """Hex sha256 of one file, or of the hashes of several in the given order; "" without any."""
    digests = [hash_file(path) for path in paths]
    return "".join(digests) if len(digests) < 2 else hashlib.sha256("".join(digests).encode()).hexdigest()


def save_dynamics(dynamics: Dynamics, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a dynamics folder, complete or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is not set, or it is something else than a dynamics
        folder.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    unfinished = path.with_name(path.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, format_name in TABLES.items():
        write_table(getattr(dynamics, name), unfinished / f"{name}.parquet", format_name)
    write_json({"format": "dynamics", "version": 1, **dynamics.info}, unfinished / "dynamics.json")
    if path.exists():
        shutil.rmtree(path)
    unfinished.replace(path)


def check_free(path: Path, *, overwrite: bool, kind: str = "dynamics") -> None:
    """Refuse to replace anything but, if asked to, an earlier folder of the same kind."""
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{str(path)!r} exists: choose another place or give --overwrite")
    if not (path / f"{kind}.json").is_file():
        raise FileExistsError(f"{str(path)!r} is no {kind} folder, it is not overwritten: remove it yourself")


def load_dynamics(path: str | Path) -> Dynamics:
    """Read a dynamics folder.

    Raises:
        FileNotFoundError: `path` is no dynamics folder.
        FormatError: it has another format or version.
    """
    path = Path(path)
    if not (path / "dynamics.json").is_file():
        raise FileNotFoundError(f"no dynamics at {str(path)!r}: 'chunk-provenance dynamics' makes them")
    info = json.loads((path / "dynamics.json").read_text(encoding="utf-8"))
    check_format(path, info.pop("format", None), info.pop("version", None), "dynamics")
    tables = {name: _read_part(path / f"{name}.parquet", format_name) for name, format_name in TABLES.items()}
    return Dynamics(**tables, info=info)


def _read_part(path: Path, format_name: str) -> pa.Table:
    needed = {
        "dynamics-facts": ["fact_id", "exposures", "known_at_start", "learned_at", "known_at_end"],
        "dynamics-intervals": [
            "step_from",
            "step_to",
            "exposures",
            "facts",
            "known_before",
            "learned",
            "forgotten",
        ],
        "dynamics-accuracy": ["by", "step", "exposures", "facts", "known", "accuracy", "low", "high"],
    }
    with open_table(path, format_name, needed[format_name]) as file:
        return file.read()
