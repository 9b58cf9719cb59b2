"""Stops a run whose loss is no longer a number."""

from __future__ import annotations

import torch
from composer import Callback, Logger, State

from plm_composer.errors import UserError


class LossGuard(Callback):
    """Raises at the first batch whose loss is NaN or infinite; what follows would only burn the budget.

    Raises:
        UserError: Names the batch and what helps.
    """

    def after_loss(self, state: State, logger: Logger) -> None:
        """Looks at each microbatch's loss, before it reaches the weights."""
        del logger
        losses = state.loss.values() if isinstance(state.loss, dict) else [state.loss]
        if not all(bool(torch.isfinite(loss).all()) for loss in losses if isinstance(loss, torch.Tensor)):
            raise UserError(
                f"the loss is no longer finite at batch {int(state.timestamp.batch)}; lower optimizer.lr, lengthen "
                "the scheduler's t_warmup, or clip gradients with algorithms.gradient_clipping, and resume from the "
                "last checkpoint"
            )
