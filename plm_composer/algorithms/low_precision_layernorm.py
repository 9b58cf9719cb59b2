"""Refuses LayerNorm in bf16 where it does nothing or fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from composer.utils import get_device

from plm_composer.errors import UserError
from plm_composer.hardware.precision import resolve_precision

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig


def check_low_precision_layernorm(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses Composer's ``LowPrecisionLayerNorm`` where it does nothing, or fails.

    Raises:
        UserError: The run is on a CPU, in fp32, or sharded.
    """
    device = get_device(config.device).name
    if device == "cpu":
        raise UserError(
            "algorithms.low_precision_layernorm does nothing on a CPU: there the Trainer runs in fp32, and Composer's "
            "version uses the Trainer's precision, not the model's own autocast; leave it out"
        )
    if resolve_precision(config.precision, device) == "fp32":
        raise UserError("algorithms.low_precision_layernorm does nothing in fp32; set precision=amp_bf16")
    if config.fsdp_config is not None:
        raise UserError(
            "algorithms.low_precision_layernorm copies weights before any process but the first has them; leave out "
            "fsdp_config"
        )
