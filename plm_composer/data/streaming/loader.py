"""Wraps the dataset for Composer's Trainer: a DataLoader inside a DataSpec."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from composer.core import DataSpec
from torch.utils.data import DataLoader

from plm_composer.data.batches import Batch, count_proteins, count_tokens, pin, split, split_by_tokens
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.workers import ignore_preemption
from plm_composer.data.weighting import Weighting, total_weight
from plm_composer.errors import UserError
from plm_composer.hardware.processes import greatest_of_all

Split = Callable[[Batch, "int | float"], list[Batch]]
"""Function: batch and Composer's microbatch size -> microbatches."""


def make_data_spec(
    dataset: StreamingProteinDataset,
    *,
    num_workers: int = 0,
    prefetch_factor: int = 4,
    pin_memory: bool = False,
    microbatch_tokens: int | None = None,
    batch_transforms: Callable[[Batch], Batch] | None = None,
    weighting: Weighting | None = None,
) -> DataSpec:
    """Wraps a dataset into a DataSpec that counts proteins as samples and splits batches by proteins or tokens.

    On a resume Composer finds its place in an epoch by the number of samples, so a batch must be counted in proteins,
    however it is packed. It weights microbatches and ranks by ``loss_generating``, which is the weight of their loss.

    Args:
        dataset: Yields proteins; its ``batch_size`` is that of one device.
        num_workers: Number of processes that read and collate beside the training process.
        prefetch_factor: Number of batches that each of them prepares ahead.
        pin_memory: Whether to put batches into page-locked memory, for a GPU.
        microbatch_tokens: Largest number of tokens in a microbatch; None splits by proteins.
        batch_transforms: Function: the loader's batch -> the batch to train on; runs in the training process.
        weighting: How much each protein's predicted tokens count in the loss; None for each the same.

    Raises:
        UserError: The dataset has no full batch for each device.
    """
    assert dataset.batch_size is not None, "the dataset's batch_size is the DataLoader's"
    per_rank = dataset.size // dataset._parallel_rank_world.num_ranks
    if per_rank < dataset.batch_size:
        raise UserError(
            f"the training set has {dataset.size} proteins: no full batch of {dataset.batch_size} for each of "
            f"{dataset._parallel_rank_world.num_ranks} processes; lower global_train_batch_size"
        )
    workers: dict[str, Any] = {}
    if num_workers:
        workers = {
            "persistent_workers": True,
            "prefetch_factor": prefetch_factor,
            "worker_init_fn": ignore_preemption,
        }
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=dataset.batch_size,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        drop_last=True,
        **workers,
    )
    cut: Split = split if microbatch_tokens is None else TokenBoundedSplit(microbatch_tokens)
    return DataSpec(
        loader,
        batch_transforms=batch_transforms,
        split_batch=PinnedSplit(cut) if pin_memory else cut,
        get_num_samples_in_batch=count_proteins,
        get_num_tokens_in_batch=functools.partial(_count_weights, weighting=weighting) if weighting else count_tokens,
    )


def _count_weights(batch: Batch, weighting: Weighting) -> dict[str, float]:
    """As ``count_tokens``, for a loss in which tokens have weights."""
    return {**count_tokens(batch), "loss_generating": total_weight(batch, weighting)}


class PinnedSplit:
    """Puts microbatches into page-locked memory, also tensors that a curriculum or the split made.

    Args:
        cut: Splits a batch into microbatches.
    """

    def __init__(self, cut: Split) -> None:
        self.cut = cut

    def __call__(self, batch: Batch, microbatch_size: int | float) -> list[Batch]:
        """Splits a batch, and pins the microbatches."""
        return [pin(part) for part in self.cut(batch, microbatch_size)]


class TokenBoundedSplit:
    """Splits batches by tokens, on each process into as many microbatches as the fullest process needs.

    Sharded models gather their weights once per microbatch, on all processes together: with unequal numbers the
    processes would wait for each other forever.

    Args:
        max_tokens: Largest number of tokens in a microbatch.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, batch: Batch, microbatch_size: int | float) -> list[Batch]:
        """Splits a batch; Composer's own size is ignored."""
        del microbatch_size
        microbatches = split_by_tokens(batch, self.max_tokens)
        pieces = greatest_of_all(len(microbatches))
        return microbatches if pieces == len(microbatches) else split_by_tokens(batch, self.max_tokens, pieces)
