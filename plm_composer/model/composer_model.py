"""Composer's wrapper of ESM2: loss and metrics on the tokens that are predicted, masked ones or the next ones."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from composer.models import ComposerModel
from torch import Tensor
from torchmetrics import Metric

from plm_composer.data.weighting import Weighting, total_weight
from plm_composer.model.cost import training_flops
from plm_composer.model.esm2 import ESM2
from plm_composer.model.metrics import Accuracy, MeanNLL, Perplexity
from plm_composer.model.sending import send

Batch = dict[str, Any]


class Prediction(NamedTuple):
    """Predictions of a batch's labels.

    Attributes:
        logits: Logits of the labelled tokens, shape (labels, 33), fp32 or better.
        targets: Correct token ids, shape (labels,).
    """

    logits: Tensor
    targets: Tensor


class ESM2ComposerModel(ComposerModel):
    """Training of an ESM2, on masked residues or, if the model or the batch is causal, on the next ones.

    A batch is a dict as ``plm_composer.data.batches`` describes it, packed or padded. The loss is the mean over a
    microbatch, so Composer must weight microbatches by their labels (``accumulate_train_batch_on_tokens``).

    Args:
        model: The model.
        autocast_dtype: Precision of the model's own autocast, for CPUs, where Composer offers none; None leaves
            precision to Composer. An autocast that is already active has priority.
        weighting: How much each protein's labels count in the training loss; None for each the same.
    """

    def __init__(
        self, model: ESM2, autocast_dtype: torch.dtype | None = None, weighting: Weighting | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast_dtype, self.weighting = autocast_dtype, weighting

    def forward(self, batch: Batch) -> Prediction:
        """Predicts the labels of a batch."""
        input_ids, positions = batch["input_ids"], batch["masked_positions"]
        keys = ("cu_seqlens", "max_seqlen", "lengths") if "cu_seqlens" in batch else ("attention_mask",)
        arguments = {key: batch[key] for key in (*keys, "causal") if key in batch}
        with self._autocast(input_ids.device.type):
            logits = self.model(input_ids, positions=positions, **arguments)
        return Prediction(logits, batch["labels"].flatten()[positions])

    def loss(self, outputs: Prediction, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        """Mean cross-entropy over the labels, by their weights, in nats; zero, with zero gradients, if there is none.

        Training adds ``z_loss`` times the mean of log(Z)^2, where Z is the softmax's denominator, so that logits do not
        drift (PaLM, Chowdhery et al. 2022). Metrics leave it out.
        """
        logits = outputs.logits.to(torch.promote_types(outputs.logits.dtype, torch.float32))
        z_loss = self.model.config.z_loss if self.training else 0.0
        if self.weighting is None or not self.training:
            total = F.cross_entropy(logits, outputs.targets, reduction="sum")
            if z_loss:
                total = total + z_loss * logits.logsumexp(-1).square().sum()
            return total / max(1, outputs.targets.numel())
        counts = batch["masked_counts"]
        weights = send(torch.from_numpy(np.repeat(self.weighting(batch), counts)).to(logits.dtype), logits.device)
        losses = F.cross_entropy(logits, outputs.targets, reduction="none")
        if z_loss:
            losses = losses + z_loss * logits.logsumexp(-1).square()
        return (weights * losses).sum() / max(1e-12, total_weight(batch, self.weighting))

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """The metrics, the same for training and evaluation, each weighted by token."""
        return {self.model.config.loss_name: MeanNLL(), "perplexity": Perplexity(), "accuracy": Accuracy()}

    def update_metric(self, batch: Batch, outputs: Prediction, metric: Metric) -> None:
        """Adds the predictions of a batch to a metric."""
        metric.update(outputs.logits.detach(), outputs.targets)

    def flops_per_batch(self, batch: Batch) -> int:
        """Model FLOPs of training on a batch's real tokens; Composer's ``SpeedMonitor`` divides them by time."""
        config = self.model.config
        if "causal" in batch:
            config = dataclasses.replace(config, causal=batch["causal"])
        return training_flops(config, batch["lengths"].tolist(), int(batch["masked_counts"].sum()))

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None or torch.is_autocast_enabled(device_type):
            return contextlib.nullcontext()
        return torch.autocast(device_type, dtype=self.autocast_dtype)
