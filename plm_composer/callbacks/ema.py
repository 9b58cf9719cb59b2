"""Saves the averaged weights of ``algorithms.ema`` in checkpoints."""

from __future__ import annotations

from composer import Callback, Logger, State
from composer.callbacks import CheckpointSaver
from composer.core import Event

from plm_composer.algorithms.ema import use_averages
from plm_composer.callbacks.order import Position


class AveragedCheckpoints(Callback):
    """Puts the averaged weights into the model before a checkpoint is saved.

    An algorithm cannot do this, because it runs before all callbacks and does not know that a signal has just ended the
    training.
    """

    position = Position.AVERAGED_CHECKPOINT

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Swaps weights if a checkpoint follows this batch."""
        _prepare(state, Event.BATCH_CHECKPOINT)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Swaps weights if a checkpoint follows this epoch."""
        _prepare(state, Event.EPOCH_CHECKPOINT)


def _prepare(state: State, event: Event) -> None:
    savers = [callback for callback in state.callbacks if isinstance(callback, CheckpointSaver)]
    if any(saver.save_interval(state, event) for saver in savers):
        use_averages(state.algorithms, state)
