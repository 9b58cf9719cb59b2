"""Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682): averaged weights in place of a decaying learning rate.

Training updates one set of weights, y; the trained model is another, an average x. The optimizer keeps a third, z,
which gives ``x = y + (1 - 1 / beta1) (z - y)``. Checkpoints hold y and z, so that a resumed run equals an unbroken one;
evaluations, exports and ``plm`` use x.
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
    """Refuses settings that would undo the averaging.

    Raises:
        UserError: The learning rate decays, or an algorithm gets in the way.
    """
    if (name := config.scheduler.get("name")) not in _SCHEDULES:
        raise UserError(
            f"scheduler.name: {name!r} is refused with schedule_free_adamw, whose averaging replaces the decay; "
            f"choose {' or '.join(_SCHEDULES)}"
        )
    for algorithm, reason in _REFUSED_ALGORITHMS.items():
        if config.algorithms.get(algorithm) is not None:
            raise UserError(
                f"algorithms.{algorithm} is refused with schedule_free_adamw: {reason}; set algorithms.{algorithm}=null"
            )


def schedule_free_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: z, a second moment and, with ``ams_bound``, its maximum."""
    return (3 if group.get("ams_bound") else 2) * shape.numel()


def has_averaged_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer has a mode for training and another for evaluation."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


@contextlib.contextmanager
def averaged_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Gives the model its averaged weights in the body, and restores those of training after it, bit for bit.

    The library's conversion from x to y rounds, so that a run would depend on how often it is evaluated. Here y is
    copied, which takes the memory of one copy of the weights (under FSDP2, of the process's part of them).

    Args:
        model: The model, perhaps sharded.
        optimizer: Its optimizer; if it has no such modes, or has made no step, nothing happens.
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
    """The weights of a Composer checkpoint that are evaluated.

    Args:
        weights: ``model`` of the checkpoint: weights by name.
        optimizers: ``optimizers`` of the checkpoint: states by the optimizers' class names.

    Returns:
        Averaged weights for parameters of which an optimizer keeps an average; the others unchanged.
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
    """Makes FSDP2 gather weights again: after an evaluation the outermost module still holds them whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
