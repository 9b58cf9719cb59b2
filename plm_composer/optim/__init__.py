"""Optimizers and schedulers by name."""

from __future__ import annotations

import pytorch_optimizer
import torch
from composer import optim as composer_optim

from plm_composer.config.registry import Registry
from plm_composer.optim.kind import OptimizerKind, copies, own_optimizer
from plm_composer.optim.lion import Lion
from plm_composer.optim.muon import Muon, muon_groups, muon_states
from plm_composer.optim.schedule_free import check_schedule_free, schedule_free_states
from plm_composer.optim.schedulers import LinearToZeroScheduler, LinearWithWarmupAndHoldScheduler
from plm_composer.optim.soap import check_soap, soap_states
from plm_composer.optim.stable_adamw import StableAdamW
from plm_composer.optim.torch_states import adam_states, momentum_states
from plm_composer.optim.warmup_stable_decay import WarmupStableDecayScheduler

OPTIMIZERS = Registry(
    "optimizers",
    {
        "adam": OptimizerKind(torch.optim.Adam, adam_states),
        "adamw": OptimizerKind(torch.optim.AdamW, adam_states),
        "decoupled_adamw": OptimizerKind(composer_optim.DecoupledAdamW, adam_states),
        "decoupled_sgdw": OptimizerKind(composer_optim.DecoupledSGDW, momentum_states),
        "lion": OptimizerKind(Lion, copies(1)),
        "muon": OptimizerKind(Muon, muon_states, muon_groups),
        "schedule_free_adamw": OptimizerKind(
            pytorch_optimizer.ScheduleFreeAdamW, schedule_free_states, check=check_schedule_free
        ),
        "sgd": OptimizerKind(torch.optim.SGD, momentum_states),
        "soap": OptimizerKind(pytorch_optimizer.SOAP, soap_states, check=check_soap),
        "stable_adamw": OptimizerKind(StableAdamW, copies(2)),
    },
    base=(torch.optim.Optimizer, OptimizerKind),
    entry_of=own_optimizer,
)

SCHEDULERS = Registry(
    "schedulers",
    {
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
    },
    base=composer_optim.ComposerScheduler,
)
