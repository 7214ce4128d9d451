"""Plots as pictures of a page: inline SVG whose text takes the page's colour, and PNG for what is made of pixels.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Matplotlib's figures are
made as objects, without its global state. Colours are Okabe and Ito's, which all eyes tell apart, and every series has
a marker of its own.
"""

import base64
import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from train.suite.outcome import Plot

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Matplotlib knows no colour of the page's; this one stands for it, and is no other element's.
PAGE = "#010203"
_MOST_NAMES = 24  # of classes on an axis: more would be illegible
_LONGEST_NAME = 24


def svg(plot: Plot) -> str:
    """A plot of any kind but overlays as an <svg> element for a page.

    The text alternative is `description` of the plot; it is on the element.
    """
    with drawing():
        figure = Figure(figsize=_size(plot), layout="constrained")
        axes = figure.subplots()
        _DRAW[plot.kind](axes, plot.values)
        axes.set_title(plot.title, fontsize=10, loc="left")
        return as_svg(figure, description(plot), f"{plot.protocol} {plot.data} {plot.title}")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it, figures are made: a user's dollar is no formula, and a script that the font lacks is the page's."""
    style = {"svg.fonttype": "none", "font.family": "sans-serif", "text.parse_math": False}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def as_svg(figure: Figure, alternative: str, salt: str) -> str:
    """A figure as an <svg> element.

    Args:
        figure: made within `drawing`, as this call is.
        alternative: text for those who do not see it.
        salt: different for each figure of a page, so that their parts have different ids.
    """
    for axes in figure.axes:
        _in_page_colour(axes)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue()[buffer.getvalue().index("<svg") :], flags=re.S)
    label = alternative.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).replace(PAGE, "currentColor")


def png(image: npt.NDArray[np.uint8]) -> str:
    """A picture, uint8 [h, w, 3], as a data URI."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(image), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def description(plot: Plot) -> str:
    """What a plot shows, in words and numbers."""
    values = plot.values
    if plot.kind == "curve":
        ends = [f"{name} from {_number(y[0])} to {_number(y[-1])}" for name, y in values["series"].items() if len(y)]
        return f"{plot.title}: {values['y_label']} by {values['x_label']}; " + "; ".join(ends)
    if plot.kind == "bars":
        pairs = zip(values["names"], values["values"], strict=True)
        return f"{plot.title}: {values['label']}: " + ", ".join(f"{name} {_number(value)}" for name, value in pairs)
    if plot.kind == "reliability":
        return f"{plot.title}: accuracy by confidence in {len(values['bins'])} bins, ECE {_number(values['ece'])}"
    if plot.kind == "confusion":
        counts = np.asarray(values["counts"])
        share = np.trace(counts) / max(counts.sum(), 1)
        return f"{plot.title}: {len(values['classes'])} classes, {_number(share)} of {counts.sum()} on the diagonal"
    return f"{plot.title}: {', '.join(map(str, values['columns']))}, {len(values['rows'])} rows"


def colour(index: int) -> str:
    """Of the series of that number."""
    return COLOURS[index % len(COLOURS)]


def mark(axes: Axes, index: int, x: Any, y: Any, label: str) -> None:
    """A series of points and the line through them, in the colour and with the marker of its number."""
    style = {"color": colour(index), "marker": MARKERS[index % len(MARKERS)]}
    # Matplotlib leaves out of a legend what begins with an underscore.
    axes.plot(x, y, label=f" {label}" if label.startswith("_") else label, markersize=4, linewidth=1.5, **style)


def _curve(axes: Axes, values: Mapping[str, Any]) -> None:
    x = np.asarray(values["x"], float)
    deviations = values.get("deviations") or {}
    for index, (name, y) in enumerate(values["series"].items()):
        mark(axes, index, x, y, name)
        if deviations.get(name) is not None:
            middle, spread = np.asarray(y, float), np.asarray(deviations[name], float)
            axes.fill_between(x, middle - spread, middle + spread, color=colour(index), alpha=0.2, lw=0)
    if values.get("log_x"):
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{each:g}" for each in x])
        axes.minorticks_off()
    _label(axes, values["x_label"], values["y_label"])
    if len(values["series"]) > 1:
        legend(axes)


