"""Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682): averaged weights in place of a decaying learning rate.

Training moves along one set of weights, y, and what has been learned is another, an average x. The optimizer keeps a
third, z, from which x follows: ``x = y + (1 - 1 / beta1) (z - y)``. Checkpoints hold y and z, so that a resumed run is
the unbroken one; evaluations, exports and ``plm`` take x.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

_SCHEDULES = ("constant", "constant_with_warmup")
_REFUSED_ALGORITHMS = {
    "ema": "it averages weights as well",
    "swa": "it averages weights as well",
    "sam": "it hides the optimizer, which holds the averages",
    "layer_freezing": "it takes parameters from the optimizer before they are averaged",
}


def check_schedule_free(config: TrainConfig) -> None:
    """Refuses what would undo the averaging.

    Raises:
        UserError: The learning rate decays, or an algorithm gets in the way.
    """
    if (name := config.scheduler.get("name")) not in _SCHEDULES:
        raise UserError(
            f"scheduler.name: {name!r} is refused with schedule_free_adamw, whose averaging stands for the decay; "
            f"choose {' or '.join(_SCHEDULES)}"
        )
    for algorithm, reason in _REFUSED_ALGORITHMS.items():
        if config.algorithms.get(algorithm) is not None:
            raise UserError(
                f"algorithms.{algorithm} is refused with schedule_free_adamw: {reason}; set algorithms.{algorithm}=null"
            )


def schedule_free_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """fp32 values for a parameter: z, a second moment, and perhaps its maximum."""
    return (3 if group.get("ams_bound") else 2) * shape.numel()


def has_averaged_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer has a mode for training and another one for evaluation."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


@contextlib.contextmanager
def averaged_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While it lasts, the model has its averaged weights; afterwards those of training again, to the bit.

    The library's way back from x to y rounds, so that a run would depend on how often it was evaluated. Here y is kept
    aside, in the memory of one copy of the weights (a process's part of them under FSDP2).

    Args:
        model: The model, perhaps sharded.
        optimizer: Its optimizer; where it has no such modes, or no step was made, nothing happens.
    """
    if not has_averaged_weights(optimizer) or not optimizer.state:
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = [parameter.detach().clone() for parameter in parameters]
    _forget_gathered(model)
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _forget_gathered(model)
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        for group in optimizer.param_groups:
            group["train_mode"] = True


def average_checkpoint(weights: Mapping[str, Tensor], optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate, of a Composer checkpoint.

    Args:
        weights: Its ``model``.
        optimizers: Its ``optimizers``: states by the optimizers' class names.

    Returns:
        Averaged weights where an optimizer keeps an average; all others as they are.
    """
    averaged = dict(weights)
    for optimizer in optimizers.values():
        for group in optimizer["param_groups"]:
            if not group.get("train_mode"):
                continue
            for name in group["params"]:
                if "z" in (state := optimizer["state"].get(name, {})):
                    averaged[name] = weights[name].lerp(state["z"], 1.0 - 1.0 / group["betas"][0])
    return averaged


def _forget_gathered(model: nn.Module) -> None:
    """Has FSDP2 gather weights anew: after an evaluation the outermost module still holds them whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
