"""The ledger of a run with a budget: what was charged for what, over all of its starts."""

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
_WRITE_EVERY = 0.5
"""Seconds. What a killed run has spent since it last wrote is not charged to the next start."""


@dataclasses.dataclass
class Ledger:
    """Charges wall-clock time to categories, one at a time, from the start of the process.

    Args:
        path: The file to keep; None keeps none (ranks other than 0).
        budget: Seconds for all starts together.
        started: ``clock``'s reading when this start's process began.
        earlier: Seconds by category that earlier starts were charged.
        clock: Seconds, as ``time.time``.
    """

    path: Path | None
    budget: float
    started: float
    earlier: dict[str, float] = dataclasses.field(default_factory=dict)
    clock: Callable[[], float] = time.time
    batches: int = 0
    """Batches trained, of all starts."""

    def __post_init__(self) -> None:
        self._charged = dict.fromkeys(CATEGORIES, 0.0)
        self._category = CATEGORIES[0]
        self._since = self.started
        self._written = 0.0
        self._finished = False

    @property
    def category(self) -> str:
        """What time is charged to now."""
        return self._category

    def charge(self, category: str) -> str:
        """Charges the time from now on to a category.

        Args:
            category: One of ``CATEGORIES``.

        Returns:
            The category before.
        """
        before, now = self._category, self.clock()
        self._charged[before] += now - self._since
        self._category, self._since = category, now
        if now - self._written > _WRITE_EVERY:
            self.write()
        return before

    @contextlib.contextmanager
    def charging(self, category: str) -> Iterator[None]:
        """Charges what is done inside to a category, and goes back to the one before.

        Args:
            category: One of ``CATEGORIES``.
        """
        before = self.charge(category)
        yield
        self.charge(before)

    def this_start(self, category: str) -> float:
        """Seconds that this start was charged for a category, until it last changed to another."""
        return self._charged[category]

    def spent(self) -> float:
        """Seconds charged so far, earlier starts included."""
        return sum(self.earlier.values()) + self.clock() - self.started

    def left(self) -> float:
        """Seconds of the budget that are left, below 0 where it is overdrawn."""
        return self.budget - self.spent()

    def entries(self) -> dict[str, float]:
        """Seconds by category, over all starts, up to now."""
        entries = {name: self.earlier.get(name, 0.0) + self._charged[name] for name in CATEGORIES}
        entries[self._category] += self.clock() - self._since
        return entries

    def write(self) -> None:
        """Brings the file up to date."""
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
        """Brings the file up to date for the last time."""
        self._finished = True
        self.write()

    def summary(self) -> str:
        """One line: the budget, what was charged, and for what."""
        entries = {name: seconds for name, seconds in self.entries().items() if seconds >= 0.05}
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in entries.items())
        total = describe_duration(sum(entries.values()))
        return f"{'budget':<12}{describe_duration(self.budget)}, charged {total}: {parts}"


def open_ledger(folder: Path, budget: float, resumes: bool, started: float) -> Ledger:
    """Opens the ledger of a run.

    Args:
        folder: The run's.
        budget: Seconds for all starts together; infinite where the run has none, and then no file is kept.
        resumes: Whether what earlier starts spent counts.
        started: When this start's process began, in seconds since the epoch.

    Raises:
        UserError: What earlier starts spent cannot be read, or is more than the budget, which has changed.
    """
    path = folder / FILE_NAME
    if math.isinf(budget):
        return Ledger(None, budget, started)
    if not resumes or not path.is_file():
        return Ledger(path, budget, started)
    try:
        content = json.loads(path.read_text())
        earlier = {name: float(content["entries"][name]) for name in CATEGORIES}
        same = float(content["budget"]) == budget
        ended = bool(content["finished"]) and same
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read, so that it is unknown what the run has spent; restore it, or start another run"
        ) from error
    spent = sum(earlier.values())
    if not same and spent >= budget:
        raise UserError(
            f"budget: {describe_duration(budget)} is less than the {describe_duration(spent)} that {folder} has spent; "
            "give more, or choose another run_name="
        )
    # A run that is started again after its end only says how it ended.
    return Ledger(None if ended else path, budget, started, earlier)


def process_start() -> float:
    """When the command was started, in seconds since the epoch: the launcher, where one started this process."""
    process = psutil.Process()
    try:
        parent = process.parent()
        if parent is not None and any(Path(word).name == "composer" for word in parent.cmdline()[:2]):
            return _start_of(parent)
    except psutil.Error:  # gone, or another user's
        pass
    return _start_of(process)


def _start_of(process: psutil.Process) -> float:
    created = float(process.create_time())
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return created
    # Linux counts from boot, and tells when that was in whole seconds only.
    since_boot = created - psutil.boot_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
