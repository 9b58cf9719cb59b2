"""The line that shows progress: a bar with details beside it, as wide as the terminal; or without a bar, for a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

_LEAST_BAR = 6
"""Columns of the shortest bar; where there is less room, details make way."""
_DAY = 86400


@dataclasses.dataclass(frozen=True)
class Detail:
    """A piece of text beside a bar.

    Args:
        text: The text.
        rank: 0 is never left out; where the terminal is narrow, the greatest rank makes way first.
    """

    text: str
    rank: int = 0


def compose_line(
    label: str, share: float | None, details: Sequence[Detail], columns: int | None, ascii_only: bool = False
) -> str:
    """Composes the line that shows progress.

    Args:
        label: What is going on, a word or two.
        share: How much is done, 0 to 1; None if nobody knows, which leaves out the bar.
        details: What stands beside the bar, in order.
        columns: Width of the terminal; None for a line of a log, which has no bar and all details.
        ascii_only: Whether the terminal has no other characters.

    Returns:
        The line, without its end; on a terminal at most ``columns`` wide.
    """
    percent = "" if share is None else f" {min(share, 1.0):.0%}"
    if columns is None:
        return f"{label}{percent}: {', '.join(detail.text for detail in details)}"
    bar = 0 if share is None else _LEAST_BAR
    shown = list(details)
    while len(label) + len(" 100%|| ") + bar + len(_join(shown)) > columns and any(each.rank for each in shown):
        shown.remove(max(shown, key=lambda detail: detail.rank))
    if share is None:
        return f"{label}  {_join(shown)}"[:columns]
    parts: dict[str, Any] = {"head": f"{label}{percent:>5}|", "tail": f"| {_join(shown)}"}
    return tqdm.format_meter(
        min(share, 1.0), 1.0, 0.0, ncols=columns, ascii=ascii_only, bar_format="{head}{bar}{tail}", **parts
    )


def _join(details: Sequence[Detail]) -> str:
    return "  ".join(detail.text for detail in details)


def describe_amount(number: float, unit: str = "") -> str:
    """Writes a number with three digits and a prefix, such as ``12.3k``; whole numbers below 1,000 as they are.

    Args:
        number: The number.
        unit: What follows it at once, such as ``B``.
    """
    return f"{number:g}{unit}" if number == int(number) and abs(number) < 1000 else tqdm.format_sizeof(number, unit)


def describe_seconds(seconds: float) -> str:
    """Writes a time as ``01:42``, ``3:04:05`` or ``2d 03h``.

    Args:
        seconds: The time; below 0 counts as 0.
    """
    seconds = max(seconds, 0.0)
    if seconds < _DAY:
        return tqdm.format_interval(seconds)
    days, rest = divmod(int(seconds), _DAY)
    return f"{days}d {rest // 3600:02d}h"
