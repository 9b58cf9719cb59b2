"""Progress of a conversion on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts bytes read and proteins kept.

    Args:
        total_bytes: Size of all inputs in bytes; None if unknown, which leaves out the estimate of the time left.
        shown: Whether to print anything.
    """

    def __init__(self, total_bytes: int | None, *, shown: bool = True) -> None:
        self._shown = shown
        self._total_bytes = total_bytes
        self._started = time.monotonic()
        self._next_line = self._started + _SECONDS_BETWEEN_LINES
        self._bytes = 0
        self.proteins = 0
        self._prints_lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total_bytes,
            unit="B",
            unit_scale=True,
            desc="converting",
            dynamic_ncols=True,
            disable=not shown or self._prints_lines,
        )

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
        self._bytes += count
        self._bar.update(count)
        if self._prints_lines and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(
                tqdm.format_meter(
                    self._bytes,
                    self._total_bytes,  # type: ignore[arg-type]  # tqdm documents None for an unknown total
                    self.seconds,
                    prefix="converting",
                    unit="B",
                    unit_scale=True,
                    ncols=0 if self._total_bytes is None else None,
                    postfix=self._postfix(),
                ),
                file=sys.stderr,
                flush=True,
            )

    def add_proteins(self, count: int) -> None:
        """Adds to the number of proteins kept."""
        self.proteins += count
        self._bar.set_postfix_str(self._postfix(), refresh=False)

    def close(self) -> None:
        """Closes the bar, which stays on the screen."""
        self._bar.close()

    def report(self) -> None:
        """Prints the number of proteins, their rate and the time."""
        if self._shown:
            print(f"{self._postfix()}, {self.seconds:,.1f} s", file=sys.stderr)

    def _postfix(self) -> str:
        return f"{self.proteins:,} proteins, {self.rate:,.0f}/s"
