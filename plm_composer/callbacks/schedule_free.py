"""Evaluates the averaged weights of an optimizer that keeps them, and continues with the training weights."""

from __future__ import annotations

import contextlib

from composer import Callback, Logger, State

from plm_composer.callbacks.order import Position
from plm_composer.optim.schedule_free import averaged_weights


class AveragedWeights(Callback):
    """Swaps averaged weights in for every evaluation.

    No checkpoint is written during an evaluation, so checkpoints hold the training weights.
    """

    position = Position.AVERAGED_EVALUATION

    def __init__(self) -> None:
        self._swapped = contextlib.ExitStack()

    def eval_start(self, state: State, logger: Logger) -> None:
        """Swaps the averaged weights in."""
        self._swapped.enter_context(averaged_weights(state.model, state.optimizers[0]))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Restores the training weights."""
        self._swapped.close()
