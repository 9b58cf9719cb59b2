"""Plans how many batches fit into the time that is left."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics

_WINDOW = 64
"""Number of batches over which speed is measured; batches differ in time, because proteins differ in length."""
_WARM_UP_BATCHES = 2
"""Number of batches after a start that do not show the speed: kernels are compiled, and the loader fills up."""
_RECENT_BATCHES = 24
"""Number of batches that show the present speed of a shared machine."""
_LEAST_BATCHES_LEFT = 1.5
"""A batch is started only if the time left is at least this many mean batch times."""
PROVISIONAL_BATCHES = 1_000_000
"""Number of batches to plan while the time of a batch is unknown, so that schedules are still at their beginning."""


class StepTimes:
    """The times of the latest batches.

    The first batches of a start also do what happens once, such as compiling. Until they are over, the least time of
    one of them counts, so that a plan is not cut short by what will not come again.

    Args:
        expected: Mean seconds per batch of an earlier start, used until this start has trained its first batches.
        window: Number of batches to average over.
    """

    def __init__(self, expected: float | None = None, window: int = _WINDOW) -> None:
        self._times: collections.deque[float] = collections.deque(maxlen=window)
        self._expected = expected
        self._seen = 0

    def add(self, seconds: float, most: float = math.inf) -> None:
        """Adds a batch.

        Args:
            seconds: What it took.
            most: What such a batch takes at most, apart from what happens once.
        """
        self._seen += 1
        if self._seen == _WARM_UP_BATCHES + 1:
            self._times.clear()
        self._times.append(seconds if self._seen > _WARM_UP_BATCHES else min(seconds, most))

    def mean(self) -> float | None:
        """Mean seconds per batch, or what comes nearest to it during the first batches; None if unknown."""
        if self._seen <= _WARM_UP_BATCHES:
            return min(self._times, default=None) if self._expected is None else self._expected
        return sum(self._times) / len(self._times)

    def recent(self) -> float | None:
        """Median seconds per batch over the last few batches of this start; None during its first batches."""
        return statistics.median(list(self._times)[-_RECENT_BATCHES:]) if self._seen > _WARM_UP_BATCHES else None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimated duration, at the speed that the machine had then.

    Args:
        seconds: Duration in seconds at that speed.
        step: Seconds per training batch at that speed; None if unknown.
    """

    seconds: float
    step: float | None = None

    def at(self, step: float | None) -> float:
        """Duration in seconds when a training batch takes ``step`` seconds."""
        return self.seconds if self.step is None or step is None else self.seconds * step / self.step


@dataclasses.dataclass
class Reserve:
    """Time to reserve after the last batch, in seconds; each part is an estimate until it has been measured.

    Args:
        evaluation: Time to evaluate the whole validation set.
        scheduled: Time of the last of each scheduled evaluation, by name.
        checkpoint: Time to write a checkpoint.
        export: Time to write the Hugging Face folder.
        exit: Time from the export to the end of the process.
        slack: Safety margin.
        checkpoints: Number of checkpoints that are written after the last batch.
    """

    evaluation: Estimate
    checkpoint: float
    export: float
    exit: float
    slack: float
    scheduled: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    checkpoints: int = 1

    def total(self, step: float | None = None) -> float:
        """Sum of all parts in seconds, when a training batch takes ``step`` seconds."""
        evaluations = sum(each.at(step) for each in (self.evaluation, *self.scheduled.values()))
        return evaluations + self.checkpoints * self.checkpoint + self.export + self.exit + self.slack


def plan_batches(batch: int, left: float, reserve: float, step: float | None) -> int:
    """Plans at which batch a training ends.

    Args:
        batch: Number of batches trained so far.
        left: Seconds of the budget that are left.
        reserve: Seconds to reserve after the last batch.
        step: Mean seconds per batch; None if unknown.

    Returns:
        The total number of batches, at least ``batch``. A batch that might not finish in time is not planned.
    """
    usable = left - reserve
    if step is None:
        return batch + PROVISIONAL_BATCHES if usable > 0 else batch
    return batch + int(usable / step) if usable > _LEAST_BATCHES_LEFT * step else batch
