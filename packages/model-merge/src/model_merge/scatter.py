"""The scatter of proxies against jointly trained models, one panel a domain."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_merge.ablation_report import Comparison

PANEL = 3.0  # inches
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "model-merge",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}


def draw_scatter(
    comparison: Comparison, proxy: str, labels: Mapping[str, str], *, form: str = "svg"
) -> bytes:
    """Draw one proxy. The same numbers give the same bytes.

    Args:
        comparison: proxies and truth.
        proxy: which of the proxies.
        labels: a line below each domain's name, such as its correlations.
        form: svg or png.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the scatter needs matplotlib ({error}): pip install 'model-merge[ablate]'"
        ) from error
    domains = comparison.domains
    columns = min(3, len(domains)) if len(domains) != 4 else 2
    rows = math.ceil(len(domains) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * PANEL + 1.1, rows * PANEL + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        sizes = [len(mixture) for mixture in comparison.mixtures]
        shown = None
        for column, (axes, domain) in enumerate(zip(panels, domains, strict=False)):
            x, y = comparison.proxies[proxy][:, column], comparison.truth[:, column]
            shown = _draw_panel(axes, x, y, sizes)
            label = f"\n{labels[domain]}" if domain in labels else ""
            axes.set_title(f"{domain}{label}")
        for axes in panels[len(domains) :]:
            axes.set_axis_off()
        figure.supxlabel(f"log-perplexity of the proxy, {proxy} (dashed: equal)", fontsize=10)
        figure.supylabel("log-perplexity, trained on the mixture", fontsize=10)
        _add_sizes(figure, shown, panels, sizes)
        out = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, dpi=150, metadata=metadata)
    return out.getvalue()


def _draw_panel(axes: Any, x: Any, y: Any, sizes: Sequence[int]) -> Any:
    axes.axline((float(x.mean()), float(x.mean())), slope=1, color="#999999", linewidth=0.8, linestyle="--")
    shown = axes.scatter(x, y, c=sizes, cmap="viridis_r", s=26, linewidths=0.4, edgecolors="white")
    for values, limit in ((x, axes.set_xlim), (y, axes.set_ylim)):
        margin = 0.06 * float(np.ptp(values)) or 0.05
        limit(float(values.min()) - margin, float(values.max()) + margin)
    axes.locator_params(nbins=5)
    return shown


def _add_sizes(figure: Any, shown: Any, panels: Any, sizes: Sequence[int]) -> None:
    """Say what the colours mean."""
    if min(sizes) == max(sizes):
        return
    bar = figure.colorbar(shown, ax=list(panels), shrink=0.6, aspect=30, label="parts in the mixture")
    bar.set_ticks(sorted(set(sizes)) if len(set(sizes)) <= 12 else [min(sizes), max(sizes)])
    bar.outline.set_visible(False)
