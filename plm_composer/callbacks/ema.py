"""Checkpoints hold the averaged weights of ``algorithms.ema``."""

from __future__ import annotations

from composer import Callback, Logger, State
from composer.callbacks import CheckpointSaver
from composer.core import Event

from plm_composer.algorithms.ema import use_averages
from plm_composer.callbacks.order import Position


class AveragedCheckpoints(Callback):
    """Puts the average into the model where a checkpoint is about to be saved.

    An algorithm could not: it runs before all callbacks, and does not know that a signal has just ended the training.
    """

    position = Position.AVERAGED_CHECKPOINT

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Where one is saved after this batch."""
        del logger
        _prepare(state, Event.BATCH_CHECKPOINT)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Where one is saved after this epoch."""
        del logger
        _prepare(state, Event.EPOCH_CHECKPOINT)


def _prepare(state: State, event: Event) -> None:
    savers = [callback for callback in state.callbacks if isinstance(callback, CheckpointSaver)]
    if any(saver.save_interval(state, event) for saver in savers):
        use_averages(state.algorithms, state)
