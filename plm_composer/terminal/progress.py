"""Progress on stderr: one bar where the terminal can draw it again and again, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from plm_composer.terminal.progress_line import Detail, compose_line, describe_amount, describe_seconds

SECONDS_BETWEEN_LINES = 30.0
"""How often a log gets a line; what is done sooner leaves none."""


_COLUMNS_OF_AN_INTERRUPT = len("^C")
"""What a terminal writes behind the line; without room for it the line would move."""


def can_redraw(stream: TextIO) -> bool:
    """Whether a line that was written to a stream can be written over: on a terminal, and in a notebook.

    Args:
        stream: The stream.
    """
    if type(stream).__module__.startswith("ipykernel"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(message: str) -> None:
    """Prints a message on stderr, above a bar that is being drawn there.

    Args:
        message: The message.
    """
    if can_redraw(sys.stderr):
        tqdm.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


class ProgressBar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    """A ``tqdm`` whose line is that of ``progress_line.py``, and which writes lines of its own into a log.

    Args:
        *arguments: Arguments of ``tqdm``.
        details: Makes what stands beside the bar; by default the number, the rate, and the time left.
        **options: Options of ``tqdm``. ``unit`` follows a number at once, so words begin with a space.
    """

    monitor_interval = 0  # no thread: every update looks at the time

    def __init__(self, *arguments: Any, details: Callable[[], Sequence[Detail]] | None = None, **options: Any) -> None:
        self.redraws = can_redraw(sys.stderr)
        self._details = details or self._describe
        pace = {} if self.redraws else {"mininterval": SECONDS_BETWEEN_LINES, "delay": SECONDS_BETWEEN_LINES}
        super().__init__(*arguments, **{"miniters": 0, "dynamic_ncols": self.redraws, **pace, **options})

    def __str__(self) -> str:
        """The line."""
        facts = self.format_dict
        columns = (facts["ncols"] or 80) - _COLUMNS_OF_AN_INTERRUPT if self.redraws else None
        share = self.n / self.total if self.total else None
        return compose_line(self.desc, share, self._details(), columns, facts["ascii"] is True)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        """Draws the line again, or writes it into a log; says whether there is something to clear."""
        if self.redraws:
            return bool(super().display(msg, pos))
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return False

    def close(self) -> None:
        """Draws the line for the last time; a log gets one if it has got another before."""
        if not getattr(self, "disable", True) and not self.redraws:
            if self.leave and self.last_print_t - self.start_t >= SECONDS_BETWEEN_LINES:
                self.display()
            self.leave = False
        super().close()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return float(self.format_dict["elapsed"])

    def _describe(self) -> list[Detail]:
        unit, seconds = self.unit, self.seconds
        done = self.total is not None and self.n >= self.total
        total = "" if self.total is None else f"/{describe_amount(self.total)}"
        details = [Detail(f"{describe_amount(self.n)}{total}{unit}", 1)]
        rate = self.n / seconds if done and seconds else self.format_dict["rate"] or self.n / max(seconds, 1e-9)
        if self.n:
            details.append(Detail(describe_amount(rate, f"{'' if unit.startswith(' ') else unit}/s"), 3))
        if done:
            details.append(Detail(f"in {describe_seconds(seconds)}", 2))
        elif self.total is not None and rate:
            details.append(Detail(f"{describe_seconds((self.total - self.n) / rate)} left", 2))
        if self.postfix:
            details.append(Detail(str(self.postfix), 4))
        return details
