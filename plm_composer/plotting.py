"""What all plots have in common: colours that colour-blind readers tell apart, and how axes look."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

Style = dict[str, Any]
"""Properties of a matplotlib line."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette (2008), without black and the yellow that is hard to see on white."""
BLUE, VERMILION, *_ = COLOURS
LINE_STYLES = ("-", "--", ":", "-.")
_MARKER_STYLES = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""4 line styles and 9 markers share no factor: advancing both together gives 36 pairs, and 6 colours 216 styles."""


def make_styles(count: int) -> list[Style]:
    """Makes properties of lines; no two of the first 216 are equal.

    Args:
        count: Number of lines.
    """
    styles = []
    for index in range(count):
        group, colour = divmod(index, len(COLOURS))
        line, marker = LINE_STYLES[group % len(LINE_STYLES)], _MARKER_STYLES[group % len(_MARKER_STYLES)]
        styles.append({"color": COLOURS[colour], "linestyle": line, "marker": marker})
    return styles


def open_axes(axes: Axes) -> None:
    """Draws a faint grid behind the curves, and no lines above and to the right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
