"""When a run first reached a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from plm_composer.studies.results import Point


@dataclasses.dataclass(frozen=True)
class Reached:
    """Where a curve first reached a loss.

    Args:
        seconds: Of training.
        tokens: Trained.
    """

    seconds: float
    tokens: float


def first_reached(curve: Sequence[Point], target: float) -> Reached | None:
    """Finds where a curve is first at or below a loss, on straight lines between its points.

    Args:
        curve: Validations in order.
        target: The loss, in nats.

    Returns:
        The place; the first point where that is below already, since nothing is known before it. None where the
        curve never reaches the loss.
    """
    for index, point in enumerate(curve):
        if point.loss > target:
            continue
        if index == 0:
            return Reached(point.seconds, point.tokens)
        before = curve[index - 1]
        share = (before.loss - target) / (before.loss - point.loss)
        return Reached(
            before.seconds + share * (point.seconds - before.seconds),
            before.tokens + share * (point.tokens - before.tokens),
        )
    return None
