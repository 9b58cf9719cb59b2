"""Evaluations within a training, at an interval of their own: what they share."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from composer import Callback, Logger, State
from composer.core import Time, TimeUnit

from plm_composer.callbacks.evaluated_model import evaluated_model, evaluation_place
from plm_composer.callbacks.order import Position
from plm_composer.callbacks.preemption import Preemption, stopped_at
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result
from plm_composer.hardware.machine import synchronize
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, predict_logits
from plm_composer.tokenizer import STANDARD_IDS

_UNITS = (TimeUnit.EPOCH, TimeUnit.BATCH, TimeUnit.SAMPLE, TimeUnit.TOKEN, TimeUnit.DURATION)
_CALIBRATION_LENGTH = 256
"""Number of tokens of the made-up proteins by which the time of an evaluation is estimated."""


class ScheduledEvaluation(Callback, abc.ABC):
    """Evaluates the model at an interval and at the end of training, on all processes, and logs the scores.

    The evaluation sees the weights that the pinned evaluation sees. Its scores are ``metrics/NAME/SCORE``, and those of
    the last one are kept in the run folder. Its time is charged to the budget under its name, and the time of the last
    one is reserved. It draws no random numbers, so that a run trains the same with and without it. Throughput over a
    window that holds an evaluation counts its time.

    Attributes:
        results: Results of the latest evaluation.

    Args:
        interval: Time between two evaluations, such as ``1000ba`` or ``1ep``.
        batch_tokens: Maximum number of tokens in a batch.
    """

    position = Position.NAMED
    name: ClassVar[str]

    def __init__(self, interval: str | int = "1ep", batch_tokens: int = 16384) -> None:
        self.interval = _parse_interval(f"callbacks.{self.name}.interval", interval)
        if batch_tokens < 1:
            raise UserError(f"callbacks.{self.name}.batch_tokens is {batch_tokens}; it must be at least 1")
        self.batch_tokens = batch_tokens
        self.results: list[Result] = []
        self._evaluated_batch = -1
        self._intervals = 0

    @abc.abstractmethod
    def tokens(self) -> int:
        """Number of tokens that one evaluation sends through the model on the busiest process, nearly."""

    @abc.abstractmethod
    def evaluate(self, model: ESM2, place: Place) -> Iterable[Result]:
        """Evaluates; all processes call this with the same weights, and each gets all results.

        Args:
            model: The model, whole, in evaluation mode.
            place: Where to compute.
        """

    def check(self, config: ESM2Config) -> None:
        """Checks before the training that a model can be evaluated; by default any can.

        Args:
            config: The model's config.

        Raises:
            UserError: It cannot.
        """

    def metrics(self, results: Sequence[Result]) -> dict[str, float]:
        """Names and values that are logged; by default all scores.

        Args:
            results: What ``evaluate`` gave, at least one.
        """
        return {name: score.value for result in results for name, score in result.scores.items()}

    def fit_start(self, state: State, logger: Logger) -> None:
        """Counts the intervals that have passed, of a run that is resumed."""
        self._intervals = self._count_intervals(state)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluates if it is due after this batch, or at the end of training."""
        if self.interval.unit != TimeUnit.EPOCH or _is_over(state):
            self._evaluate_if_due(state, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Evaluates if it is due after this epoch."""
        self._evaluate_if_due(state, logger)

    def estimate_seconds(self, state: State) -> float:
        """Estimates how long an evaluation takes, in seconds, from a batch of made-up proteins.

        Args:
            state: State of the Trainer.
        """
        place = evaluation_place(state, self.batch_tokens)
        tokens = self.tokens()
        count = max(1, min(tokens, self.batch_tokens) // _CALIBRATION_LENGTH)
        drawn = np.random.default_rng(0).integers(STANDARD_IDS.start, STANDARD_IDS.stop, (count, _CALIBRATION_LENGTH))
        lengths = [_CALIBRATION_LENGTH] * count
        device = torch.device(place.device)
        with evaluated_model(state) as model:
            for _ in range(2):  # The first batch loads kernels.
                start = time.perf_counter()
                list(predict_logits(model, lengths, lambda index: Query(drawn[index], np.array([1])), place))
                synchronize(device)
                seconds = time.perf_counter() - start
        return seconds * tokens / (count * _CALIBRATION_LENGTH)

    def _count_intervals(self, state: State) -> int:
        if self.interval.unit == TimeUnit.DURATION:
            elapsed = state.get_elapsed_duration()
            # A budget changes the duration from batch to batch, so that shares are compared, not numbers of batches.
            return 0 if elapsed is None else int(elapsed.value / self.interval.value + 1e-9)
        return int(state.timestamp.get(self.interval.unit).value // self.interval.value)

    def _evaluate_if_due(self, state: State, logger: Logger) -> None:
        batch, before = int(state.timestamp.batch), self._intervals
        self._intervals = max(before, self._count_intervals(state))
        due = self._intervals > before or _is_over(state)
        if not due or batch == self._evaluated_batch or _is_stopping(state):
            return
        self._evaluated_batch = batch
        charged_to = [callback for callback in state.callbacks if isinstance(callback, ChargesEvaluations)]
        for callback in charged_to:
            callback.start_evaluation(self.name)
        with evaluated_model(state) as model:
            self.results = list(self.evaluate(model, evaluation_place(state, self.batch_tokens)))
        if self.results:
            metrics = self.metrics(self.results)
            logger.log_metrics({f"metrics/{self.name}/{name}": value for name, value in metrics.items()})
        for callback in charged_to:
            callback.end_evaluation(self.name)


def _parse_interval(key: str, interval: str | int) -> Time:
    try:
        time = Time.from_input(interval, TimeUnit.EPOCH)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key} is {interval!r}; write a number and a unit, such as 1000ba or 1ep") from error
    if time.value <= 0 or time.unit not in _UNITS:
        raise UserError(f"{key} is {interval!r}; it must be above 0, in {', '.join(unit.value for unit in _UNITS)}")
    return time


def _is_over(state: State) -> bool:
    elapsed = state.get_elapsed_duration()
    return elapsed is not None and elapsed.value >= 1


def _is_stopping(state: State) -> bool:
    """Whether a signal has ended the training, or will: then the time that is left is for the checkpoint."""
    if stopped_at(state.callbacks) is not None:
        return True
    return any(callback.signalled() for callback in state.callbacks if isinstance(callback, Preemption))


class ChargesEvaluations(abc.ABC):
    """A callback that accounts for the time of scheduled evaluations."""

    @abc.abstractmethod
    def start_evaluation(self, name: str) -> None:
        """Called when an evaluation begins."""

    @abc.abstractmethod
    def end_evaluation(self, name: str) -> None:
        """Called when it has ended."""
