"""Evaluations of runs as rows of a table in which each row has its interval drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from plm_composer.evaluation.results import Score
from plm_composer.report.quantities import show_number
from plm_composer.report.runs import Run

_MARGIN = 0.06
"""Space left and right of the outermost interval, as a share of the scale."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A score of a run.

    Args:
        name: The data that it was evaluated on.
        run: Place of the run among those of the page.
        value: The score, as text.
        interval: Its 95 % interval, as text; empty if none was computed.
        settings: How it was evaluated.
        place: The score's place on the panel's scale, in percent.
        low: That of the lower end of the interval.
        high: That of the upper end.
    """

    name: str
    run: int
    value: str
    interval: str
    settings: str
    place: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Panel:
    """All scores of one kind and name, on one scale.

    Args:
        kind: What was evaluated.
        score: Name of the score.
        rows: A row per data set and run; those of one data set stand together.
        ends: Both ends of the scale, as text.
    """

    kind: str
    score: str
    rows: tuple[Row, ...]
    ends: tuple[str, str]


def make_panels(runs: Sequence[Run]) -> list[Panel]:
    """Puts the scores of runs side by side, a panel for each kind of evaluation and each score.

    Args:
        runs: The runs.
    """
    found: dict[tuple[str, str], list[tuple[str, int, Score, str]]] = {}
    for index, run in enumerate(runs):
        for result in run.results:
            settings = ", ".join(f"{key} {value}" for key, value in result.settings.items() if value is not None)
            for score, number in result.scores.items():
                found.setdefault((result.kind, score), []).append((result.name, index, number, settings))
    return [_make_panel(kind, score, sorted(found[kind, score], key=lambda row: row[:2])) for kind, score in found]


def _make_panel(kind: str, score: str, rows: Sequence[tuple[str, int, Score, str]]) -> Panel:
    lows = [number.value if number.low is None else number.low for _, _, number, _ in rows]
    highs = [number.value if number.high is None else number.high for _, _, number, _ in rows]
    width = max(highs) - min(lows) or abs(max(highs)) or 1.0
    start, width = min(lows) - _MARGIN * width, (1 + 2 * _MARGIN) * width

    def place(value: float) -> float:
        return round(100 * (value - start) / width, 2)

    drawn = tuple(
        Row(
            name=name,
            run=index,
            value=_show(number.value),
            interval=""
            if number.low is None or number.high is None
            else f"{_show(number.low)} to {_show(number.high)}",
            settings=settings,
            place=place(number.value),
            low=place(low),
            high=place(high),
        )
        for (name, index, number, settings), low, high in zip(rows, lows, highs, strict=True)
    )
    return Panel(kind, score, drawn, (_show(start), _show(start + width)))


def _show(value: float) -> str:
    return show_number(value, 3 if abs(value) < 100 else 0)
