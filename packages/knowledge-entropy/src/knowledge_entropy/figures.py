"""Figures of a series: entropy and deficit, deficit by layer, rank correlations (extra `plot`)."""

from pathlib import Path
from typing import Any

import numpy as np

from knowledge_entropy.entropy import rank_correlation
from knowledge_entropy.files import read_coefficients, read_table

BLUE, ORANGE = "#0072B2", "#D55E00"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,
}


def draw(series: Path, out: Path) -> list[Path]:
    """Draw `entropy.png`, `layers.png` and `correlation.png` of a folder that `series` wrote.

    Raises:
        ValueError: matplotlib is not there.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(
            f"figures need matplotlib ({error}): pip install 'knowledge-entropy[plot]'"
        ) from error
    totals = read_table(series / "totals.parquet", "entropy-totals").to_pydict()
    layers = read_table(series / "layers.parquet", "entropies").to_pydict()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, fill in (("entropy", _entropy), ("layers", _layers), ("correlation", _correlation)):
            figure = Figure(figsize=(7.2, 5.0) if name == "entropy" else (6.4, 4.2), layout="constrained")
            fill(figure, totals, layers, series)
            path = out / f"{name}.png"
            figure.savefig(path, dpi=120, metadata={"Software": None})
            written.append(path)
    return written


def _places(totals: dict[str, list[Any]]) -> tuple[list[int], list[str], bool]:
    """Where checkpoints stand on an axis: at their steps, or one after the other where some have none."""
    steps = totals["step"]
    if any(step is None for step in steps) or len(set(steps)) < len(steps):
        return list(range(len(steps))), totals["model"], False
    return steps, [f"{step:,}" for step in steps], True


def _entropy(figure: Any, totals: dict[str, list[Any]], layers: dict[str, list[Any]], series: Path) -> None:
    places, labels, by_step = _places(totals)
    error = np.array([np.nan if one is None else one for one in totals["se"]])
    for number, (name, title, color) in enumerate(
        (
            ("entropy", "Knowledge entropy, sum over the layers (nats)", BLUE),
            ("deficit", "Deficit: maximum less entropy (nats)", ORANGE),
        )
    ):
        axes = figure.add_subplot(2, 1, number + 1)
        values = np.array(totals[name])
        axes.plot(places, values, color=color, marker="o", markersize=4)
        axes.fill_between(
            places, values - 1.96 * error, values + 1.96 * error, color=color, alpha=0.15, linewidth=0
        )
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color="#dddddd")
        if not by_step:
            axes.set_xticks(places, labels, rotation=30, ha="right")
    axes.set_xlabel("step; the band is 95%" if by_step else "the band is 95%")


def _layers(figure: Any, totals: dict[str, list[Any]], layers: dict[str, list[Any]], series: Path) -> None:
    _, labels, by_step = _places(totals)
    count = max(layers["layer"]) + 1
    values = np.array(layers["deficit"]).reshape(-1, count).T
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, label="nats")
    axes.set_title("Deficit by layer", loc="left")
    axes.set_ylabel("layer")
    axes.yaxis.get_major_locator().set_params(integer=True)
    _name_checkpoints(axes.set_xticks, labels)
    axes.set_xlabel("step" if by_step else "")


def _correlation(
    figure: Any, totals: dict[str, list[Any]], layers: dict[str, list[Any]], series: Path
) -> None:
    """Spearman's rho of the coefficients between all checkpoints, mean over the layers."""
    _, labels, by_step = _places(totals)
    files = [series / "coefficients" / f"{name}.safetensors" for name in totals["model"]]
    means = [read_coefficients(file)[0]["mean_abs"] for file in files]
    values = np.array([[rank_correlation(one, two).mean() for two in means] for one in means])
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", vmax=1, origin="lower")
    figure.colorbar(image, label="Spearman's rho, mean over layers")
    axes.set_title("Do the same units stay in use?", loc="left")
    _name_checkpoints(axes.set_xticks, labels)
    _name_checkpoints(axes.set_yticks, labels, upright=True)
    axes.set_xlabel("step" if by_step else "")
    if len(labels) <= 8:
        for (row, column), value in np.ndenumerate(values):
            middle = (values.min() + 1) / 2
            color = "white" if value < middle else "#222222"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)


def _name_checkpoints(set_ticks: Any, labels: list[str], *, upright: bool = False) -> None:
    """At most ten names, so that they can be read."""
    every = -(-len(labels) // 10)
    places = list(range(0, len(labels), every))
    crowded = {} if upright or len(labels) <= 5 else {"rotation": 40, "ha": "right"}
    set_ticks(places, [labels[place] for place in places], **crowded)
