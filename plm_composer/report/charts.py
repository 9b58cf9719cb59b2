"""The curves of a report, as SVG that stands in the page: its text is text, its colours are the page's."""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, MaxNLocator

from plm_composer.plotting import COLOURS, LINE_STYLES, open_axes
from plm_composer.report.runs import Run
from plm_composer.report.series import (
    LEARNING_RATE,
    MFU,
    TOKENS_PER_SECOND,
    FloatArray,
    distinct_rates,
    smooth,
    thin,
)

_WIDE, _NARROW = (11.6, 3.7), (5.6, 2.3)
"""Size of a chart over the page's width, and of one over half of it, in inches."""
_MARGINS = (0.8, 0.42, 0.08)
"""Space left of the axes, below and above them, in inches, for the labels of ticks and axes."""
_LABEL_SPACE = 1.35
"""Space right of the axes for the labels of curves, in inches."""
_INK, _MUTED, _GRID = "#1D2733", "#5B6776", "#D5DAE0"
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--grid",
    **{colour: f"--series-{index}" for index, colour in enumerate(COLOURS)},
}
"""The page's names of colours, which differ between its light and its dark form."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page has its own, of about this width
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
    "lines.solid_capstyle": "round",
}
_POINTS = 600
"""Most points of a curve: about two a pixel."""
_FEW = 20
"""Up to this many values a curve has a marker at each."""
_SMOOTHED = 40
"""The training loss is averaged over this fraction of the run."""
_STEEP = 0.05
"""Share of a run's tokens before which the limits of the loss ignore its curve: the steep start."""
_LABEL_GAP = 12
"""Least distance of two labels at the ends of curves, in points."""


