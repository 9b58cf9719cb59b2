"""Freezes blocks during the training, from the bottom up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from composer.core import Algorithm, Event, State, Time
from composer.loggers import Logger

from plm_composer.algorithms.timing import check_time
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plm_composer.config.schema import TrainConfig


class LayerFreezing(Algorithm):
    """Freezes the embedding and more and more blocks, from the bottom up, so that no gradient is computed for them.

    FreezeOut (Brock et al. 2017) and Freeze Training (Raghu et al. 2017). The number of frozen blocks depends on the
    timestamp alone, and the optimizer keeps the states of all parameters, so that a resumed run equals an unbroken
    one. Composer's version takes parameters out of the optimizer, cannot resume, and acts only at the ends of epochs.

    The embedding is frozen with the first block, since its gradient would have to pass through all blocks; if the
    model's tables are tied, the decoder is frozen with it.

    Args:
        freeze_start: Time at which freezing begins, a share of the run such as ``0.5dur``.
        freeze_level: Share of the blocks frozen at the end of the run, in (0, 1]; their number grows linearly.

    Raises:
        UserError: The time or the level is out of range.
    """

    def __init__(self, freeze_start: str = "0.5dur", freeze_level: float = 0.5) -> None:
        check_time("algorithms.layer_freezing.freeze_start", freeze_start)
        start = Time.from_timestring(freeze_start)
        if start.unit.value != "dur" or start.value >= 1:
            raise UserError(
                f"algorithms.layer_freezing.freeze_start is {freeze_start!r}; give a share of the run below 1dur"
            )
        if not 0 < freeze_level <= 1:
            raise UserError(
                f"algorithms.layer_freezing.freeze_level is {freeze_level}; it must lie above 0 and at most at 1"
            )
        self.freeze_start, self.freeze_level = float(start.value), freeze_level

    @property
    def find_unused_parameters(self) -> bool:
        """True: DDP must not wait for the gradients of frozen parameters."""
        return True

    def match(self, event: Event, state: State) -> bool:
        """Runs before each batch."""
        return bool(event == Event.BATCH_START)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Freezes the blocks that are due."""
        model = getattr(state.model, "module", state.model).model  # perhaps inside DDP
        elapsed = state.get_elapsed_duration()
        assert elapsed is not None
        frozen = self.frozen_blocks(float(elapsed), len(model.blocks))
        if frozen:
            freeze_bottom(model, frozen)
        logger.log_metrics({"layer_freezing/frozen_blocks": frozen})

    def frozen_blocks(self, elapsed: float, blocks: int) -> int:
        """Number of frozen blocks.

        Args:
            elapsed: Share of the run that has passed, 0 to 1.
            blocks: Number of blocks of the model.
        """
        progress = max(0.0, elapsed - self.freeze_start) / (1 - self.freeze_start)
        return int(self.freeze_level * progress * blocks)


def freeze_bottom(model: Any, blocks: int) -> None:
    """Freezes the embedding and the first blocks.

    Args:
        model: An ``ESM2``.
        blocks: Number of blocks to freeze, above 0.
    """
    for module in (model.embedding, *model.blocks[:blocks]):
        for parameter in module.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None  # Optimizers skip a parameter without one, weight decay included.


def check_layer_freezing(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses layer freezing where it does not work.

    Raises:
        UserError: The run is sharded.
    """
    if config.fsdp_config is not None:
        raise UserError(
            "algorithms.layer_freezing is not supported under FSDP2, where it was never tried; leave out fsdp_config "
            "to train with DDP"
        )
