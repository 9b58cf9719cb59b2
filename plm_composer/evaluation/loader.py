"""Wraps the pinned evaluation for Composer's Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from composer.core import DataSpec, Evaluator

from plm_composer.data.batches import Batch, count_proteins, count_tokens, pin, with_labels
from plm_composer.evaluation.pinned import collate_causal_windows, collate_windows, group_windows
from plm_composer.tokenizer import IGNORE_INDEX


class EvaluationBatches:
    """The batches of one rank, made again in each pass.

    Every rank gets the same number of batches, since the ranks of a sharded model must run forward together. If the
    number does not divide evenly, the last batch of some ranks is a copy with nothing to score. So each token counts
    once, whatever the number of ranks.

    Args:
        proteins: The whole set, the same on each rank; not empty.
        max_tokens: Largest number of tokens in a batch.
        rank: Index of this process, from 0.
        world_size: Number of processes.
        causal: Whether each residue is predicted from those before it, instead of hidden ones.
    """

    def __init__(
        self, proteins: Sequence[bytes], max_tokens: int, rank: int = 0, world_size: int = 1, *, causal: bool = False
    ) -> None:
        self._collate = collate_causal_windows if causal else collate_windows
        groups = group_windows(proteins, max_tokens)
        self._groups = groups[rank::world_size]
        self._filler = None if len(self._groups) == -(-len(groups) // world_size) else groups[0]

    def __len__(self) -> int:
        return len(self._groups) + (self._filler is not None)

    def __getitem__(self, index: int) -> Batch:
        if index < len(self._groups):
            return self._collate(self._groups[index])
        if self._filler is None or index > len(self._groups):
            raise IndexError(index)
        batch = self._collate(self._filler)
        return with_labels(batch, torch.full_like(batch["labels"], IGNORE_INDEX))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def make_evaluator(
    proteins: Sequence[bytes],
    max_tokens: int,
    metric_names: Sequence[str],
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    causal: bool = False,
) -> Evaluator:
    """Makes the Trainer's ``eval_dataloader``; its metrics are named ``metrics/eval/*``.

    Args:
        proteins: The whole set, the same on each rank; not empty.
        max_tokens: Largest number of tokens in a batch.
        metric_names: Names of the model's metrics to compute.
        rank: Index of this process, from 0.
        world_size: Number of processes.
        pin_memory: Whether to put batches into page-locked memory, for a GPU.
        causal: As for ``EvaluationBatches``.
    """
    spec = DataSpec(
        EvaluationBatches(proteins, max_tokens, rank, world_size, causal=causal),
        num_samples=len(proteins),
        split_batch=lambda batch, _: [pin(batch) if pin_memory else batch],
        get_num_samples_in_batch=count_proteins,
        get_num_tokens_in_batch=count_tokens,
    )
    # Batches are bounded by tokens already and never split, but Composer requires a microbatch size.
    return Evaluator(
        label="eval", dataloader=spec, metric_names=list(metric_names), device_eval_microbatch_size=len(proteins)
    )
