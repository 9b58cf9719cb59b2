"""The order in which callbacks run at an event: each of ours has a position, and those of a YAML share one."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from composer import Callback


class Position(enum.IntEnum):
    """Values of a callback's ``position``, in order. A callback without one has ``NAMED``."""

    LOSS_GUARD = enum.auto()
    """Stops at a loss that is not finite, before the weights are evaluated or saved."""
    BUDGET = enum.auto()
    """Charges the time of all later callbacks to the right category."""
    BATCH_SEED = enum.auto()
    """Seeds the generators before anything draws random numbers."""
    AVERAGED_EVALUATION = enum.auto()
    """Swaps averaged weights in before an evaluation."""
    PREEMPTION = enum.auto()
    """Ends the training at a signal, before callbacks that save at the end of a training."""
    NAMED = enum.auto()
    """Callbacks that the YAML names; they may end the training too."""
    RECORD = enum.auto()
    """Stores the config in checkpoints, and changes nothing."""
    AVERAGED_CHECKPOINT = enum.auto()
    """Puts averaged weights into the model, when it is known whether a checkpoint is due."""
    SAVER = enum.auto()
    """Saves the checkpoint, after all others."""


def in_order(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sorts callbacks by position; those with the same position keep their order.

    Args:
        callbacks: Our callbacks, and those that the YAML names.
    """
    return sorted(callbacks, key=lambda callback: getattr(callback, "position", Position.NAMED))
