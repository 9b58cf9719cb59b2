"""Lion: the sign of a momentum (Chen et al. 2023, arXiv 2302.06675)."""

from __future__ import annotations

from typing import Any

import pytorch_optimizer
from torch.distributed.tensor import DTensor


class Lion(pytorch_optimizer.Lion):
    """Lion, one parameter at a time where parameters are sharded: torch 2.7 has no ``_foreach_lerp`` for DTensors."""

    @staticmethod
    def can_use_foreach(group: dict[str, Any], foreach: bool | None, **options: Any) -> bool:
        """Whether the parameters of a group can be updated together."""
        if any(isinstance(parameter, DTensor) for parameter in group["params"]):
            return False
        return pytorch_optimizer.Lion.can_use_foreach(group, foreach, **options)
