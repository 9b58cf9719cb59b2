"""Batches, packed into one row of tokens or padded into a rectangle: how they are made, counted and split.

A packed batch of N proteins and T tokens is a dict of

- ``input_ids``: int64, shape (T,);
- ``labels``: int64, shape (T,), ``IGNORE_INDEX`` where nothing is predicted;
- ``cu_seqlens``: int32, shape (N + 1,): protein ``i`` is ``input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``;
- ``max_seqlen``: int, the longest protein's number of tokens.

A padded batch is a dict of ``input_ids``, ``labels`` and ``attention_mask`` (bool), each of shape (N, L).

Both also hold what the host must know of a batch, so that it never waits for the GPU:

- ``masked_positions``: int64, shape (M,): positions in the flattened ``labels`` where something is predicted, masked or
  not;
- ``masked_counts``: a NumPy array, shape (N,): number of these positions in each protein;
- ``lengths``: a NumPy array, shape (N,): number of tokens of each protein, without padding.

Composer moves tensors to the GPU and leaves NumPy arrays on the host.

A batch whose proteins have mask rates of their own (``objective: diffusion``) also has ``mask_rates``, a NumPy array of
shape (N,). A causal batch among masked ones (``objective: mixed``) has ``causal``, True.

For curricula, a batch also carries ``selection`` (float64, shape of ``labels``: the draw that decided whether a token
is masked) and ``window`` (float64, shape (N,): the draw that places a shorter piece of a protein). If a curriculum
dropped proteins or cut them to pieces, ``proteins_read`` is the number that the loader read for the batch.
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
        input_ids: Token ids of all proteins, one after another, shape (T,).
        labels: Their labels, shape (T,), ``IGNORE_INDEX`` where nothing is predicted.
        lengths: Number of tokens of each protein, shape (N,), adding up to T.
    """
    ends = np.cumsum(lengths)
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        "max_seqlen": int(lengths.max()),
        "lengths": np.asarray(lengths, dtype=np.int64),
    }
    return with_labels(batch, torch.from_numpy(labels))


def pad(input_ids: IntArray, labels: IntArray, lengths: IntArray, width: int | None = None) -> Batch:
    """Pads proteins to the longest one's tokens, or to ``width``. Other arguments as for ``pack``."""
    columns = np.arange(int(lengths.max()) if width is None else width)
    filled = columns[None, :] < lengths[:, None]
    padded_ids = np.full(filled.shape, PAD_ID, dtype=np.int64)
    padded_labels = np.full(filled.shape, IGNORE_INDEX, dtype=np.int64)
    padded_ids[filled] = input_ids
    padded_labels[filled] = labels
    batch = {
        "input_ids": torch.from_numpy(padded_ids),
        "attention_mask": torch.from_numpy(filled),
        "lengths": np.asarray(lengths, dtype=np.int64),
    }
    return with_labels(batch, torch.from_numpy(padded_labels))


def with_labels(batch: Batch, labels: torch.Tensor) -> Batch:
    """Returns the batch with other labels, and with their ``masked_positions`` and ``masked_counts``.

    Args:
        batch: A batch; it is not changed.
        labels: The labels, on the CPU, shape of ``input_ids``.
    """
    positions = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(-1)
    width = batch["input_ids"].shape[-1]
    ends = np.cumsum(batch["lengths"]) if is_packed(batch) else width * np.arange(1, len(labels) + 1)
    before = np.searchsorted(positions.numpy(), ends)
    return {**batch, "labels": labels, "masked_positions": positions, "masked_counts": np.diff(before, prepend=0)}


def is_packed(batch: Batch) -> bool:
    """Whether a batch is packed, not padded."""
    return "cu_seqlens" in batch


def attach_draws(batch: Batch, *, selection: FloatArray | None = None, window: FloatArray | None = None) -> Batch:
    """Adds the draws that curricula need to a batch.

    Args:
        batch: A batch; it is changed.
        selection: Draw of each token, without padding, shape (T,), in [0, 1).
        window: Draw of each protein, shape (N,), in [0, 1).
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
    """Number of sequences in a batch: proteins, or pieces of them."""
    return len(batch["lengths"])


def count_proteins(batch: Batch) -> int:
    """Number of proteins read for a batch. Composer counts them as samples, by which a resume finds its place."""
    return int(batch.get("proteins_read", count_rows(batch)))


def count_tokens(batch: Batch) -> dict[str, int]:
    """Number of real tokens (``total``) and of predicted ones (``loss_generating``), for Composer's DataSpec."""
    return {"total": int(batch["lengths"].sum()), "loss_generating": int(batch["masked_counts"].sum())}


