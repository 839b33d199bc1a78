"""Compare what runs know that met the same entities at other times: known, when, and for how long.

    python compare.py OUT --seeds 3

All is paired: the same seed, fact and step in another condition. Gain is the log-probability of the answer
less the held-out run's, which is what the model would say of an entity that it never met. Intervals (95 %)
resample seeds and entities together. Writes OUT/results.json, OUT/sections/compare.json and OUT/curves.png.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from chunk_provenance import load_order, section, write_section
from chunk_provenance.dynamics import learned_index

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CONTROL, HELD_OUT, BURST, SPREAD = CONDITIONS = ("control", "held-out", "burst", "spread")
RESAMPLES = 2000
COLORS = dict(zip(CONDITIONS, ("#444444", "#0072B2", "#D55E00", "#009E73"), strict=True))


@dataclass(frozen=True)
class Results:
    """The answers of all runs to all probes, and when each entity was met."""

    steps: Ints  # (steps,)
    logprob: dict[str, Floats]  # by condition: (seeds, probes, steps)
    known: dict[str, npt.NDArray[np.bool_]]  # the same shape: the answer ranks first of the candidates
    entity: Ints  # (probes,) number of the treated entity, -1 for a bystander
    facts: list[str]  # (probes,)
    meetings: dict[str, Ints]  # by condition: (seeds, entities, 3) updates: how many, the first, the last


class Bootstrap:
    """Means over seeds and entities with intervals; every call resamples in the same way."""

    def __init__(self, seeds: int, entity: Ints) -> None:
        rng = np.random.default_rng(0)
        number = int(entity.max()) + 1
        self._seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).astype(float)
        drawn = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES)
        self._probes = drawn[:, entity].astype(float)  # (resamples, probes)

    def mean(self, values: npt.NDArray[Any]) -> list[float]:
        """Mean of (seeds, probes), and its interval: [mean, low, high]."""
        return self.share(values, np.ones_like(values, dtype=float))

    def share(self, part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> list[float]:
        """The sum of one over the sum of the other, both (seeds, probes), and its interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = self._sums(part) / self._sums(whole)
            value = part.sum() / whole.sum()
        low, high = (
            np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5]) if np.isfinite(value) else (value, value)
        )
        return [float(value), float(low), float(high)]

    def _sums(self, values: npt.NDArray[Any]) -> Floats:
        sums: Floats = np.einsum("bs,sp,bp->b", self._seeds, values.astype(float), self._probes)
        return sums


def read(out: Path, seeds: int) -> Results:
    """Everything that the runs wrote."""
    treated = pq.read_table(out / "entities.parquet")
    names = list(dict.fromkeys(treated["entity"].to_pylist()))
    chunks: dict[str, list[int]] = {name: [] for name in names}
    for name, chunk in zip(treated["entity"].to_pylist(), treated["chunk_id"].to_pylist(), strict=True):
        chunks[name].append(chunk)
    probes = pq.read_table(out / "probes.parquet")
    number = {name: place for place, name in enumerate(names)}
    facts = probes["fact_id"].to_pylist()
    logprob, known, meetings = {}, {}, {}
    steps = np.array([], dtype=np.int64)
    for condition in CONDITIONS:
        found = [read_run(gather(out, f"{seed}-{condition}"), facts) for seed in range(seeds)]
        steps = found[0][0]
        logprob[condition] = np.stack([values for _, values, _ in found])
        known[condition] = np.stack([ranks == 1 for _, _, ranks in found])
        meetings[condition] = np.array(
            [
                [met(out / "orders" / f"{seed}-{condition}", chunks[name]) for name in names]
                for seed in range(seeds)
            ]
        )
    entity = np.array([number.get(subject, -1) for subject in probes["subject"].to_pylist()])
    return Results(steps, logprob, known, entity, facts, meetings)


def gather(out: Path, run: str) -> Path:
    """OUT/answers/RUN.parquet, the answers of all steps in one file."""
    parts = (out / "runs" / run / "probes" / "entities").glob("step*.parquet")
    path = out / "answers" / f"{run}.parquet"
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(
        pa.concat_tables([pq.read_table(part) for part in sorted(parts)]).sort_by("step"), unfinished
    )
    os.replace(unfinished, path)
    return path


