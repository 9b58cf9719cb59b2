"""How one process's failure to have a shard reaches all processes of a node that share the cache."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

from streaming.base.shared import SharedArray

FAILED = 255
"""State of a shard that some process could not have; streaming's own states are small numbers."""


class NodeFailure(threading.Event):
    """In place of StreamingDataset's event: set where this process failed, or where any could not have a shard.

    Its processes wait for each other's downloads, and would for ever: an event of its own tells each only of itself.

    Args:
        shard_states: The states that the node's processes share.
        report: File for what the first failure was.
    """

    def __init__(self, shard_states: SharedArray, report: Path) -> None:
        super().__init__()
        self._shard_states = shard_states
        self._report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """For the loader's processes: an event's lock cannot be sent."""
        return NodeFailure, (self._shard_states, self._report)

    def is_set(self) -> bool:
        """Whether to stop."""
        return super().is_set() or self._any_failed()

    def tell(self, shard_id: int, message: str) -> None:
        """Tells all processes of the node that a shard cannot be had, and why; the first one to tell is heard."""
        with contextlib.suppress(FileExistsError), self._report.open("x") as file:
            file.write(message)
        self._shard_states[shard_id] = FAILED

    def message(self) -> str | None:
        """What the first failure on this node was; None if there is none."""
        # The file is there before the state is.
        return self._report.read_text() if self._any_failed() else None

    def _any_failed(self) -> bool:
        # Asked several times for each protein: a tenth of what numpy takes.
        return FAILED in bytes(self._shard_states.shm.buf)
