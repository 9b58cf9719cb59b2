"""Measures how fast this machine trains a model."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from plm_composer.config.schema import TrainConfig
from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.masking import Masking
from plm_composer.hardware.machine import synchronize
from plm_composer.hardware.precision import autocast_dtype, working_dtype
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.optim.optimizers import parse_optimizer
from plm_composer.run.amount import Amount

_LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast one device trains a model.

    Attributes:
        tokens: Tokens a second.
        flops: FLOPs of matrix products a second.
    """

    tokens: float
    flops: float


def measure(config: TrainConfig, model: ESM2Config, amount: Amount, device: torch.device) -> Speed:
    """Measures how fast a model trains here: the faster of two whole steps, after one to warm up, on random proteins.

    Args:
        config: The run's config, of which data, precision and the optimizer are used.
        model: The model's config.
        amount: The run's data, of which the mean length is used.
        device: The device.
    """
    wrapped = ESM2ComposerModel(ESM2(model), autocast_dtype(config.precision, device.type)).to(device).train()
    optimizer = parse_optimizer(config.optimizer).make(wrapped)
    batch = _random_batch(config, amount, 4096 if device.type == "cpu" else 16384)
    on_device = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    # On a GPU Composer casts; on a CPU the model does.
    dtype = working_dtype(config.precision, "gpu") if device.type == "cuda" else torch.float32
    times = []
    for _ in range(3):
        before = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = wrapped.loss(wrapped(on_device), on_device)
        loss.backward()
        optimizer.step()
        synchronize(device)
        times.append(time.perf_counter() - before)
    step = min(times[1:])
    return Speed(int(batch["lengths"].sum()) / step, wrapped.flops_per_batch(batch) / step)


def _random_batch(config: TrainConfig, amount: Amount, tokens: int) -> Batch:
    """Makes a batch of random proteins whose lengths spread as those of real ones do: exponentially, up to the crop."""
    draw = np.random.default_rng(0)
    proteins: list[Protein] = []
    while sum(len(protein.residues) + 2 for protein in proteins) < tokens:
        length = min(1 + int(draw.exponential(amount.length)), config.data.crop_length - 2)
        proteins.append(Protein(len(proteins), 0, _LETTERS[draw.integers(0, 20, length)].tobytes()))
    masking = Masking(config.data.mask_rate)
    return Collator(crop_length=config.data.crop_length, objective=config.objective, masking=masking)(proteins)
