"""Keeps the checkpoint with the best validation score, beside the latest ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.core import Event

from plm_composer.checkpoints.local_folder import find_checkpoints
from plm_composer.checkpoints.saver import WholeCheckpointSaver
from plm_composer.errors import UserError
from plm_composer.hardware.processes import first_ones
from plm_composer.model.config import CAUSAL_LOSS, MASKED_LOSS

_PREFIX = "metrics/eval/"
_LOWER = {MASKED_LOSS, CAUSAL_LOSS, "perplexity"}
"""Scores of which a lower one is better."""


class BestCheckpointSaver(WholeCheckpointSaver):
    """Saves a checkpoint after a validation that was better than all before, and removes the one before.

    A resumed run knows the best score so far; one that starts from another run's checkpoint, or compares by another
    score than before, begins anew.

    Args:
        folder: Folder of the best checkpoint.
        metric: Name of the score, such as ``metrics/eval/masked_nll``.
        takes_over: Whether the checkpoint in the folder was saved by an earlier start of this run.
    """

    def __init__(self, folder: str, metric: str, takes_over: bool) -> None:
        self.metric, self.best, self._is_due = metric.removeprefix(_PREFIX), math.nan, False
        super().__init__(folder, takes_over, overwrite=True, save_interval=self._is_better, num_checkpoints_to_keep=1)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Forgets the best score of another run, which left no checkpoint here."""
        super().fit_start(state, logger)
        if not first_ones(len(find_checkpoints(Path(self.filename.format(state)).parent))):
            self.best = math.nan

    def eval_end(self, state: State, logger: Logger) -> None:
        """Compares the score with the best one so far."""
        del logger
        value = float(state.eval_metric_values[self.metric])
        better = value < self.best if self.metric in _LOWER else value > self.best
        if better or math.isnan(self.best):
            self.best, self._is_due = value, True

    def save_if_due(self, state: State, logger: Logger) -> None:
        """Saves after the validation at the end of a training, which no event for checkpoints follows."""
        if self._is_due:
            self._save_checkpoint(state, logger)

    def state_dict(self) -> dict[str, Any]:
        """The best score, beside Composer's own state."""
        return {**super().state_dict(), "best": self.best, "metric": self.metric}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the best score."""
        super().load_state_dict(state)
        self.best = state["best"] if state.get("metric", self.metric) == self.metric else math.nan

    def _is_better(self, state: State, event: Event) -> bool:
        del state, event
        return self._is_due

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        self._is_due = False
        super()._save_checkpoint(state, logger)


def check_keep_best(metric: str, loss: str, validates: bool) -> None:
    """Checks the key ``keep_best``.

    Args:
        metric: Its value.
        loss: Name of the loss of the pinned evaluation, from ``ESM2Config.loss_name``.
        validates: Whether the run has a validation set.

    Raises:
        UserError: No validation gives such a score.
    """
    known = [f"{_PREFIX}{name}" for name in (loss, "perplexity", "accuracy")]
    if metric not in known:
        raise UserError(f"keep_best is {metric!r}; choose from {', '.join(known)}")
    if not validates:
        raise UserError("keep_best needs a validation set; set data.val_split, or leave it out")
