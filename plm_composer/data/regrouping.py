"""Makes a batch from some tokens of another: proteins are shortened, dropped or cut to pieces."""

from __future__ import annotations

import numpy as np

from plm_composer.data.batches import BATCH_FORMATS, Batch, IntArray, attach_draws, is_packed


def row_lengths(batch: Batch) -> IntArray:
    """Number of tokens of each protein of a batch, without padding, shape (N,)."""
    result: IntArray = batch["lengths"]
    return result


def regroup(
    batch: Batch, tokens: IntArray, lengths: IntArray, sources: IntArray, batch_format: str, crop_length: int
) -> Batch:
    """Makes a batch from some tokens of another one, with their labels, draws and mask rates.

    Args:
        batch: The other batch.
        tokens: The tokens in their new order, as positions in its proteins laid end to end without padding, (T,).
        lengths: Number of tokens of each new row, shape (M,), adding up to T.
        sources: Index of the protein that each new row is from, shape (M,).
        batch_format: A name in ``BATCH_FORMATS``.
        crop_length: Number of tokens to which ``padded_to_crop_length`` pads.
    """
    flat = {
        key: (batch[key] if is_packed(batch) else batch[key][batch["attention_mask"]]).numpy()[tokens]
        for key in ("input_ids", "labels", "selection")
        if key in batch
    }
    rows = {key: batch[key][sources] for key in ("mask_rates",) if key in batch}
    return attach_draws(
        {**BATCH_FORMATS[batch_format](flat["input_ids"], flat["labels"], lengths, crop_length), **rows},
        selection=flat.get("selection"),
        window=batch["window"].numpy()[sources] if "window" in batch else None,
    )


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Lays ranges of numbers end to end: ``starts[0], starts[0] + 1, ..., starts[1], ...``.

    Args:
        starts: First number of each range, shape (M,).
        lengths: Size of each range, shape (M,).
    """
    offsets = np.cumsum(lengths) - lengths
    result: IntArray = np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
    return result
