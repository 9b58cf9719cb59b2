"""What the tests of optimizers share: each optimizer's arguments, a tiny model, and its batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from plm_composer.data.batches import pack
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.optim.optimizers import OPTIMIZERS

ARGUMENTS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 1e-2},
    "adamw": {"lr": 1e-2, "weight_decay": 0.1},
    "decoupled_adamw": {"lr": 1e-2, "weight_decay": 1e-3},
    "decoupled_sgdw": {"lr": 1e-1, "momentum": 0.9},
    "lion": {"lr": 1e-3, "weight_decay": 0.1},
    "muon": {"lr": 1e-2, "weight_decay": 0.1, "adamw_lr": 1e-2, "adamw_wd": 0.1},
    "normuon": {"lr": 1e-2, "weight_decay": 0.1, "adamw_lr": 1e-2, "adamw_wd": 0.1},
    "schedule_free_adamw": {"lr": 1e-2, "weight_decay": 0.1},
    "sgd": {"lr": 1e-1, "momentum": 0.9},
    "soap": {"lr": 1e-2, "weight_decay": 0.1, "precondition_frequency": 3},
    "stable_adamw": {"lr": 1e-2, "weight_decay": 0.1},
}
"""A test that loops over these covers every optimizer; ``test_optimizers.py`` says so."""


def tiny_model() -> ESM2ComposerModel:
    torch.manual_seed(0)
    return ESM2ComposerModel(ESM2(ESM2Config(2, 32, 4, 64, initializer_range=0.2)))


def tiny_optimizer(name: str, model: nn.Module, **others: Any) -> torch.optim.Optimizer:
    arguments = {**ARGUMENTS[name], **others}
    return OPTIMIZERS[name].target(params=OPTIMIZERS[name].groups(model, arguments), **arguments)


def tiny_batch(step: int, rank: int = 0) -> dict[str, Any]:
    """Two packed proteins, of which as many tokens are predicted in every batch."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    ids = torch.randint(4, 24, (30,), generator=generator)
    labels = torch.full((30,), -100)
    labels[::3] = ids[::3]
    return pack(torch.where(labels == -100, ids, 32).numpy(), labels.numpy(), np.array([18, 12]))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int = 0, core: Any = None) -> None:
    """Trains; ``core`` is the ComposerModel where ``model`` wraps it."""
    for step in steps:
        batch = tiny_batch(step, rank)
        (core or model).loss(model(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
