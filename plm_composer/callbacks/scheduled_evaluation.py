"""Evaluations within a training, at an interval of their own: what they share."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from composer import Callback, Logger, State
from composer.core import Event
from composer.utils import create_interval_scheduler

from plm_composer.callbacks.evaluated_model import evaluated_model, evaluation_place
from plm_composer.callbacks.order import Position
from plm_composer.callbacks.preemption import stopped_at
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result
from plm_composer.hardware.machine import synchronize
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, predict_logits
from plm_composer.tokenizer import STANDARD_IDS

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
        try:
            self._is_due = create_interval_scheduler(interval, checkpoint_events=False, final_events={Event.BATCH_END})
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"callbacks.{self.name}.interval is {interval!r}; write a number and a unit, such as 1000ba or 1ep"
            ) from error
        if batch_tokens < 1:
            raise UserError(f"callbacks.{self.name}.batch_tokens is {batch_tokens}; it must be at least 1")
        self.batch_tokens = batch_tokens
        self.results: list[Result] = []
        self._evaluated_batch = -1

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

    def metrics(self, results: Sequence[Result]) -> dict[str, float]:
        """Names and values that are logged; by default all scores.

        Args:
            results: What ``evaluate`` gave, at least one.
        """
        return {name: score.value for result in results for name, score in result.scores.items()}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluates if it is due after this batch, or at the end of training."""
        self._evaluate_if_due(Event.BATCH_END, state, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Evaluates if it is due after this epoch."""
        self._evaluate_if_due(Event.EPOCH_END, state, logger)

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

    def _evaluate_if_due(self, event: Event, state: State, logger: Logger) -> None:
        batch = int(state.timestamp.batch)
        due = self._is_due(state, event)
        if not due or batch == self._evaluated_batch or stopped_at(state.callbacks) is not None:
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


class ChargesEvaluations(abc.ABC):
    """A callback that accounts for the time of scheduled evaluations."""

    @abc.abstractmethod
    def start_evaluation(self, name: str) -> None:
        """Called when an evaluation begins."""

    @abc.abstractmethod
    def end_evaluation(self, name: str) -> None:
        """Called when it has ended."""
