"""The plot of a study: paired differences for studies with one evaluation a run, otherwise validation curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation

from plm_composer.plotting import BLUE, VERMILION, Style, make_styles, open_axes
from plm_composer.studies.comparison import Difference, VariantSummary
from plm_composer.studies.results import Point, RunResult
from plm_composer.studies.schema import Study
from plm_composer.studies.table import FEW, is_marked, show_interval

FloatArray = npt.NDArray[np.float64]

_FOREST_WIDTH, _ROW_HEIGHT = 5.5, 0.27
"""Axes of the forest plot, and one row of them, in inches."""
_PANEL_WIDTH, _PANEL_HEIGHT, _PANEL_GAP = 5.0, 4.0, 0.3
"""One panel of the curves, and the space between two, in inches."""
_LEGEND_OFFSET = 0.58
"""From the lower edge of the axes to the legend, in inches: the tick labels and the axis label lie between."""
_STEEP = 0.25
"""Share of a variant's tokens before which the limits of the loss ignore its curve: the steep start."""
_MARKERS = 12
"""At most about this many markers a curve."""

_REFERENCE: Style = {"color": "black", "linestyle": "-", "marker": "o", "linewidth": 2.2, "zorder": 3}
_VERDICTS: dict[str, Style] = {
    "interval below 0: better": {"color": BLUE, "marker": "o"},
    "interval above 0: worse": {"color": VERMILION, "marker": "o"},
    "interval includes 0": {"color": "#666666", "marker": "o", "markerfacecolor": "white"},
    "one seed: no interval": {"color": "#666666", "marker": "D", "markerfacecolor": "white", "linestyle": "none"},
}


@dataclasses.dataclass(frozen=True)
class Band:
    """The validation curve of a variant over its seeds.

    Args:
        seconds: Median training time at each validation, shape (N,).
        tokens: Median number of tokens trained at each validation, shape (N,).
        median: Median loss over seeds, in nats, shape (N,).
        low: Smallest loss, in nats, shape (N,).
        high: Largest loss, in nats, shape (N,).
    """

    seconds: FloatArray
    tokens: FloatArray
    median: FloatArray
    low: FloatArray
    high: FloatArray


_PANELS: dict[str, Callable[[Band], FloatArray]] = {
    "training time, seconds": lambda band: band.seconds,
    "tokens trained": lambda band: band.tokens,
}


def draw(
    study: Study, summaries: Sequence[VariantSummary], results: Sequence[RunResult], paths: Sequence[Path]
) -> bool:
    """Draws the plot of a study.

    Args:
        study: The study.
        summaries: One per variant, in the order of the table.
        results: The finished runs.
        paths: Files to write; each suffix sets the format.

    Returns:
        Whether there was anything to draw.
    """
    figure = make_figure(study, summaries, results)
    if figure is None:
        return False
    for path in paths:
        # The same results give the same SVG.
        with rc_context({"svg.hashsalt": study.path.stem}):
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True


def make_figure(study: Study, summaries: Sequence[VariantSummary], results: Sequence[RunResult]) -> Figure | None:
    """Makes the figure of a study.

    Args:
        study: The study.
        summaries: One per variant, in the order of the table.
        results: The finished runs.

    Returns:
        Curves if a run has several validations, otherwise a forest plot; None without a curve or a difference.
    """
    if any(len(run.curve) > 1 for run in results):
        return _make_curves(study, results)
    if any(row.difference is not None for row in summaries):
        return _make_forest(study, summaries)
    return None


def make_band(curves: Sequence[Sequence[Point]]) -> Band:
    """Summarises the curves of several seeds, validation by validation.

    Seeds that differ in their number of validations (which a time budget can cause) are aligned by the share of their
    validations, on straight lines between them.

    Args:
        curves: The validations of each seed of a variant; no curve is empty.
    """
    shares = np.linspace(0, 1, max(map(len, curves)))

    def over_seeds(value: Callable[[Point], float]) -> FloatArray:
        return np.stack([np.interp(shares, np.linspace(0, 1, len(one)), list(map(value, one))) for one in curves])

    losses = over_seeds(lambda point: point.loss)
    return Band(
        seconds=np.median(over_seeds(lambda point: point.seconds), axis=0),
        tokens=np.median(over_seeds(lambda point: point.tokens), axis=0),
        median=np.median(losses, axis=0),
        low=losses.min(axis=0),
        high=losses.max(axis=0),
    )


def loss_limits(bands: Sequence[Band]) -> tuple[float, float]:
    """Limits of the loss, in nats, that hold every final point and leave out the steep start of all variants."""
    top = max(float(band.high[band.tokens >= _STEEP * band.tokens[-1]].max()) for band in bands)
    bottom = min(float(band.low.min()) for band in bands)
    margin = 0.05 * (top - bottom) or 0.01
    return bottom - margin, top + margin


def _make_curves(study: Study, results: Sequence[RunResult]) -> Figure:
    curves = {name: [run.curve for run in results if run.variant == name and run.curve] for name in study.variants}
    bands = {name: make_band(found) for name, found in curves.items() if found}
    others = [name for name in bands if name != study.reference]
    styles = dict(zip(others, make_styles(len(others)), strict=True)) | {study.reference: _REFERENCE}
    width = len(_PANELS) * (_PANEL_WIDTH + _PANEL_GAP) - _PANEL_GAP
    # Without pyplot, which would look for a display and keep the figure.
    figure = Figure(figsize=(width, _PANEL_HEIGHT))
    panels: list[Axes] = []
    for index, (label, place) in enumerate(_PANELS.items()):
        left = index * (_PANEL_WIDTH + _PANEL_GAP) / width
        axes = figure.add_axes((left, 0, _PANEL_WIDTH / width, 1), sharey=panels[0] if panels else None)
        panels.append(axes)
        for name, band in bands.items():
            _draw_band(axes, place(band), band, name, styles[name])
        axes.set_xlabel(label)
        open_axes(axes)
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if label == "tokens trained" else "{x:,.0f}")
        axes.tick_params(labelleft=index == 0)
    panels[0].set_ylim(*loss_limits(list(bands.values())))
    panels[0].ticklabel_format(axis="y", useOffset=False)
    panels[0].set_ylabel("validation loss, nats")
    panels[0].set_title(_title(study), loc="left", fontweight="bold")
    title = f"{study.reference} is the reference; line: median over seeds, shaded: smallest to largest loss"
    _add_legend(panels[0], panels[0].get_lines(), width, title)
    _fit(figure)
    return figure


