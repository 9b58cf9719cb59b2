"""Fits a training into a budget of wall-clock time."""

from __future__ import annotations

import time
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.core import Time
from composer.core.precision import get_precision_context
from composer.loggers import ProgressBarLogger

from plm_composer.budget.ledger import Ledger
from plm_composer.budget.plan import Estimate, Reserve, StepTimes, plan_batches
from plm_composer.callbacks.order import Position
from plm_composer.errors import UserError
from plm_composer.hardware.machine import synchronize
from plm_composer.hardware.processes import first_ones

_WRITTEN_PER_SECOND = 200e6
"""Bytes of a checkpoint or an export, assumed until one was written."""
_FILE_SECONDS = 0.3
_CHECKPOINT_SIZE = 3
"""Over the model's: with Adam's two moments."""
_LEAST_CHECKPOINT = 0.05
"""Seconds; below, none was due."""
_CALIBRATION_BATCHES = 3
"""Evaluation batches whose time tells how long the whole evaluation will take."""
_UNSEEN = 1.25
"""On top of what that gives: proteins of other lengths have kernels of their own to be compiled."""
_LATE, _LATE_UNSEEN = 0.95, 1.1
"""Share of the batches after which that is told again, since a machine that others share is not as fast as it was; and
what is put on top then."""
_EXIT_SHARE, _EXIT_SECONDS = 0.3, 1.5
"""From the export to the end of the process, the launcher's included: a share of what its start took, since both are
bound by the modules that are loaded, and at least so much."""
_SLACK_SHARE, _SLACK_SECONDS = 0.003, 1.0


