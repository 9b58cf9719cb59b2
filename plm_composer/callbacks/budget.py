"""Fits a training into a budget of wall-clock time."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import Any, NamedTuple

import torch
from composer import Callback, Logger, State
from composer.callbacks import CheckpointSaver
from composer.core import Time
from composer.core.precision import get_precision_context
from composer.utils import dist

from plm_composer.budget.ledger import Ledger
from plm_composer.budget.plan import Estimate, Reserve, StepTimes, plan_batches
from plm_composer.callbacks.order import Position
from plm_composer.callbacks.scheduled_evaluation import ChargesEvaluations, ScheduledEvaluation
from plm_composer.data.batches import count_tokens
from plm_composer.errors import UserError
from plm_composer.hardware.machine import synchronize
from plm_composer.hardware.processes import first_ones

_CALIBRATION_BATCHES = 3
"""Number of evaluation batches that are timed to estimate a whole evaluation."""


@dataclasses.dataclass(frozen=True)
class Margins:
    """Assumptions and safety margins for the time after the last batch.

    Args:
        bytes_per_second: Speed of writing a checkpoint or an export, until a checkpoint has been measured.
        seconds_per_file: Constant part of the time to write a checkpoint or an export.
        checkpoint_size: Size of a checkpoint relative to the weights: with Adam, weights and two moments.
        shortest_checkpoint: Seconds; a shorter time means that no checkpoint was due.
        first_evaluation_factor: Safety factor on the first estimate of evaluation time, because proteins of other
            lengths compile new kernels.
        late_share: Share of the batches after which evaluation time is estimated again, because a shared machine may
            have become slower.
        late_evaluation_factor: Safety factor on that second estimate.
        training_factor: Most that a training batch takes, relative to an evaluation of as many tokens: forward, forward
            again where it is recomputed, backward for twice as long, and the rest of the step.
        report_share: Time to write the report, as a share of the start-up: a machine that others use slows both.
        report_seconds: Minimum of that time.
        exit_share: Time from the export to the end of the process and its launcher, as a share of the start-up: both
            depend on the modules that are loaded.
        exit_seconds: Minimum of that time.
        slack_share: Share of the budget that is never used.
        slack_seconds: Seconds that are never used, in addition.
    """

    bytes_per_second: float = 200e6
    seconds_per_file: float = 0.3
    checkpoint_size: float = 3
    shortest_checkpoint: float = 0.05
    first_evaluation_factor: float = 1.25
    late_share: float = 0.95
    late_evaluation_factor: float = 1.1
    training_factor: float = 6
    report_share: float = 0.15
    report_seconds: float = 1.0
    exit_share: float = 0.3
    exit_seconds: float = 1.5
    slack_share: float = 0.003
    slack_seconds: float = 1.0


MARGINS = Margins()


class Budget(Callback, ChargesEvaluations):
    """Plans after every batch at which batch the training ends, and keeps the ledger.

    The plan is ``state.max_duration``, in batches. Everything in units of ``dur`` follows it, above all the learning
    rate, so that a training ends fully decayed. The plan uses the mean time of the latest batches and reserves time for
    the evaluation, the checkpoint and the export at the end. Rank 0 plans for all processes. Runs with a budget are not
    bit-reproducible, because the number of steps depends on the machine's speed.

    Args:
        ledger: The ledger of the run; on rank 0 it writes the file.
        run_name: Name of the run.
        reports: Whether the run writes a report at its end.
        slack: Share of the budget that is never used, in addition to ``MARGINS.slack_seconds``.
    """

    position = Position.BUDGET

    def __init__(
        self, ledger: Ledger, run_name: str, reports: bool = False, slack: float = MARGINS.slack_share
    ) -> None:
        self.ledger = ledger
        self.run_name = run_name
        self.reports = reports
        self._steps = StepTimes()
        self._batch_started = 0.0
        self._tokens_before = 0
        self._seconds_per_token = math.inf  # of an evaluation; unknown without validation data
        self._evaluation_started = 0.0
        self._checkpoint_started = 0.0
        self._estimated_late = False
        self._measured_evaluation = 0.0
        kept = MARGINS.slack_seconds + slack * ledger.budget
        self._reserve = Reserve(Estimate(0.0), checkpoint=0.0, export=0.0, exit=MARGINS.exit_seconds, slack=kept)
        self._charged_before = ledger.category

    def state_dict(self) -> dict[str, Any]:
        """The ledger's entries, in case its file is lost, and the speed so far."""
        return {"run_name": self.run_name, "entries": self.ledger.entries(), "step": self._steps.mean()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the charged time from a checkpoint of this run, unless the ledger's file has more."""
        if state["run_name"] != self.run_name:
            return  # The run starts from another run's checkpoint, whose time is not charged.
        self._steps = StepTimes(expected=state["step"])
        if sum(state["entries"].values()) > sum(self.ledger.earlier.values()):
            self.ledger.earlier = dict(state["entries"])

    def after_load(self, state: State, logger: Logger) -> None:
        """Estimates the time to reserve for the end, and makes the first plan.

        Raises:
            UserError: The budget leaves no time to train.
        """
        self.ledger.charge("calibration")
        self._reserve.exit = max(MARGINS.exit_seconds, MARGINS.exit_share * self.ledger.this_start("start-up"))
        size = sum(parameter.numel() * parameter.element_size() for parameter in state.model.parameters())
        writing = size / MARGINS.bytes_per_second
        self._reserve.checkpoint = MARGINS.seconds_per_file + MARGINS.checkpoint_size * writing
        self._reserve.checkpoints = len(_savers(state))
        self._reserve.export = MARGINS.seconds_per_file + writing
        if self.reports:
            self._reserve.export += max(
                MARGINS.report_seconds, MARGINS.report_share * self.ledger.this_start("start-up")
            )
        evaluation = estimate_evaluation(state)
        if evaluation.tokens:
            self._seconds_per_token = evaluation.seconds / evaluation.tokens
        self._reserve.evaluation = Estimate(MARGINS.first_evaluation_factor * evaluation.seconds)
        for callback in state.callbacks:
            if isinstance(callback, ScheduledEvaluation):
                seconds = MARGINS.first_evaluation_factor * callback.estimate_seconds(state)
                self._reserve.scheduled[callback.name] = Estimate(seconds)
        self._plan(state)
        self.ledger.charge("start-up")
        if state.max_duration == Time(0, "ba"):
            raise UserError(
                f"budget: {self.ledger.budget:g} s are too few to train: {self.ledger.spent():.0f} s have passed "
                f"before the first batch, and {self._reserve.total():.0f} s are reserved for the end; give more"
            )

    def fit_start(self, state: State, logger: Logger) -> None:
        """Charges training from now on."""
        self.ledger.charge("training")

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Starts a batch's clock."""
        self._end_checkpoint(state)
        self._tokens_before = int(state.timestamp.token)
        self._batch_started = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Counts the batch and updates the plan."""
        self._steps.add(time.perf_counter() - self._batch_started, self._longest_step(state))
        self.ledger.batches = batch = int(state.timestamp.batch)
        self.ledger.charge("training")  # writes the file from time to time
        self._plan(state)
        assert state.max_duration is not None
        is_late = MARGINS.late_share * state.max_duration.value <= batch < state.max_duration.value
        if is_late and not self._estimated_late:
            self._estimated_late = True
            self.ledger.charge("calibration")
            # Later steps show changes of the machine's speed; earlier ones may be cheaper because of a curriculum.
            seconds = MARGINS.late_evaluation_factor * estimate_evaluation(state).seconds
            seconds = max(self._measured_evaluation, seconds)
            self._reserve.evaluation = Estimate(seconds, self._steps.recent())
            self.ledger.charge("training")
            self._plan(state)
        left = round(self.ledger.left(), 1)
        logger.log_metrics({"budget/planned_batches": state.max_duration.value, "budget/seconds_left": left})

    def eval_start(self, state: State, logger: Logger) -> None:
        """Charges the evaluation."""
        self._charged_before = self.ledger.charge("evaluation")
        self._evaluation_started = time.perf_counter()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Replaces the estimated evaluation time by the measured one."""
        self._measured_evaluation = time.perf_counter() - self._evaluation_started
        self._reserve.evaluation = Estimate(self._measured_evaluation)
        self.ledger.charge(self._charged_before)

    def start_evaluation(self, name: str) -> None:
        """Charges a scheduled evaluation."""
        self._charged_before = self.ledger.charge(name)
        self._evaluation_started = time.perf_counter()

    def end_evaluation(self, name: str) -> None:
        """Replaces the estimated time of a scheduled evaluation by the measured one."""
        self._reserve.scheduled[name] = Estimate(time.perf_counter() - self._evaluation_started, self._steps.recent())
        self.ledger.charge(self._charged_before)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Charges the checkpoint, if one is due."""
        self._checkpoint_started = time.perf_counter()
        self.ledger.charge("checkpoints")

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Charges the checkpoint, as after a batch."""
        self._end_checkpoint(state)
        self.batch_checkpoint(state, logger)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Ends the charge for the last checkpoint."""
        self._end_checkpoint(state)

    def _end_checkpoint(self, state: State) -> None:
        if self.ledger.category != "checkpoints":
            return
        taken = time.perf_counter() - self._checkpoint_started
        self.ledger.charge("training")
        if taken > MARGINS.shortest_checkpoint:
            written = sum(saver.last_checkpoint_batch == state.timestamp.batch for saver in _savers(state))
            self._reserve.checkpoint = taken / max(1, written)

    def _longest_step(self, state: State) -> float:
        """Most seconds that the latest batch should take, were nothing compiled or loaded for the first time.

        On a CPU, which compiles nothing by default, there is no limit: an optimizer's step that does not depend on the
        batch, such as Muon's, may take longer than all of its tokens.
        """
        tokens = int(state.timestamp.token) - self._tokens_before
        if tokens < 1 or state.device.name != "gpu":
            return math.inf
        return MARGINS.training_factor * self._seconds_per_token * tokens / dist.get_world_size()

    def _plan(self, state: State) -> None:
        reserve = self._reserve.total(self._steps.recent())
        planned = plan_batches(int(state.timestamp.batch), self.ledger.left(), reserve, self._steps.mean())
        state.max_duration = Time(first_ones(planned), "ba")


class EvaluationTime(NamedTuple):
    """What an evaluation takes on one process.

    Attributes:
        seconds: Its duration in seconds.
        tokens: Number of tokens that it computes.
    """

    seconds: float
    tokens: float


def estimate_evaluation(state: State) -> EvaluationTime:
    """Estimates how long the whole evaluation takes, from a few of its batches.

    Args:
        state: The Trainer's state.
    """
    seconds, tokens = 0.0, 0.0
    training = state.model.training
    state.model.eval()
    device = torch.device("cuda" if state.device.name == "gpu" else "cpu")

    def evaluate(batches: Any, index: int) -> EvaluationTime:
        synchronize(device)
        start = time.perf_counter()
        batch = batches[index]
        with torch.no_grad(), get_precision_context(state.precision):
            state.model(state.device.batch_to_device(batch))
        synchronize(device)
        return EvaluationTime(time.perf_counter() - start, count_tokens(batch)["total"])

    for evaluator in state.evaluators:
        batches = evaluator.dataloader.dataloader
        subset = evaluator.subset_num_batches
        number = len(batches) if subset in (None, -1) else min(subset, len(batches))
        # All batches have the same token limit. Every process computes equally many, as sharded models require.
        chosen = sorted({(2 * part + 1) * number // (2 * _CALIBRATION_BATCHES) for part in range(_CALIBRATION_BATCHES)})
        if device.type == "cuda":
            for index in chosen:  # A shape that is new to a GPU loads kernels, or compiles them.
                evaluate(batches, index)
        times = [evaluate(batches, index) for index in chosen]
        # The median: if one of them compiles, its time is not multiplied.
        seconds += number * statistics.median(each.seconds for each in times)
        tokens += number * statistics.median(each.tokens for each in times)
    state.model.train(training)
    return EvaluationTime(seconds, tokens)


def _savers(state: State) -> list[CheckpointSaver]:
    """What saves checkpoints at the end: the latest one, and perhaps the best one."""
    return [callback for callback in state.callbacks if isinstance(callback, CheckpointSaver)]
