"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

_LARGEST_SIDE = 10000
"""The library's default of ``max_precondition_dim``."""


def soap_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: two moments, and for each side a statistic and its eigenvectors."""
    sides = [side for side in shape if side <= group.get("max_precondition_dim", _LARGEST_SIDE)]
    if len(shape) < 2 and not group.get("precondition_1d"):
        sides = []
    return 2 * math.prod(shape) + 2 * sum(side**2 for side in sides)


def check_soap(config: TrainConfig) -> None:
    """Refuses settings with which SOAP does not work.

    Raises:
        UserError: The run is sharded, or dimensions would be merged.
    """
    if config.fsdp_config is not None:
        raise UserError(
            "optimizer.name: 'soap' is refused with fsdp_config: it needs whole gradients for its preconditioners, and "
            "FSDP2 gives each process a part; train with DDP, or choose muon"
        )
    if config.optimizer.get("merge_dims"):
        raise UserError("optimizer.merge_dims: ESM2 has no parameter of more than two dimensions; leave it out")
