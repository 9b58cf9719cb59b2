"""Progress of a conversion on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts bytes read and proteins kept.

    Args:
        total_bytes: Size of all inputs; None when it is not known, and then nothing is estimated.
        shown: Whether to show anything.
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
        """Time since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Proteins a second since the start."""
        return self.proteins / max(self.seconds, 1e-9)

    def add_bytes(self, count: int) -> None:
        """Bytes of input have been read."""
        self._bytes += count
        self._bar.update(count)
        if self._prints_lines and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(
                tqdm.format_meter(
                    self._bytes,
                    self._total_bytes,  # type: ignore[arg-type]  # None: no total, says tqdm's own documentation
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
        """Proteins have been kept."""
        self.proteins += count
        self._bar.set_postfix_str(self._postfix(), refresh=False)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def report(self) -> None:
        """Says how fast it went."""
        if self._shown:
            print(f"{self._postfix()}, {self.seconds:,.1f} s", file=sys.stderr)

    def _postfix(self) -> str:
        return f"{self.proteins:,} proteins, {self.rate:,.0f}/s"
