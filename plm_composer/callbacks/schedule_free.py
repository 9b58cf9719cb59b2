"""Evaluates the averaged weights of an optimizer that has such, and trains on with the others."""

from __future__ import annotations

import contextlib

from composer import Callback, Logger, State

from plm_composer.callbacks.order import Position
from plm_composer.optim.schedule_free import averaged_weights


class AveragedWeights(Callback):
    """Swaps averaged weights in for every evaluation.

    Checkpoints are never written in between: they keep the weights of training.
    """

    position = Position.AVERAGED_EVALUATION

    def __init__(self) -> None:
        self._swapped = contextlib.ExitStack()

    def eval_start(self, state: State, logger: Logger) -> None:
        """Swaps the averaged weights in."""
        del logger
        self._swapped.enter_context(averaged_weights(state.model, state.optimizers[0]))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Brings the weights of training back."""
        del state, logger
        self._swapped.close()
