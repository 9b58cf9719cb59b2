"""Saves and stops a run that is about to lose its machine: SLURM, Kubernetes and spot instances send SIGTERM first."""

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
"""What a shell reports for SIGTERM: not 0, so that a scheduler restarts the job."""


class Preemption(Callback):
    """Finishes the running batch after SIGTERM, saves a checkpoint, and ends the training.

    After every batch the processes agree whether one of them got the signal, so that all stop at the same batch.
    Without this callback Composer exits at once, and the training since the last checkpoint is lost.

    Args:
        grace: Maximum seconds from the signal to the end of the process, even without a checkpoint.
    """

    position = Position.PREEMPTION

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.stopped_at: int | None = None
        """The batch at which SIGTERM ended the training; None if it did not."""
        self._signalled = False
        self._previous: Any = signal.SIG_DFL

    def signalled(self) -> bool:
        """Whether a process of the run has got the signal; every process calls this."""
        return bool(greatest_of_all(int(self._signalled)))

    def fit_start(self, state: State, logger: Logger) -> None:
        """Replaces Composer's handler of SIGTERM."""
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Ends the training if a process got the signal, which makes Composer save a checkpoint."""
        assert state.max_duration is not None
        if self.signalled() and state.timestamp < state.max_duration:
            self.stopped_at = int(state.timestamp.batch)
            state.stop_training()
            # Otherwise Composer would evaluate, and use up the grace period that the checkpoint needs.
            state.evaluators = []

    def fit_end(self, state: State, logger: Logger) -> None:
        """Restores the earlier handler if the training ended by itself, when nothing is left to save."""
        if self.stopped_at is None:
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._signalled:  # The launcher and the scheduler may both send the signal.
            self._signalled = True
            timer = threading.Timer(self.grace, self._give_up)
            timer.daemon = True
            timer.start()

    def _give_up(self) -> None:
        if dist.get_global_rank() == 0:
            print(
                f"stopped by SIGTERM: not done within {self.grace:g} s (preemption_grace); the last checkpoint stands; "
                "continue from it with autoresume=true",
                file=sys.stderr,
                flush=True,
            )
        os._exit(EXIT_CODE)


def ignore_signals() -> None:
    """Ignores SIGTERM from now on, because everything is saved.

    When the first process has ended, the launcher sends SIGTERM to the others. A process that is exiting would be
    killed by it, since Python removes its handlers at exit, and the run would report another exit code.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def stopped_at(callbacks: list[Callback]) -> int | None:
    """The batch at which SIGTERM ended the training, or None if it ran to its end.

    Args:
        callbacks: The Trainer's callbacks.
    """
    return next((callback.stopped_at for callback in callbacks if isinstance(callback, Preemption)), None)
