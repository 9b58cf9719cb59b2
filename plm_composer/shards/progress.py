"""Progress of a conversion on stderr."""

from __future__ import annotations

import sys
import time

from plm_composer.terminal.progress import ProgressBar


class Progress:
    """Counts bytes read and proteins kept.

    Args:
        total_bytes: Size of all inputs in bytes; None if unknown, which leaves out the bar and the time left.
        shown: Whether to print anything.
    """

    def __init__(self, total_bytes: int | None, *, shown: bool = True) -> None:
        self._shown = shown
        self._started = time.monotonic()
        self.proteins = 0
        self._bar = ProgressBar(total=total_bytes, unit="B", desc="convert", leave=False, disable=not shown)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Proteins per second since the start."""
        return self.proteins / max(self.seconds, 1e-9)

    def add_bytes(self, count: int) -> None:
        """Adds to the number of input bytes read."""
        self._bar.update(count)

    def add_proteins(self, count: int) -> None:
        """Adds to the number of proteins kept."""
        self.proteins += count
        self._bar.set_postfix_str(f"{self.proteins:,} proteins", refresh=False)

    def close(self) -> None:
        """Closes the bar, to which ``report`` says all that is left to say."""
        self._bar.close()

    def report(self) -> None:
        """Prints the number of proteins, their rate and the time."""
        if self._shown:
            print(f"{self.proteins:,} proteins, {self.rate:,.0f}/s, {self.seconds:,.1f} s", file=sys.stderr)
