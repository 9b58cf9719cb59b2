"""Registry entry of an optimizer: class, parameter groups, state size, compatibility check."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from plm_composer.optim.parameter_groups import parameter_groups

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

Groups = list[dict[str, Any]]


def decay_groups(model: nn.Module, arguments: Mapping[str, Any]) -> Groups:
    """The parameter groups of most optimizers: matrices decay by ``weight_decay`` (default 0), biases and norms do not.

    Args:
        model: The model.
        arguments: The optimizer's arguments, from the YAML.
    """
    return parameter_groups(model, arguments.get("weight_decay", 0.0))


def copies(number: int) -> Callable[[torch.Size, Mapping[str, Any]], int]:
    """The ``states`` of an optimizer that keeps ``number`` tensors of a parameter's shape."""
    return lambda shape, _: number * math.prod(shape)


def _accepts(config: TrainConfig) -> None:
    del config


@dataclasses.dataclass(frozen=True)
class OptimizerKind:
    """An optimizer that a YAML can name.

    Args:
        target: Class of the optimizer. The YAML's keys are the arguments of its constructor.
        states: Function: shape of a parameter, options of its group -> number of fp32 values kept for it.
        groups: Function: model, arguments in the YAML -> parameter groups.
        check: Function: config -> None; raises a UserError if the optimizer cannot work with the config.
    """

    target: type[torch.optim.Optimizer]
    states: Callable[[torch.Size, Mapping[str, Any]], int]
    groups: Callable[[nn.Module, Mapping[str, Any]], Groups] = decay_groups
    check: Callable[[TrainConfig], None] = _accepts

    def total_states(self, model: nn.Module, arguments: Mapping[str, Any]) -> int:
        """Number of fp32 values that the optimizer keeps for a whole model.

        Args:
            model: The model; its shapes are enough.
            arguments: The optimizer's arguments, from the YAML.
        """
        return sum(
            self.states(parameter.shape, {**arguments, **group})
            for group in self.groups(model, arguments)
            for parameter in group["params"]
        )


def own_optimizer(part: type[torch.optim.Optimizer] | OptimizerKind) -> OptimizerKind:
    """Makes the entry of a user's optimizer; a bare class is assumed to keep as much as Adam.

    Args:
        part: The class, or a whole entry.
    """
    return part if isinstance(part, OptimizerKind) else OptimizerKind(part, copies(2))
