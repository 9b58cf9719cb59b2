"""How many batches fit into the time that is left."""

from __future__ import annotations

import collections
import dataclasses
import statistics

_WINDOW = 64
"""Batches that the speed is measured over: proteins differ in length, and so do batches in time."""
_FIRST = 2
"""Batches at a start that say little of the speed: kernels are compiled, the loader fills up."""
_RECENT = 24
"""Batches that tell how fast the machine is at this moment, where others share it."""
_ROOM = 1.5
"""How much of a batch's mean time has to be left to begin one."""
PROVISIONAL_BATCHES = 1_000_000
"""The plan while nothing is known of a batch's time: a schedule is still at its beginning."""


class StepTimes:
    """The duration of the latest batches.

    Args:
        expected: Seconds of a batch in an earlier start, for as long as this one has trained none.
        window: How many batches.
    """

    def __init__(self, expected: float | None = None, window: int = _WINDOW) -> None:
        self._times: collections.deque[float] = collections.deque(maxlen=window)
        self._expected = expected
        self._seen = 0

    def add(self, seconds: float) -> None:
        """Counts a batch."""
        self._seen += 1
        if self._seen == _FIRST + 1:
            self._times.clear()
        self._times.append(seconds)

    def mean(self) -> float | None:
        """Seconds of a batch; None where nothing is known."""
        if self._expected is not None and self._seen <= _FIRST:
            return self._expected
        return sum(self._times) / len(self._times) if self._times else None

    def recent(self) -> float | None:
        """Seconds of a batch among the last few of this start, the median; None before there are some."""
        return statistics.median(list(self._times)[-_RECENT:]) if self._seen > _FIRST else None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How long something takes, told when the machine had a certain speed.

    Args:
        seconds: That it takes at that speed.
        step: Seconds of a batch of training then; None where that is not known.
    """

    seconds: float
    step: float | None = None

    def at(self, step: float | None) -> float:
        """Seconds that it takes where a batch of training takes ``step``."""
        return self.seconds if self.step is None or step is None else self.seconds * step / self.step


@dataclasses.dataclass
class Reserve:
    """Seconds to keep for what comes after the last batch; each is an estimate until it has been measured.

    Args:
        evaluation: Of the whole validation set.
        checkpoint: Of writing one.
        export: Of writing the Hugging Face folder.
        exit: From there to the end of the process.
        slack: To be on the safe side.
    """

    evaluation: Estimate
    checkpoint: float
    export: float
    exit: float
    slack: float

    def total(self, step: float | None = None) -> float:
        """Seconds of all of it, where a batch of training takes ``step`` at this moment."""
        return self.evaluation.at(step) + self.checkpoint + self.export + self.exit + self.slack


def plan_batches(batch: int, left: float, reserve: float, step: float | None) -> int:
    """Plans at which batch a training ends.

    Args:
        batch: Batches trained so far.
        left: Seconds of the budget that are left.
        reserve: Seconds to keep for what comes after the last batch.
        step: Seconds of a batch; None where that is not known yet.

    Returns:
        The number of batches in the end, at least ``batch``; one more is not begun where it might not fit.
    """
    usable = left - reserve
    if step is None:
        return batch + PROVISIONAL_BATCHES if usable > 0 else batch
    return batch + int(usable / step) if usable > _ROOM * step else batch
