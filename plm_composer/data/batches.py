"""Batches: packed into one row of tokens, or padded into a rectangle; and how to count and cut them.

A packed batch of N proteins and T tokens is a dict of

- ``input_ids``: int64, shape (T,);
- ``labels``: int64, shape (T,), ``IGNORE_INDEX`` where nothing is predicted;
- ``cu_seqlens``: int32, shape (N + 1,): protein ``i`` is ``input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``;
- ``max_seqlen``: int, the longest protein's number of tokens.

A padded batch is a dict of ``input_ids``, ``labels`` and ``attention_mask`` (bool), each of shape (N, L).

Where a curriculum asks for it, a batch also carries ``selection`` (float64, shape of ``labels``: the draw that chose
whether a token is masked) and ``window`` (float64, shape (N,): where a shorter piece of a protein would lie). A batch
of which a curriculum left proteins out, or cut them to pieces, has ``proteins_read``: how many the loader read for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plm_composer.errors import UserError
from plm_composer.tokenizer import IGNORE_INDEX, PAD_ID

Batch = dict[str, Any]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def pack(input_ids: IntArray, labels: IntArray, lengths: IntArray) -> Batch:
    """Packs proteins into one row, without padding.

    Args:
        input_ids: Tokens of all proteins, one after another, shape (T,).
        labels: Shape (T,).
        lengths: Tokens of each protein, shape (N,), adding up to T.
    """
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        "max_seqlen": int(lengths.max()),
    }


def pad(input_ids: IntArray, labels: IntArray, lengths: IntArray, width: int | None = None) -> Batch:
    """Pads proteins to one width: the longest one's, or ``width``. Arguments as for ``pack``."""
    columns = np.arange(int(lengths.max()) if width is None else width)
    filled = columns[None, :] < lengths[:, None]
    padded_ids = np.full(filled.shape, PAD_ID, dtype=np.int64)
    padded_labels = np.full(filled.shape, IGNORE_INDEX, dtype=np.int64)
    padded_ids[filled] = input_ids
    padded_labels[filled] = labels
    return {
        "input_ids": torch.from_numpy(padded_ids),
        "labels": torch.from_numpy(padded_labels),
        "attention_mask": torch.from_numpy(filled),
    }


def is_packed(batch: Batch) -> bool:
    """Tells a packed batch from a padded one."""
    return "cu_seqlens" in batch


def attach_draws(batch: Batch, *, selection: FloatArray | None = None, window: FloatArray | None = None) -> Batch:
    """Gives a batch the draws that curricula ask for.

    Args:
        batch: A batch, which is changed.
        selection: One for each token, padding left out, shape (T,).
        window: One for each protein, shape (N,).
    """
    if window is not None:
        batch["window"] = torch.from_numpy(window)
    if selection is not None:
        drawn = torch.from_numpy(selection)
        if not is_packed(batch):
            filled = torch.zeros(batch["labels"].shape, dtype=drawn.dtype)
            filled[batch["attention_mask"]] = drawn
            drawn = filled
        batch["selection"] = drawn
    return batch


def count_rows(batch: Batch) -> int:
    """Number of sequences that a batch holds: proteins, or pieces of them."""
    return len(batch["cu_seqlens"]) - 1 if is_packed(batch) else len(batch["input_ids"])


def count_proteins(batch: Batch) -> int:
    """Number of proteins that were read: what Composer counts as samples, so that a resume finds its place."""
    return int(batch.get("proteins_read", count_rows(batch)))


def count_tokens(batch: Batch) -> dict[str, int]:
    """Number of real tokens (``total``) and of predicted ones (``loss_generating``), as Composer's DataSpec wants."""
    real = batch["input_ids"].numel() if is_packed(batch) else int(batch["attention_mask"].sum())
    return {"total": real, "loss_generating": int((batch["labels"] != IGNORE_INDEX).sum())}


def count_positions(batch: Batch) -> int:
    """Number of positions that the model computes: real tokens and padding."""
    return int(batch["input_ids"].numel())


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    if not is_packed(batch):
        return {key: batch[key][start:stop] for key in ("input_ids", "labels", "attention_mask")}
    cu_seqlens = batch["cu_seqlens"][start : stop + 1]
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    return {
        "input_ids": batch["input_ids"][first:last],
        "labels": batch["labels"][first:last],
        "cu_seqlens": cu_seqlens - first,
        "max_seqlen": int(cu_seqlens.diff().max()),
    }


def split(batch: Batch, microbatch_size: int | float) -> list[Batch]:
    """Cuts a batch into microbatches of ``microbatch_size`` proteins; the last may have fewer.

    Raises:
        UserError: The size is not a whole number of at least one protein.
    """
    size = int(microbatch_size)
    if size < 1 or size != microbatch_size:
        raise UserError(
            f"device_train_microbatch_size is {microbatch_size}; it must be a whole number of proteins, at least 1"
        )
    total = count_rows(batch)
    return [_slice(batch, start, min(start + size, total)) for start in range(0, total, size)]


def split_by_tokens(batch: Batch, max_tokens: int, pieces: int = 1) -> list[Batch]:
    """Cuts a batch into microbatches of at most ``max_tokens`` computed positions, in order, each as full as it gets.

    Args:
        batch: A batch.
        max_tokens: The bound.
        pieces: Least number of microbatches; as many as there are proteins at most.

    Raises:
        UserError: One protein alone has more.
    """
    lengths = (
        batch["cu_seqlens"].diff().tolist()
        if is_packed(batch)
        else [batch["input_ids"].shape[1]] * len(batch["input_ids"])
    )
    if max(lengths) > max_tokens:
        raise UserError(
            f"device_train_microbatch_tokens is {max_tokens}, and one protein has {max(lengths)} tokens; set it to "
            "data.crop_length at least"
        )
    starts, filled = [0], 0
    for index, length in enumerate(lengths):
        if filled + length > max_tokens:
            starts.append(index)
            filled = 0
        filled += length
    while len(starts) < min(pieces, len(lengths)):
        # Halve the piece of most proteins, which leaves every piece within the bound.
        edges = [*starts, len(lengths)]
        widest = max(range(len(starts)), key=lambda index: edges[index + 1] - edges[index])
        starts.insert(widest + 1, (edges[widest] + edges[widest + 1]) // 2)
    return [_slice(batch, start, stop) for start, stop in itertools.pairwise([*starts, len(lengths)])]


BatchFormat = Callable[[IntArray, IntArray, IntArray, int], Batch]

BATCH_FORMATS: dict[str, BatchFormat] = {
    "unpadded": lambda input_ids, labels, lengths, _: pack(input_ids, labels, lengths),
    "padded": lambda input_ids, labels, lengths, _: pad(input_ids, labels, lengths),
    "padded_to_crop_length": pad,
}
"""What ``data.batch_format`` may name; each is called with (input_ids, labels, lengths, crop_length)."""
