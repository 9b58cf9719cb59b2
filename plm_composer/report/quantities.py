"""Numbers as a reader of a report wants them: few digits, and a unit."""

from __future__ import annotations

import math

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
NONE = "\N{EN DASH}"
"""Stands where there is no number."""


def show_count(value: float | None, unit: str = "") -> str:
    """Three significant digits and an SI prefix, such as ``1.23 M`` or ``45.6 TFLOP``; up to 9,999 all digits.

    Args:
        value: A number of things, at least 0; None for none.
        unit: What the prefix stands before.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if not unit and value < 10_000:
        return f"{value:,.0f}"
    power = 0
    while power < len(_PREFIXES) - 1 and float(f"{value:.3g}") >= 1000:
        value, power = value / 1000, power + 1
    digits = max(0, 2 - math.floor(math.log10(value))) if value >= 1 else 2
    return f"{value:.{digits}f} {_PREFIXES[power]}{unit}".rstrip()


def show_share(value: float | None) -> str:
    """A share as percent, one decimal below 10 %."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.1%}".replace("%", " %") if abs(value) < 0.1 else f"{value:.0%}".replace("%", " %")


def show_number(value: float | None, decimals: int) -> str:
    """A number with so many decimals, and a minus sign that is as wide as digits are."""
    return NONE if value is None or math.isnan(value) else f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def show_seconds(value: float | None) -> str:
    """A duration in its two largest units, such as ``1 h 02 min`` or ``12.3 s``."""
    if value is None:
        return NONE
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {seconds:02d} s"
    days, rest = divmod(hours, 24)
    return f"{days} d {rest:02d} h" if days > 1 else f"{hours} h {minutes:02d} min"
