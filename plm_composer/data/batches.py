"""Batches: packed into one row of tokens, or padded into a rectangle; and how to count and cut them.

A packed batch of N proteins and T tokens is a dict of

- ``input_ids``: int64, shape (T,);
- ``labels``: int64, shape (T,), ``IGNORE_INDEX`` where nothing is predicted;
- ``cu_seqlens``: int32, shape (N + 1,): protein ``i`` is ``input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``;
- ``max_seqlen``: int, the longest protein's number of tokens.

A padded batch is a dict of ``input_ids``, ``labels`` and ``attention_mask`` (bool), each of shape (N, L).

Both also have what the host must know of a batch, so that it never waits for a GPU to tell it:

- ``masked_positions``: int64, shape (M,): where ``labels``, flattened, has something to predict;
- ``masked_counts``: a NumPy array, shape (N,): how many of these each protein has;
- ``lengths``: a NumPy array, shape (N,): tokens of each protein, without padding.

Composer sends tensors to the GPU, and leaves arrays where they are.

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
    ends = np.cumsum(lengths)
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        "max_seqlen": int(lengths.max()),
        "lengths": np.asarray(lengths, dtype=np.int64),
    }
    return with_labels(batch, torch.from_numpy(labels))


def pad(input_ids: IntArray, labels: IntArray, lengths: IntArray, width: int | None = None) -> Batch:
    """Pads proteins to one width: the longest one's, or ``width``. Arguments as for ``pack``."""
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
    """Gives a batch other labels, and what the host knows of them.

    Args:
        batch: A batch, which is not changed.
        labels: On the CPU, shape of ``input_ids``.
    """
    positions = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(-1)
    width = batch["input_ids"].shape[-1]
    ends = np.cumsum(batch["lengths"]) if is_packed(batch) else width * np.arange(1, len(labels) + 1)
    before = np.searchsorted(positions.numpy(), ends)
    return {**batch, "labels": labels, "masked_positions": positions, "masked_counts": np.diff(before, prepend=0)}


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
    return len(batch["lengths"])


def count_proteins(batch: Batch) -> int:
    """Number of proteins that were read: what Composer counts as samples, so that a resume finds its place."""
    return int(batch.get("proteins_read", count_rows(batch)))


def count_tokens(batch: Batch) -> dict[str, int]:
    """Number of real tokens (``total``) and of predicted ones (``loss_generating``), as Composer's DataSpec wants."""
    return {"total": int(batch["lengths"].sum()), "loss_generating": int(batch["masked_counts"].sum())}


def pin(batch: Batch) -> Batch:
    """Puts a batch into page-locked memory, from which a GPU fetches it while the host goes on.

    What a DataLoader has pinned stays pinned when it is cut, and what is computed from it is not.
    """
    return {
        key: value.pin_memory() if isinstance(value, torch.Tensor) and not value.is_pinned() else value
        for key, value in batch.items()
    }


def count_positions(batch: Batch) -> int:
    """Number of positions that the model computes: real tokens and padding."""
    return int(batch["input_ids"].numel())


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    rows = {key: batch[key][start:stop] for key in ("lengths", "masked_counts")}
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
    lengths = batch["lengths"].tolist()
    if not is_packed(batch):
        lengths = [batch["input_ids"].shape[1]] * len(lengths)
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
