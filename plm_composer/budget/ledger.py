"""The ledger of a run with a budget: time spent per category, over all starts of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from plm_composer.budget.duration import describe_duration
from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing

FILE_NAME = "ledger.json"
CATEGORIES = ("start-up", "conversion", "calibration", "training", "evaluation", "checkpoints", "export", "exit")
"""Categories that every ledger has. Evaluations with a name of their own are added to it under this name."""
_WRITE_EVERY = 0.5
"""Seconds between writes. A killed run's time since the last write is not charged to the next start."""


@dataclasses.dataclass
class Ledger:
    """Charges wall-clock time to categories, one at a time, from the start of the process.

    Args:
        path: The file to write; None to write none, as on ranks other than 0.
        budget: Budget of all starts together, in seconds.
        started: Reading of ``clock`` when this start's process began.
        earlier: Seconds charged to earlier starts, by category.
        clock: Returns the time in seconds, as ``time.time`` does.
    """

    path: Path | None
    budget: float
    started: float
    earlier: dict[str, float] = dataclasses.field(default_factory=dict)
    clock: Callable[[], float] = time.time
    batches: int = 0
    """Number of batches trained, over all starts."""

    def __post_init__(self) -> None:
        self._charged = dict.fromkeys(CATEGORIES, 0.0)
        self._category = CATEGORIES[0]
        self._since = self.started
        self._written = 0.0
        self._finished = False

    @property
    def category(self) -> str:
        """The category that time is charged to now."""
        return self._category

    def charge(self, category: str) -> str:
        """Charges the time from now on to a category.

        Args:
            category: One of ``CATEGORIES``, or the name of an evaluation.

        Returns:
            The category before.
        """
        before, now = self._category, self.clock()
        self._charged[before] += now - self._since
        self._charged.setdefault(category, 0.0)
        self._category, self._since = category, now
        if now - self._written > _WRITE_EVERY:
            self.write()
        return before

    @contextlib.contextmanager
    def charging(self, category: str) -> Iterator[None]:
        """Charges the time inside the context to a category, then returns to the one before.

        Args:
            category: One of ``CATEGORIES``.
        """
        before = self.charge(category)
        yield
        self.charge(before)

    def this_start(self, category: str) -> float:
        """Seconds charged to a category in this start, up to the last change of category."""
        return self._charged[category]

    def spent(self) -> float:
        """Seconds charged so far, including earlier starts."""
        return sum(self.earlier.values()) + self.clock() - self.started

    def left(self) -> float:
        """Seconds of the budget that are left, below 0 if it is overdrawn."""
        return self.budget - self.spent()

    def entries(self) -> dict[str, float]:
        """Seconds by category, over all starts, up to now."""
        names = dict.fromkeys([*self._charged, *self.earlier])
        entries = {name: self.earlier.get(name, 0.0) + self._charged.get(name, 0.0) for name in names}
        entries[self._category] += self.clock() - self._since
        return entries

    def write(self) -> None:
        """Writes the file."""
        self._written = self.clock()
        if self.path is None:
            return
        entries = self.entries()
        content = {
            "budget": self.budget,
            "charged": round(sum(entries.values()), 3),
            "finished": self._finished,
            "batches": self.batches,
            "entries": {name: round(seconds, 3) for name, seconds in entries.items()},
        }
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")

    def finish(self) -> None:
        """Writes the file for the last time, marked as finished."""
        self._finished = True
        self.write()

    def summary(self) -> str:
        """One line: the budget and the time charged, in all and per category."""
        entries = {name: seconds for name, seconds in self.entries().items() if seconds >= 0.05}
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in entries.items())
        total = describe_duration(sum(entries.values()))
        return f"{'budget':<12}{describe_duration(self.budget)}, charged {total}: {parts}"


def open_ledger(folder: Path, budget: float, resumes: bool, started: float) -> Ledger:
    """Opens the ledger of a run.

    Args:
        folder: The run folder.
        budget: Budget of all starts together, in seconds; infinite for a run without one, which writes no file.
        resumes: Whether the time of earlier starts counts.
        started: Start time of this process, in seconds since the epoch.

    Raises:
        UserError: The ledger of earlier starts cannot be read, or they have spent more than a budget that has changed.
    """
    path = folder / FILE_NAME
    if math.isinf(budget):
        return Ledger(None, budget, started)
    if not resumes or not path.is_file():
        return Ledger(path, budget, started)
    try:
        content = json.loads(path.read_text())
        entries = content["entries"]
        earlier = {name: float(entries[name]) for name in dict.fromkeys([*CATEGORIES, *entries])}
        same = float(content["budget"]) == budget
        ended = bool(content["finished"]) and same
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read, so it is unknown what the run has spent; restore it, or start another run"
        ) from error
    spent = sum(earlier.values())
    if not same and spent >= budget:
        raise UserError(
            f"budget: {describe_duration(budget)} is less than the {describe_duration(spent)} that {folder} has spent; "
            "give more, or choose another run_name="
        )
    # A run that has ended and is started again does not change its ledger.
    return Ledger(None if ended else path, budget, started, earlier)


def process_start() -> float:
    """Start time of the command, in seconds since the epoch: that of the launcher if one started this process."""
    process = psutil.Process()
    try:
        parent = process.parent()
        if parent is not None and any(Path(word).name == "composer" for word in parent.cmdline()[:2]):
            return _start_of(parent)
    except psutil.Error:  # The parent is gone, or belongs to another user.
        pass
    return _start_of(process)


def _start_of(process: psutil.Process) -> float:
    created = float(process.create_time())
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return created
    # Linux counts from boot, and gives the time of boot in whole seconds only.
    since_boot = created - psutil.boot_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