Scale = tuple[float, str, Formatter]
"""A divisor, the label of an axis, and the format of its ticks."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """What a curve is drawn against.

    Args:
        title: What the reader chooses.
        name: Name for ``Metrics.series``.
        scale: Chooses the scale of the axis for a largest value.
    """

    title: str
    name: str
    scale: Callable[[float], Scale]


def _scale_seconds(largest: float) -> Scale:
    units = ((172800.0, 86400.0, "days"), (10800.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
    divisor, unit = next((divisor, unit) for least, divisor, unit in units if largest >= least)
    return divisor, f"training time, {unit}", FuncFormatter(lambda value, _: f"{value:g}")


TOKENS = Clock("Tokens", "tokens", lambda _: (1.0, "tokens trained", EngFormatter(sep=" ")))
SECONDS = Clock("Time", "seconds", _scale_seconds)
FLOPS = Clock("FLOPs", "flops", lambda _: (1.0, "model FLOPs", EngFormatter(sep=" ")))
CLOCKS = (TOKENS, SECONDS, FLOPS)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Args:
        title: Its heading, or the name of its tab.
        svg: The drawing; it holds no text that is not escaped.
    """

    title: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric with a chart of its own.

    Args:
        title: Heading of the chart.
        label: Label of the y axis, with the unit.
        clock: What it is drawn against.
        names: Names of its curves in a run's metrics.
        format: Format of the y axis.
        factor: From the logged unit to that of the axis.
    """

    title: str
    label: str
    clock: Clock
    names: Callable[[Run], Sequence[str]]
    format: Formatter
    factor: float = 1.0


def _named(name: str) -> Callable[[Run], Sequence[str]]:
    return lambda run: [name] if run.metrics.has(name) else []


_PLAIN = FuncFormatter(lambda value, _: f"{value:.3g}")
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
_PREFIXED = EngFormatter(sep=" ")

MEASURES = (
    Measure("Validation accuracy", "share of predicted tokens", TOKENS, _named("metrics/eval/accuracy"), _PERCENT),
    Measure("Learning rate", "learning rate", TOKENS, lambda run: distinct_rates(run.metrics), _PLAIN),
    Measure("Throughput", "tokens per second", SECONDS, _named(TOKENS_PER_SECOND), _PREFIXED),
    Measure("Model FLOPs utilisation (MFU)", "share of the peak", SECONDS, _named(MFU), _PERCENT),
    Measure("Peak memory", "GB a process", SECONDS, _named("memory/peak_mb"), _PLAIN, 1e-3),
    Measure("Waiting for data", "share of a batch's time", SECONDS, _named("throughput/data_wait_share"), _PERCENT),
)


def run_colour(index: int) -> tuple[str, str]:
    """Colour and line style of a run.

    Args:
        index: Its place among the runs of the page.
    """
    group, colour = divmod(index, len(COLOURS))
    return COLOURS[colour], LINE_STYLES[group % len(LINE_STYLES)]


def draw_losses(runs: Sequence[Run], clock: Clock) -> Chart | None:
    """Draws the training and validation loss of runs.

    Args:
        runs: The runs; of one alone, both curves are labelled.
        clock: What against.

    Returns:
        The chart; None if no run has a loss and this clock.
    """
    curves = [_losses(run, clock) for run in runs]
    places = [x for pairs in curves for x, _ in pairs if len(x)]
    if not places:
        return None
    alone = len(runs) == 1
    with rc_context(_STYLE):
        figure, axes = _make_axes(_WIDE, *([_LABEL_SPACE] if alone else []))
        divisor = _set_clock(axes, clock, places)
        ends, drawn = [], []
        for index, ((train_x, train_y), (x, y)) in enumerate(curves):
            colour, line = run_colour(index)
            train_colour, colour = COLOURS[:2] if alone else (colour, colour)
            train_x, x = train_x / divisor, x / divisor
            smoothed = smooth(train_y, len(train_y) // _SMOOTHED)
            drawn += [(train_x, train_y if alone else smoothed), (x, y)]
            if alone and len(train_x):
                axes.plot(*thin(train_x, train_y, 2 * _POINTS), color=train_colour, alpha=0.25, linewidth=0.7)
                ends.append((train_x[-1], smoothed[-1], "train", train_colour))
            axes.plot(
                *thin(train_x, smoothed, _POINTS), color=train_colour, linestyle=line, linewidth=1.3,
                alpha=1 if alone else 0.45,
            )  # fmt: skip
            axes.plot(
                *thin(x, y, _POINTS), color=colour, linestyle=line, linewidth=2, marker="o", markersize=4,
                markevery=max(1, len(x) // 40),
            )  # fmt: skip
            if alone and len(x):
                ends.append((x[-1], y[-1], f"validation {y[-1]:.3f}", colour))
        axes.set_ylim(*_loss_limits(drawn))
        axes.set_ylabel("loss, nats per predicted token")
        _label_ends(axes, ends)
        return Chart(clock.title, _to_svg(figure, f"loss-{clock.name}", f"Loss against {axes.get_xlabel()}"))


def draw_measure(runs: Sequence[Run], measure: Measure) -> Chart | None:
    """Draws a metric of runs.

    Args:
        runs: The runs.
        measure: Which metric.

    Returns:
        The chart; None if no run has it.
    """
    curves = [
        (index, number, name, *run.metrics.series(name, measure.clock.name))
        for index, run in enumerate(runs)
        for number, name in enumerate(measure.names(run))
    ]
    if not curves:
        return None
    with rc_context(_STYLE):
        figure, axes = _make_axes(_NARROW)
        divisor = _set_clock(axes, measure.clock, [x for *_, x, _ in curves])
        ends = []
        for index, number, name, x, y in curves:
            colour, line = run_colour(index if len(runs) > 1 else number)
            line = line if len(runs) == 1 else LINE_STYLES[number % len(LINE_STYLES)]
            marker = "o" if len(x) <= _FEW else None
            axes.plot(
                *thin(x / divisor, measure.factor * y, _POINTS), color=colour, linestyle=line, linewidth=1.6,
                marker=marker, markersize=3.5,
            )  # fmt: skip
            ends.append((x, measure.factor * y, name.removeprefix(LEARNING_RATE).replace("/", " "), colour))
        axes.set_ylim(0, 1.08 * max(float(y.max()) for _, y, *_ in ends) or 1)
        axes.set_ylabel(measure.label)
        axes.yaxis.set_major_formatter(measure.format)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if len(runs) == 1 and len(curves) > 1:
            _label_peaks(axes, [(x / divisor, y, label, colour) for x, y, label, colour in ends])
        description = f"{measure.title} against {axes.get_xlabel()}"
        return Chart(measure.title, _to_svg(figure, measure.title, description))


def _losses(run: Run, clock: Clock) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    metrics, train = run.metrics, run.metrics.loss_name("train")
    train = train if metrics.has(train) else "loss/train/total"
    return metrics.series(train, clock.name), metrics.series(metrics.loss_name("eval"), clock.name)


def _loss_limits(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[float, float]:
    """Limits of the loss, in nats, that hold every curve but its steep start and single batches that stick out."""
    late = [y[x >= _STEEP * x[-1]] for x, y in pairs if len(x)]
    top = max(float(np.percentile(y, 99.5)) for y in late)
    bottom = min(float(np.percentile(y, 0.5)) for y in late)
    bottom = min([bottom, *(float(y[-1]) for _, y in pairs if len(y))])
    margin = 0.06 * (top - bottom) or 0.01
    return bottom - margin, top + margin


def _make_axes(size: tuple[float, float], right: float = 0.15) -> tuple[Figure, Axes]:
    """Makes a figure of a size, its axes within fixed margins: a layout engine would draw everything twice.

    Args:
        size: Width and height, in inches.
        right: Space right of the axes, in inches.
    """
    # Without pyplot, which would look for a display and keep the figure.
    figure = Figure(figsize=size, facecolor="none")
    width, height = size
    left, bottom, top = _MARGINS
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box, facecolor="none")
    open_axes(axes)
    axes.grid(alpha=1, linewidth=0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    # Where the longest labels of ticks leave room, not where these end.
    axes.yaxis.set_label_coords(-(left - 0.2) / (width - left - right), 0.5)
    return figure, axes


def _set_clock(axes: Axes, clock: Clock, places: Sequence[FloatArray]) -> float:
    largest = max((float(x[-1]) for x in places if len(x)), default=1.0)
    divisor, label, form = clock.scale(largest)
    axes.set_xlim(0, largest / divisor * 1.01 or 1)
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(form)
    return divisor


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Labels curves right of their ends, from the highest to the lowest, no two on one another."""
    low, high = axes.get_ylim()
    points = 72 * axes.get_figure().get_figheight() * 0.8 / (high - low)  # type: ignore[union-attr]
    above = np.inf
    for x, y, label, colour in sorted(ends, key=lambda end: -end[1]):
        place = min(float(np.clip(y, low, high)) * points, above - _LABEL_GAP)
        above = place
        axes.annotate(
            label, (x, y), (6, place - y * points), textcoords="offset points", va="center", color=colour,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _label_peaks(axes: Axes, curves: Sequence[tuple[FloatArray, FloatArray, str, str]]) -> None:
    for x, y, label, colour in curves:
        highest = int(y.argmax())
        axes.annotate(label, (x[highest], y[highest]), (6, 4), textcoords="offset points", color=colour)


def _to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element whose colours are CSS variables, and whose ids no other chart of the page has."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub(r"font: ((?:bold )?)([\d.]+px) [^;\"]*", r"font-size: \2; font-weight: \1", drawing)
    drawing = drawing.replace("xlink:href", "href")
    drawing = re.sub(r" ?font-family: [^;\"]*;| font-weight: ;", "", drawing)
    for colour, variable in _VARIABLES.items():
        drawing = re.sub(colour, f"var({variable})", drawing, flags=re.IGNORECASE)
    size = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
    opening = f'<svg viewBox="\\1" role="img" aria-label="{html.escape(description)}">'
    return size.sub(opening, drawing, count=1)
