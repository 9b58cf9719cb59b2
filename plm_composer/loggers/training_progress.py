"""Shows a training on stderr: a bar with loss, speed and time left; lines at an interval; scores of evaluations."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from composer import Logger, State
from composer.core import Time, Timestamp, TimeUnit
from composer.loggers import LoggerDestination
from composer.utils import dist

from plm_composer.loggers import training_status as status
from plm_composer.terminal.progress import ProgressBar, can_redraw, say
from plm_composer.terminal.progress_line import Detail, compose_line, describe_seconds

_SHOWN = (status.LOSS, status.TOKENS_PER_SECOND, status.MFU, status.SECONDS_LEFT_OF_BUDGET, status.TIME_LEFT)


class TrainingProgress(LoggerDestination):
    """Shows a training on the stderr of rank 0.

    Args:
        bar: Whether to draw a bar; where stderr is no terminal, a line now and then takes its place.
        log_interval: How often to print a line besides, such as ``10ba``; None for never.
    """

    def __init__(self, bar: bool = True, log_interval: str | int | None = None) -> None:
        # Lines take the place of a bar in a log, and nobody wants both kinds.
        self.shows_bar = bar and (log_interval is None or can_redraw(sys.stderr))
        self.log_interval = None if log_interval is None else Time.from_input(log_interval, TimeUnit.BATCH)
        self._is_shown = dist.get_global_rank() == 0
        self._metrics: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._time_unit = "hours"
        self._position = ""
        self._logged = 0
        self._is_done = False
        self._bar: ProgressBar | None = None
        self._evaluation: ProgressBar | None = None

    def log_hyperparameters(self, hyperparameters: dict[str, Any]) -> None:
        """Learns the unit of the estimated time."""
        self._time_unit = hyperparameters.get(f"{status.TIME_LEFT}_unit", self._time_unit)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keeps the latest values of what is shown."""
        self._metrics.update({name: float(metrics[name]) for name in _SHOWN if name in metrics})
        if self._evaluation is not None:
            self._scores.update({name: float(value) for name, value in metrics.items() if name.startswith("metrics/")})

    def fit_start(self, state: State, logger: Logger) -> None:
        """Draws the bar, at the place where a resumed run continues."""
        assert state.max_duration is not None
        self._locate(state)
        self._logged = self._intervals(state.timestamp)
        self._bar = ProgressBar(
            desc="train",
            total=state.max_duration.value,
            initial=_progress(state),
            details=self._details,
            disable=not (self._is_shown and self.shows_bar),
        )

    def batch_end(self, state: State, logger: Logger) -> None:
        """Moves the bar, and prints a line if one is due."""
        assert self._bar is not None
        assert state.max_duration is not None
        self._locate(state)
        self._bar.total = state.max_duration.value  # a budget changes it
        self._bar.update(_progress(state) - self._bar.n)
        self._log(state)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Prints a line if one is due: Composer counts an epoch after its last batch has ended."""
        self._log(state)

    def eval_start(self, state: State, logger: Logger) -> None:
        """Draws the evaluation's bar in place of the training's."""
        self._scores = {}
        if self._bar is not None:
            self._bar.clear()
        self._evaluation = ProgressBar(
            desc="evaluate",
            total=None if state.dataloader_len is None else int(state.dataloader_len),
            unit=" batches",
            leave=False,
            position=0,
            disable=not (self._is_shown and self.shows_bar),
        )

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        """Moves the evaluation's bar."""
        assert self._evaluation is not None
        self._evaluation.update()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Prints the scores; the training's bar is drawn again with its next batch."""
        assert self._evaluation is not None
        self._evaluation.close()
        self._evaluation = None
        if self._is_shown and self._scores:
            if not self._position:  # nothing was trained
                self._locate(state)
            label = str(state.dataloader_label)
            scores = {name.removeprefix(f"metrics/{label}/"): value for name, value in self._scores.items()}
            say(status.describe_evaluation(label, self._position, scores))

    def fit_end(self, state: State, logger: Logger) -> None:
        """Ends the bar, which stays on the screen with the time that this start of the run has taken."""
        if state.max_duration is not None and state.timestamp >= state.max_duration:
            self._is_done = True
        self.close_bars()

    def close(self, state: State, logger: Logger) -> None:
        """Ends the bars."""
        self.close_bars()

    def close_bars(self) -> None:
        """Ends the bars where they are, so that what is printed next gets a line of its own."""
        for bar in (self._evaluation, self._bar):
            if bar is not None:
                bar.close()
        self._evaluation = self._bar = None

    def _locate(self, state: State) -> None:
        if state.max_duration is not None:
            unit = str(state.max_duration.unit.value)
            self._position = status.describe_position(_progress(state), state.max_duration.value, unit)

    def _details(self) -> list[Detail]:
        return status.describe_training(self._position, self._metrics, self._time())

    def _time(self) -> str | None:
        if self._is_done and self._bar is not None:
            return f"in {describe_seconds(self._bar.seconds)}"
        left = status.seconds_left(self._metrics, self._time_unit)
        return None if left is None else f"{describe_seconds(left)} left"

    def _intervals(self, timestamp: Timestamp) -> int:
        """Number of intervals of ``log_interval`` that have passed."""
        if self.log_interval is None:
            return 0
        return int(timestamp.get(self.log_interval.unit)) // int(self.log_interval.value)

    def _log(self, state: State) -> None:
        if self._intervals(state.timestamp) > self._logged and self._is_shown:
            self._logged = self._intervals(state.timestamp)
            assert state.max_duration is not None
            share = _progress(state) / state.max_duration.value
            say(compose_line("train", share, self._details(), columns=None))


@contextlib.contextmanager
def closing_bars(loggers: Iterable[LoggerDestination]) -> Iterator[None]:
    """Ends the bars when an error leaves the context, because Composer closes loggers only after it is printed.

    Args:
        loggers: The Trainer's loggers.
    """
    try:
        yield
    except BaseException:
        for logger in loggers:
            if isinstance(logger, TrainingProgress):
                logger.close_bars()
        raise


def _progress(state: State) -> float:
    """Where a training is, in the unit of its ``max_duration``; epochs in parts, if it is known how long one is."""
    assert state.max_duration is not None
    whole = int(state.timestamp.get(state.max_duration.unit))
    if state.max_duration.unit != TimeUnit.EPOCH or state.dataloader_len is None:
        return whole
    return whole + min(int(state.timestamp.batch_in_epoch) / max(int(state.dataloader_len), 1), 1.0)