def pin(batch: Batch) -> Batch:
    """Copies a batch into page-locked memory, from which it goes to the GPU while the host continues.

    Slices of tensors that a DataLoader pinned are pinned; tensors computed from them are not.
    """
    return {
        key: value.pin_memory() if isinstance(value, torch.Tensor) and not value.is_pinned() else value
        for key, value in batch.items()
    }


def count_positions(batch: Batch) -> int:
    """Number of positions that the model computes: real tokens and padding."""
    return int(batch["input_ids"].numel())


_OF_EACH_PROTEIN = ("lengths", "masked_counts", "mask_rates")
_OF_THE_BATCH = ("causal",)


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    rows = {key: batch[key][start:stop] for key in _OF_EACH_PROTEIN if key in batch}
    rows |= {key: batch[key] for key in _OF_THE_BATCH if key in batch}
    skipped = int(batch["masked_counts"][:start].sum())
    positions = batch["masked_positions"][skipped : skipped + int(rows["masked_counts"].sum())]
    if not is_packed(batch):
        rows |= {key: batch[key][start:stop] for key in ("input_ids", "labels", "attention_mask")}
        return {**rows, "masked_positions": positions - start * batch["input_ids"].shape[1]}
    first = int(batch["lengths"][:start].sum())
    last = first + int(rows["lengths"].sum())
    return {
        **rows,
        "input_ids": batch["input_ids"][first:last],
        "labels": batch["labels"][first:last],
        "masked_positions": positions - first,
        "cu_seqlens": batch["cu_seqlens"][start : stop + 1] - first,
        "max_seqlen": int(rows["lengths"].max()),
    }


def split(batch: Batch, microbatch_size: int | float) -> list[Batch]:
    """Splits a batch into microbatches of ``microbatch_size`` proteins; the last may have fewer.

    Raises:
        UserError: The size is not a whole number of proteins, at least 1.
    """
    size = int(microbatch_size)
    if size < 1 or size != microbatch_size:
        raise UserError(
            f"device_train_microbatch_size is {microbatch_size}; it must be a whole number of proteins, at least 1"
        )
    total = count_rows(batch)
    return [_slice(batch, start, min(start + size, total)) for start in range(0, total, size)]


def split_by_tokens(batch: Batch, max_tokens: int, pieces: int = 1) -> list[Batch]:
    """Splits a batch, in order, into microbatches of at most ``max_tokens`` positions, each as full as possible.

    Args:
        batch: A batch.
        max_tokens: Largest number of positions (real tokens and padding) in a microbatch.
        pieces: Smallest number of microbatches, unless there are fewer proteins.

    Raises:
        UserError: A single protein has more than ``max_tokens``.
    """
    lengths = batch["lengths"].tolist()
    if not is_packed(batch):
        lengths = [batch["input_ids"].shape[1]] * len(lengths)
    if max(lengths) > max_tokens:
        raise UserError(
            f"device_train_microbatch_tokens is {max_tokens}, and one protein has {max(lengths)} tokens; set it to "
            "at least data.crop_length"
        )
    starts, filled = [0], 0
    for index, length in enumerate(lengths):
        if filled + length > max_tokens:
            starts.append(index)
            filled = 0
        filled += length
    while len(starts) < min(pieces, len(lengths)):
        # Halve the microbatch with the most proteins; every one stays within the bound.
        edges = [*starts, len(lengths)]
        widest = max(range(len(starts)), key=lambda index: edges[index + 1] - edges[index])
        starts.insert(widest + 1, (edges[widest] + edges[widest + 1]) // 2)
    return [_slice(batch, start, stop) for start, stop in itertools.pairwise([*starts, len(lengths)])]


def _make_unpadded(input_ids: IntArray, labels: IntArray, lengths: IntArray, crop_length: int) -> Batch:
    del crop_length
    return pack(input_ids, labels, lengths)


def _make_padded(input_ids: IntArray, labels: IntArray, lengths: IntArray, crop_length: int) -> Batch:
    del crop_length
    return pad(input_ids, labels, lengths)


def _make_padded_to_crop_length(input_ids: IntArray, labels: IntArray, lengths: IntArray, crop_length: int) -> Batch:
    return pad(input_ids, labels, lengths, width=crop_length)


BatchFormat = Callable[[IntArray, IntArray, IntArray, int], Batch]

BATCH_FORMATS: dict[str, BatchFormat] = {
    "unpadded": _make_unpadded,
    "padded": _make_padded,
    "padded_to_crop_length": _make_padded_to_crop_length,
}
"""The values of ``data.batch_format``; each function takes (input_ids, labels, lengths, crop_length)."""
