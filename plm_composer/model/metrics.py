"""Metrics over predicted tokens. Each token of the whole set has the same weight, whatever the batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class TokenMean(Metric):
    """Mean of a value over all tokens: a sum in fp64 and a count, added up over batches and ranks.

    Without any token the result is NaN.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: Logits, shape (tokens, 33).
            targets: Correct token ids, shape (tokens,).
        """
        self.total += self.values_of(logits, targets).double().sum()
        self.count += targets.numel()

    def compute(self) -> Tensor:
        """Mean over all tokens so far."""
        return (self.total / self.count).float()

    def values_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The values to average, shape (tokens,)."""
        raise NotImplementedError


class MeanNLL(TokenMean):
    """Mean negative log-likelihood of the predicted tokens, in nats."""

    def values_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each token."""
        return F.cross_entropy(logits.float(), targets, reduction="none")


class Perplexity(MeanNLL):
    """Exponential of ``MeanNLL`` over the whole set."""

    def compute(self) -> Tensor:
        """Perplexity over all tokens so far."""
        return super().compute().exp()


class Accuracy(TokenMean):
    """Share of the predicted tokens whose most likely prediction is correct."""

    def values_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """1 where the prediction is correct, else 0."""
        return logits.argmax(-1) == targets
