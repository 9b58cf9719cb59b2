"""The file ``metrics.jsonl`` that every run writes: one JSON object per line, for any tool that reads JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.loggers import LoggerDestination
from composer.utils import dist

from plm_composer.files.atomic import replacing

_CLOCK = ("batch", "epoch", "proteins", "tokens", "seconds")


class MetricsFile(LoggerDestination):
    """Writes the metrics of each batch, and of each evaluation, as one line.

    Each line has ``batch``, ``epoch``, ``proteins``, ``tokens`` and ``seconds`` (training time, including that before a
    resume), and then the metrics under Composer's names. A resumed run removes the lines after its checkpoint and
    continues, so that the file reads like that of an unbroken run. Only rank 0 writes.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collects metrics until the batch or evaluation ends."""
        for name, value in metrics.items():
            number = value.item() if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1 else value
            if isinstance(number, int | float):
                # JSON has no NaN; null stands for a value that is not finite.
                self._pending[name] = number if math.isfinite(number) else None  # type: ignore[assignment]

    def fit_start(self, state: State, logger: Logger) -> None:
        """Removes the lines of batches after the loaded checkpoint, if any."""
        if dist.get_global_rank() != 0 or not self.path.exists():
            return
        # After a checkpoint between the last batch of an epoch and its evaluation, the epoch ends a second time.
        place = (int(state.timestamp.batch), int(state.timestamp.epoch))
        kept = [line for line in self.path.read_text().splitlines() if _lies_before(line, *place)]
        if kept and _ends_a_training(kept[-1]):
            kept.pop()
        with replacing(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept))

    def batch_end(self, state: State, logger: Logger) -> None:
        """Writes the batch's line."""
        self._write(state)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Drops the last batch's metrics, which Composer logs twice, and as NaN if a resumed run did not train it."""
        self._pending = {name: value for name, value in self._pending.items() if not name.startswith("metrics/train/")}

    def eval_end(self, state: State, logger: Logger) -> None:
        """Writes the evaluation's line."""
        self._write(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Writes the metrics that were logged after the last batch."""
        self._write(state)

    def _write(self, state: State) -> None:
        if dist.get_global_rank() == 0 and self._pending:
            clock = state.timestamp
            line = {
                "batch": int(clock.batch),
                "epoch": int(clock.epoch),
                "proteins": int(clock.sample),
                "tokens": int(clock.token),
                "seconds": round(clock.total_wct.total_seconds(), 3),
                **self._pending,
            }
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self._pending = {}


def _lies_before(line: str, batch: int, epoch: int) -> bool:
    try:
        content = json.loads(line)
        return int(content["batch"]) <= batch and int(content["epoch"]) <= epoch
    except (ValueError, KeyError, TypeError):
        # Cut short by a kill during the write: the line belongs to no batch, and is removed.
        return False


def _ends_a_training(line: str) -> bool:
    """Whether the line has only Composer's clock at the end of a training, which a resume makes obsolete."""
    return all(name in _CLOCK or name.startswith("time/") for name in json.loads(line))
