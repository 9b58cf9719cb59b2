"""Stops a run that is about to be taken off its machine: SLURM, Kubernetes and spot instances send SIGTERM first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from composer import Callback, Logger, State
from composer.utils import dist

from plm_composer.callbacks.order import Position
from plm_composer.hardware.processes import greatest_of_all

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports for SIGTERM: not 0, so that whoever starts runs again knows that this one is not done."""


class Preemption(Callback):
    """Has the running batch finished and a checkpoint saved after SIGTERM, and ends the training there.

    The processes agree after every batch whether one of them got the signal, so that all stop at the same batch.
    Without this callback Composer exits at once, and what came after the last checkpoint is lost.

    Args:
        grace: Seconds from the signal to the end of the process, checkpoint or none.
    """

    position = Position.PREEMPTION

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.stopped_at: int | None = None
        """The batch at which training was stopped."""
        self._signalled = False
        self._previous: Any = signal.SIG_DFL

    def fit_start(self, state: State, logger: Logger) -> None:
        """Takes SIGTERM over from Composer."""
        del state, logger
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Ends the training where a process was signalled, which makes Composer save a checkpoint."""
        del logger
        assert state.max_duration is not None
        if greatest_of_all(int(self._signalled)) and state.timestamp < state.max_duration:
            self.stopped_at = int(state.timestamp.batch)
            state.stop_training()
            # Composer would evaluate as at the end of a training; the grace period is for the checkpoint.
            state.evaluators = []

    def fit_end(self, state: State, logger: Logger) -> None:
        """Gives SIGTERM back where the training ended by itself: nothing is left to save."""
        del state, logger
        if self.stopped_at is None:
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self._signalled:  # The launcher and the scheduler may both send it.
            self._signalled = True
            timer = threading.Timer(self.grace, self._give_up)
            timer.daemon = True
            timer.start()

    def _give_up(self) -> None:
        if dist.get_global_rank() == 0:
            print(
                f"stopped by SIGTERM: not done within {self.grace:g} s (preemption_grace); the last checkpoint stands, "
                "continue from it with autoresume=true",
                file=sys.stderr,
                flush=True,
            )
        os._exit(EXIT_CODE)


def ignore_signals() -> None:
    """Ignores SIGTERM from here on: all is saved.

    The launcher sends it to the others when the first process has ended, and one that is ending would die of it: Python
    gives up its own handlers at the end, and the run would report another exit code.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def stopped_at(callbacks: list[Callback]) -> int | None:
    """The batch at which SIGTERM ended the training, or None where it ran to its end.

    Args:
        callbacks: The Trainer's.
    """
    return next((callback.stopped_at for callback in callbacks if isinstance(callback, Preemption)), None)