def read_run(path: Path, facts: list[str]) -> tuple[Ints, Floats, Ints]:
    """Steps, and log-probability and rank of the answers, (facts, steps): one probe a fact."""
    table = pq.read_table(path)
    steps = np.unique(table["step"].to_numpy())
    place = {fact: row for row, fact in enumerate(facts)}
    row = np.array([place[fact] for fact in table["fact_id"].to_pylist()])
    column = np.searchsorted(steps, table["step"].to_numpy())
    logprob, rank = (
        np.full((len(facts), len(steps)), np.nan),
        np.zeros((len(facts), len(steps)), dtype=np.int64),
    )
    logprob[row, column] = table["logprob_sum"].to_numpy()
    rank[row, column] = table["rank"].to_numpy()
    return steps, logprob, rank


def met(order: Path, chunks: list[int]) -> tuple[int, int, int]:
    """In how many updates an entity's chunks are trained on, the first and the last of these."""
    opened = load_order(order)
    updates = np.unique(opened.steps_of_many(np.array(sorted(chunks)))[1])
    return (len(updates), int(updates[0]), int(updates[-1])) if len(updates) else (0, 0, 0)


def measure(results: Results) -> dict[str, Any]:
    """All numbers of the comparison."""
    asked = results.entity >= 0
    boot = Bootstrap(len(results.meetings[CONTROL]), results.entity[asked])
    logprob = {name: values[:, asked] for name, values in results.logprob.items()}
    known = {name: values[:, asked] for name, values in results.known.items()}
    gain = {name: values - logprob[HELD_OUT] for name, values in logprob.items()}
    window_end = int(np.searchsorted(results.steps, results.steps[-1] / 2))
    best = {name: int(gain[name][..., : window_end + 1].mean(axis=(0, 1)).argmax()) for name in CONDITIONS}
    conditions = {
        name: {
            "met": results.meetings[name].reshape(-1, 3).mean(axis=0).tolist(),
            "known_end": boot.mean(known[name][..., -1]),
            "known_less_control": boot.mean(known[name][..., -1] - known[CONTROL][..., -1].astype(float)),
            "gain_end": boot.mean(gain[name][..., -1]),
            "gain_less_control": boot.mean(gain[name][..., -1] - gain[CONTROL][..., -1]),
            "best_step": int(results.steps[best[name]]),
            "gain_best": boot.mean(gain[name][..., best[name]]),
            "known_best": boot.mean(known[name][..., best[name]]),
            "kept": boot.share(gain[name][..., -1], gain[name][..., best[name]]),
            **learned(known[name], results.steps, boot),
            "gain_by_step": [boot.mean(gain[name][..., step]) for step in range(len(results.steps))],
            "known_by_step": [boot.mean(known[name][..., step]) for step in range(len(results.steps))],
            "since_last": since_last(gain[name], results, name, results.entity[asked], boot),
        }
        for name in CONDITIONS
    }
    most = int(np.argmax(gain[CONTROL][..., -1].mean(axis=0)))
    return {
        "steps": results.steps.tolist(),
        "window_end": int(results.steps[window_end]),
        "entities": int(results.entity.max()) + 1,
        "facts": int(asked.sum()),
        "conditions": conditions,
        "bystanders": bystanders(results),
        "traced": [fact for fact, yes in zip(results.facts, asked, strict=True) if yes][most],
    }


def learned(known: npt.NDArray[np.bool_], steps: Ints, boot: Bootstrap) -> dict[str, Any]:
    """Which share is learned, and the median step from which it stays known for two checkpoints."""
    index = np.stack([learned_index(of_seed) for of_seed in known])
    ever = index >= 0
    return {
        "learned": boot.mean(ever),
        "median_learned_at": float(np.median(steps[index[ever]])) if ever.any() else None,
    }


def since_last(gain: Floats, results: Results, name: str, entity: Ints, boot: Bootstrap) -> list[list[float]]:
    """Gain by updates since the entity was last met, as far as all go: [updates, mean, low, high]."""
    last = results.meetings[name][..., 2][:, entity]  # (seeds, probes)
    start = np.searchsorted(results.steps, last)
    spacing = int(results.steps[1] - results.steps[0])
    reach = len(results.steps) - 1 - int(start.max())
    if not last.all():
        return []
    return [
        [later * spacing, *boot.mean(np.take_along_axis(gain, (start + later)[..., None], axis=2)[..., 0])]
        for later in range(reach + 1)
    ]


def bystanders(results: Results) -> dict[str, list[float]]:
    """Facts of other entities: log-probability at the end less that of the control."""
    others = results.entity < 0
    boot = Bootstrap(len(results.meetings[CONTROL]), np.arange(others.sum()))
    end = {name: values[:, others, -1] for name, values in results.logprob.items()}
    return {name: boot.mean(values - end[CONTROL]) for name, values in end.items()}


