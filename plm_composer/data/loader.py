"""From the dataset to what Composer's Trainer takes: a DataLoader inside a DataSpec."""

from __future__ import annotations

from typing import Any

from composer.core import DataSpec
from torch.utils.data import DataLoader

from plm_composer.data.batches import count_proteins, count_tokens, split
from plm_composer.data.dataset import StreamingProteinDataset
from plm_composer.errors import UserError


def make_data_spec(
    dataset: StreamingProteinDataset, *, num_workers: int = 0, prefetch_factor: int = 2, pin_memory: bool = False
) -> DataSpec:
    """Wraps a dataset into a DataSpec that counts proteins as samples and cuts batches by proteins.

    Composer finds its place in an epoch again by the number of samples, so a batch must be counted in proteins,
    however it is packed; and it weights microbatches and ranks by ``loss_generating`` tokens.

    Args:
        dataset: Yields proteins; its ``batch_size`` is one device's.
        num_workers: Processes that read and collate beside the training process.
        prefetch_factor: Batches that each of them prepares ahead.
        pin_memory: Whether to put batches into page-locked memory, for a GPU.

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
        workers = {"persistent_workers": True, "prefetch_factor": prefetch_factor}
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=dataset.batch_size,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        drop_last=True,
        **workers,
    )
    return DataSpec(
        loader,
        split_batch=split,
        get_num_samples_in_batch=count_proteins,
        get_num_tokens_in_batch=count_tokens,
    )
