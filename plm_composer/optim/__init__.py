"""Optimizers and schedulers by name."""

from __future__ import annotations

from typing import Any

import torch
from composer import optim as composer_optim

from plm_composer.optim.schedulers import LinearToZeroScheduler, LinearWithWarmupAndHoldScheduler
from plm_composer.optim.warmup_stable_decay import WarmupStableDecayScheduler

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "decoupled_adamw": composer_optim.DecoupledAdamW,
    "decoupled_sgdw": composer_optim.DecoupledSGDW,
    "sgd": torch.optim.SGD,
}

SCHEDULERS: dict[str, Any] = {
    "constant": composer_optim.ConstantScheduler,
    "constant_with_warmup": composer_optim.ConstantWithWarmupScheduler,
    "cosine_annealing": composer_optim.CosineAnnealingScheduler,
    "cosine_annealing_warm_restarts": composer_optim.CosineAnnealingWarmRestartsScheduler,
    "cosine_annealing_with_warmup": composer_optim.CosineAnnealingWithWarmupScheduler,
    "exponential": composer_optim.ExponentialScheduler,
    "linear": composer_optim.LinearScheduler,
    "linear_to_zero": LinearToZeroScheduler,
    "linear_with_warmup": composer_optim.LinearWithWarmupScheduler,
    "linear_with_warmup_and_hold": LinearWithWarmupAndHoldScheduler,
    "multistep": composer_optim.MultiStepScheduler,
    "multistep_with_warmup": composer_optim.MultiStepWithWarmupScheduler,
    "polynomial": composer_optim.PolynomialScheduler,
    "polynomial_with_warmup": composer_optim.PolynomialWithWarmupScheduler,
    "step": composer_optim.StepScheduler,
    "warmup_stable_decay": WarmupStableDecayScheduler,
}
