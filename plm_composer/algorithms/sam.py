"""Refuses sharpness-aware minimization where it does not work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig


def check_sam(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses Composer's SAM where it does not work.

    Raises:
        UserError: The run is sharded, or would continue from a checkpoint.
    """
    if config.fsdp_config is not None:
        raise UserError("algorithms.sam is not supported under FSDP2; leave out fsdp_config")
    if config.autoresume or (config.load_path is not None and not config.load_weights_only):
        raise UserError(
            "algorithms.sam: Composer's version saves no optimizer state, and a run that continues from a checkpoint "
            "would begin with empty moments; leave out autoresume, and load_path without load_weights_only"
        )
