"""Starts a training with short sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from composer.core import State

from plm_composer.algorithms.batch_curriculum import BatchCurriculum
from plm_composer.algorithms.timing import check_time, progress
from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator
from plm_composer.data.regrouping import ranges, regroup, row_lengths
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig


class SequenceLengthWarmup(BatchCurriculum):
    """Trains on pieces of proteins whose length grows to ``data.crop_length`` (Li, Zhang and He 2022).

    Args:
        start_length: Largest number of tokens of a piece at the start, ``<cls>`` and ``<eos>`` included; at least 3.
        t_end: Time at which pieces reach ``data.crop_length``, such as ``0.3dur``.
        step_size: Lengths are multiples of it, in tokens, so that few shapes occur; the first and last may differ.
        truncate: True takes one piece of each protein, anywhere in its crop, and leaves the rest out. False cuts the
            crop into pieces of about equal length, so that no token is lost.

    Raises:
        UserError: A length or the time is out of range.
    """

    quantity = "sequence_length"
    draws = frozenset({"window"})
    position = 1

    def __init__(
        self, start_length: int = 64, t_end: str = "0.3dur", step_size: int = 8, truncate: bool = True
    ) -> None:
        super().__init__()
        if start_length < 3 or step_size < 1:
            name, value, least = ("step_size", step_size, 1) if start_length >= 3 else ("start_length", start_length, 3)
            raise UserError(f"algorithms.sequence_length_warmup.{name} is {value}; it must be at least {least} tokens")
        check_time("algorithms.sequence_length_warmup.t_end", t_end)
        self.start_length, self.t_end, self.step_size, self.truncate = start_length, t_end, step_size, truncate

    def bind(self, collator: Collator) -> None:
        """Checks that the length can grow."""
        if self.start_length >= collator.crop_length:
            raise UserError(
                f"algorithms.sequence_length_warmup.start_length is {self.start_length}; it must be below "
                f"data.crop_length, {collator.crop_length}"
            )
        super().bind(collator)

    def value(self, state: State) -> float:
        """Largest number of tokens of a piece."""
        share, last = progress(state, self.t_end), self.collator.crop_length
        if share == 1:
            return last
        length = int(self.start_length + share * (last - self.start_length))
        return max(self.start_length, length // self.step_size * self.step_size)

    def change(self, batch: Batch, value: float) -> Batch:
        """Shortens the proteins."""
        length = int(value)
        if length >= self.collator.crop_length:
            return batch
        shorten = take_windows if self.truncate else cut_to_pieces
        return shorten(batch, length, self.collator)


def take_windows(batch: Batch, length: int, collator: Collator) -> Batch:
    """Takes one piece of at most ``length`` tokens of each protein, at the position that ``window`` draws.

    Args:
        batch: Batch with ``window``.
        length: Largest number of tokens of a piece, at least 3.
        collator: Collator of the batch; with ``crop_keeps_ends``, pieces keep ``<cls>`` and ``<eos>``.
    """
    whole = row_lengths(batch)
    lengths = np.minimum(whole, length)
    offsets = np.cumsum(whole) - whole
    starts = offsets + (batch["window"].numpy() * (whole - lengths + 1)).astype(np.int64)
    tokens = ranges(starts, lengths)
    if collator.crop_keeps_ends:
        ends = np.cumsum(lengths)
        tokens[ends - lengths], tokens[ends - 1] = offsets, offsets + whole - 1
    return regroup(batch, tokens, lengths, np.arange(len(whole)), collator.batch_format, length)


def cut_to_pieces(batch: Batch, length: int, collator: Collator) -> Batch:
    """Cuts each protein into as few pieces of at most ``length`` tokens as possible, of about equal length.

    Arguments as for ``take_windows``. With ``crop_keeps_ends``, each piece gets a ``<cls>`` and an ``<eos>``.
    """
    whole = row_lengths(batch)
    offsets = np.cumsum(whole) - whole
    ends = 1 if collator.crop_keeps_ends else 0  # special tokens on either side, which every piece gets
    inner = whole - 2 * ends
    pieces = np.maximum(1, -(-inner // (length - 2 * ends)))
    sources = np.repeat(np.arange(len(whole)), pieces)
    number = ranges(np.zeros_like(pieces), pieces)
    first = inner[sources] * number // pieces[sources]
    lengths = inner[sources] * (number + 1) // pieces[sources] - first + 2 * ends
    tokens = ranges(offsets[sources] + first, lengths)
    if ends:
        last = np.cumsum(lengths)
        tokens[last - lengths], tokens[last - 1] = offsets[sources], (offsets + whole - 1)[sources]
    return regroup(batch, tokens, lengths, sources, collator.batch_format, length)


def check_sequence_length_warmup(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses pieces of proteins where processes would have different numbers of microbatches.

    Sharded processes gather weights together for each microbatch. Only batches that are split by tokens are split into
    as many on each process (``data/streaming/loader.py``).

    Raises:
        UserError: The run is sharded, and splits batches by proteins.
    """
    if (
        config.fsdp_config is not None
        and arguments.get("truncate") is False
        and config.device_train_microbatch_tokens is None
    ):
        raise UserError(
            "algorithms.sequence_length_warmup.truncate=false needs device_train_microbatch_tokens under FSDP2: "
            "processes would wait for each other, with different numbers of microbatches"
        )
