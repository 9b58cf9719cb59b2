"""Has checkpoints hold the averaged weights."""

from __future__ import annotations

from composer import Callback, Logger, State
from composer.callbacks import CheckpointSaver
from composer.core import Event

from plm_composer.algorithms.ema import use_averages


class AveragedCheckpoints(Callback):
    """Puts the average into the model where a checkpoint is about to be saved.

    It must stand behind callbacks that may end the training, and before the CheckpointSaver. An algorithm runs before
    all callbacks, and does not know that a signal has just ended the training.
    """

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
