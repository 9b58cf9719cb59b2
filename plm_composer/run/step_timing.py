"""Measures how fast this machine trains a model."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import torch

from plm_composer.config.schema import TrainConfig
from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.errors import UserError
from plm_composer.hardware.machine import synchronize
from plm_composer.hardware.precision import autocast_dtype, working_dtype
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import parameter_count
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import parallelize
from plm_composer.optim.optimizers import parse_optimizer
from plm_composer.run.amount import Amount
from plm_composer.run.parts import make_masking

_LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)
_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of a step that show a device's speed."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast one device trains a model.

    Attributes:
        tokens: Tokens a second.
        flops: FLOPs of matrix products a second.
    """

    tokens: float
    flops: float

    def over(self, seconds: float) -> tuple[float, float]:
        """Tokens and FLOPs of so many seconds."""
        return self.tokens * seconds, self.flops * seconds


def measure(config: TrainConfig, model: ESM2Config, amount: Amount, device: torch.device) -> Speed:
    """Measures how fast a model trains here: the faster of two whole steps, after one to warm up, on random proteins.

    Args:
        config: The run's config. Blocks are not compiled, whatever it says.
        model: The model's config.
        amount: The run's data, of which the mean length is used.
        device: The device.

    Raises:
        UserError: The model does not fit into the memory of a GPU.
    """
    esm2 = ESM2(model)
    esm2.attention_backend = config.attention_backend
    parallelize(esm2, activation_checkpointing=config.activation_checkpointing)
    wrapped = ESM2ComposerModel(esm2, autocast_dtype(config.precision, device.type)).to(device).train()
    optimizer = parse_optimizer(config.optimizer).make(wrapped)
    tokens = min(_TOKENS[device.type], config.device_train_microbatch_tokens or math.inf)
    batch = random_batch(config, amount, tokens)
    on_device = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    # On a GPU Composer casts; on a CPU the model does.
    dtype = working_dtype(config.precision, "gpu") if device.type == "cuda" else torch.float32

    def step() -> float:
        before = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = wrapped.loss(wrapped(on_device), on_device)
        loss.backward()
        optimizer.step()
        synchronize(device)
        return time.perf_counter() - before

    try:
        seconds = min([step() for _ in range(3)][1:])
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"auto: {parameter_count(model) / 1e6:,.1f} M parameters do not fit into the GPU's memory with {tokens:,} "
            "tokens; lower device_train_microbatch_tokens, or name a model"
        ) from error
    return Speed(int(batch["lengths"].sum()) / seconds, wrapped.flops_per_batch(batch) / seconds)


def random_batch(config: TrainConfig, amount: Amount, tokens: float) -> Batch:
    """Makes a batch of random proteins whose lengths spread as those of real ones do: exponentially, up to the crop.

    Args:
        config: The run's config, of which the format of batches, the objective and the masking are used.
        amount: The run's data, of which the mean length is used.
        tokens: Positions that the batch has at least.

    Raises:
        UserError: A value of the config is impossible.
    """
    collate = Collator(
        crop_length=config.data.crop_length,
        batch_format=config.data.batch_format,
        objective=config.objective,
        masking=make_masking(config.data),
    )
    draw = np.random.default_rng(0)
    proteins: list[Protein] = []
    while tokens > 0:
        length = min(1 + int(draw.exponential(amount.length)), config.data.crop_length - 2)
        proteins.append(Protein(len(proteins), 0, _LETTERS[draw.integers(0, 20, length)].tobytes()))
        tokens -= config.data.crop_length if config.data.batch_format == "padded_to_crop_length" else length + 2
    return collate(proteins)
