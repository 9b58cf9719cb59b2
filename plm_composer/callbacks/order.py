"""In which order callbacks run at an event: each of ours has a place, and those of a YAML share one."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from composer import Callback


class Position(enum.IntEnum):
    """Places in the order; a callback's ``position``. One without is ``NAMED``."""

    LOSS_GUARD = enum.auto()
    """Stops at a loss that is no number, before anything evaluates or saves what it did to the weights."""
    BUDGET = enum.auto()
    """Charges the time of the callbacks behind it to the right entry."""
    BATCH_SEED = enum.auto()
    """Seeds the generators before anybody draws."""
    AVERAGED_EVALUATION = enum.auto()
    """Swaps averaged weights in before an evaluation."""
    PREEMPTION = enum.auto()
    """Ends the training at a signal, before whatever saves at the end of a training."""
    NAMED = enum.auto()
    """What the YAML names; it may end the training too."""
    RECORD = enum.auto()
    """Goes into checkpoints, and changes nothing."""
    AVERAGED_CHECKPOINT = enum.auto()
    """Puts the average into the model, once it is known whether a checkpoint is due."""
    SAVER = enum.auto()
    """Saves what all others left."""


def in_order(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sorts callbacks by their positions; those of one position stay as they are.

    Args:
        callbacks: Ours, and those that the YAML names.
    """
    return sorted(callbacks, key=lambda callback: getattr(callback, "position", Position.NAMED))
