"""What the rest of the project knows of an optimizer beside its class."""

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
    """The groups of most optimizers: matrices decay by ``weight_decay``, 0 if it is not given, biases and norms do not.

    Args:
        model: The model.
        arguments: The optimizer's, from the YAML.
    """
    return parameter_groups(model, arguments.get("weight_decay", 0.0))


def copies(number: int) -> Callable[[torch.Size, Mapping[str, Any]], int]:
    """The states of an optimizer that keeps so many tensors of a parameter's shape."""
    return lambda shape, _: number * math.prod(shape)


def _accepts(config: TrainConfig) -> None:
    del config


@dataclasses.dataclass(frozen=True)
class OptimizerKind:
    """An optimizer by its name.

    Args:
        target: Its class. The YAML's keys are the arguments of its constructor.
        states: fp32 values that it keeps for a parameter of a shape, in a group with these options.
        groups: Makes the parameter groups of a model, from the arguments in the YAML.
        check: Raises a UserError where a config holds something that the optimizer cannot work with.
    """

    target: type[torch.optim.Optimizer]
    states: Callable[[torch.Size, Mapping[str, Any]], int]
    groups: Callable[[nn.Module, Mapping[str, Any]], Groups] = decay_groups
    check: Callable[[TrainConfig], None] = _accepts

    def total_states(self, model: nn.Module, arguments: Mapping[str, Any]) -> int:
        """fp32 values that it keeps for a whole model.

        Args:
            model: The model; its shapes are enough.
            arguments: From the YAML.
        """
        return sum(
            self.states(parameter.shape, {**arguments, **group})
            for group in self.groups(model, arguments)
            for parameter in group["params"]
        )