def show(value: list[float], *, percent: bool = False) -> str:
    """A mean with its interval.

    >>> show([0.5, 0.25, 0.75]), show([0.5, 0.25, 0.75], percent=True)
    ('0.50 [0.25, 0.75]', '50 % [25, 75]')
    """
    if not np.isfinite(value[0]):
        return "-"
    if percent:
        return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * number for number in value))
    return "{:.2f} [{:.2f}, {:.2f}]".format(*value)


def tables(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known, when, and for how long, as tables of a report section."""
    rows: list[list[list[Any]]] = [[], [], []]
    for name, found in measured["conditions"].items():
        number, first, last = found["met"]
        met_words = "never" if name == HELD_OUT else f"{number:.0f} times, {first:.0f}-{last:.0f}"
        rows[0].append(
            [name, met_words, show(found["known_end"], percent=True), show(found["gain_end"]),
             show(found["gain_less_control"]), show(measured["bystanders"][name])]
        )  # fmt: skip
        rows[1].append([name, show(found["learned"], percent=True), found["median_learned_at"]])
        if name in (BURST, SPREAD):
            at = f" at {found['best_step']}"
            rows[2].append(
                [name, show(found["known_best"], percent=True) + at, show(found["known_end"], percent=True),
                 show(found["gain_best"]) + at, show(found["gain_end"]), show(found["kept"], percent=True)]
            )  # fmt: skip
    window, end = measured["window_end"], measured["steps"][-1]
    return [
        {"title": "What is known in the end",
         "columns": ["condition", "an entity is met", "facts known", "gain (nats)", "gain less control's",
                     "other entities, less control"], "rows": rows[0]},
        {"title": "When", "columns": ["condition", "facts learned", "median step"], "rows": rows[1]},
        {"title": f"For how long: nothing is met between step {window} and step {end}",
         "columns": ["condition", "known at best", "in the end", "gain at best (nats)", "in the end", "kept"],
         "rows": rows[2]},
    ]  # fmt: skip


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Three line charts of a report section."""
    parts = (
        (
            "gain_by_step",
            "Gain over an entity that is never met",
            "step",
            "nats",
            [x for x in CONDITIONS if x != HELD_OUT],
        ),
        ("known_by_step", "Facts known (first of the candidates)", "step", "share", list(CONDITIONS)),
        ("since_last", "Gain since an entity was last met", "updates since", "nats", [BURST, SPREAD]),
    )
    drawn = []
    for key, title, x_label, y_label, names in parts:
        series = []
        for name in names:
            points = np.array(measured["conditions"][name][key])
            if key != "since_last":
                points = np.column_stack([measured["steps"], points])
            elif not len(points):
                continue
            x, y, low, high = points.T.tolist()
            series.append({"label": name, "x": x, "y": y, "low": low, "high": high})
        drawn.append(
            {"kind": "line", "title": title, "x_label": x_label, "y_label": y_label, "series": series}
        )
    return drawn


def draw(drawn: list[dict[str, Any]], path: Path) -> None:
    """The charts side by side, as PNG."""
    canvas = Figure(figsize=(13, 3.8), layout="constrained", dpi=80)
    for axes, figure in zip(canvas.subplots(1, len(drawn)), drawn, strict=True):
        for series in figure["series"]:
            color = COLORS[series["label"]]
            axes.plot(series["x"], series["y"], color=color, label=series["label"])
            axes.fill_between(
                series["x"], series["low"], series["high"], color=color, alpha=0.15, linewidth=0
            )
        axes.set(title=figure["title"], xlabel=figure["x_label"], ylabel=figure["y_label"])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    unfinished = path.with_name(path.name + ".tmp")
    canvas.savefig(unfinished, format="png", metadata={"Software": None})
    os.replace(unfinished, path)


def markdown(table: dict[str, Any]) -> str:
    """A table for a README."""
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    measured = measure(read(out, arguments.seeds))
    strict = json.loads(json.dumps(measured), parse_constant=lambda _: None)  # JSON has no NaN
    unfinished = out / "results.json.tmp"
    unfinished.write_text(json.dumps(strict, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, out / "results.json")
    shown, drawn = tables(measured), figures(measured)
    summary = (
        f"{measured['facts']} facts of {measured['entities']} entities in {arguments.seeds} seeds; gain is "
        "the answer's log-probability less the held-out run's; 95 % intervals over seeds and entities."
    )
    command = f"compare.py {out} --seeds {arguments.seeds}"
    content = section("The same entities, met at other times", command=command, summary=summary,
                      tables=shown, figures=drawn)  # fmt: skip
    write_section(content, out / "sections" / "compare.json")
    draw(drawn, out / "curves.png")
    print("\n\n".join(f"{table['title']}\n\n{markdown(table)}" for table in shown))


if __name__ == "__main__":
    main()
