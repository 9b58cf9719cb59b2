"""From a run's ``metrics.jsonl`` to series of numbers."""

from __future__ import annotations

import array
import bisect
import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.model.config import CAUSAL_LOSS, MASKED_LOSS

FloatArray = npt.NDArray[np.float64]

CLOCK = ("batch", "epoch", "proteins", "tokens", "seconds")
TOKENS_PER_SECOND = "throughput/tokens_per_sec"
FLOPS_PER_SECOND = "throughput/flops_per_sec"
MFU = "throughput/device/mfu"
LEARNING_RATE = "lr-"
"""Beginning of the names of learning rates, one a parameter group."""


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The metrics of a run, one row a batch.

    Args:
        columns: The clock of ``CLOCK`` and the metrics under Composer's names: arrays of one length, a row a batch in
            their order. NaN stands where a metric was not logged or was not finite.
        skipped: Number of lines that could not be read, without the last one.
        unfinished: Whether the last line was cut short: the run is writing it, or was killed while it did.
    """

    columns: Mapping[str, FloatArray]
    skipped: int = 0
    unfinished: bool = False

    def last(self, name: str) -> float | None:
        """The last finite value of a metric or of the clock; None if there is none."""
        values = self.column(name)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None

    def has(self, name: str) -> bool:
        """Whether a metric has a finite value."""
        return self.last(name) is not None

    def loss_name(self, split: str) -> str:
        """Name of the metric of the loss, which depends on the objective.

        Args:
            split: ``train`` or ``eval``.
        """
        masked, causal = f"metrics/{split}/{MASKED_LOSS}", f"metrics/{split}/{CAUSAL_LOSS}"
        return causal if self.has(causal) else masked

    def column(self, name: str) -> FloatArray:
        """Values of a metric or of the clock, NaN where there is none, shape (number of batches,)."""
        return self.columns.get(name, np.full(len(self.columns["batch"]), np.nan))

    def series(self, name: str, clock: str) -> tuple[FloatArray, FloatArray]:
        """A metric against a clock, where both have a value: two arrays of one length.

        Args:
            name: Name of the metric.
            clock: ``tokens``, ``seconds`` of training, or ``flops``.
        """
        values = self.column(name)
        x = self.flops if clock == "flops" else self.column(clock)
        there = np.isfinite(values) & np.isfinite(x)
        return x[there], values[there]

    @functools.cached_property
    def flops(self) -> FloatArray:
        """Floating-point operations of training so far at each batch, all devices together; NaN if none were counted.

        Composer's SpeedMonitor logs FLOPs a second and tokens a second over one window of batches. Their quotient is
        the FLOPs per token of that window, which times the tokens of a batch is summed up. Batches before the first
        full window count as many per token as that.
        """
        per_token = self.column(FLOPS_PER_SECOND) / self.column(TOKENS_PER_SECOND)
        known = np.flatnonzero(np.isfinite(per_token))
        if not len(known):
            return np.full(len(per_token), np.nan)
        # The value of the latest window, or of the first one.
        latest = np.searchsorted(known, np.arange(len(per_token)), side="right") - 1
        tokens = np.diff(self.column("tokens"), prepend=0)
        return np.cumsum(per_token[known[np.maximum(latest, 0)]] * tokens)


def read_metrics(path: Path) -> Metrics:
    """Reads the ``metrics.jsonl`` of a run: finished, interrupted, resumed, or being written right now.

    Args:
        path: The file; it need not exist.

    Raises:
        UserError: The file cannot be read.
    """
    columns, skipped, readable = _Columns(), 0, True
    try:
        with path.open("rb") as file:
            for text in file:
                skipped += not readable
                line = _parse(text)
                readable = line is not None
                if line is not None:
                    columns.add(line)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Metrics(columns.finish(), skipped, unfinished=not readable)


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Means over windows around each value, shorter at both ends.

    Args:
        values: Finite values, shape (N,).
        window: Number of values.
    """
    if window < 2 or len(values) < 2:
        return values
    window = min(window, len(values))
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def thin(x: FloatArray, y: FloatArray, points: int) -> tuple[FloatArray, FloatArray]:
    """Replaces groups of neighbours by their means, so that at most so many points are left; the last one stays.

    Args:
        x: Places, shape (N,).
        y: Values, shape (N,).
        points: Largest number of points, at least 2.
    """
    if len(x) <= points:
        return x, y
    starts = np.linspace(0, len(x) - 1, points - 1, endpoint=False).astype(int)
    sizes = np.diff(starts, append=len(x) - 1)
    means = (np.add.reduceat(values[:-1], starts) / sizes for values in (x, y))
    thinned_x, thinned_y = (np.append(mean, values[-1]) for mean, values in zip(means, (x, y), strict=True))
    return thinned_x, thinned_y


def distinct_rates(metrics: Metrics) -> list[str]:
    """Names of the learning rates, one of each set of parameter groups that have the same all along."""
    found: dict[bytes, str] = {}
    for name in sorted(name for name in metrics.columns if name.startswith(LEARNING_RATE)):
        found.setdefault(metrics.column(name).tobytes(), name)
    return list(found.values())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
        return content if all(isinstance(content[name], int | float) for name in CLOCK) else None
    except (ValueError, KeyError, TypeError):
        return None


class _Columns:
    """Columns that grow line by line: runs may have millions, which as dicts would not fit into memory."""

    def __init__(self) -> None:
        self._columns = {name: array.array("d") for name in CLOCK}

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds a line to its batch. A batch that was trained again, after a resume, replaces it and all later ones."""
        batch, batches = line["batch"], self._columns["batch"]
        if batches and batch < batches[-1]:
            first = bisect.bisect_left(batches, batch)
            for column in self._columns.values():
                del column[first:]
        row = len(batches) - 1 if batches and batch == batches[-1] else len(batches)
        for name, value in line.items():
            if value is None or isinstance(value, int | float):
                column = self._columns.setdefault(name, array.array("d"))
                _fill(column, row + 1)
                column[row] = math.nan if value is None else value

    def finish(self) -> dict[str, FloatArray]:
        """All columns, of one length."""
        for column in self._columns.values():
            _fill(column, len(self._columns["batch"]))
        return {name: np.array(column) for name, column in self._columns.items()}


def _fill(column: array.array[float], length: int) -> None:
    column.extend([math.nan] * (length - len(column)))
