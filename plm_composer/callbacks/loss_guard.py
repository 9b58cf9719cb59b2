"""Stops a run whose loss is no longer finite."""

from __future__ import annotations

import math

from composer import Callback, Logger, State

from plm_composer.callbacks.order import Position
from plm_composer.errors import UserError


class LossGuard(Callback):
    """Raises an error at the first batch whose loss is NaN or infinite, because further training would be wasted.

    It checks the loss that Composer reads for the log once per batch, summed over microbatches and processes. So it
    never waits for a GPU, and all processes stop together. The batch's step has been applied to the weights by then,
    but they are not saved.

    Raises:
        UserError: The loss is not finite; the message names the batch and remedies.
    """

    position = Position.LOSS_GUARD

    def batch_end(self, state: State, logger: Logger) -> None:
        """Checks the batch's loss."""
        if not all(math.isfinite(loss) for loss in state.total_loss_dict.values()):
            raise UserError(
                f"the loss is no longer finite at batch {int(state.previous_timestamp.batch)}; lower optimizer.lr, "
                "lengthen the scheduler's t_warmup, or clip gradients with algorithms.gradient_clipping, and resume "
                "from the last checkpoint"
            )