class Budget(Callback):
    """Plans after every batch at which batch the training ends, and keeps the ledger.

    The plan is ``state.max_duration``, in batches: all that goes by ``dur`` follows it, the learning rate above all,
    so that a training ends fully decayed. It is made of the mean time of the latest batches, and leaves room for the
    evaluation, the checkpoint and the export at the end. Rank 0 plans for all. Two runs in one budget are not the same
    to the bit, since a machine's speed is not.

    Args:
        ledger: Rank 0's keeps the file.
        run_name: The run's.
        slack: Share of the budget to keep, beside a second.
    """

    position = Position.BUDGET

    def __init__(self, ledger: Ledger, run_name: str, slack: float = _SLACK_SHARE) -> None:
        self.ledger = ledger
        self.run_name = run_name
        self._steps = StepTimes()
        self._asked = 0.0
        self._told_late = False
        self._measured_evaluation = 0.0
        self._reserve = Reserve(Estimate(0.0), 0.0, 0.0, _EXIT_SECONDS, _SLACK_SECONDS + slack * ledger.budget)
        self._charged_before = ledger.category

    def state_dict(self) -> dict[str, Any]:
        """The ledger, for where its file is lost, and the speed so far."""
        return {"run_name": self.run_name, "entries": self.ledger.entries(), "step": self._steps.mean()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint of this run knows to be charged, unless the file knows of more."""
        if state["run_name"] != self.run_name:
            return  # a start from another run's checkpoint: its time is not ours
        self._steps = StepTimes(expected=state["step"])
        if sum(state["entries"].values()) > sum(self.ledger.earlier.values()):
            self.ledger.earlier = dict(state["entries"])

    def after_load(self, state: State, logger: Logger) -> None:
        """Estimates what has to be kept for the end, and makes the first plan.

        Raises:
            UserError: The budget leaves no time to train.
        """
        del logger
        self.ledger.charge("calibration")
        self._reserve.exit = max(_EXIT_SECONDS, _EXIT_SHARE * self.ledger.this_start("start-up"))
        size = sum(parameter.numel() * parameter.element_size() for parameter in state.model.parameters())
        self._reserve.checkpoint = _FILE_SECONDS + _CHECKPOINT_SIZE * size / _WRITTEN_PER_SECOND
        self._reserve.export = _FILE_SECONDS + size / _WRITTEN_PER_SECOND
        self._reserve.evaluation = Estimate(_UNSEEN * estimate_evaluation(state))
        self._plan(state)
        self.ledger.charge("start-up")
        if state.max_duration == Time(0, "ba"):
            raise UserError(
                f"budget: {self.ledger.budget:g} s are too few to train: {self.ledger.spent():.0f} s have passed "
                f"before the first batch, and {self._reserve.total():.0f} s are kept for the end; give more"
            )

    def fit_start(self, state: State, logger: Logger) -> None:
        """From here on it is training."""
        del state, logger
        self.ledger.charge("training")

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Starts a batch's clock."""
        del state, logger
        self._end_checkpoint()
        self._asked = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Counts the batch in and plans anew."""
        self._steps.add(time.perf_counter() - self._asked)
        self.ledger.batches = batch = int(state.timestamp.batch)
        self.ledger.charge("training")  # writes the file, if it is time
        self._plan(state)
        assert state.max_duration is not None
        if not self._told_late and _LATE * state.max_duration.value <= batch < state.max_duration.value:
            self._told_late = True
            self.ledger.charge("calibration")
            # Only from here on do steps tell the machine's speed: before, curricula may have made them cheaper.
            seconds = max(self._measured_evaluation, _LATE_UNSEEN * estimate_evaluation(state))
            self._reserve.evaluation = Estimate(seconds, self._steps.recent())
            self.ledger.charge("training")
            self._plan(state)
        logger.log_metrics({"budget/planned_batches": state.max_duration.value})
        for destination in logger.destinations:
            # Composer's bar counts to the plan that it was built with.
            if isinstance(destination, ProgressBarLogger) and destination.train_pbar is not None:
                destination.train_pbar.pbar.total = state.max_duration.value

    def eval_start(self, state: State, logger: Logger) -> None:
        """Charges the evaluation."""
        del state, logger
        self._charged_before = self.ledger.charge("evaluation")
        self._asked = time.perf_counter()

    def eval_end(self, state: State, logger: Logger) -> None:
        """From now on it is known what an evaluation takes."""
        del state, logger
        self._measured_evaluation = time.perf_counter() - self._asked
        self._reserve.evaluation = Estimate(self._measured_evaluation)
        self.ledger.charge(self._charged_before)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Charges the checkpoint, if one is due."""
        del state, logger
        self._asked = time.perf_counter()
        self.ledger.charge("checkpoints")

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """As after a batch."""
        self._end_checkpoint()
        self.batch_checkpoint(state, logger)

    def fit_end(self, state: State, logger: Logger) -> None:
        """The last checkpoint is written."""
        del state, logger
        self._end_checkpoint()

    def _end_checkpoint(self) -> None:
        if self.ledger.category != "checkpoints":
            return
        taken = time.perf_counter() - self._asked
        self.ledger.charge("training")
        if taken > _LEAST_CHECKPOINT:
            self._reserve.checkpoint = taken

    def _plan(self, state: State) -> None:
        reserve = self._reserve.total(self._steps.recent())
        planned = plan_batches(int(state.timestamp.batch), self.ledger.left(), reserve, self._steps.mean())
        state.max_duration = Time(first_ones(planned), "ba")


def estimate_evaluation(state: State) -> float:
    """Estimates how long the whole evaluation takes, in seconds, from a few of its batches.

    Args:
        state: The Trainer's.
    """
    seconds = 0.0
    training = state.model.training
    state.model.eval()
    device = torch.device("cuda" if state.device.name == "gpu" else "cpu")

    def evaluate(batch: Any) -> None:
        with torch.no_grad(), get_precision_context(state.precision):
            state.model(state.device.batch_to_device(batch))

    for evaluator in state.evaluators:
        batches = evaluator.dataloader.dataloader
        subset = evaluator.subset_num_batches
        number = len(batches) if subset in (None, -1) else min(subset, len(batches))
        # All are bounded by the same number of tokens. Every process computes as many, as sharded models need.
        chosen = sorted({(2 * part + 1) * number // (2 * _CALIBRATION_BATCHES) for part in range(_CALIBRATION_BATCHES)})
        if device.type == "cuda":
            evaluate(batches[chosen[0]])  # The first batch of a GPU loads its kernels.
        synchronize(device)
        start = time.perf_counter()
        for index in chosen:
            evaluate(batches[index])
        synchronize(device)
        seconds += (time.perf_counter() - start) * number / len(chosen)
    state.model.train(training)
    return seconds
