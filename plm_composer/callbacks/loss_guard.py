"""Stops a run whose loss is no longer a number."""

from __future__ import annotations

import math

from composer import Callback, Logger, State

from plm_composer.callbacks.order import Position
from plm_composer.errors import UserError


class LossGuard(Callback):
    """Raises at the first batch whose loss is NaN or infinite; what follows would only burn the budget.

    It looks at the number that Composer reads for the log once a batch, summed over microbatches and processes, so that
    it never waits for a GPU, and all processes stop together. The weights have made that batch's step by then; they are
    not saved.

    Raises:
        UserError: Names the batch and what helps.
    """

    position = Position.LOSS_GUARD

    def batch_end(self, state: State, logger: Logger) -> None:
        """Looks at the batch's loss."""
        del logger
        if not all(math.isfinite(loss) for loss in state.total_loss_dict.values()):
            raise UserError(
                f"the loss is no longer finite at batch {int(state.previous_timestamp.batch)}; lower optimizer.lr, "
                "lengthen the scheduler's t_warmup, or clip gradients with algorithms.gradient_clipping, and resume "
                "from the last checkpoint"
            )
