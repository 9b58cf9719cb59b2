"""From the dataset to what Composer's Trainer takes: a DataLoader inside a DataSpec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer.core import DataSpec
from torch.utils.data import DataLoader

from plm_composer.data.batches import Batch, count_proteins, count_tokens, pin, split, split_by_tokens
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.workers import ignore_preemption
from plm_composer.errors import UserError
from plm_composer.hardware.processes import greatest_of_all

Split = Callable[[Batch, "int | float"], list[Batch]]
"""Cuts a batch into microbatches, given Composer's size of one."""


def make_data_spec(
    dataset: StreamingProteinDataset,
    *,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
    microbatch_tokens: int | None = None,
    batch_transforms: Callable[[Batch], Batch] | None = None,
) -> DataSpec:
    """Wraps a dataset into a DataSpec that counts proteins as samples and cuts batches by proteins or tokens.

    Composer finds its place in an epoch again by the number of samples, so a batch must be counted in proteins,
    however it is packed; and it weights microbatches and ranks by ``loss_generating`` tokens.

    Args:
        dataset: Yields proteins; its ``batch_size`` is one device's.
        num_workers: Processes that read and collate beside the training process.
        prefetch_factor: Batches that each of them prepares ahead.
        pin_memory: Whether to put batches into page-locked memory, for a GPU.
        microbatch_tokens: Most tokens of one microbatch; None cuts by proteins.
        batch_transforms: Makes the batch that is trained on from the loader's, in the training process.

    Raises:
        UserError: The dataset has no full batch for every device.
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
        get_num_tokens_in_batch=count_tokens,
    )


class PinnedSplit:
    """Puts microbatches into page-locked memory, curricula's and all that cutting computes included.

    Args:
        cut: Cuts batches.
    """

    def __init__(self, cut: Split) -> None:
        self.cut = cut

    def __call__(self, batch: Batch, microbatch_size: int | float) -> list[Batch]:
        """Cuts a batch, and pins the parts."""
        return [pin(part) for part in self.cut(batch, microbatch_size)]


class TokenBoundedSplit:
    """Cuts batches by tokens, into as many microbatches on each process as the fullest one needs.

    Sharded models gather their weights once a microbatch, on all processes together: with unequal numbers they would
    wait for each other for ever.

    Args:
        max_tokens: Most tokens of a microbatch.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, batch: Batch, microbatch_size: int | float) -> list[Batch]:
        """Cuts a batch; Composer's own size is not looked at."""
        del microbatch_size
        microbatches = split_by_tokens(batch, self.max_tokens)
        pieces = greatest_of_all(len(microbatches))
        return microbatches if pieces == len(microbatches) else split_by_tokens(batch, self.max_tokens, pieces)
