"""Draw the figures of a report section as SVG, with matplotlib (the extra `plot`).

The same figure gives the same bytes: no date, no random ids, glyphs drawn as paths.
"""

import importlib.util
import io
from typing import Any

import numpy as np

# Okabe and Ito's colours, which colour-blind readers can tell apart, dark enough on white.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#AA4499", "#7A6A00", "#4477AA", "#882255", "#444444"]
MOST_MARKERS = 150  # of a line; more would hide it
LARGE, SMALL = (7.2, 3.9), (4.8, 3.2)  # inches
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "chunk-provenance",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a title is a dollar sign
}


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_svg(figure: dict[str, Any], *, size: tuple[float, float] = LARGE) -> str:
    """Draw a figure of a report section, `size` in inches."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(
            f"figures need matplotlib ({error}): pip install 'chunk-provenance[plot]'"
        ) from error
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=size, layout="constrained")
        axes = canvas.add_subplot()
        draw = {"line": _draw_lines, "bar": _draw_bars, "heatmap": _draw_heatmap}[figure["kind"]]
        if any(series["x"] for series in figure["series"]):
            draw(axes, figure)
        else:
            axes.text(0.5, 0.5, "nothing to show", ha="center", transform=axes.transAxes)
        axes.set_xlabel(figure.get("x_label", ""))
        axes.set_ylabel(figure.get("y_label", ""))
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _numbers(values: list[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _draw_lines(axes: Any, figure: dict[str, Any]) -> None:
    for series, color in zip(figure["series"], _colors(len(figure["series"])), strict=True):
        x, y = np.array(series["x"], dtype=float), _numbers(series["y"])
        marker = "o" if len(x) <= MOST_MARKERS else None
        axes.plot(
            x, y, color=color, marker=marker, markersize=3, linewidth=1.6, label=str(series.get("label", ""))
        )
        if series.get("low") and series.get("high"):
            low, high = _numbers(series["low"]), _numbers(series["high"])
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    scale = figure.get("x_scale", "linear")
    if scale == "symlog":
        smallest = min((abs(x) for series in figure["series"] for x in series["x"] if x), default=1)
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
        axes.set_xlim(left=0 if all(x >= 0 for series in figure["series"] for x in series["x"]) else None)
        axes.xaxis.set_major_formatter(_plain_number)
    elif scale == "log":
        axes.set_xscale("log")
        axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))  # there may be less than a power of ten
        axes.xaxis.set_major_formatter(_plain_number)
        axes.xaxis.set_minor_formatter("")
    if all(y is None or y == int(y) for series in figure["series"] for y in series["y"]):
        axes.yaxis.get_major_locator().set_params(integer=True)
    _add_legend(axes, figure)


def _plain_number(value: float, position: int) -> str:
    if abs(value) >= 1e7:
        return f"{value:.0e}".replace("e+", "e")
    return f"{value:,.0f}" if abs(value) >= 1 or value == 0 else f"{value:g}"


def _draw_bars(axes: Any, figure: dict[str, Any]) -> None:
    series = figure["series"]
    names = list(dict.fromkeys(str(x) for one in series for x in one["x"]))
    width = 0.8 / len(series)
    for number, (one, color) in enumerate(zip(series, _colors(len(series)), strict=True)):
        middle = np.array([names.index(str(x)) for x in one["x"]]) + (number - (len(series) - 1) / 2) * width
        y = _numbers(one["y"])
        axes.bar(middle, np.nan_to_num(y), width * 0.92, color=color, label=str(one.get("label", "")))
        if one.get("low") and one.get("high"):
            reach = np.abs([y - _numbers(one["low"]), _numbers(one["high"]) - y])
            axes.errorbar(
                middle, y, np.nan_to_num(reach), fmt="none", ecolor="#222222", elinewidth=1, capsize=2
            )
    wide = axes.figure.get_figwidth()
    crowded = max(map(len, names)) > 16 or sum(len(name) + 2 for name in names) > 9 * wide
    axes.set_xticks(
        range(len(names)), names, rotation=40 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.axhline(0, color="#555555", linewidth=0.8)
    _add_legend(axes, figure)


def _draw_heatmap(axes: Any, figure: dict[str, Any]) -> None:
    """Each series is a row, drawn from the top; the number stands in its cell."""
    rows = [_numbers(series["y"]) for series in figure["series"]]
    values = np.array(rows)
    top = np.nanmax(values, initial=0) or 1
    axes.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=top * 1.15)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and value:
            color = "white" if value > 0.62 * top else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=9)
    columns = [str(x) for x in figure["series"][0]["x"]]
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), [str(series.get("label", "")) for series in figure["series"]])
    axes.grid(visible=False)


def _colors(count: int) -> list[Any]:
    """Distinct colours; many lines get a sequence from light to dark instead."""
    import matplotlib

    if count <= 3:
        return list(COLORS[:count])
    shades = matplotlib.colormaps["viridis_r"]
    return [shades(0.12 + 0.88 * number / (count - 1)) for number in range(count)]


def _add_legend(axes: Any, figure: dict[str, Any]) -> None:
    count = len(figure["series"])
    if count > 1:
        place = {"loc": "outside right upper"} if count > 3 else {"loc": "outside upper left", "ncols": count}
        labels = axes.get_legend_handles_labels()
        axes.figure.legend(*labels, **place, title=figure.get("legend") if count > 3 else None, fontsize=9)
