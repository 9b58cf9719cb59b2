"""What limits a run's efficiency: padding, waiting for data, memory."""

from __future__ import annotations

import collections
import resource
import time

import torch
from composer import Callback, Logger, State

from plm_composer.data.batches import count_positions, count_tokens

_RSS_UNIT = 1e3  # Linux reports kilobytes.


class EfficiencyMonitor(Callback):
    """Logs padding, waiting time and memory, in addition to the throughput that Composer's SpeedMonitor logs.

    - ``throughput/padding_share``: share of the computed positions that are padding, 0 for packed batches;
    - ``throughput/data_wait_share``: share of a batch's time that was spent waiting for its data;
    - ``memory/peak_mb``: peak memory so far in MB, of the GPU's allocator or of the process.

    Shares are means over a window. All values are those of this process; a logger that writes once writes rank 0's.

    Args:
        window_size: Number of batches to average over.
    """

    def __init__(self, window_size: int = 10) -> None:
        self._padding: collections.deque[tuple[int, int]] = collections.deque(maxlen=window_size)
        self._times: collections.deque[tuple[float, float]] = collections.deque(maxlen=window_size)
        self._batch_requested = time.perf_counter()
        self._waited = 0.0

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Starts the clock."""
        self._batch_requested = time.perf_counter()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Measures the waiting time, and counts the batch's positions."""
        self._waited = time.perf_counter() - self._batch_requested
        self._padding.append((count_tokens(state.batch)["total"], count_positions(state.batch)))

    def batch_end(self, state: State, logger: Logger) -> None:
        """Logs the metrics."""
        # Not from the end of the last batch, because an evaluation may lie between.
        self._times.append((self._waited, time.perf_counter() - self._batch_requested))
        tokens, positions = (sum(part) for part in zip(*self._padding, strict=True))
        waited, passed = (sum(part) for part in zip(*self._times, strict=True))
        logger.log_metrics(
            {
                "throughput/padding_share": 1 - tokens / positions,
                "throughput/data_wait_share": waited / passed,
                "memory/peak_mb": _peak_memory_mb(),
            }
        )


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_UNIT
