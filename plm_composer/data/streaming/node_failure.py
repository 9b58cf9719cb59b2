"""Reports a shard that one process cannot fetch to all processes of the node, which share the cache."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

from streaming.base.shared import SharedArray

FAILED = 255
"""State of a shard that some process could not fetch; streaming's own states are small numbers."""


class NodeFailure(threading.Event):
    """Replaces StreamingDataset's event: set if this process failed, or if any process could not fetch a shard.

    Processes wait for each other's downloads. With streaming's own event, each would see only its own failure and wait
    forever for the others.

    Args:
        shard_states: States of the shards, which the node's processes share.
        message_file: File for the message of the first failure.
    """

    def __init__(self, shard_states: SharedArray, message_file: Path) -> None:
        super().__init__()
        self._shard_states = shard_states
        self._message_file = message_file

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles for the loader's processes, without the event's lock, which cannot be pickled."""
        return NodeFailure, (self._shard_states, self._message_file)

    def is_set(self) -> bool:
        """Whether this process failed, or any could not fetch a shard."""
        return super().is_set() or self._any_failed()

    def report(self, shard_id: int, message: str) -> None:
        """Marks a shard as failed for all processes of the node; only the first message is kept."""
        with contextlib.suppress(FileExistsError), self._message_file.open("x") as file:
            file.write(message)
        self._shard_states[shard_id] = FAILED

    def message(self) -> str | None:
        """Message of the first failure on this node; None if there is none."""
        # The file is written before the state is set.
        return self._message_file.read_text() if self._any_failed() else None

    def _any_failed(self) -> bool:
        # Called several times per protein; scanning bytes is 10x faster than numpy here.
        return FAILED in bytes(self._shard_states.shm.buf)
