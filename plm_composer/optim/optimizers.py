"""Optimizers by name, and the one of a YAML's ``optimizer`` section."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import pytorch_optimizer
import torch
from composer import optim as composer_optim
from torch import nn

from plm_composer.config.registry import Registry, build, check_arguments, split_name
from plm_composer.errors import UserError
from plm_composer.optim.kind import OptimizerKind, copies, own_optimizer
from plm_composer.optim.lion import Lion
from plm_composer.optim.muon import Muon, NorMuon, check_normuon, muon_groups, muon_states, normuon_states
from plm_composer.optim.schedule_free import check_schedule_free, schedule_free_states
from plm_composer.optim.soap import check_soap, soap_states
from plm_composer.optim.stable_adamw import StableAdamW
from plm_composer.optim.torch_states import adam_states, momentum_states

OPTIMIZERS = Registry(
    "optimizers",
    {
        "adam": OptimizerKind(torch.optim.Adam, adam_states),
        "adamw": OptimizerKind(torch.optim.AdamW, adam_states),
        "decoupled_adamw": OptimizerKind(composer_optim.DecoupledAdamW, adam_states),
        "decoupled_sgdw": OptimizerKind(composer_optim.DecoupledSGDW, momentum_states),
        "lion": OptimizerKind(Lion, copies(1)),
        "muon": OptimizerKind(Muon, muon_states, muon_groups),
        "normuon": OptimizerKind(NorMuon, normuon_states, muon_groups, check_normuon),
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


@dataclasses.dataclass(frozen=True)
class OptimizerFactory:
    """Makes an optimizer for a model.

    Attributes:
        kind: Which optimizer.
        arguments: From the YAML, checked against its signature.
    """

    kind: OptimizerKind
    arguments: Mapping[str, Any]

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        """Makes the optimizer, torch's fused one where there is one, with the parameter groups that it needs.

        Args:
            model: The model whose parameters it updates.

        Raises:
            UserError: The optimizer refuses its arguments.
        """
        arguments = dict(self.arguments)
        if "fused" in inspect.signature(self.kind.target).parameters:
            arguments.setdefault("fused", True)
        return self._make(model, arguments)

    def check(self, model: nn.Module) -> None:
        """Tries the arguments out, since only its constructor knows which values an optimizer refuses.

        Args:
            model: Any model, the smaller the better: constructors look at values alone.

        Raises:
            UserError: The optimizer refuses its arguments.
        """
        self._make(model, self.arguments)

    def states_per_parameter(self, model: nn.Module) -> float:
        """fp32 values that the optimizer keeps for a parameter of a model, on average.

        Args:
            model: The model; its shapes are enough.
        """
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return self.kind.total_states(model, self.arguments) / parameters

    def _make(self, model: nn.Module, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
        groups = self.kind.groups(model, arguments)
        made: torch.optim.Optimizer = build("optimizer", self.kind.target, arguments, params=groups)
        return made


def parse_optimizer(section: Mapping[str, Any]) -> OptimizerFactory:
    """Checks the ``optimizer`` section.

    Args:
        section: ``name``, and arguments of the optimizer's class.

    Raises:
        UserError: The name or an argument is unknown, an argument of another type, or there is no ``lr``.
    """
    kind, arguments = split_name("optimizer", section, OPTIMIZERS)
    check_arguments("optimizer", kind.target, arguments, given=("params",), only_named=True)
    if "lr" not in arguments and "lr" in inspect.signature(kind.target).parameters:
        raise UserError("optimizer.lr is not set, and another optimizer.name drops that of the first; give a number")
    return OptimizerFactory(kind, arguments)
