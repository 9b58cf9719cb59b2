"""Finds when a run first reached a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from plm_composer.studies.results import Point


@dataclasses.dataclass(frozen=True)
class Reached:
    """The point at which a curve first reached a loss.

    Args:
        seconds: Training time until then.
        tokens: Number of tokens trained until then.
    """

    seconds: float
    tokens: float


def first_reached(curve: Sequence[Point], target: float) -> Reached | None:
    """Finds where a curve is first at or below a loss, by linear interpolation.

    Args:
        curve: Validations in order.
        target: The loss, in nats.

    Returns:
        The interpolated point, or the first validation if it is already at or below the loss; None if the curve never
        reaches the loss.
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
