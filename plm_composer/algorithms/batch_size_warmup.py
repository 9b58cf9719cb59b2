"""Starts a training with small batches."""

from __future__ import annotations

import numpy as np
from composer.core import State

from plm_composer.algorithms.batch_curriculum import BatchCurriculum
from plm_composer.algorithms.timing import check_time, progress
from plm_composer.data.batches import Batch, count_rows
from plm_composer.data.regrouping import regroup, row_lengths
from plm_composer.errors import UserError


class BatchSizeWarmup(BatchCurriculum):
    """Trains on the first proteins of each batch only, more and more of them (McCandlish et al. 2018).

    The other proteins are read, and counted as read, since a resume finds its place by that number, but they are not
    trained on in that epoch. Every process takes the first proteins of its own batch, the same number on each and at
    least one, so that another number of processes trains on other proteins during the warm-up.

    Args:
        initial_share: Share of each batch at the start, above 0 and below 1.
        t_end: Time from which batches are whole, such as ``0.2dur``.

    Raises:
        UserError: The share or the time is out of range.
    """

    quantity = "batch_share"
    position = 0

    def __init__(self, initial_share: float = 0.25, t_end: str = "0.2dur") -> None:
        super().__init__()
        if not 0 < initial_share < 1:
            raise UserError(
                f"algorithms.batch_size_warmup.initial_share is {initial_share}; it must lie between 0 and 1"
            )
        check_time("algorithms.batch_size_warmup.t_end", t_end)
        self.initial_share, self.t_end = initial_share, t_end

    def value(self, state: State) -> float:
        """Share of the batch to train on."""
        share = progress(state, self.t_end)
        return (1 - share) * self.initial_share + share

    def change(self, batch: Batch, value: float) -> Batch:
        """Takes the first proteins."""
        total = count_rows(batch)
        count = max(1, round(value * total))
        if count == total:
            return batch
        lengths = row_lengths(batch)[:count]
        crop_length, batch_format = self.collator.crop_length, self.collator.batch_format
        return regroup(batch, np.arange(lengths.sum()), lengths, np.arange(count), batch_format, crop_length)
