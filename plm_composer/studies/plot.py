"""A study's plot: validation loss against seconds and against tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plm_composer.studies.results import Point, RunResult

_PANELS: dict[str, Callable[[Point], float]] = {
    "seconds of training": lambda point: point.seconds,
    "tokens trained": lambda point: point.tokens,
}
_STEEP = 0.25
"""Share of a curve that the loss's axis need not show: there all variants fall alike, and steeply."""


@dataclasses.dataclass(frozen=True)
class Band:
    """A variant's curve over seeds.

    Args:
        x: Where, shape (N,).
        mean: Of the seeds' losses, shape (N,).
        low: Smallest, shape (N,).
        high: Largest, shape (N,).
    """

    x: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def make_band(curves: Sequence[Sequence[Point]], place: Callable[[Point], float]) -> Band:
    """Puts the curves of several seeds together, on straight lines between their points, where all of them are.

    Args:
        curves: Of one variant; none is empty.
        place: What of a point is x.
    """
    xs = [np.array([place(point) for point in curve], dtype=np.float64) for curve in curves]
    losses = [np.array([point.loss for point in curve]) for curve in curves]
    begin, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    if begin < end:
        every = np.unique(np.concatenate(xs))
        grid = every[(every >= begin) & (every <= end)]
        values = np.stack([np.interp(grid, x, loss) for x, loss in zip(xs, losses, strict=True)])
    else:  # One validation each, or curves that do not overlap: their ends.
        grid = np.array([np.mean([x[-1] for x in xs])])
        values = np.array([[loss[-1]] for loss in losses])
    return Band(grid, values.mean(0), values.min(0), values.max(0))


def draw(results: Sequence[RunResult], paths: Sequence[Path]) -> bool:
    """Draws the plot.

    Args:
        results: Of the runs that are done.
        paths: Files to write; their endings say the formats.

    Returns:
        Whether there was anything to draw.
    """
    curves: dict[str, list[Sequence[Point]]] = {}
    for run in results:
        if run.curve:
            curves.setdefault(run.variant, []).append(run.curve)
    if not curves:
        return False
    colours = colormaps["tab10" if len(curves) <= 10 else "tab20"]
    ends = {name: float(np.mean([curve[-1].loss for curve in found])) for name, found in curves.items()}
    # Without pyplot: no window system is asked for, and nothing stays behind.
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (label, place) in zip(panels, _PANELS.items(), strict=True):
        bands = {name: make_band(found, place) for name, found in curves.items()}
        for index, (name, band) in enumerate(bands.items()):
            colour = colours(index % colours.N)
            axes.plot(band.x, band.mean, color=colour, marker=".", label=f"{name}  {ends[name]:.3f}")
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        _leave_out_the_steep(axes, list(bands.values()))
    panels[0].set_ylabel("validation loss, nats")
    # From the highest final loss to the lowest, as the lines end.
    order = sorted(range(len(ends)), key=lambda index: -list(ends.values())[index])
    lines = panels[0].get_lines()
    figure.legend(
        handles=[lines[index] for index in order],
        loc="outside right center",
        frameon=False,
        title="mean over seeds,\nmin to max shaded",
    )
    for path in paths:
        figure.savefig(path, dpi=150)
    return True


def _leave_out_the_steep(axes: Axes, bands: Sequence[Band]) -> None:
    end = max(band.x[-1] for band in bands)
    shown = [band.high[band.x >= _STEEP * end] for band in bands]
    top = max(float(high.max()) for high in shown if high.size)
    bottom = min(float(band.low.min()) for band in bands)
    margin = 0.05 * (top - bottom) or 0.01
    axes.set_ylim(bottom - margin, top + margin)
