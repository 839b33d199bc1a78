"""The paper's table and figures: acquisition A and forgetting F against knowledge entropy H.

    python compare.py OUT --seeds 3 --origins 120 300 600

A, as in the paper, is the gain of the injected facts' probes, (K after - K before) / |K before|. F is the
relative loss of P, here the mean over the encyclopedia's four relations of the share of its facts that the
model knows (first of the candidates). Beside both stand nats: the gains of facts injected in ten wordings and
once, net of the gain of facts that were never injected, and what the loss on held-out text of the pretraining
rose by. Intervals (95 %) are Student's, over the seeds.
Writes OUT/results.json, OUT/entropy.png and OUT/change.png.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from scipy import stats

from chunk_provenance.injection.acquisition import measure
from chunk_provenance.injection.trajectories import read_injected, read_trajectories

PLAIN, RESUSCITATED = VARIANTS = ("plain", "resuscitated")
MEASURES = {
    "entropy": "H (nats)",
    "acquisition": "A (%)",
    "net_gain_paraphrased": "ten wordings, net (nats)",
    "net_gain_once": "once, net (nats)",
    "forgetting": "F (%)",
    "loss_rise": "loss on old text (nats)",
}


def measure_run(out: Path, seed: int, origin: int, variant: str) -> dict[str, Any]:
    """H of the model that training went on from, and what that changed."""
    run = out / "runs" / f"{seed}-{origin}-{variant}"
    by_facts = {row["facts"]: row for row in acquired(run, out / "plans" / f"{seed}.parquet")}
    injected = by_facts["all injected"]
    gain = {name: row["after"] - row["before"] for name, row in by_facts.items()}
    net = {name: gain[name] - gain.get("control", np.nan) for name in ("paraphrase", "once")}
    before, after = known_by_relation(run, out)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    loss = [row["validation/pretraining/ce"] for row in rows if "validation/pretraining/ce" in row]
    return {
        "seed": seed,
        "origin": origin,
        "variant": variant,
        "entropy": entropy_of(out, seed, origin, variant),
        "k_before": injected["before"],
        "k_after": injected["after"],
        "acquisition": 100 * injected["acquisition"],
        "net_gain_paraphrased": net["paraphrase"],
        "net_gain_once": net["once"],
        "p_before": before,
        "p_after": after,
        "forgetting": -100 * (after - before) / before if before else np.nan,
        "loss_before": loss[0],
        "loss_rise": loss[-1] - loss[0],
    }


def acquired(run: Path, plan: Path) -> list[dict[str, Any]]:
    """K before and after, and A, of all injected facts and of those never injected."""
    rows: list[dict[str, Any]] = measure(read_trajectories([run / "probes" / "facts"]), read_injected(plan))[
        "performance"
    ]
    return rows


def known_by_relation(run: Path, out: Path) -> list[float]:
    """P before and after: the share of known facts of each relation, averaged."""
    probes = pq.read_table(out / "corpus" / "probes.parquet")
    relation = dict(zip(probes["probe_id"].to_pylist(), probes["relation"].to_pylist(), strict=True))
    steps = sorted(
        int(path.stem.removeprefix("step")) for path in (run / "probes" / "known").glob("step*.parquet")
    )
    shares = []
    for step in (steps[0], steps[-1]):
        answers = pq.read_table(run / "probes" / "known" / f"step{step}.parquet")
        names = np.array([relation[probe] for probe in answers["probe_id"].to_pylist()])
        first = answers["rank"].to_numpy() == 1
        shares.append(float(np.mean([first[names == name].mean() for name in np.unique(names)])))
    return shares


def entropy_of(out: Path, seed: int, origin: int, variant: str) -> float:
    """The knowledge entropy of a checkpoint, as it is or resuscitated."""
    if variant == RESUSCITATED:
        file = out / "revived" / f"{seed}-{origin}" / "resuscitation.json"
        return float(json.loads(file.read_text(encoding="utf-8"))["entropy_after"])
    return dict(entropy_by_step(out, seed))[origin]


def entropy_by_step(out: Path, seed: int) -> list[tuple[int, float]]:
    """The knowledge entropy of every checkpoint of the pretraining."""
    totals = pq.read_table(out / "entropy" / str(seed) / "totals.parquet")
    return list(zip(totals["step"].to_pylist(), totals["entropy"].to_pylist(), strict=True))


def interval(values: list[float]) -> list[float]:
    """Mean and Student's 95 % interval: [mean, low, high].

    >>> [round(number, 2) for number in interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, np.nan, np.nan]
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return [mean, mean - float(reach), mean + float(reach)]


def correlate(rows: list[dict[str, Any]], measure: str) -> list[float]:
    """Pearson's r of a measure with H over all runs, with the 95 % interval of Fisher's z."""
    x, y = (np.array([row[name] for row in rows]) for name in ("entropy", measure))
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() < 4:
        return [np.nan] * 3
    found = stats.pearsonr(x[finite], y[finite])
    low, high = found.confidence_interval(0.95)
    return [float(found.statistic), float(low), float(high)]


