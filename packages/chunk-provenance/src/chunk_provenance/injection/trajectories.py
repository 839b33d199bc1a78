"""The curves that the measures are made of: what each probe cost at each evaluation, and when its fact came.

Read from answers, one file or many, and an injection plan. A fact injected once is `once`, several times in
the same words `duplication`, in several wordings `paraphrase`; one that the plan leaves out is `control`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chunk_provenance.formats import FormatError
from chunk_provenance.injection.metrics import Counts, Floats
from chunk_provenance.injection.plan_file import fact_of
from chunk_provenance.tables import read_user_table, recorded_format

SCENARIOS = ("paraphrase", "duplication", "once", "control")
VALUES = pa.schema(
    [
        ("step", pa.int64()),
        ("fact_id", pa.string()),
        ("probe_id", pa.string()),
        ("logprob_mean", pa.float64()),
    ]
)
ITEMS = pa.schema([("update", pa.int64()), ("item_id", pa.string())])


@dataclass(frozen=True)
class Trajectories:
    """What every probe cost at every evaluation."""

    steps: Counts  # (steps,) ascending; updates done
    loss: Floats  # (steps, probes) minus the mean log-probability of a target token, nats
    probe_ids: list[str]
    fact_ids: list[str]  # of each probe, (probes,)
    depths: list[str]  # of each probe, (probes,)
    not_finite: int
    """Probes that are left out because a value of theirs is missing or not finite."""


def read_trajectories(
    paths: Sequence[str | Path], *, depths: Mapping[str, str] | None = None
) -> Trajectories:
    """Read answers of one or more files (or folders of Parquet files) into curves.

    Args:
        paths: answers with `step`, `fact_id`, `probe_id`, `logprob_mean`.
        depths: the depth of each probe; None takes it from ids of the form FACT_ID-DEPTH-NUMBER.

    Raises:
        FormatError: a probe lacks an answer at some step, has two, belongs to two facts or has no depth.
    """
    files = [file for path in paths for file in _files(Path(path))]
    parts = [read_user_table(file, "answers", VALUES, optional=("logprob_mean",)) for file in files]
    answers = pa.concat_tables(parts).combine_chunks()
    if not answers.num_rows:
        raise FormatError(f"no answers in {', '.join(repr(str(path)) for path in paths)}")
    steps, step = np.unique(answers["step"].to_numpy(), return_inverse=True)
    probe_ids, probe = _codes(answers["probe_id"])
    fact_names, fact = _codes(answers["fact_id"])
    _check_complete(steps, step, probe_ids, probe)
    of_probe = np.zeros(len(probe_ids), dtype=np.int64)
    of_probe[probe] = fact
    if (clash := np.flatnonzero(of_probe[probe] != fact)).size:
        raise FormatError(f"the probe {probe_ids[probe[clash[0]]]!r} belongs to more than one fact")
    loss = np.empty((len(steps), len(probe_ids)))
    loss[step, probe] = -answers["logprob_mean"].fill_null(np.nan).to_numpy()
    kept = np.flatnonzero(np.isfinite(loss).all(axis=0))
    if not len(kept):
        raise FormatError(
            f"no probe has a finite logprob_mean at every one of {len(steps)} steps (of {len(probe_ids)}): "
            "evaluate with log-probabilities"
        )
    fact_ids = [fact_names[of_probe[number]] for number in kept]
    names = [probe_ids[number] for number in kept]
    found = [_depth(name, fact_id, depths) for name, fact_id in zip(names, fact_ids, strict=True)]
    return Trajectories(steps, loss[:, kept], names, fact_ids, found, len(probe_ids) - len(kept))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if found := sorted(path.glob("*.parquet")):
        return found
    raise FileNotFoundError(f"the folder {str(path)!r} holds no answers (*.parquet)")


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Counts]:
    encoded = pa.chunked_array(column).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _check_complete(steps: Counts, step: Counts, probe_ids: list[str], probe: Counts) -> None:
    answered = np.bincount(step * len(probe_ids) + probe, minlength=len(steps) * len(probe_ids))
    wrong = np.flatnonzero(answered != 1)
    if not len(wrong):
        return
    first_step, first_probe = np.divmod(int(wrong[0]), len(probe_ids))
    found = "no answer" if answered[wrong[0]] == 0 else f"{answered[wrong[0]]} answers"
    raise FormatError(
        f"every probe needs one answer at every step, but {probe_ids[first_probe]!r} has {found} at step "
        f"{steps[first_step]} ({len(wrong)} such cases): give each evaluation once, with the same probes"
    )


def _depth(probe_id: str, fact_id: str, depths: Mapping[str, str] | None) -> str:
    """What kind of question a probe asks: mem, gen or hard_gen, or any other name."""
    if depths is not None:
        if probe_id not in depths:
            raise FormatError(f"the probes have no {probe_id!r}, which the answers name")
        return depths[probe_id]
    if match := re.fullmatch(re.escape(fact_id) + r"-(.+)-\d+", probe_id):
        return match[1]
    raise FormatError(
        f"the probe {probe_id!r} of the fact {fact_id!r} does not say its depth, as '{fact_id}-mem-0' would: "
        "give --probes, whose column relation says it"
    )


@dataclass(frozen=True)
class Injected:
    """When a fact was injected."""

    scenario: str
    updates: tuple[int, ...]
    """1-based, ascending, each once."""


def read_injected(path: str | Path) -> dict[str, Injected]:
    """The injections of each fact from a plan (also JSONL or CSV), or an order's `injections.parquet`.

    Raises:
        FileNotFoundError, FormatError: there is no plan, or it is another file.
    """
    path = Path(path)
    name = recorded_format(path, ("injections", "injection-plan"), "injection-plan")
    table = read_user_table(path, name, ITEMS)
    if not table.num_rows or pc.min(table["update"]).as_py() < 1:
        raise FormatError(f"{str(path)!r} injects nothing, or before update 1: updates count from 1")
    items: dict[str, list[tuple[int, str]]] = {}
    for update, item_id in zip(table["update"].to_pylist(), table["item_id"].to_pylist(), strict=True):
        items.setdefault(fact_of(item_id), []).append((update, item_id))
    return {fact_id: _injected(found) for fact_id, found in items.items()}


def _injected(items: list[tuple[int, str]]) -> Injected:
    updates = tuple(sorted({update for update, _ in items}))
    if len(updates) == 1:
        return Injected("once", updates)
    wordings = {item_id for _, item_id in items}
    return Injected("duplication" if len(wordings) == 1 else "paraphrase", updates)


def check_start(trajectories: Trajectories, injected: Mapping[str, Injected]) -> None:
    """Refuse answers that begin after an injection: what came of it cannot be told any more."""
    first = min(fact.updates[0] for fact in injected.values())
    if trajectories.steps[0] >= first:
        raise ValueError(
            f"the answers begin at step {trajectories.steps[0]}, but update {first} injects already: "
            f"evaluate the model before it, too (step {first - 1} or earlier)"
        )