def _draw_band(axes: Axes, x: FloatArray, band: Band, label: str, style: Style) -> None:
    step = -(-len(x) // _MARKERS)
    last = (len(x) - 1) % step  # So that the final point has a marker.
    axes.plot(x, band.median, label=label, markersize=5, markevery=(last, step), **style)
    if len(x) > 1:
        axes.fill_between(x, band.low, band.high, color=style["color"], alpha=0.15, linewidth=0)
    else:
        axes.vlines(x, band.low, band.high, color=style["color"])


def _make_forest(study: Study, summaries: Sequence[VariantSummary]) -> Figure:
    rows = [row for row in summaries if row.variant != study.reference]
    figure = Figure(figsize=(_FOREST_WIDTH, _ROW_HEIGHT * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axvline(0, color="black", linewidth=1)
    shown = set()
    for index, row in enumerate(rows):
        if row.difference is not None:
            verdict = _verdict(row.difference)
            shown.add(verdict)
            _draw_difference(axes, index, row.difference, _VERDICTS[verdict])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(range(len(rows)), [_numbers(row.difference, len(study.seeds)) for row in rows])
    with_interval = any(row.difference is not None and row.difference.low is not None for row in rows)
    header = "mean (95 % interval)" if with_interval else "difference"
    axes.annotate(header, (1, 1), (4, 6), xycoords="axes fraction", textcoords="offset points")
    for side in (axes, numbers):
        side.tick_params(axis="y", length=0)
        side.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=10)
    loss = "validation loss" if study.evaluation is None else "loss of the evaluation"
    axes.set_xlabel(f"{loss} minus {study.reference}, nats; below 0: better")
    axes.set_title(_title(study), loc="left", fontweight="bold", pad=22)  # Above the header of the numbers.
    handles = [Line2D([], [], label=verdict, **style) for verdict, style in _VERDICTS.items() if verdict in shown]
    _add_legend(axes, handles, _FOREST_WIDTH, _explanation(study, rows, with_interval))
    _fit(figure)
    return figure


def _draw_difference(axes: Axes, row: int, difference: Difference, style: Style) -> None:
    if difference.low is not None and difference.high is not None:
        axes.plot([difference.low, difference.high], [row, row], color=style["color"], marker="|", linewidth=1.5)
    axes.plot(difference.mean, row, markersize=6, **style)


def _verdict(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return "one seed: no interval"
    if difference.high < 0:
        return "interval below 0: better"
    if difference.low > 0:
        return "interval above 0: worse"
    return "interval includes 0"


def _numbers(difference: Difference | None, seeds: int) -> str:
    if difference is None:
        return "no seed in common"
    interval = "" if difference.low is None else f"  ({show_interval(difference)})"
    missing = "" if difference.pairs == seeds else f", {difference.pairs} of {seeds} seeds"
    # A minus sign is as wide as a plus sign, a hyphen is not.
    return f"{difference.mean:+.4f}{interval}{missing}".replace("-", "\N{MINUS SIGN}")


def _explanation(study: Study, rows: Sequence[VariantSummary], with_interval: bool) -> str:
    text = f"difference to the same seed of {study.reference}"
    if with_interval:
        text = f"mean {text}, and 95 % interval of Student's paired t"
    if any(row.difference is not None and is_marked(row.difference) for row in rows):
        text += f"\n{FEW} two pairs: the interval is uninformative"
    return text


def _title(study: Study) -> str:
    return f"{study.path.stem}: {len(study.seeds)} {'seed' if len(study.seeds) == 1 else 'seeds'} a variant"


def _add_legend(axes: Axes, handles: Sequence[Artist], width: float, title: str) -> None:
    """Puts a legend below the axes, in as many columns as fit into a width, in inches; at least one."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    below = axes.transAxes + ScaledTranslation(0, -_LEGEND_OFFSET, figure.dpi_scale_trans)

    def place(columns: int) -> Legend:
        return axes.legend(
            handles=handles, ncols=columns, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below,
            frameon=False, borderaxespad=0, borderpad=0, alignment="left", handlelength=2.6,
        )  # fmt: skip

    fitting = [n for n in range(1, len(handles) + 1) if place(n).get_window_extent().width <= width * figure.dpi]
    place(max(fitting, default=1)).set_title(title)


def _fit(figure: Figure, margin: float = 0.1) -> None:
    """Grows the figure until it holds everything drawn, and keeps the size of the axes; the margin is in inches."""
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox().padded(margin)
    bounds = [np.array(axes.get_position().bounds) * (width, height, width, height) for axes in figure.axes]
    figure.set_size_inches(box.width, box.height)
    for axes, inches in zip(figure.axes, bounds, strict=True):
        left, bottom, across, up = (inches - (box.x0, box.y0, 0, 0)) / (box.width, box.height, box.width, box.height)
        axes.set_position((left, bottom, across, up))