def _reliability(axes: Axes, values: Mapping[str, Any]) -> None:
    bins = [each for each in values["bins"] if each["count"]]
    axes.plot([0, 1], [0, 1], color=PAGE, linewidth=1, linestyle=":")
    most = max((each["count"] for each in bins), default=1)
    for each in bins:
        style = {"color": COLOURS[0], "alpha": 0.25 + 0.6 * each["count"] / most, "edgecolor": COLOURS[0]}
        axes.bar(each["low"], each["accuracy"], each["high"] - each["low"], align="edge", **style)
    confidence, accuracy = ([each[name] for each in bins] for name in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, linestyle="none", marker="o", markersize=4, color=COLOURS[1])
    axes.text(0.03, 0.95, f"ECE {_number(values['ece'])}", transform=axes.transAxes, va="top", color=PAGE)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _label(axes, "confidence (darker: more images)", "accuracy")


def _confusion(axes: Axes, values: Mapping[str, Any]) -> None:
    counts, classes = np.asarray(values["counts"], float), _names(values["classes"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    if len(classes) <= _MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if len(classes) <= _MOST_NAMES // 2:
        for (row, column), share in np.ndenumerate(shares):
            ink = "black" if share > 0.6 else "white"
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", fontsize=7, color=ink)
    _label(axes, "class that was found", "true class")


def _bars(axes: Axes, values: Mapping[str, Any]) -> None:
    names, heights = _names(values["names"]), np.asarray(values["values"], float)
    places = np.arange(len(names))[::-1]
    axes.barh(places, heights, color=COLOURS[0], height=0.7)
    right = heights
    if values.get("intervals") is not None:
        low, high = np.asarray(values["intervals"], float).T
        axes.errorbar((low + high) / 2, places, xerr=(high - low) / 2, fmt="none", ecolor=PAGE, capsize=2, lw=1)
        right = np.maximum(right, high)
    for place, height, end in zip(places, heights, right, strict=True):
        at = (max(end, 0), place)
        axes.annotate(_number(height), at, (5, 0), textcoords="offset points", va="center", fontsize=8, color=PAGE)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlim(min(0.0, float(heights.min(initial=0))), max(float(right.max(initial=0)) * 1.15, 1e-9))
    axes.set_ylim(-0.6, len(names) - 0.4)
    _label(axes, values["label"], "")


_DRAW: dict[str, Callable[[Axes, Mapping[str, Any]], None]] = {
    "curve": _curve,
    "reliability": _reliability,
    "confusion": _confusion,
    "bars": _bars,
}


def _size(plot: Plot) -> tuple[float, float]:
    """Width and height in inches."""
    if plot.kind == "bars":
        return 5.2, max(1.4, 0.28 * len(plot.values["names"]) + 0.9)
    if plot.kind == "confusion":
        side = min(6.5, max(4.0, 0.3 * len(plot.values["classes"]) + 1.6))
        return side, side
    return (4.2, 4.0) if plot.kind == "reliability" else (5.2, 3.4)


def _in_page_colour(axes: Axes) -> None:
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(PAGE)
    axes.tick_params(colors=PAGE, which="both", labelsize=8)
    legend = axes.get_legend()
    of_legend = legend.get_texts() if legend else []
    # A title at the left is another object than the one in the middle, without a public name.
    for text in (*of_legend, axes._left_title, axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(PAGE)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def legend(axes: Axes) -> None:
    """The names of the series, in the page's form."""
    axes.legend(fontsize=8, frameon=False)


def _names(names: Iterable[Any]) -> list[str]:
    """Names as an axis has room for them."""
    return [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in map(str, names)]


def _number(value: Any) -> str:
    return f"{float(value):.3g}"