def show(value: list[float], digits: int) -> str:
    """A mean with its interval.

    >>> show([0.5, 0.25, 0.75], 2), show([1.0, float("nan"), float("nan")], 1)
    ('0.50 [0.25, 0.75]', '1.0')
    """
    mean, low, high = (f"{number:.{digits}f}" for number in value)
    return f"{mean} [{low}, {high}]" if np.isfinite(value[1]) else mean


def table(rows: list[dict[str, Any]], origins: list[int]) -> str:
    """The paper's table, for a README."""
    lines = [["from step", "", *MEASURES.values()], ["---"] * (2 + len(MEASURES))]
    for variant in VARIANTS:
        for origin in origins:
            chosen = [row for row in rows if row["origin"] == origin and row["variant"] == variant]
            cells = [
                show(interval([row[name] for row in chosen]), 1 if "%" in label else 3)
                for name, label in MEASURES.items()
            ]
            lines.append([str(origin), variant, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def revived_difference(
    rows: list[dict[str, Any]], origins: list[int], measure: str
) -> dict[int, list[float]]:
    """Resuscitated less plain, seed by seed, for each origin."""
    found = {(row["seed"], row["origin"], row["variant"]): row[measure] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    return {
        origin: interval([found[seed, origin, RESUSCITATED] - found[seed, origin, PLAIN] for seed in seeds])
        for origin in origins
    }


def draw_entropy(curves: list[list[tuple[int, float]]], origins: list[int], path: Path) -> None:
    """H over the pretraining, a line a seed."""
    canvas = Figure(figsize=(6, 3.6), layout="constrained", dpi=80)
    axes = canvas.add_subplot()
    for seed, curve in enumerate(curves):
        axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=f"seed {seed}")
    for origin in origins:
        axes.axvline(origin, color="#bbbbbb", linestyle=":")
    axes.set(title="Knowledge entropy over the pretraining", xlabel="step", ylabel="H (nats)")
    finish(canvas, path)


def draw_change(rows: list[dict[str, Any]], origins: list[int], path: Path) -> None:
    """Each measure against H: a colour an origin, filled as it is, open resuscitated."""
    canvas = Figure(figsize=(14, 3.6), layout="constrained", dpi=80)
    names = [name for name in MEASURES if name != "entropy"]
    for axes, name in zip(canvas.subplots(1, len(names)), names, strict=True):
        for color, origin in zip(("#0072B2", "#009E73", "#D55E00"), origins, strict=False):
            for variant in VARIANTS:
                chosen = [row for row in rows if row["origin"] == origin and row["variant"] == variant]
                face = "none" if variant == RESUSCITATED else color
                axes.scatter(
                    [row["entropy"] for row in chosen], [row[name] for row in chosen], edgecolor=color,
                    facecolor=face, label=f"{origin}, {variant}",
                )  # fmt: skip
        axes.set(xlabel="H (nats)", ylabel=MEASURES[name])
    points, labels = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(
        points, labels, loc="outside lower center", ncols=len(labels), frameon=False, title="from step"
    )
    finish(canvas, path)


def finish(canvas: Figure, path: Path) -> None:
    """Write a figure atomically."""
    for axes in canvas.axes:
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines):
            axes.legend(frameon=False)
    unfinished = path.with_name(path.name + ".tmp")
    canvas.savefig(unfinished, format="png", metadata={"Software": None})
    os.replace(unfinished, path)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--origins", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    out, origins, seeds = arguments.out, arguments.origins, range(arguments.seeds)
    rows = [
        measure_run(out, seed, origin, variant)
        for variant in VARIANTS
        for origin in origins
        for seed in seeds
    ]
    curves = [entropy_by_step(out, seed) for seed in seeds]
    plain = [row for row in rows if row["variant"] == PLAIN]
    measured = [name for name in MEASURES if name != "entropy"]
    found: dict[str, Any] = {
        "runs": rows,
        "entropy_by_step": curves,
        "pearson": {name: correlate(plain, name) for name in measured},
        "resuscitated_less_plain": {name: revived_difference(rows, origins, name) for name in measured},
    }
    strict = json.loads(json.dumps(found), parse_constant=lambda _: None)  # JSON has no NaN
    unfinished = out / "results.json.tmp"
    unfinished.write_text(json.dumps(strict, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, out / "results.json")
    draw_entropy(curves, origins, out / "entropy.png")
    draw_change(rows, origins, out / "change.png")
    print(table(rows, origins))
    for name in measured:
        differences = ", ".join(
            f"from {origin}: {show(value, 3)}"
            for origin, value in found["resuscitated_less_plain"][name].items()
        )
        correlation = show(found["pearson"][name], 2)
        print(f"\n{MEASURES[name]}: Pearson's r with H {correlation}, {len(plain)} plain runs")
        print(f"  resuscitated less plain {differences}")


if __name__ == "__main__":
    main()
